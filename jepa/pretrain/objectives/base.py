"""The Objective protocol: what every pretraining loss gives the trainer, and the registry for new ones.

An objective owns the context encoder and whatever is trained with it; as a module it is what DDP and FSDP wrap. To add
one, write a config dataclass and a subclass of `Objective`, and register it:

    @register_objective("my_loss", MyLossConfig)
    class MyLoss(Objective):
        def loss(self, video, targets, masks, progress): ...

Shapes: video [B, C, T, H, W], normalised; targets [B, N, E] for the N tokens of the grid; masks are index pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from jepa.data import Stream, open_stream
from jepa.errors import UserError
from jepa.masking import Mask
from jepa.models import Predictor, VideoEncoder
from jepa.pretrain.objectives.targets import Targets

if TYPE_CHECKING:
    from jepa.models.action import WorldModel
    from jepa.pretrain.config import PretrainConfig

MakePredictor = Callable[..., Predictor]


class Objective(nn.Module):
    """A loss and the networks that it trains.

    Args:
        encoder: the context encoder, trained.
        target: what the predictor should predict, or None where the loss needs no targets.

    Attributes:
        predictor: context tokens and positions -> predictions, or None.
    """

    config_class: ClassVar[type]
    batch_keys: ClassVar[tuple[str, ...]] = ()
    """what `loss` takes from a batch beside the video, where the batch has it, by keyword"""
    uses_masks: ClassVar[bool] = True
    """whether `loss` needs masks, which are then drawn for every batch"""
    predictor: Predictor | None

    def __init__(self, encoder: VideoEncoder, target: Targets | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.predictor = None
        # A plain object and no submodule: targets have no gradient, so the optimizer and DDP must not see them.
        self.target = target

    @classmethod
    def encoder_options(cls, config: Any, depth: int) -> dict[str, Any]:
        """Fields of `EncoderConfig` that this objective decides, for an encoder of `depth` blocks."""
        return {}

    @classmethod
    def from_config(
        cls,
        config: Any,
        encoder: VideoEncoder,
        make_predictor: MakePredictor,
        *,
        seed: int,
        num_masks: int,
    ) -> Objective:
        """Builds the objective around an encoder.

        Args:
            config: its own config dataclass.
            encoder: randomly initialised or loaded.
            make_predictor: builds the predictor that goes with the encoder; takes fields of `PredictorConfig`.
            seed: of the run.
            num_masks: masks of each clip.
        """
        raise NotImplementedError(f"{cls.__name__} needs from_config, which builds it around an encoder")

    @classmethod
    def build(cls, run: PretrainConfig, encoder: VideoEncoder, make_predictor: MakePredictor) -> Objective:
        """Builds the objective of a run; override it where `from_config` does not say enough."""
        seed, num_masks = run.train.seed, len(run.masks)
        return cls.from_config(run.objective, encoder, make_predictor, seed=seed, num_masks=num_masks)

    @classmethod
    def open_data(cls, run: PretrainConfig) -> Stream:
        """The samples of a run."""
        return open_stream(run.data, run.train.seed, run.train.batch_size)

    def attach(self, dataset: Any, workers: int) -> None:
        """Called once before training with the dataset and the number of processes that read it."""

    def make_targets(self, video: Tensor) -> Tensor | None:
        """Targets of every token, [B, N, E], without gradient; None where `loss` makes its own."""
        if self.target is None or self.target.needs_gradient:
            return None
        with torch.no_grad():
            return self.target(video)

    def loss(
        self, video: Tensor, targets: Tensor | None, masks: Sequence[Mask], progress: float = 0.0
    ) -> dict[str, Tensor]:
        """One micro-batch's loss.

        Args:
            video: [B, C, T, H, W], or [B, C, 1, H, W] for images.
            targets: what `make_targets` returned.
            masks: index pairs into the N tokens.
            progress: finished steps / all steps, in [0, 1).

        Returns:
            "loss", a float32 scalar with gradient, and detached scalars for the log.
        """
        raise NotImplementedError

    def forward(
        self,
        video: Tensor,
        targets: Tensor | None,
        masks: Sequence[Mask],
        progress: float = 0.0,
        **extra: Tensor,
    ) -> dict[str, Tensor]:
        """`loss`; DDP and FSDP2 hook in here. `extra` holds what `batch_keys` names."""
        return self.loss(video, targets, masks, progress, **extra)

    def update_targets(self, momentum: float) -> None:
        """Ends an optimizer step: the target encoder's EMA, the PCA of the targets."""
        if self.target is not None:
            self.target.update(momentum)

    def diagnose(
        self, video: Tensor, targets: Tensor | None, masks: Sequence[Mask], max_rows: int
    ) -> dict[str, float]:
        """Numbers for the monitor beyond the loss, from a few clips and without gradient.

        Args:
            video: [B, C, T, H, W], normalised.
            targets: as in `loss`.
            masks: of these clips.
            max_rows: rows that ranks and spectra are computed from.
        """
        return {}

    def world_model(self) -> WorldModel | None:
        """What planning uses, where the objective trains one; `jepa export` writes it beside the encoder."""
        return None

    def exportable(self) -> dict[str, VideoEncoder]:
        """The encoders that an export may hold, by name: `context` and, with an EMA, `target`."""
        found = {"context": self.encoder}
        if self.target is not None and self.target.ema_encoder is not None:
            found["target"] = self.target.ema_encoder
        return found

    @property
    def predicts_latents(self) -> bool:
        """Whether the predictor's outputs are features that a probe can read."""
        return False

    def target_tensors(self) -> dict[str, Tensor]:
        """Tensors by name that a checkpoint keeps beside the trained ones."""
        return {} if self.target is None else self.target.tensors()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Objective:
        # `.to(device)` must take the targets along, though they are no submodule.
        super()._apply(fn, recurse)
        if self.target is not None:
            self.target.apply(fn)
        return self


_REGISTRY: dict[str, type[Objective]] = {}
_O = TypeVar("_O", bound=type[Objective])


def register_objective(name: str, config_class: type) -> Callable[[_O], _O]:
    """Class decorator that makes an objective known as `objective=NAME`.

    Args:
        name: of the objective.
        config_class: its dataclass.

    Raises:
        UserError: the name is taken.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass
        ... class NothingConfig:
        ...     weight: float = 1.0
        >>> @register_objective("nothing", NothingConfig)
        ... class Nothing(Objective):
        ...     pass
        >>> "nothing" in objective_configs()
        True
        >>> _ = _REGISTRY.pop("nothing")
    """

    def register(cls: _O) -> _O:
        if name in _REGISTRY:
            raise UserError(f"There is an objective {name!r} already; choose another name.")
        cls.config_class = config_class
        _REGISTRY[name] = cls
        return cls

    return register


def objective_configs() -> dict[str, type]:
    """Config dataclass of every registered objective, by name."""
    return {name: cls.config_class for name, cls in _REGISTRY.items()}


def objective_class(config: Any) -> type[Objective]:
    """The objective that a config dataclass belongs to.

    Raises:
        UserError: none does.
    """
    for cls in _REGISTRY.values():
        if type(config) is cls.config_class:
            return cls
    raise UserError(
        f"{type(config).__name__} is not the config of a registered objective; the objectives are "
        f"{', '.join(_REGISTRY)}. Register yours with jepa.pretrain.register_objective."
    )
