"""Model cards: one for every registered architecture; `python -m jepa.models.cards` prints the table of
docs/models.md."""

from __future__ import annotations

from dataclasses import dataclass

import torch

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
        >>> cards_table().splitlines()[2].split(" | ")[:2]
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


if __name__ == "__main__":
    print(cards_table(), end="")
