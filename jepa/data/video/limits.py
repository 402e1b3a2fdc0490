"""Limits on untrusted files: sizes, times and memory that a video may take, and which containers are opened.

An uploaded video is untrusted input. Two things are checked before any byte of it reaches a demuxer: it is a regular
local file, and its container is one that holds its own data. Playlists, manifests and concat scripts only name other
files or addresses, so they are refused by content as well as by FFmpeg's own allow lists.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, fields
from pathlib import Path

from jepa.errors import UserError, VideoError

# FFmpeg's names of the containers that hold pictures themselves. Not in the list: hls, dash, concat, sdp, rtsp, image
# sequences and everything else that opens a second file or address.
CONTAINERS = (
    "mov", "matroska", "webm", "avi", "flv", "mpegts", "mpeg", "mpegvideo", "asf", "ogg", "ivf", "h264", "hevc",
    "m4v", "gif", "apng", "mxf", "nut", "rm", "dv", "y4m", "yuv4mpegpipe", "obu", "av1", "h263", "mjpeg",
)  # fmt: skip

_REFUSED_OPENINGS = (
    (b"#EXTM3U", "an HLS playlist"),
    (b"ffconcat", "a concat script"),
    (b"<?xml", "an XML document"),
    (b"<MPD", "a DASH manifest"),
    (b"<smil", "a SMIL document"),
    (b"<SmoothStreamingMedia", "a Smooth Streaming manifest"),
    (b"[playlist]", "a playlist"),
    (b"[Reference]", "a redirector"),
    (b"v=0", "a session description"),
    (b"http:", "a list of addresses"),
    (b"https:", "a list of addresses"),
    (b"file:", "a list of addresses"),
    (b"rtsp:", "a list of addresses"),
)


@dataclass
class LimitsConfig:
    """Limits on one video file, and whether it is decoded in a child process."""

    max_bytes: int = 1 << 40
    """Largest file that is opened, in bytes."""

    max_pixels: int = 8192 * 8192
    """Most pixels in one frame."""

    max_frames: int = 20_000_000
    """Most frames that are indexed or decoded from one file."""

    max_duration_s: float = 7 * 24 * 3600.0
    """Longest video, in seconds."""

    max_streams: int = 64
    """Most streams (video, audio, subtitles ...) in one file."""

    max_decode_s: float = 120.0
    """Longest time one request for frames may take, in seconds of wall clock."""

    isolate: bool = False
    """Decode in a child process, so that a crash or a hang inside a native decoder becomes a VideoError. For untrusted
    files; costs one copy of every frame."""

    max_memory_bytes: int = 4 << 30
    """Most address space of that child process. Without `isolate` it has no effect."""

    def __post_init__(self) -> None:
        for name in (f.name for f in fields(self) if f.name != "isolate"):
            if getattr(self, name) <= 0:
                raise UserError(f"limits.{name} is {getattr(self, name)}, but a limit has to be above zero.")


def check_path(path: str | os.PathLike[str], limits: LimitsConfig) -> str:
    """Refuses whatever is not a regular local file of permitted size, or looks like a playlist.

    Returns:
        The path as a string.

    Raises:
        VideoError: stage "open", with the reason.
    """
    name = os.fspath(path)
    try:
        status = Path(name).stat()
        if not stat.S_ISREG(status.st_mode):
            # A pipe or a device could block for ever.
            raise VideoError(name, "open", "it is not a regular file; videos are read from local files only")
        with Path(name).open("rb") as handle:
            head = handle.read(512)
        check_opening(name, head, status.st_size, limits)
    except FileNotFoundError:
        reason = "no such local file"
        if "://" in name:
            reason += "; addresses are never opened, so download it first"
        raise VideoError(name, "open", reason) from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise VideoError(name, "open", str(error)) from None
    return name


def check_opening(name: str, head: bytes, size: int, limits: LimitsConfig) -> None:
    """Judges the first bytes of a source; raises VideoError for empty, oversized and playlist-like ones."""
    if size == 0:
        raise VideoError(name, "open", "the file is empty")
    if size > limits.max_bytes:
        raise VideoError(name, "open", f"{size} bytes are more than limits.max_bytes={limits.max_bytes}")
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for opening, kind in _REFUSED_OPENINGS:
        if text.startswith(opening.lower()):
            raise VideoError(
                name, "open", f"it is {kind}, which may name other files or addresses, so it is refused"
            )
