"""Mask statistics: how context and target tokens divide over the time steps of a clip, and the cost of drawing masks.

    python benchmarks/masks.py [--reference COPY_OF_VJEPA2] [--out benchmarks/masks.md]

The reference is a copy of https://github.com/facebookresearch/vjepa2. Only its src/masks is imported.
"""

from __future__ import annotations

import argparse
import importlib
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from jepa.masking import Mask, MaskConfig, sample_masks

BATCH, BATCHES, REPEATS = 24, 200, 40
SHAPES = {"16 frames, 256 px": (16, 256), "64 frames, 384 px": (64, 384)}
# Name, our kind, and the published blocks and scale that it stands beside.
KINDS = [
    ("blocks 0.60 (short-range)", MaskConfig("blocks", 0.6), (8, 0.15)),
    ("blocks 0.80 (long-range)", MaskConfig("blocks", 0.8, block_scale=0.7), (2, 0.7)),
    ("reference, 8 x 0.15", MaskConfig("reference", block_scale=0.15, num_blocks=8), (8, 0.15)),
    ("reference, 2 x 0.70", MaskConfig("reference", block_scale=0.7, num_blocks=2), (2, 0.7)),
    ("temporal 0.50", MaskConfig("temporal", 0.5), None),
    ("tokens 0.95", MaskConfig("tokens", 0.95), None),
    ("window 0.97", MaskConfig("window", 0.97, block_scale=0.18), None),
    ("future 0.50", MaskConfig("future", 0.5), None),
]
Draw = Callable[[int], Mask]


def ours(config: MaskConfig, shape: tuple[int, int]) -> Draw:
    grid = grid_of(shape)
    return lambda k: sample_masks(config, grid, 0, range(BATCH * k, BATCH * (k + 1)))


def published(module, blocks: int, scale: float, shape: tuple[int, int]) -> Draw:
    frames, px = shape
    generator = module._MaskGenerator(
        (px, px), frames, (16, 16), 2, (scale, scale), (1.0, 1.0), (0.75, 1.5), blocks
    )
    return lambda _: Mask(*generator(BATCH))


def grid_of(shape: tuple[int, int]) -> tuple[int, int, int]:
    frames, px = shape
    return frames // 2, px // 16, px // 16


def fractions(draw: Draw, grid: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Tokens per time step [context or target, t], in per cent of that part; and each part in per cent of all."""
    counts, sizes = np.zeros((2, grid[0])), np.zeros(2)
    for k in range(BATCHES):
        for row, part in enumerate(draw(k)):
            counts[row] += np.bincount(part.flatten() // (grid[1] * grid[2]), minlength=grid[0]) / BATCH
            sizes[row] += part.shape[1]
    return 100 * counts / sizes[:, None], 100 * sizes / (BATCHES * np.prod(grid))


def milliseconds(draws: list[Draw]) -> list[str]:
    """Median and quartiles of one batch, the candidates taking turns."""
    taken: list[list[float]] = [[] for _ in draws]
    for k in range(REPEATS + 2):
        for draw, times in zip(draws, taken, strict=True):
            start = time.perf_counter()
            draw(k)
            times.append(1e3 * (time.perf_counter() - start))
    cells = []
    for times in taken:
        low, middle, high = statistics.quantiles(times[2:], n=4)
        cells.append(f"{middle:.2f} ({low:.2f} to {high:.2f})")
    return cells


def report(module) -> str:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    shape = SHAPES["16 frames, 256 px"]
    grid = grid_of(shape)
    rows = [(name, ours(config, shape)) for name, config, _ in KINDS]
    if module:
        rows += [(f"published, {n} x {s}", published(module, n, s, shape)) for n, s in ((8, 0.15), (2, 0.7))]
    lines = [
        "| masks | part | of all tokens | " + " | ".join(f"step {t}" for t in range(grid[0])) + " | flat to |"
    ]
    lines.append("|---" * (grid[0] + 4) + "|")
    for name, draw in rows:
        parts, sizes = fractions(draw, grid)
        for part, values, size in zip(("context", "target"), parts, sizes, strict=True):
            off = 100 * np.abs(values * grid[0] / 100 - 1).max()
            cells = " | ".join(f"{value:.1f}" for value in values)
            lines.append(f"| {name} | {part} | {size:.1f} % | {cells} | {off:.1f} % |")
    lines += ["", "| masks | " + " | ".join(f"{title}: ours, ms | published, ms" for title in SHAPES) + " |"]
    lines.append("|---" * (1 + 2 * len(SHAPES)) + "|")
    for name, config, beside in KINDS:
        cells = []
        for shape in SHAPES.values():
            other = [published(module, *beside, shape)] if module and beside else []
            found = milliseconds([ours(config, shape), *other])
            cells += [found[0], found[1] if other else "none"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reference")
    parser.add_argument("--out")
    arguments = parser.parse_args()
    module = None
    if arguments.reference:
        sys.path.insert(0, arguments.reference)
        module = importlib.import_module("src.masks.multiseq_multiblock3d")
    command = (
        "python benchmarks/masks.py"
        + (" --reference VJEPA2" if module else "")
        + " --out benchmarks/masks.md"
    )
    text = f"""# Masks

`{command}`; {platform.machine()}, one thread, torch {torch.__version__}, numpy {np.__version__}.

## Context and target tokens by time step

{BATCHES} batches of {BATCH} clips of 16 frames at 256 px: 8 time steps of 16 x 16 tokens. Per cent of a part's tokens
in each time step; 12.5 would be even. *Flat to* is the largest relative distance from even. `future` is uneven on
purpose. What `reference` and the published masks leave of *all tokens* to neither part is thrown away.

"""
    table, _, speed = report(module).partition("\n\n")
    text += f"""{table}

## Drawing the masks of one batch of {BATCH}

Median of {REPEATS} draws (quartiles), ours and theirs in turn, in milliseconds. Ours draw each clip from its own
counter-based generator, so a mask is a function of (seed, index); the published ones draw from one common stream.

{speed}
"""
    print(text)
    if arguments.out:
        Path(arguments.out).write_text(text)


if __name__ == "__main__":
    main()
