"""Data-loading and video-decoding throughput: our loader beside V-JEPA 2's, each reader beside its plain library.

    python benchmarks/decode.py FOLDER_OF_VIDEOS [--reference COPY_OF_VJEPA2] [--workers N] [--out decode.md]

The published loader is Meta's data set with its transforms (src/datasets/video_dataset.py and app/vjepa/transforms.py),
imported from a copy of https://github.com/facebookresearch/vjepa2; it needs `pip install decord pandas psutil`.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from jepa.data.bench import DecodeBenchConfig, Loader, Metered, SplitMemory, measure
from jepa.data.manifest import Item
from jepa.errors import UserError


def published(reference: str) -> Callable[[list[Item], DecodeBenchConfig], Loader]:
    """The published loader from a copy of its repository."""
    root = Path(reference)
    if not (root / "src/datasets/video_dataset.py").is_file():
        raise UserError(f"reference={reference!r} is not a copy of facebookresearch/vjepa2.")
    sys.path.insert(0, str(root))
    try:
        from app.vjepa.transforms import make_transforms
        from src.datasets.video_dataset import VideoDataset
    except ImportError as error:
        raise UserError(
            f"the published loader does not import here: {error}. `pip install decord pandas psutil`."
        ) from error

    def build(items: list[Item], config: DecodeBenchConfig) -> Loader:
        with tempfile.NamedTemporaryFile("w", suffix=".csv", newline="", delete=False) as handle:
            csv.writer(handle, delimiter=" ").writerows([item.path, 0] for item in items)
        transform = make_transforms(
            random_horizontal_flip=True, random_resize_aspect_ratio=(0.75, 1.35), random_resize_scale=(0.3, 1.0),
            crop_size=config.crop_px,
        )  # fmt: skip
        dataset = VideoDataset(
            data_paths=[handle.name], frames_per_clip=config.num_frames, fps=config.fps, frame_step=None,
            transform=transform,
        )  # fmt: skip
        os.unlink(handle.name)  # noqa: PTH108

        def make(seed: int) -> DataLoader:
            order = np.random.default_rng(seed).permutation(np.arange(config.clips) % len(items))
            return DataLoader(
                Metered(dataset), batch_size=config.batch_size, sampler=order.tolist(), num_workers=config.workers,
                collate_fn=SplitMemory(torch.utils.data.default_collate), drop_last=True,
            )  # fmt: skip

        return make

    return build


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data")
    parser.add_argument("--reference")
    for name, kind in (("out", str), ("workers", int), ("clips", int), ("repeats", int)):
        parser.add_argument(f"--{name}", type=kind, default=getattr(DecodeBenchConfig(data=""), name))
    values = vars(parser.parse_args())
    reference = values.pop("reference")
    measure(DecodeBenchConfig(**values), {"V-JEPA 2 (decord)": published(reference)} if reference else None)


if __name__ == "__main__":
    main()
