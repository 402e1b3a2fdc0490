"""Packet headers of H.264, HEVC and other codecs: random access points, frames that are not shown, temporal layers.

A decoder may start at a packet without changing a pixel only where the bitstream guarantees it. A container's key
flag is no such guarantee: H.264 recovery points, damaged tables and MPEG streams set it too.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import Any


class Start(IntEnum):
    """What is proven of decoding that begins at a packet."""

    NONE = 0
    """Nothing."""

    OPEN = 1
    """Frames shown from this packet's frame on are exact. Leading pictures (stored later, shown earlier) are not."""

    CLEAN = 2
    """Closed group: everything stored later is exact, and is shown later than everything stored before."""


def start_of(codec: str, data: memoryview, nal_length: int, intra_only: bool) -> Start:
    """The kind of random access point that a packet is.

    Args:
        codec: FFmpeg's name of the decoder.
        data: the packet.
        nal_length: bytes of a NAL unit's length prefix; 0 for start codes (Annex B).
        intra_only: the codec predicts nothing from other frames.
    """
    if codec == "mjpeg":
        # Tables may be inherited from the frame before.
        head = bytes(data[:2048])
        return Start.CLEAN if b"\xff\xdb" in head and b"\xff\xc4" in head else Start.NONE
    if intra_only:
        return Start.CLEAN
    rule = _RULES.get(codec)
    try:
        return rule(data, nal_length) if rule else Start.NONE
    except IndexError:  # the packet ends inside its header
        return Start.NONE


def nal_length_of(codec: str, extradata: bytes | None) -> int:
    """Bytes of the length before each NAL unit by the decoder configuration (ISO/IEC 14496-15); 0 for start codes."""
    if not extradata or extradata[0] != 1:
        return 0
    if codec == "h264" and len(extradata) > 4:
        return (extradata[4] & 3) + 1
    if codec == "hevc" and len(extradata) > 21:
        return (extradata[21] & 3) + 1
    return 0


def may_skip_non_reference(codec: str, extradata: bytes | None) -> bool:
    """Whether a non-reference picture is one that no other picture is predicted from.

    In H.264 it is. In HEVC (7.4.2.2) only pictures of the same temporal sub-layer are meant, so there has to be one.
    """
    if codec == "h264":
        return True
    if codec != "hevc" or not extradata:
        return False
    if extradata[0] == 1 and len(extradata) > 21:
        return extradata[21] >> 3 & 7 == 1
    for unit in _units(memoryview(extradata), 0):
        if unit[0] >> 1 & 63 == 33 and len(unit) > 2:  # SPS
            return unit[2] >> 1 & 7 == 0
    return False


def _units(data: memoryview, nal_length: int) -> Iterator[memoryview]:
    """NAL units of a packet."""
    if nal_length:
        at = 0
        while at + nal_length < len(data):
            size = int.from_bytes(data[at : at + nal_length], "big")
            at += nal_length
            if not size or at + size > len(data):
                return
            yield data[at : at + size]
            at += size
        return
    raw = bytes(data)
    at = raw.find(b"\0\0\1")
    while at >= 0:
        following = raw.find(b"\0\0\1", at + 3)
        unit = data[at + 3 : following if following >= 0 else len(raw)]
        if len(unit):
            yield unit
        at = following


def _h264(data: memoryview, nal_length: int) -> Start:
    parameters, recovers = set(), False
    for unit in _units(data, nal_length):
        kind = unit[0] & 31
        if kind in (7, 8):
            parameters.add(kind)
        elif kind == 6:
            recovers |= _recovers_at_once(bytes(unit[1:]))
        elif kind in (1, 5):
            # With start codes there may be other parameter sets in front; with lengths they are in the header.
            described = len(parameters) == 2 or (nal_length > 0 and not parameters)
            if not described:
                return Start.NONE
            if kind == 5:
                return Start.CLEAN
            bits = _Bits(bytes(unit[1:16]))
            bits.unsigned()
            return Start.OPEN if recovers and bits.unsigned() % 5 == 2 else Start.NONE
        elif kind in (2, 3, 4):
            return Start.NONE
    return Start.NONE


def _recovers_at_once(message: bytes) -> bool:
    """Whether an SEI unit is a recovery point that is exact and immediate (H.264, D.2.8); intra refresh is not."""
    message = message.replace(b"\0\0\3", b"\0\0")
    at = 0
    while at + 2 < len(message):
        kind = size = 0
        while message[at] == 255:
            kind, at = kind + 255, at + 1
        kind, at = kind + message[at], at + 1
        while message[at] == 255:
            size, at = size + 255, at + 1
        size, at = size + message[at], at + 1
        if kind == 6:
            bits = _Bits(message[at : at + size])
            return bits.unsigned() == 0 and bits.take(1) == 1
        at += size
    return False


