"""The Hugging Face layout of V-JEPA 2: a folder that `transformers.AutoModel.from_pretrained` loads, read and
written.

transformers implements the "tiled" rotation only, positions on a square grid of `crop_size`, and one epsilon
and one number of heads for encoder and pooler. What does not fit is refused, since it would load and then
give other numbers.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jepa.errors import UserError
from jepa.models.encoder import EncoderConfig, VideoEncoder
from jepa.models.pooler import AttentiveClassifier, PoolerConfig
from jepa.models.predictor import Predictor, PredictorConfig
from jepa.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from jepa.models.weights.sources import TensorFile
from jepa.models.weights.strict import build_strictly

# What VJEPA2Config supplies for keys that a config.json leaves out.
_DEFAULTS: dict[str, Any] = {
    "patch_size": 16,
    "crop_size": 256,
    "frames_per_clip": 64,
    "tubelet_size": 2,
    "hidden_size": 1024,
    "in_chans": 3,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "mlp_ratio": 4.0,
    "layer_norm_eps": 1e-6,
    "qkv_bias": True,
    "hidden_act": "gelu",
    "num_pooler_layers": 3,
    "pred_hidden_size": 384,
    "pred_num_attention_heads": 12,
    "pred_num_hidden_layers": 12,
    "pred_num_mask_tokens": 10,
    "pred_mlp_ratio": 4.0,
}
# The folder does not state a frame rate; V-JEPA 2 was trained at 4 frames per second.
_FPS = 4.0
# PIL's number for it, as processors store it.
_BILINEAR = 2
_THIRDS = ("query", "key", "value")
_POOLER_THIRDS = ("q_proj", "k_proj", "v_proj")

# Beginnings of names, ours and theirs; the first that fits is replaced.
ENCODER_NAMES = [
    ("patch_embed.", "embeddings.patch_embeddings."),
    ("blocks.", "layer."),
    ("norm.", "layernorm."),
]
PREDICTOR_NAMES = [
    ("embed.", "embeddings.predictor_embeddings."),
    ("mask_tokens", "embeddings.mask_tokens"),
    ("blocks.", "layer."),
    ("norm.", "layernorm."),
    ("proj.", "proj."),
]
CLASSIFIER_NAMES = [
    ("pooler.blocks.", "pooler.self_attention_layers."),
    ("pooler.cross_attention_block.", "pooler.cross_attention_layer."),
    ("pooler.query_tokens", "pooler.query_tokens"),
    ("heads.label.", "classifier."),
]


class Folder:
    """A Hugging Face folder of V-JEPA 2.

    Args:
        path: the folder.

    Raises:
        UserError: it is not one, or it needs something that this library does not have.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = {**_DEFAULTS, **read_json(path / "config.json")}
        for field, readable in (("model_type", "vjepa2"), ("hidden_act", "gelu"), ("qkv_bias", True)):
            if self.config.get(field) != readable:
                raise UserError(
                    f"{path} states {field}={self.config.get(field)!r}; only {readable!r} can be read."
                )
        index = path / "model.safetensors.index.json"
        files = ["model.safetensors"]
        if index.is_file():
            files = sorted(set(read_json(index)["weight_map"].values()))
        absent = [name for name in files if not (path / name).is_file()]
        if absent:
            raise UserError(f"{path} lacks {', '.join(absent)}; download the entire folder.")
        self.file = TensorFile([path / name for name in files])
        self.root = "vjepa2." if any(name.startswith("vjepa2.") for name in self.file.home) else ""
        known = (f"{self.root}encoder.", f"{self.root}predictor.", "pooler.", "classifier.")
        unexpected = [name for name in self.file.home if not name.startswith(known)]
        if unexpected:
            raise UserError(f"{path} has keys that no V-JEPA 2 has: {', '.join(unexpected[:12])}.")

    def encoder(self) -> VideoEncoder:
        """The encoder with its preprocessing."""
        config = self.config
        found = EncoderConfig(
            embed_dim=config["hidden_size"],
            depth=config["num_hidden_layers"],
            num_heads=config["num_attention_heads"],
            mlp_dim=int(config["hidden_size"] * config["mlp_ratio"]),
            patch_px=config["patch_size"],
            tubelet_frames=config["tubelet_size"],
            in_channels=config["in_chans"],
            position="tiled",
            norm_eps=config["layer_norm_eps"],
        )
        state = self._state(f"{self.root}encoder.", ENCODER_NAMES, ".attention.", _THIRDS)
        encoder = build_strictly(lambda: VideoEncoder(found), state, f"{self.path} (encoder)")
        encoder.preprocessing = self.preprocessing()
        return encoder

    def predictor(self) -> Predictor:
        """The predictor; transformers always uses mask token 1, or 0 where there is only one."""
        config = self.config
        found = PredictorConfig(
            encoder_dim=config["hidden_size"],
            out_dim=config["hidden_size"],
            dim=config["pred_hidden_size"],
            depth=config["pred_num_hidden_layers"],
            num_heads=config["pred_num_attention_heads"],
            mlp_dim=int(config["pred_hidden_size"] * config["pred_mlp_ratio"]),
            num_mask_tokens=config["pred_num_mask_tokens"],
            mask_index=1 % config["pred_num_mask_tokens"],
            position="tiled",
            norm_eps=config["layer_norm_eps"],
        )
        state = self._state(f"{self.root}predictor.", PREDICTOR_NAMES, ".attention.", _THIRDS)
        tokens = state.get("mask_tokens")
        if tokens is not None and tokens.ndim == 4 and tokens.shape[1:3] == (1, 1):
            state["mask_tokens"] = tokens[:, 0, 0]
        return build_strictly(lambda: Predictor(found), state, f"{self.path} (predictor)")

    def classifier(self) -> AttentiveClassifier:
        """The attentive classifier of a VJEPA2ForVideoClassification folder, with the heads and the epsilon
        that transformers gives it."""
        config = self.config
        if "classifier.weight" not in self.file.home:
            raise UserError(f"{self.path} holds no classifier; it is a plain model.")
        dim = config["hidden_size"]
        pooler = PoolerConfig(
            embed_dim=dim,
            depth=config["num_pooler_layers"] + 1,
            num_heads=config["num_attention_heads"],
            mlp_dim=4 * dim,
            norm_eps=config["layer_norm_eps"],
        )
        state = self._state("", CLASSIFIER_NAMES, ".self_attn.", _POOLER_THIRDS)
        count = len(state["heads.label.weight"])
        classifier = build_strictly(
            lambda: AttentiveClassifier(pooler, {"label": count}), state, f"{self.path} (classifier)"
        )
        names = {int(index): label for index, label in config.get("id2label", {}).items()}
        if sorted(names) == list(range(count)):
            classifier.labels = {"label": [names[index] for index in range(count)]}
        return classifier

    def preprocessing(self) -> Preprocessing | None:
        """The preprocessing that the folder's processor applies, or None if it leaves out one of our steps."""
        crop = self.config["crop_size"]
        fields: dict[str, Any] = {"size": {"shortest_edge": int(crop * 256 / 224)}, "crop_size": crop}
        for name in ("video_preprocessor_config.json", "preprocessor_config.json"):
            if (self.path / name).is_file():
                fields |= read_json(self.path / name)
                break
        steps = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")
        if (
            not all(fields.get(step, True) for step in steps)
            or fields.get("resample", _BILINEAR) != _BILINEAR
        ):
            return None
        crop = fields["crop_size"]
        crop = crop if isinstance(crop, int) else crop["height"]
        mean, std = fields.get("image_mean", IMAGENET_MEAN), fields.get("image_std", IMAGENET_STD)
        # transformers sets the shorter side from the crop, whatever `size` says.
        resize = int(crop * 256 / 224)
        return Preprocessing(self.config["frames_per_clip"], _FPS, resize, crop, tuple(mean), tuple(std))

    def _state(
        self, prefix: str, names: list[tuple[str, str]], attention: str, thirds: tuple[str, str, str]
    ) -> dict[str, Tensor]:
        """Tensors below `prefix` under our names, with queries, keys and values joined."""
        selected = [name for name in self.file.home if name.startswith(prefix or ("pooler.", "classifier."))]
        split = re.compile(
            rf"(.*)\.(?:{attention.strip('.')}|cross_attn)\.({'|'.join(thirds)})\.(weight|bias)"
        )
        state = {
            _renamed(name[len(prefix) :], names): tensor
            for name, tensor in self.file.read(
                [name for name in selected if not split.fullmatch(name)]
            ).items()
        }
        groups: dict[tuple[str, str, str], list[str]] = {}
        for name in selected:
            if match := split.fullmatch(name):
                kind = "cross" if ".cross_attn." in name else "self"
                groups.setdefault((match[1], kind, match[3]), []).append(name)
        for (block, kind, leaf), members in groups.items():
            # Each group is read through a mapping of its own, so that the parts leave memory once joined.
            parts = self.file.read(members)
            ours = _renamed(block[len(prefix) :] + ".", names)
            by_third = {name.split(".")[-2]: tensor for name, tensor in parts.items()}
            absent = [third for third in thirds if third not in by_third]
            if absent:
                raise UserError(f"{self.path} lacks {', '.join(absent)} of {block}; it holds {members}.")
            tensors = [by_third[third] for third in thirds]
            if len({tensor.shape for tensor in tensors}) > 1:
                shapes = {name: list(tensor.shape) for name, tensor in parts.items()}
                raise UserError(f"{self.path} has misshapen tensors, which should be alike: {shapes}.")
            if kind == "self":
                state[f"{ours}attn.qkv.{leaf}"] = torch.cat(tensors)
            else:
                state[f"{ours}xattn.q.{leaf}"] = tensors[0].clone()
                state[f"{ours}xattn.kv.{leaf}"] = torch.cat(tensors[1:])
        return state


def _renamed(theirs: str, names: list[tuple[str, str]]) -> str:
    for ours, prefix in names:
        if theirs.startswith(prefix):
            theirs = ours + theirs[len(prefix) :]
            break
    theirs = theirs.replace(".attention.proj.", ".attn.proj.").replace(".self_attn.out_proj.", ".attn.proj.")
    return theirs.replace(".layer_norm1.", ".norm1.").replace(".layer_norm2.", ".norm2.")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a Hugging Face folder.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    if not path.is_file():
        raise UserError(f"{path.parent} is no Hugging Face folder: it has no {path.name}.")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); get the file again.") from error
    if not isinstance(document, dict):
        raise UserError(f"{path} holds no JSON object.")
    return document
