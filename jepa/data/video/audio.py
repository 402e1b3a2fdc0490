"""`open_audio`: the sound of a video as blocks of samples in step with its frames, through PyAV (FFmpeg).

    with open_audio("talk.mp4", AudioSpec(16_000)) as sound:
        for block in sound:                # block.samples float32 [1, N], block.start_s in seconds

Times are those of the video reader: the file's own clock, after edit lists, start delays and joined files.
"""

from __future__ import annotations

import os
from typing import BinaryIO

from jepa.data.video.audio_track import AudioBlock, AudioInfo, AudioReader, AudioSpec
from jepa.data.video.container import Source
from jepa.data.video.limits import LimitsConfig
from jepa.data.video.subprocess import IsolatedAudio
from jepa.errors import UserError

__all__ = ["AudioBlock", "AudioInfo", "AudioReader", "AudioSpec", "IsolatedAudio", "open_audio"]


def open_audio(
    path: str | os.PathLike[str] | bytes | BinaryIO,
    *specs: AudioSpec,
    start_s: float | None = None,
    limits: LimitsConfig | None = None,
) -> AudioReader | IsolatedAudio:
    """Opens the sound of a video: the first default audio track, or else the first.

    Args:
        path: a local file, the bytes of one, or a seekable binary file. Addresses are refused.
        specs: the kinds of samples to make; none is 16 kHz mono.
        start_s: where the first block starts, on the file's clock; None is the video's start.
        limits: what the file may cost, and whether it is decoded in a child process.

    Returns:
        A reader. Its `info` is None where the file has no audio track, which is no error.

    Raises:
        VideoError: the file cannot be opened; it names the file, the stage and the reason.
        UserError: a sample rate that makes no sense.

    Example:
        >>> with open_audio("talk.mp4", AudioSpec(16_000)) as sound:      # doctest: +SKIP
        ...     seconds = sum(block.samples.shape[1] for block in sound) / 16_000
    """
    for spec in specs:
        if not 1000 <= spec.sample_rate <= 768_000:
            raise UserError(f"sample_rate={spec.sample_rate} is outside its limits, 1000 to 768000.")
    if isinstance(path, (str, os.PathLike)):
        source: Source = os.fspath(path)
        name = str(source)
    else:
        source = path
        name = (
            f"<{len(path)} bytes>" if isinstance(path, bytes) else str(getattr(path, "name", "<open file>"))
        )
    limits, specs = limits or LimitsConfig(), specs or (AudioSpec(),)
    if limits.isolate:
        return IsolatedAudio(source, name, limits, specs, start_s)
    return AudioReader(source, name, limits, specs, start_s)
