"""Which packets of a video have to be decoded to show what is wanted; from the packets' headers alone."""

from __future__ import annotations

from bisect import bisect_right
from typing import Any


def plan(packets: list[Any], targets: list[int]) -> tuple[list[Any], list[int | None]]:
    """The packets worth decoding, and the time of the frame that each target shows."""
    shown = sorted(p.pts for p in packets if not p.is_discard)
    if not shown:
        return packets, [None] * len(targets)
    wanted: list[int | None] = [shown[max(0, bisect_right(shown, t) - 1)] for t in targets]
    chosen = set(wanted)
    # Groups of pictures, in decoding order, each from its key frame on.
    groups: list[list[Any]] = [[]]
    for packet in packets:
        if packet.is_keyframe and groups[-1]:
            groups.append([])
        groups[-1].append(packet)
    needed = [False] * len(groups)
    for number, group in enumerate(groups):
        hits = [p.pts for p in group if p.pts in chosen]
        if hits:
            needed[number] = True
            # An open group's leading pictures are predicted from the group before it too.
            if number and min(hits) < group[0].pts:
                needed[number - 1] = True
    feed = [p for group, need in zip(groups, needed, strict=True) if need for p in group]
    while feed and feed[-1].pts not in chosen:
        feed.pop()
    return feed, wanted


def _vp8_hidden(data: bytes) -> bool:
    return not data[0] & 0x10  # show_frame (RFC 6386, section 9.1)


def _vp9_hidden(data: bytes) -> bool:
    """True for a packet that only prepares a reference (VP9 bitstream, section 6.2, uncompressed_header)."""
    if data[-1] & 0xE0 == 0xC0:  # a superframe ends in a frame that is shown
        return False
    shift = 3 if data[0] & 0x30 == 0x30 else 4  # profile 3 has a reserved bit before show_existing_frame
    show_existing = data[0] >> (shift - 1) & 1
    return not show_existing and not data[0] >> (shift - 3) & 1


# Decoder name -> whether a packet is only kept as a reference and never shown.
HIDDEN = {"vp8": _vp8_hidden, "libvpx": _vp8_hidden, "vp9": _vp9_hidden, "libvpx-vp9": _vp9_hidden}
