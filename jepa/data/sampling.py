"""Clip sampling: which video and which frame times, as pure functions of (seed, sample index).

Nothing here keeps state. Sample 123456 of a run is the same clip after a resume, on another rank and in any worker,
and no permutation of the data set is ever stored: position to item goes through a small cipher.
"""

from __future__ import annotations

from collections.abc import Sequence

from jepa.errors import UserError, VideoError
from jepa.rng import uniforms

# What a draw is for. Each has its own counter range, so adding a draw to one never shifts another.
ORDER, WINDOW, CROP, FLIP, REPLACE, MIX, JITTER, GROUP = range(1, 9)

SHORT_POLICIES = ("hold", "loop", "stretch")


def clip_times(
    start_s: float,
    end_s: float,
    num_frames: int,
    fps: float,
    position: float,
    short: str = "hold",
    jitter: Sequence[float] | None = None,
) -> list[float]:
    """Times of a clip's frames within [start_s, end_s).

    Args:
        start_s: where the usable part begins, in seconds.
        end_s: where it ends.
        num_frames: frames in the clip.
        fps: their rate; above the source's rate frames repeat.
        position: of the window in 0..1; 0 touches the start, 1 the end, 0.5 is centred.
        short: for parts shorter than num_frames / fps. "hold" repeats the last frame, "loop" begins again, "stretch"
            distributes the frames evenly over what there is.
        jitter: one shift per frame, in steps of 1 / fps, or None.

    Raises:
        UserError: an unknown policy.

    Example:
        >>> clip_times(0.0, 10.0, num_frames=4, fps=2.0, position=0.5)
        [4.0, 4.5, 5.0, 5.5]
    """
    if short not in SHORT_POLICIES:
        raise UserError(f"short={short!r} is not one of {', '.join(SHORT_POLICIES)}.")
    step, span = 1.0 / fps, max(0.0, end_s - start_s)
    room = span - num_frames * step
    if room < 0 and short == "stretch":
        step, room = span / num_frames, 0.0
    first = start_s + max(0.0, room) * position
    shifts = [0.0] * num_frames if jitter is None else jitter
    times = [first + (i + shift) * step for i, shift in enumerate(shifts)]
    if room < 0 and short == "loop" and span > 0:
        return [start_s + (t - start_s) % span for t in times]
    # The last time of the part is just before its end: the end itself belongs to the next part.
    last = max(start_s, end_s - 2e-3)
    return [min(max(t, start_s), last) for t in times]


def window_position(seed: int, index: int, clip: int = 0, clips: int = 1) -> float:
    """A random position in 0..1 for `clip` of `clips` in the same video, each in a part of its own."""
    return (clip + uniforms(seed, index, WINDOW, 1)[0]) / clips


def centre_position(clip: int, clips: int) -> float:
    """The fixed position of evaluation clip `clip` of `clips`: the middle for one, first to last evenly for more."""
    return 0.5 if clips == 1 else clip / (clips - 1)


def frame_jitter(seed: int, index: int, num_frames: int, amount: float) -> list[float] | None:
    """One shift per frame in +-amount / 2 steps, or None for no jitter."""
    if amount == 0:
        return None
    return [(u - 0.5) * amount for u in uniforms(seed, index, JITTER, num_frames)]


def segment_bounds(
    path: str, start_s: float | None, end_s: float | None, first_s: float, last_s: float
) -> tuple[float, float]:
    """The part of a video that an item names, cut to what the video holds.

    Args:
        path: the video, for the message.
        start_s: start of the part in seconds of the file's own clock; None for the beginning.
        end_s: its end; None for the end.
        first_s: time of the video's first frame.
        last_s: end of its last frame.

    Raises:
        VideoError: nothing of the part is in the video.

    Example:
        >>> segment_bounds("a.mp4", 2.0, 99.0, first_s=0.0, last_s=10.0)
        (2.0, 10.0)
    """
    start = first_s if start_s is None else max(start_s, first_s)
    stop = last_s if end_s is None else min(end_s, last_s)
    if stop <= start and (start_s is not None or end_s is not None):
        raise VideoError(
            path,
            "seek",
            f"the part from {start_s if start_s is not None else first_s:g} to "
            f"{end_s if end_s is not None else last_s:g} s is outside the video, which has frames from {first_s:g} to "
            f"{last_s:g} s",
        )
    return start, stop
