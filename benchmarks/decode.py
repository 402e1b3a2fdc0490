"""Measures reading: our loader beside the published V-JEPA 2 loader, and each reader beside its plain library.

    python benchmarks/decode.py FOLDER_OF_VIDEOS [--reference COPY_OF_VJEPA2] [--workers N] [--out benchmarks/decode.md]

The reference is a copy of https://github.com/facebookresearch/vjepa2 and needs `pip install decord pandas psutil`.
"""

from __future__ import annotations

import argparse

from jepa.data.bench import DecodeBenchConfig, measure


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data")
    for name, kind in (("reference", str), ("out", str), ("workers", int), ("clips", int), ("repeats", int)):
        parser.add_argument(f"--{name}", type=kind, default=getattr(DecodeBenchConfig, name))
    measure(DecodeBenchConfig(**vars(parser.parse_args())))


if __name__ == "__main__":
    main()
