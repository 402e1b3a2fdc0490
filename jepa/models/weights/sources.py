"""Weight sources: local paths, the Hugging Face hub and published addresses, opened without running anything."""

from __future__ import annotations

import difflib
import os
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jepa.errors import UserError
from jepa.files import atomic_path
from jepa.models.architectures import ENTRIES

_WEIGHTS = {".pt", ".pth", ".tar", ".safetensors", ".bin", ".ckpt"}
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def locate(
    source: str | os.PathLike[str], revision: str | None = None, token: str | bool | None = None
) -> Path:
    """A local path for a path, an https address or a name on the Hugging Face hub; downloads are kept and
    reused.

    What can only be a path is never asked of the hub: `owner/name` is a hub name unless a folder `owner` is here or the
    name ends like a file of weights.

    Args:
        source: the path, address or name.
        revision: branch, tag or commit of a repository on the hub.
        token: access token for the hub; True for the one that `hf auth login` stored.

    Raises:
        UserError: there is no such path, what it names cannot be downloaded, or it has no revisions.
    """
    path, name = Path(source), os.fspath(source)
    hub_name = _HUB_NAME.fullmatch(name) and not path.parent.is_dir() and path.suffix not in _WEIGHTS
    on_hub = bool(hub_name) and not path.exists()
    if (revision is not None or token is not None) and not on_hub:
        raise UserError(
            f"revision= and token= are for repositories on the Hugging Face hub, and {name!r} is none; leave them out."
        )
    if path.exists():
        return path
    if name.startswith("https://"):
        return _download(name)
    if on_hub:
        return _from_hub(name, revision, token)
    close = difflib.get_close_matches(name, ENTRIES, n=1)
    raise UserError(
        f"there is no file or folder {name!r}. Weights are read from a path, an https address, the name of a Hugging "
        f"Face repository such as facebook/vjepa2-vitl-fpc64-256, a model of jepa.list_models() or timm:NAME."
        + (f" Did you mean {close[0]}?" if close else "")
    )


def _download(address: str) -> Path:
    target = Path(torch.hub.get_dir()) / "checkpoints" / address.rsplit("//", 1)[-1].replace("/", "_")
    if not target.exists():
        try:
            with atomic_path(target) as partial:
                torch.hub.download_url_to_file(address, str(partial))
        except OSError as error:
            raise UserError(
                f"{address} cannot be downloaded ({error}). Without a network, fetch the file elsewhere and "
                f"give its path instead."
            ) from error
    return target


def _from_hub(name: str, revision: str | None, token: str | bool | None) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError as error:
        raise UserError(
            f"{name!r} is no path here, and reading it from the Hugging Face hub needs huggingface_hub: "
            f"pip install 'jepa-video[hf]', or give the path of a folder."
        ) from error
    try:
        patterns = ["*.json", "*.safetensors"]
        return Path(snapshot_download(name, revision=revision, token=token, allow_patterns=patterns))
    except (OSError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise UserError(
            f"{name!r} is no path here, and the Hugging Face hub did not give it ({type(error).__name__}: "
            f"{str(error).strip().splitlines()[0] if str(error).strip() else 'no reason given'}). Check the "
            f"name and the network, or download the folder elsewhere and give its path."
        ) from error


def read_pickle(path: Path) -> dict[str, Any]:
    """Opens a file of `torch.save` as plain data; tensors stay on disk until they are used.

    Raises:
        UserError: the file is cut short, damaged, holds anything but plain data and tensors, or no dict.
    """
    with path.open("rb") as handle:
        begins_as_zip = handle.read(4) == b"PK\x03\x04"
    whole_zip = zipfile.is_zipfile(path)
    if begins_as_zip and not whole_zip:
        raise UserError(f"{path} is cut short: its table of contents is missing. Get the file again.")
    try:
        document = torch.load(path, map_location="cpu", weights_only=True, mmap=whole_zip)
    except pickle.UnpicklingError as error:
        reason = " ".join(str(error).split())
        unsafe = re.search(r"(?:Unsupported global: GLOBAL|unsupported GLOBAL) (\S+)", reason)
        raise UserError(
            f"{path} was refused: to open it, code from the file would have to run "
            f"({unsafe.group(0) if unsafe else reason[:300]}). Weights are only read from files that hold plain "
            f"data and tensors; ask its author for a safetensors file."
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{path} is damaged and cannot be read ({reason}). Get the file again.") from error
    if not isinstance(document, dict):
        raise UserError(f"{path} holds a {type(document).__name__}, not a dict of weights.")
    return document


def is_safetensors(path: Path) -> bool:
    """Whether a file is of safetensors, by its first bytes.

    Raises:
        UserError: it is a JSON file, which holds no weights.
    """
    with path.open("rb") as handle:
        first = handle.read(9)
    if first.lstrip()[:1] == b"{":
        raise UserError(
            f"{path} is a JSON file and holds no weights; give the folder that it is in, {path.parent}, or its "
            "weights file."
        )
    return first[8:] == b"{"


class TensorFile:
    """A safetensors file, or several as one; tensors stay on disk until they are used.

    Args:
        paths: the files.

    Raises:
        UserError: a file is damaged.
    """

    def __init__(self, paths: list[Path]) -> None:
        from safetensors import SafetensorError, safe_open

        self.metadata: dict[str, str] = {}
        self.home: dict[str, Path] = {}
        for path in paths:
            try:
                with safe_open(path, framework="pt") as file:
                    self.metadata.update(file.metadata() or {})
                    self.home.update(dict.fromkeys(file.keys(), path))
            except (SafetensorError, OSError) as error:
                raise UserError(
                    f"{path} is damaged and cannot be read ({error}). Get the file again."
                ) from error

    def read(self, names: list[str]) -> dict[str, Tensor]:
        """The named tensors, through a mapping of their own that is dropped with the last of them."""
        from safetensors import safe_open

        tensors: dict[str, Tensor] = {}
        for path in dict.fromkeys(self.home[name] for name in names):
            with safe_open(path, framework="pt") as file:
                tensors.update({name: file.get_tensor(name) for name in names if self.home[name] == path})
        return tensors
