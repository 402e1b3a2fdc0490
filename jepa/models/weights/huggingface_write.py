"""Hugging Face export: a folder that `transformers.AutoModel.from_pretrained` loads; names as in `huggingface_read`."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from jepa.errors import UserError, require
from jepa.files import atomic_path, write_json
from jepa.models.cards import write_card
from jepa.models.encoder import VideoEncoder
from jepa.models.pooler import AttentiveClassifier
from jepa.models.predictor import Predictor
from jepa.models.preprocessing import Preprocessing
from jepa.models.weights.huggingface_custom import write_custom_folder
from jepa.models.weights.huggingface_read import CLASSIFIER_NAMES, ENCODER_NAMES, PREDICTOR_NAMES
from jepa.models.weights.strict import clean_names, unwrapped


def save_hf(
    folder: str | os.PathLike[str],
    encoder: nn.Module,
    preprocessing: Preprocessing,
    predictor: Predictor | None = None,
    classifier: AttentiveClassifier | None = None,
    custom_code: bool = False,
) -> None:
    """Writes a folder that `transformers.AutoModel.from_pretrained` loads as V-JEPA 2, with the same numbers.

    Args:
        folder: where the files go; made if needed, replaced file by file.
        encoder: an encoder of V-JEPA 2's kind, with position "tiled".
        preprocessing: what the encoder expects of its input.
        predictor: without one, transformers makes its own with random weights and warns of it.
        classifier: if given, the folder is one of `VJEPA2ForVideoClassification`.
        custom_code: write any encoder, alone, with a reference to this library's own model class; whoever
            loads the folder needs this library, and either `import jepa.models.adapters.transformers_model` or
            `trust_remote_code=True`.

    Raises:
        UserError: transformers has no model that gives the same numbers; the message says which part differs.

    Example:
        >>> import tempfile
        >>> from jepa.models import create_model, load_encoder
        >>> encoder = create_model("vit_nano", position="tiled")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_hf(folder, encoder, encoder.preprocessing)
        ...     load_encoder(folder).embed_dim
        128
    """
    encoder = unwrapped(encoder)
    if type(encoder) is not VideoEncoder:
        raise UserError(f"save_hf writes a VideoEncoder; transformers has no {type(encoder).__name__}.")
    if not custom_code:
        write_folder(Path(folder), encoder, preprocessing, predictor, classifier)
    elif predictor is not None or classifier is not None:
        raise UserError("custom_code=True writes an encoder alone; leave out predictor and classifier.")
    else:
        write_custom_folder(Path(folder), encoder, preprocessing, processor_config(preprocessing))
    kind = "transformers, own code" if custom_code else "transformers"
    write_card(Path(folder), encoder, preprocessing, encoder.metadata, kind)


def push_to_hub(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    token: str | bool | None = None,
    private: bool = False,
    revision: str | None = None,
    commit_message: str = "Upload encoder",
) -> str:
    """Uploads an export, of any format, to the Hugging Face hub; `load_encoder(repo_id)` reads it there.

    Complete the README.md of the export first: it becomes the model card.

    Args:
        folder: an export.
        repo_id: USER/NAME; made if there is none.
        token: access token; by default the one that `hf auth login` stored.
        private: whether a repository that is made is private.
        revision: branch to commit to.
        commit_message: first line of the commit.

    Returns:
        The address of the commit.

    Raises:
        UserError: the folder holds no export, huggingface_hub is not installed, or the hub refuses.
    """
    if not (Path(folder) / "config.json").is_file():
        raise UserError(
            f"{os.fspath(folder)} is no export: it has no config.json. Write one with `jepa export`."
        )
    hub = require("huggingface_hub", "hf")
    api = hub.HfApi(token=token)
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(
            folder_path=os.fspath(folder),
            repo_id=repo_id,
            revision=revision,
            commit_message=commit_message,
            ignore_patterns=[".*", "*.partial*"],
        )
    except (OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"The hub did not take {repo_id!r}: {reason}. Check the name, the network and the token."
        ) from error
    return str(commit)


def write_folder(
    folder: Path,
    encoder: VideoEncoder,
    preprocessing: Preprocessing,
    predictor: Predictor | None,
    classifier: AttentiveClassifier | None,
) -> None:
    """Writes a folder for VJEPA2Model, or VJEPA2ForVideoClassification if there is a classifier.

    Raises:
        UserError: transformers has no such model.
    """
    from safetensors.torch import save_file

    _check(encoder, preprocessing, predictor, classifier)
    root = "vjepa2." if classifier else ""
    ours = clean_names(encoder.state_dict(), "the encoder")
    state = _theirs(ours, f"{root}encoder.", ENCODER_NAMES, "attention", ("query", "key", "value"))
    if predictor is not None:
        ours = dict(predictor.state_dict())
        ours["mask_tokens"] = _mask_tokens(ours["mask_tokens"], predictor.config.mask_index)
        state |= _theirs(ours, f"{root}predictor.", PREDICTOR_NAMES, "attention", ("query", "key", "value"))
    if classifier is not None:
        state |= _theirs(
            classifier.state_dict(), "", CLASSIFIER_NAMES, "self_attn", ("q_proj", "k_proj", "v_proj")
        )
    with atomic_path(folder / "model.safetensors") as partial:
        save_file(state, partial, metadata={"format": "pt"})
    write_json(folder / "video_preprocessor_config.json", processor_config(preprocessing))
    write_json(folder / "config.json", _config(encoder, preprocessing, predictor, classifier))


def _check(
    encoder: VideoEncoder,
    preprocessing: Preprocessing,
    predictor: Predictor | None,
    classifier: AttentiveClassifier | None,
) -> None:
    config, problems = encoder.config, []
    if config.position != "tiled":
        problems.append(f"position={config.position} (it has 'tiled' only)")
    if config.output_layers or config.image_tokenizer or config.rope_reference_grid is not None:
        problems.append("norms per layer, an image tokenizer or stretched positions (V-JEPA 2.1)")
    if not is_published(preprocessing):
        problems.append(f"resize_px={preprocessing.resize_px} (it resizes to crop_px * 256 / 224)")
    if predictor is not None:
        other = predictor.config
        if other.position != "tiled" or other.rope_reference_grid is not None:
            problems.append("a predictor with other positions than 'tiled'")
        if other.target_layers != 1 or other.context_head or other.modality_embedding:
            problems.append("a predictor with target_layers, context head or modality embedding (V-JEPA 2.1)")
        if (other.encoder_dim, other.out_dim, other.norm_eps) != (
            config.embed_dim,
            config.embed_dim,
            config.norm_eps,
        ):
            problems.append("a predictor whose width or epsilon is not the encoder's")
    if classifier is not None:
        pooler = classifier.pooler.config
        if list(classifier.heads) != ["label"]:
            problems.append(f"the heads {list(classifier.heads)} (it has one, 'label')")
        if (pooler.num_heads, pooler.norm_eps, pooler.mlp_dim) != (
            config.num_heads,
            config.norm_eps,
            4 * config.embed_dim,
        ):
            problems.append(
                f"a pooler of {pooler.num_heads} heads and epsilon {pooler.norm_eps} on an encoder of "
                f"{config.num_heads} and {config.norm_eps} (it has one setting for both)"
            )
    if problems:
        raise UserError(
            f"VJEPA2Model of transformers has no {'; no '.join(problems)}. Use the native format, or save_hf "
            f"with "
            f"custom_code=True."
        )


def _theirs(
    state: dict[str, Tensor],
    prefix: str,
    names: list[tuple[str, str]],
    attention: str,
    thirds: tuple[str, str, str],
) -> dict[str, Tensor]:
    """Our tensors under their names, with queries, keys and values apart."""
    result: dict[str, Tensor] = {}
    for name, tensor in state.items():
        theirs = next((theirs + name[len(ours) :] for ours, theirs in names if name.startswith(ours)), name)
        if attention == "self_attn":
            theirs = theirs.replace(".norm1.", ".layer_norm1.").replace(".norm2.", ".layer_norm2.")
            theirs = theirs.replace(".attn.proj.", ".self_attn.out_proj.")
        theirs = prefix + theirs.replace(".attn.proj.", f".{attention}.proj.")
        if ".attn.qkv." in theirs:
            parts = {theirs.replace(".attn.qkv.", f".{attention}.{third}."): third for third in thirds}
            result.update(zip(parts, tensor.chunk(3), strict=True))
        elif ".xattn.kv." in theirs:
            parts = {theirs.replace(".xattn.kv.", f".cross_attn.{third}."): third for third in thirds[1:]}
            result.update(zip(parts, tensor.chunk(2), strict=True))
        else:
            result[theirs.replace(".xattn.q.", f".cross_attn.{thirds[0]}.")] = tensor
    return {name: tensor.detach().contiguous() for name, tensor in result.items()}


def _mask_tokens(tokens: Tensor, index: int) -> Tensor:
    """Mask tokens as [n, 1, 1, d], ours at the index that transformers always uses."""
    fixed = 1 % len(tokens)
    order = list(range(len(tokens)))
    order[fixed], order[index] = order[index], order[fixed]
    return tokens[order][:, None, None]


def _ratio(width: int, dim: int) -> float:
    """A ratio that gives `width` again when multiplied by `dim` and truncated to an integer."""
    ratio = width / dim
    return ratio if int(dim * ratio) == width else math.nextafter(ratio, math.inf)


def is_published(preprocessing: Preprocessing) -> bool:
    """Whether transformers' processor, which derives the shorter side from the crop, gives the same
    numbers."""
    return preprocessing.resize_px == int(preprocessing.crop_px * 256 / 224)


def processor_config(preprocessing: Preprocessing) -> dict[str, Any]:
    """The config of transformers' VJEPA2VideoProcessor where it gives the same numbers, else of this library's own."""
    own = {
        "video_processor_type": "JepaVideoProcessor",
        "auto_map": {"AutoVideoProcessor": "modeling_jepa.JepaVideoProcessor"},
    }
    return {
        **({"video_processor_type": "VJEPA2VideoProcessor"} if is_published(preprocessing) else own),
        "crop_size": {"height": preprocessing.crop_px, "width": preprocessing.crop_px},
        "size": {"shortest_edge": preprocessing.resize_px},
        "image_mean": list(preprocessing.mean),
        "image_std": list(preprocessing.std),
        "do_resize": True,
        "do_center_crop": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "resample": 2,
    }


def _config(
    encoder: VideoEncoder,
    preprocessing: Preprocessing,
    predictor: Predictor | None,
    classifier: AttentiveClassifier | None,
) -> dict[str, Any]:
    config = encoder.config
    document: dict[str, Any] = {
        "model_type": "vjepa2",
        "architectures": ["VJEPA2ForVideoClassification" if classifier else "VJEPA2Model"],
        "dtype": str(next(encoder.parameters()).dtype).removeprefix("torch."),
        "patch_size": config.patch_px,
        "crop_size": preprocessing.crop_px,
        "frames_per_clip": preprocessing.num_frames,
        "tubelet_size": config.tubelet_frames,
        "hidden_size": config.embed_dim,
        "in_chans": config.in_channels,
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.depth,
        "mlp_ratio": _ratio(config.mlp_dim, config.embed_dim),
        "layer_norm_eps": config.norm_eps,
        "qkv_bias": True,
        "hidden_act": "gelu",
        # Without a predictor transformers makes one with random weights and warns of it; keep that one small.
        "pred_num_hidden_layers": 0,
    }
    if predictor is not None:
        other = predictor.config
        document |= {
            "pred_hidden_size": other.dim,
            "pred_num_attention_heads": other.num_heads,
            "pred_num_hidden_layers": other.depth,
            "pred_num_mask_tokens": other.num_mask_tokens,
            "pred_mlp_ratio": _ratio(other.mlp_dim, other.dim),
        }
    if classifier is not None:
        count = len(classifier.get_parameter("heads.label.bias"))
        labels = classifier.labels.get("label", [f"LABEL_{index}" for index in range(count)])
        document["num_pooler_layers"] = classifier.pooler.config.depth - 1
        document["id2label"] = dict(enumerate(labels))
        document["label2id"] = {label: index for index, label in enumerate(labels)}
    return document