def _hevc(data: memoryview, nal_length: int) -> Start:
    parameters = set()
    for unit in _units(data, nal_length):
        kind = unit[0] >> 1 & 63
        if kind in (32, 33, 34):
            parameters.add(kind)
        elif kind < 32:
            described = len(parameters) == 3 or (nal_length > 0 and not parameters)
            if not described or not 16 <= kind <= 21:
                return Start.NONE
            return Start.CLEAN if kind == 20 else Start.OPEN  # IDR_N_LP has no leading pictures
    return Start.NONE


def _mpeg2(data: memoryview, nal_length: int) -> Start:
    sequence = False
    for unit in _units(data, 0):
        if unit[0] == 0xB3:
            sequence = True
        elif unit[0] == 0:
            return Start.OPEN if sequence and unit[2] >> 3 & 7 == 1 else Start.NONE
    return Start.NONE


def _mpeg4(data: memoryview, nal_length: int) -> Start:
    return Start.OPEN if mpeg4_type(data) == 0 else Start.NONE


def mpeg4_type(data: memoryview) -> int:
    """0, 1, 2, 3 for an I, P, B or sprite picture of MPEG-4 part 2; -1 if the packet holds none, or several."""
    types = [unit[1] >> 6 for unit in _units(data, 0) if unit[0] == 0xB6 and len(unit) > 1]
    return types[0] if len(types) == 1 else -1


def _vp8(data: memoryview, nal_length: int) -> Start:
    return Start.NONE if data[0] & 1 else Start.CLEAN


def _vp9(data: memoryview, nal_length: int) -> Start:
    shift = 3 if data[0] & 0x30 == 0x30 else 4
    flags = data[0] >> (shift - 3) & 7  # existing, type, shown; profile 3 leaves no room for the fourth
    return Start.CLEAN if flags >> 2 & 1 == 0 and flags >> 1 & 1 == 0 and flags & 1 else Start.NONE


def _av1(data: memoryview, nal_length: int) -> Start:
    at, sequence = 0, False
    while at < len(data):
        kind, extended, sized = data[at] >> 3 & 15, data[at] >> 2 & 1, data[at] >> 1 & 1
        at += 1 + extended
        if not sized:
            return Start.NONE
        size = shift = 0
        while True:
            size |= (data[at] & 127) << shift
            shift, at = shift + 7, at + 1
            if not data[at - 1] & 128 or shift > 56:
                break
        if kind == 1:
            if data[at] >> 3 & 1:  # reduced_still_picture_header
                return Start.CLEAN
            sequence = True
        elif kind in (3, 6):
            # show_existing_frame 0, frame_type KEY_FRAME 0, show_frame 1
            return Start.CLEAN if sequence and data[at] >> 4 == 1 else Start.NONE
        at += size
    return Start.NONE


_RULES = {
    "h264": _h264, "hevc": _hevc, "mpeg1video": _mpeg2, "mpeg2video": _mpeg2, "mpeg4": _mpeg4,
    "vp8": _vp8, "libvpx": _vp8, "vp9": _vp9, "libvpx-vp9": _vp9, "av1": _av1, "libdav1d": _av1,
}  # fmt: skip

REORDERED = {"h264": 16, "hevc": 16, "mpeg1video": 16, "mpeg2video": 16, "mpeg4": 16}
"""Codecs that show frames in another order than they store them, and by how many frames at most."""


def flushes(codec: str, intra_only: bool) -> bool:
    """Whether a decoder that was flushed is as good as new."""
    return intra_only or codec in _RULES


def _vp8_hidden(data: memoryview) -> bool:
    return not data[0] & 0x10  # show_frame (RFC 6386, section 9.1)


def _vp9_hidden(data: memoryview) -> bool:
    """True for a packet that only prepares a reference (VP9 bitstream, section 6.2, uncompressed_header)."""
    if data[-1] & 0xE0 == 0xC0:  # a superframe ends in a frame that is shown
        return False
    shift = 3 if data[0] & 0x30 == 0x30 else 4  # profile 3 has a reserved bit before show_existing_frame
    show_existing = data[0] >> (shift - 1) & 1
    return not show_existing and not data[0] >> (shift - 3) & 1


# Decoder name -> whether a packet is only kept as a reference and never shown.
HIDDEN: dict[str, Any] = {
    "vp8": _vp8_hidden, "libvpx": _vp8_hidden, "vp9": _vp9_hidden, "libvpx-vp9": _vp9_hidden,
}  # fmt: skip


class _Bits:
    """Reads bits and Exp-Golomb numbers, most significant bit first."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def take(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise IndexError("the packet ends inside its header")
        return self._value >> self._left & ((1 << count) - 1)

    def unsigned(self) -> int:
        zeros = 0
        while not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + (self.take(zeros) if zeros else 0)
