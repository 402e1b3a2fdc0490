"""Tags and captions of every sample, for multi-label tagging and text-to-video retrieval: columns of the list.

A video of several shots has one row per shot in its list, with the shot's start_s and end_s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jepa.data.manifest import Item
from jepa.errors import UserError
from jepa.probes.config import DescribeSettings

LISTS = ("shots.csv", "labels.csv")
"""lists that are looked for in a folder, the first that exists is read"""


@dataclass
class Words:
    """The words of each sample."""

    tags: list[list[str]]
    captions: list[list[str]]


def read_words(settings: DescribeSettings, samples: Sequence[Item]) -> Words:
    """Tags and captions of every sample.

    Tags stand in `tag_columns`, several in one field separated by ";". Sentences stand in `caption_column` and, where a
    sample has several, in that name with _2, _3 and so on. A row that has none of its own uses its label.

    Raises:
        UserError: no row has any of the columns, and the samples have no labels either, or a column that was named
            differs from the default and never occurs.

    Example:
        >>> shot = Item("a.mp4", label="fall", columns={"tags": "red; ball", "caption": "It falls."})
        >>> read_words(DescribeSettings(), [shot])
        Words(tags=[['red', 'ball']], captions=[['It falls.']])
    """
    present = {name for sample in samples for name in sample.columns}
    usual = DescribeSettings()
    for key, names, default in (
        ("tag_columns", settings.tag_columns, usual.tag_columns),
        ("caption_column", [settings.caption_column], [usual.caption_column]),
    ):
        for name in names:
            if name not in present and names != default:
                raise UserError(
                    f"describe.{key} names {name!r}, and no row of the list has anything in such a column; "
                    f"its other columns are {', '.join(sorted(present)) or 'none'}."
                )
    tags = [_tags(settings.tag_columns, sample) or [sample.label] for sample in samples]
    captions = [
        _captions(settings.caption_column, sample) or [sample.label.replace("_", " ")] for sample in samples
    ]
    for sample, own, sentences in zip(samples, tags, captions, strict=True):
        if not all(own) or not all(sentences):
            raise UserError(
                f"{sample.name!r} has neither words nor a label. task=describe reads a list with the columns "
                f"path, {', '.join(settings.tag_columns)} (tags separated by ';') and {settings.caption_column} "
                "(a sentence), one row per video or per shot (start_s, end_s). Without words the label is used."
            )
    return Words(tags, captions)


def _tags(columns: Sequence[str], sample: Item) -> list[str]:
    fields = [sample.columns.get(name, "") for name in columns]
    return [tag.strip() for text in fields for tag in text.split(";") if tag.strip()]


def _captions(column: str, sample: Item) -> list[str]:
    names = [column, *(f"{column}_{number}" for number in range(2, 10))]
    return [text for name in names if (text := sample.columns.get(name, ""))]
