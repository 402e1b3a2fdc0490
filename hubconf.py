"""Entry points for `torch.hub.load`: one per registered encoder, named as in `jepa.models.list_models()`.

encoder = torch.hub.load(REPOSITORY, "vjepa2_vit_large_256", pretrained=True)
predictor = torch.hub.load(REPOSITORY, "predictor", "vjepa2_vit_large_256")
"""

from collections.abc import Callable
from typing import Any

from jepa.models import Predictor, VideoEncoder, create_model, create_predictor, list_models

dependencies = ["torch", "einops"]


def predictor(name: str, **overrides: Any) -> Predictor:
    """The predictor that goes with a registered encoder, with random weights."""
    return create_predictor(name, **overrides)


def _entry(name: str) -> Callable[..., VideoEncoder]:
    def make(pretrained: bool = False, **overrides: Any) -> VideoEncoder:
        return create_model(name, "published" if pretrained else None, **overrides)

    make.__name__ = make.__qualname__ = name
    make.__doc__ = f"The encoder {name}; keywords are fields of its config."
    return make


globals().update({name: _entry(name) for name in list_models()})
