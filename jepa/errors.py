"""The two kinds of failure a person meets: a mistake in what was asked, and a video that cannot be read."""

from __future__ import annotations

import os


class UserError(ValueError):
    """A request that cannot be carried out as it was made.

    The message is one paragraph: what is wrong, why, and what to do. The command line prints it without a
    traceback and exits with 2.
    """


class VideoError(Exception):
    """A video, or a part of one, could not be read.

    Args:
        path: the file.
        stage: what was being done: "open", "probe", "seek", "decode" or "convert".
        reason: why it failed, in one sentence.
    """

    def __init__(self, path: str | os.PathLike[str], stage: str, reason: str) -> None:
        self.path, self.stage, self.reason = os.fspath(path), stage, reason
        super().__init__(f"cannot {stage} video {self.path!r}: {reason}")

    def __reduce__(self) -> tuple[type[VideoError], tuple[str, str, str]]:
        # Exceptions cross from loader workers by pickle, which would call __init__ with one argument.
        return type(self), (self.path, self.stage, self.reason)
