"""Exceptions: a mistake in a request, a video that cannot be read; and optional dependencies by the extra's name."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from types import ModuleType

# `import jepa` imports this file: what only a message needs is imported where it is made.


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


def install_command(extra: str) -> str:
    """The command that installs an extra here: from this checkout, from wherever jepa was installed from, or by name.

    Example:
        >>> install_command("probes").endswith("[probes]'")
        True
    """
    import json
    from importlib import metadata

    root = Path(__file__).parent.parent
    if (root / "pyproject.toml").is_file():
        where = "." if root == Path.cwd() else str(root)
        return f"pip install -e '{where}[{extra}]'"
    try:
        stated = metadata.distribution("jepa-video").read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        stated = None
    if not stated:
        return f"pip install 'jepa-video[{extra}]'"
    origin = json.loads(stated)  # PEP 610: what was installed from a file or a repository says from which
    prefix = f"{origin['vcs_info']['vcs']}+" if "vcs_info" in origin else ""
    return f"pip install 'jepa-video[{extra}] @ {prefix}{origin['url']}'"


def import_name_clash() -> str | None:
    """One sentence if the unrelated distribution `jepa` is installed beside this one, which shares its import name."""
    from importlib import metadata

    try:
        other = metadata.distribution("jepa")
    except metadata.PackageNotFoundError:
        return None
    return (
        f"The distribution jepa {other.version} is another project and owns the same import name, so one overwrites "
        "files of the other: pip uninstall jepa, then install this one (jepa-video) again."
    )


def require(module: str, extra: str) -> ModuleType:
    """Imports an optional dependency, or says which extra of the package installs it.

    Args:
        module: name to import, such as "sklearn.linear_model".
        extra: the extra of `jepa-video` that installs it.

    Raises:
        UserError: the module is not installed. One that is installed and fails to import raises its own error.

    Example:
        >>> require("json", extra="probes").loads("[1]")
        [1]
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        top = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != top:
            raise
        raise UserError(
            f"This needs {top}, which is not installed (extra {extra}): {install_command(extra)}"
        ) from error
