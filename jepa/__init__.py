"""Self-supervised video world models (V-JEPA): encoders, pretraining, probes and signals that can be checked.

Names are loaded on first use, so importing the package costs next to nothing. Whoever wants one encoder never pays for
the trainer, the readers or the reports.

Example:
    >>> import jepa
    >>> encoder = jepa.create_model("vit_nano", patch_px=8)
    >>> encoder.embed_dim
    128
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jepa.lazy import attach

if TYPE_CHECKING:
    from jepa import data as data
    from jepa import masking as masking
    from jepa import models as models
    from jepa import pretrain as pretrain
    from jepa import probes as probes
    from jepa import signals as signals
    from jepa import viz as viz
    from jepa.data.video.reader import open_video as open_video
    from jepa.errors import UserError as UserError
    from jepa.errors import VideoError as VideoError
    from jepa.models.registry import create_model as create_model
    from jepa.models.registry import list_models as list_models
    from jepa.models.registry import register_model as register_model
    from jepa.models.weights.load import load_encoder as load_encoder
    from jepa.probes.embed import embed as embed
    from jepa.probes.load import load_probe as load_probe

__version__ = "0.1.0"

attach(globals())
