"""Model cards: one for every registered architecture, and the README.md of an export; `python -m jepa.models.cards`
prints the table of docs/models.md."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from jepa.files import write_text
from jepa.models.architectures import ENTRIES, entry_of
from jepa.models.encoder import VideoEncoder
from jepa.models.predictor import Predictor
from jepa.models.preprocessing import Preprocessing


@dataclass(frozen=True)
class ModelCard:
    """What to consider before choosing an encoder."""

    name: str
    """Registered name."""
    parameters: int
    """Parameters of the encoder."""
    predictor_parameters: int
    """Parameters of the predictor that goes with it."""
    tubelet: str
    """What one token covers: frames x pixels x pixels."""
    embed_dim: int
    """Channels of a token."""
    tokens: int
    """Tokens of one clip of the size that the encoder was trained on."""
    preprocessing: Preprocessing
    """What the encoder expects of its input."""
    positions: str
    """Kind of positions, and whether they are stretched onto the trained grid."""
    images: str
    """How a single frame is encoded."""
    licence: str
    """Licence of the published weights; empty if there are none."""
    weights: str
    """Where the published weights are; empty if there are none."""
    paper: str
    """Paper that describes the architecture."""


def model_card(name: str) -> ModelCard:
    """The card of a model; parameters are counted on the architecture itself.

    Raises:
        UserError: there is no such model.

    Example:
        >>> card = model_card("vjepa2_vit_large_256")
        >>> round(card.parameters / 1e6, 2), card.tokens, card.licence
        (303.89, 8192, 'MIT')
    """
    entry = entry_of(name)
    with torch.device("meta"):
        modules = VideoEncoder(entry.encoder), Predictor(entry.predictor)
    parameters, predictor_parameters = (sum(p.numel() for p in module.parameters()) for module in modules)
    config, stated = entry.encoder, entry.preprocessing
    side = stated.crop_px // config.patch_px
    return ModelCard(
        name=name,
        parameters=parameters,
        predictor_parameters=predictor_parameters,
        tubelet=f"{config.tubelet_frames} x {config.patch_px} x {config.patch_px}",
        embed_dim=config.embed_dim,
        tokens=stated.num_frames // config.tubelet_frames * side * side,
        preprocessing=stated,
        positions=config.position + (", stretched" if config.rope_reference_grid else ""),
        images="own tokenizer" if config.image_tokenizer else "frame repeated",
        licence=entry.licence,
        weights=entry.hub_id or entry.url,
        paper=entry.paper,
    )


def cards_table() -> str:
    """All cards as a Markdown table.

    Example:
        >>> cards_table().splitlines()[3].split(" | ")[:2]
        ['| `vit_nano`', '0.99 M']
    """
    heads = ["name", "parameters", "predictor", "tubelet", "width", "tokens", "input", "positions", "images"]
    heads += ["licence of weights", "weights", "paper"]
    rows = [heads, ["---"] * len(heads)]
    for card in map(model_card, ENTRIES):
        stated = card.preprocessing
        rows.append(
            [
                f"`{card.name}`",
                f"{card.parameters / 1e6:.2f} M",
                f"{card.predictor_parameters / 1e6:.2f} M",
                card.tubelet,
                str(card.embed_dim),
                str(card.tokens),
                f"{stated.num_frames} frames, {stated.fps:g} fps, {stated.resize_px} > {stated.crop_px} px",
                card.positions,
                card.images,
                card.licence or "none published",
                f"`{card.weights}`" if card.weights else "",
                card.paper,
            ]
        )
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


# Kind of an export -> how to load it.
_LOADING = {
    "native": 'import jepa\n\nencoder = jepa.load_encoder("FOLDER")\n'
    "vector = encoder.embed(frames)                       # uint8 [T, C, H, W] -> [D]",
    "onnx": "import numpy as np\nimport onnxruntime\n\n"
    'session = onnxruntime.InferenceSession("FOLDER/encoder.onnx")\n'
    "# video: float32 [B, C, T, H, W], of frames that were resized (shorter side, bilinear with antialiasing,\n"
    "# rounded to uint8), cropped at the centre and normalised: (pixel / 255 - mean) / std, see config.json.\n"
    '(tokens,) = session.run(["tokens"], {"video": video})  # [B, N, D]\n'
    "vector = tokens.mean(axis=1)",
    "transformers": "from transformers import AutoModel, AutoVideoProcessor\n\n"
    'model = AutoModel.from_pretrained("FOLDER")\n'
    'processor = AutoVideoProcessor.from_pretrained("FOLDER")\n'
    'inputs = processor(list(videos), return_tensors="pt")  # videos: uint8 [B, T, C, H, W]\n'
    "tokens = model.get_vision_features(**inputs)          # [B, N, D]",
    "transformers, own code": "from transformers import AutoModel, AutoVideoProcessor\n\n"
    "# Needs the library: pip install jepa-video\n"
    'model = AutoModel.from_pretrained("FOLDER", trust_remote_code=True)\n'
    'processor = AutoVideoProcessor.from_pretrained("FOLDER", trust_remote_code=True)\n'
    'inputs = processor(list(videos), return_tensors="pt")  # videos: uint8 [B, T, C, H, W]\n'
    "tokens = model(**inputs).last_hidden_state            # [B, N, D]",
}


def write_card(
    folder: Path,
    encoder: VideoEncoder,
    preprocessing: Preprocessing,
    metadata: dict[str, Any],
    kind: str = "native",
) -> None:
    """Writes README.md beside the weights of an export: what they are, what they expect, how to load them.

    A README.md that does not begin as these do was written by a person, and stays.

    Args:
        folder: the export.
        encoder: what was exported.
        preprocessing: what it expects of its input.
        metadata: where the weights come from.
        kind: "native", "onnx", "transformers" or "transformers, own code".
    """
    path = folder / "README.md"
    front = "---\nlibrary_name: "
    if path.exists() and not path.read_text(encoding="utf-8").startswith(front):
        return
    library = {"native": "jepa", "onnx": "onnx"}.get(kind, "transformers")
    config = encoder.config
    parameters = sum(p.numel() for p in encoder.parameters())
    origin = json.dumps(metadata, indent=2, ensure_ascii=False)
    write_text(
        path,
        f"{front}{library}\npipeline_tag: feature-extraction\ntags: [video, self-supervised, jepa]\n---\n\n"
        f"# Video encoder, {metadata.get('model', 'V-JEPA architecture')}\n\n"
        "A self-supervised video encoder: it maps a clip to tokens, and was not trained on labels. "
        "Its features are read by probes; by themselves they decide nothing.\n\n"
        f"- {parameters / 1e6:.2f} M parameters, {config.embed_dim} channels per token\n"
        f"- one token covers {config.tubelet_frames} frames x {config.patch_px} x {config.patch_px} pixels\n"
        f"- trained on clips of {preprocessing.num_frames} frames at {preprocessing.fps:g} frames per second, shorter "
        f"side {preprocessing.resize_px} px, centre crop {preprocessing.crop_px} px; other lengths and sizes work\n"
        f"- pixels between 0 and 1, less the mean {list(preprocessing.mean)}, divided by {list(preprocessing.std)}\n\n"
        f"## Load\n\n```python\n{_LOADING[kind]}\n```\n\n"
        f"## Where the weights come from\n\n```json\n{origin}\n```\n\n"
        "State here before publishing: training data and its licence, the licence of these weights, what they were "
        "tested for and with which result, and what they must not be used for.\n\n"
        f"## Architecture\n\n```json\n{json.dumps(asdict(config), indent=2)}\n```\n",
    )


if __name__ == "__main__":
    print(cards_table(), end="")
