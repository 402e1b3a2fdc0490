"""Labelled videos for probes: items of any list with a class label and a group that no split divides.

Clips cut from one source look alike. If some of them are in the training part and some in the test part, a probe is
rewarded for recognising the source. So every item belongs to a group, and groups are what is split.
"""

from __future__ import annotations

import difflib
import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from jepa.data.manifest import LABELS, Item, read_items
from jepa.errors import UserError


def read_labelled(
    root: str | os.PathLike[str],
    label_column: str | None = None,
    group_column: str | None = None,
    path_column: str | None = None,
    lists: Sequence[str] = LABELS,
) -> list[Item]:
    """Reads labelled videos or images: any list, class folders or shards.

    Args:
        root: list, folder with one of `lists`, folder with one folder per class, or folder of shards.
        label_column: column of the labels; by default `label` or another usual name.
        group_column: column of the groups; by default `group` or another usual name, else every video is its own group.
        path_column: column of the files; by default `path` or another usual name.
        lists: names of list files that are looked for in a folder.

    Raises:
        UserError: a column, a file or a label is missing.

    Example:
        >>> import tempfile, pathlib
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> (folder / "kick").mkdir(); (folder / "kick" / "a.mp4").touch()
        >>> [(item.name, item.label, item.group) for item in read_labelled(folder)]
        [('kick/a.mp4', 'kick', 'kick/a.mp4')]
    """
    items = read_videos(root, label_column, group_column, path_column, lists)
    missing = [item for item in items if not item.label]
    if missing:
        what = label_column or "label"
        raise UserError(
            f"{len(missing)} of {len(items)} videos of {os.fspath(root)!r} have an empty {what!r}, the first is "
            f"{missing[0].name!r}. A probe needs labels: a list with the columns path and {what} (data.label_column "
            "names another one), or one folder of videos per class. Give those a label or remove them."
        )
    return items


def read_videos(
    root: str | os.PathLike[str],
    label_column: str | None = None,
    group_column: str | None = None,
    path_column: str | None = None,
    lists: Sequence[str] = LABELS,
) -> list[Item]:
    """Like `read_labelled`, for a use that needs no labels: every item has a group and an existing file.

    Raises:
        UserError: a column or a file is missing.
    """
    named = {"label": label_column, "group": group_column, "path": path_column}
    columns = {ours: theirs for ours, theirs in named.items() if theirs is not None}
    items = read_items(root, columns=columns, lists=lists)
    known: dict[str, bool] = {}
    for item in items:
        if item.span is None and not known.setdefault(item.path, Path(item.path).is_file()):
            raise UserError(
                f"{os.fspath(root)!r} names {item.name!r}, but {item.path!r} does not exist. Paths are relative to the "
                "list's folder; correct the line or put the file there."
            )
    return [item if item.group else replace(item, group=item.name) for item in items]


def class_names(samples: Sequence[Item], expected: Sequence[str] | None = None) -> list[str]:
    """The classes in sorted order, after looking for typing errors.

    Args:
        samples: labelled items.
        expected: the only names allowed; None to take what is there.

    Raises:
        UserError: a label outside `expected`; a label that occurs once and is nearly the same as a frequent one; a
            single class.

    Example:
        >>> class_names([Item("a.mp4", label="kick"), Item("b.mp4", label="hug")])
        ['hug', 'kick']
    """
    counts = Counter(sample.label for sample in samples)
    if expected:
        for sample in samples:
            if sample.label not in expected:
                close = difflib.get_close_matches(sample.label, expected, n=1)
                hint = f" Did you mean {close[0]!r}?" if close else ""
                raise UserError(
                    f"{sample.name!r} has the label {sample.label!r}, which is not one of "
                    f"{', '.join(expected)}.{hint}"
                )
    for label, count in counts.items():
        frequent = [other for other, n in counts.items() if n >= 3 and other != label]
        close = difflib.get_close_matches(label, frequent, n=1, cutoff=0.75)
        if count == 1 and close and not expected:
            where = next(sample.name for sample in samples if sample.label == label)
            raise UserError(
                f"The label {label!r} of {where!r} occurs once and looks like {close[0]!r}, which occurs "
                f"{counts[close[0]]} times. Correct it, or list all class names in data.classes if it is "
                "intended."
            )
    if len(counts) < 2:
        raise UserError(
            f"All samples have the label {next(iter(counts))!r}; a probe needs at least two classes."
        )
    return sorted(counts)


def fingerprint(source: Item | str | os.PathLike[str], block: int = 1 << 16) -> str:
    """Hash of a file's size and of its first, middle and last 64 KiB; the same from a folder and from a shard.

    Distinguishes files at the price of three reads, so that a large data set can be keyed by content on every start.
    """
    if isinstance(source, Item) and source.span is not None:
        from jepa.data.shards import open_span

        with open_span(source) as file:
            return _fingerprint(file, source.span.size, block)  # type: ignore[arg-type]
    path = Path(source.path if isinstance(source, Item) else source)
    with open(path, "rb") as handle:
        return _fingerprint(handle, path.stat().st_size, block)


def _fingerprint(handle: BinaryIO, size: int, block: int) -> str:
    digest = hashlib.sha256(str(size).encode())
    for offset in sorted({0, max(0, size // 2 - block // 2), max(0, size - block)}):
        handle.seek(offset)
        left = block
        while left and (piece := handle.read(left)):  # a raw file may give fewer bytes than requested
            digest.update(piece)
            left -= len(piece)
    return digest.hexdigest()[:32]
