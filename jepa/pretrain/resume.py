"""Resuming a run: the same settings and the same videos, else a refusal; names of older versions are translated."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

from jepa.errors import UserError
from jepa.fields import to_dict
from jepa.pretrain.config import PretrainConfig
from jepa.pretrain.distributed import DistContext
from jepa.pretrain.objectives import objective_configs

# What may differ between two starts of one run: none of these changes a weight, but for rounding where the batch is
# cut otherwise or compiled. More steps stretch the schedules.
_MAY_CHANGE = {
    "out", "data.root", "data.workers", "data.max_bad_fraction", "train.steps", "train.save_every", "train.keep",
    "train.log_every", "train.device", "train.max_skipped", "train.micro_batch", "train.strategy",
    "train.activation_checkpointing", "train.compile", "train.timeout_s", "train.init_from", "model.weights",
}  # fmt: skip

# Keys of version 0.1, in the order in which they are looked for.
_RENAMED = {
    "data.max_bad_share": "data.max_bad_fraction",
    "train.recompute": "train.activation_checkpointing",
    "objective.levels": "objective.target_layers",
    "objective.deep": "objective.multi_layer",
    "objective.changes": "objective.temporally_centred",
    "objective.components": "objective.pca_components",
    "objective.teacher": "objective.target_encoder",
    "objective.teacher_from": "objective.target_encoder_from",
    "objective.predict": "objective.target",
}
_VIEW_KEYS = {
    "slices": "slices",
    "global_views": "global_views",
    "hidden_dim": "hidden_dim",
    "out_dim": "out_dim",
}


def translate_config(saved: dict[str, Any]) -> dict[str, Any]:
    """The nested config of a run that any version wrote, in today's keys."""
    config = {name: dict(part) if isinstance(part, dict) else part for name, part in saved.items()}
    objective = config.get("objective", {})
    if "name" in objective:
        return config
    for old, new in _RENAMED.items():
        (part, before), after = old.split("."), new.split(".")[1]
        if before in config.get(part, {}):
            config[part][after] = config[part].pop(before)
    data, train, sigreg = config["data"], config["train"], dict(objective.get("sigreg", {}))
    data.pop("mode", None)
    data.pop("resize_px", None)
    words = {"cheap": "selective", "blocks": "full"}
    train["activation_checkpointing"] = words.get(train["activation_checkpointing"], "none")
    config["monitor"] = config.pop("watch", {})
    config["masks"] = [translate_mask(mask) for mask in config["masks"]]
    if objective.get("target") == "views":
        config["objective"] = {
            "name": "view_invariance",
            "sigreg_weight": sigreg["weight"],
            **{new: sigreg[old] for old, new in _VIEW_KEYS.items()},
        }
    else:
        kept = {name: sigreg[name] for name in ("weight", "slices", "tokens") if name in sigreg}
        config["objective"] = {"name": "masked_prediction", **objective, "sigreg": kept}
    return config


def translate_mask(mask: dict[str, Any]) -> dict[str, Any]:
    """A mask's settings in today's keys."""
    mask = dict(mask)
    if "hidden" in mask:
        mask["ratio"] = mask.pop("hidden")
    if mask.get("kind") == "slots":
        mask["kind"] = "temporal"
    return mask


def check_same_run(saved: dict[str, Any], config: PretrainConfig, fingerprint: str, out: Path) -> None:
    """Refuses to resume a run folder with other settings or other videos.

    Raises:
        UserError: names the keys that differ.
    """
    before = translate_config(saved["config"])
    # A key that is younger than the run had the value that is now its default.
    objective = objective_configs()[before["objective"]["name"]]()
    defaults = flatten(to_dict(PretrainConfig(objective=objective)))
    then, now = defaults | flatten(before), flatten(to_dict(config))
    changed = [
        f"{key}: {then.get(key)} -> {now.get(key)}"
        for key in sorted(then.keys() | now.keys())
        if then.get(key) != now.get(key)
        and key not in _MAY_CHANGE
        and not key.startswith(("wandb.", "monitor."))
        and not (key.startswith("data.mix.") and key.endswith(".root"))
    ]
    if changed:
        raise UserError(
            f"The run in {out} was started with other settings ({'; '.join(changed)}). Resume it with the old ones, or "
            "give a new folder as out=."
        )
    if saved["data"] != fingerprint:
        raise UserError(
            f"The run in {out} was started on another list of videos, so it cannot be resumed exactly. Restore the "
            "videos, or give a new folder as out=."
        )


def check_same_everywhere(context: DistContext, fingerprint: str, root: str) -> None:
    """Refuses processes that do not see the same videos.

    Raises:
        UserError: names the nodes.
    """
    gathered = context.gather((fingerprint, platform.node()))
    odd = sorted({node for other, node in gathered if other != gathered[0][0]})
    if odd:
        raise UserError(
            f"The list of videos in {root} is another one on {', '.join(odd)} than on {gathered[0][1]}, so the "
            "processes would not train on one batch. Give all nodes the same files."
        )


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts and lists -> {"train.steps": 2000, "masks.0.kind": "temporal", ...}.

    Example:
        >>> flatten({"train": {"steps": 2}, "masks": [{"ratio": 0.5}]})
        {'train.steps': 2, 'masks.0.ratio': 0.5}
    """
    if isinstance(tree, (list, tuple)):
        tree = dict(enumerate(tree))
    if not isinstance(tree, dict):
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat
