"""Encoder tokens: features of a clip from a frozen video encoder and its predictor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from jepa.data.sampling import centre_position, clip_times
from jepa.errors import UserError
from jepa.models.weights.fingerprint import encoder_hash, state_hash
from jepa.probes.features.encode import extractor_key

if TYPE_CHECKING:
    from jepa.models import Encoder, Predictor, Preprocessing, TokenGrid


def preprocessing_of(encoder: Encoder) -> Preprocessing:
    """What the encoder expects of its input.

    Raises:
        UserError: the encoder does not say.
    """
    if encoder.preprocessing is None:
        raise UserError(
            "This encoder carries no preprocessing, so its features cannot be made the same way twice. "
            "Name its architecture (encoder=vjepa2_vit_giant_384:FILE), or set encoder.preprocessing."
        )
    return encoder.preprocessing


def coarse_grid(grid: TokenGrid, max_tokens: int) -> tuple[int, int, int]:
    """The finest grid of at most `max_tokens` tokens that keeps all time steps, by integer spatial factors.

    Raises:
        UserError: even one token per time step is too many.

    Example:
        >>> from jepa.models import TokenGrid
        >>> coarse_grid(TokenGrid(8, 14, 14), max_tokens=256)
        (8, 5, 5)
    """
    if grid.t > max_tokens:
        raise UserError(
            f"max_tokens={max_tokens} is less than the {grid.t} time steps of a window. Raise it to {grid.t} "
            "or more."
        )
    factor = 1
    while grid.t * -(-grid.h // factor) * -(-grid.w // factor) > max_tokens:
        factor += 1
    return grid.t, -(-grid.h // factor), -(-grid.w // factor)


def coarsen(tokens: torch.Tensor, grid: TokenGrid, max_tokens: int) -> torch.Tensor:
    """Averages neighbouring tokens in space until at most `max_tokens` are left.

    Args:
        tokens: [B, N, D] in the order of time, height, width.
        grid: their grid, N = t h w.
        max_tokens: upper bound of tokens kept.

    Returns:
        [B, M, D] with M <= max_tokens.

    Example:
        >>> from jepa.models import TokenGrid
        >>> coarsen(torch.zeros(1, 32, 5), TokenGrid(2, 4, 4), max_tokens=8).shape
        torch.Size([1, 8, 5])
    """
    target = coarse_grid(grid, max_tokens)
    if target == tuple(grid):
        return tokens
    volume = tokens.unflatten(1, tuple(grid)).movedim(-1, 1)
    return functional.adaptive_avg_pool3d(volume, target).flatten(2).transpose(1, 2)


def coarsen_future(
    predicted: torch.Tensor, grid: TokenGrid, time_steps: int, max_tokens: int
) -> torch.Tensor:
    """Averages predicted tokens [B, time_steps * h * w, D] in space, as `coarsen` does the tokens of the window.

    Example:
        >>> from jepa.models import TokenGrid
        >>> coarsen_future(torch.zeros(1, 16, 5), TokenGrid(2, 4, 4), time_steps=1, max_tokens=8).shape
        torch.Size([1, 4, 5])
    """
    _, height, width = coarse_grid(grid, max_tokens)
    return coarsen(predicted, grid._replace(t=time_steps), time_steps * height * width)


def predict_future(
    predictor: Predictor, tokens: torch.Tensor, grid: TokenGrid, time_steps: int
) -> torch.Tensor:
    """Future tokens: what the encoder's own predictor expects in the time steps after a window.

    As in the published anticipation probe, positions simply continue past the window's end; a predictor that was
    trained within the window only must extrapolate.

    Args:
        predictor: trained with the encoder.
        tokens: all tokens of the window [B, N, D].
        grid: their grid.
        time_steps: time steps to predict.

    Returns:
        Predicted tokens [B, time_steps * h * w, D].

    Raises:
        UserError: the predictor reads several encoder layers, which a plain encoder pass does not give.
    """
    config = predictor.config
    if config.target_layers != 1:
        raise UserError(
            f"This predictor reads {config.target_layers} encoder layers at once, which the probes do not support. "
            "Use anticipate.predictor=false."
        )
    ahead = grid._replace(t=grid.t + time_steps)
    ids = torch.arange(ahead.size, device=tokens.device).expand(len(tokens), -1)
    return predictor(tokens, ids[:, : grid.size], ids[:, grid.size :], ahead)[..., -tokens.shape[-1] :]


class EncoderTokens:
    """Tokens of a frozen video encoder, coarsened to at most `max_tokens` per clip.

    With a predictor, its tokens for `time_steps` time steps after the clip follow on the token axis, equally coarse.

    Args:
        name: for tables.
        encoder: frozen; moved to `device`.
        clips: windows per part of a video, evenly spaced.
        max_tokens: tokens kept per window (and layer).
        layers: depths whose tokens are used together: 0 is the patch embedding, k the output of block k, negatives
            count from the end. None takes the last, after the final norm.
        device: where the encoder runs.
        window_s: seconds that a window shows; None takes as many as the encoder's own windows.
        num_frames: frames of a window; None takes the encoder's own number.
        predictor: the encoder's predictor.
        time_steps: time steps that it predicts.

    Example:
        >>> import jepa
        >>> extractor = EncoderTokens("encoder", jepa.create_model("vit_nano"), max_tokens=64)
        >>> extractor.grid(), extractor.times(0.0, 4.0).shape
        ((8, 2, 2), (1, 16))
    """

    def __init__(
        self,
        name: str,
        encoder: Encoder,
        clips: int = 1,
        max_tokens: int = 256,
        layers: Sequence[int] | None = None,
        device: str = "cpu",
        window_s: float | None = None,
        num_frames: int | None = None,
        predictor: Predictor | None = None,
        time_steps: int = 0,
    ) -> None:
        self.name, self.clips, self.max_tokens = name, clips, max_tokens
        self.layers = None if layers is None else encoder.depths_of(layers)
        self.encoder = encoder.eval().to(device)
        self.device = device
        own = preprocessing_of(encoder)
        self.window = replace(own, num_frames=num_frames or own.num_frames)
        self.fps = own.fps
        if window_s is not None or num_frames is not None:
            self.fps = self.window.num_frames / (window_s or own.num_frames / own.fps)
        self.predictor = None if predictor is None else predictor.eval().to(device)
        self.future_steps = time_steps if predictor is not None else 0
        self.sha256 = encoder_hash(encoder)
        options: dict[str, Any] = {
            "clips": clips,
            "max_tokens": max_tokens,
            # Named by depth: features cached when numbers counted blocks from 0 must not be taken for these.
            "layers": self.layers and [f"depth {depth}" for depth in self.layers],
            "fps": self.fps,
            "form": 1,
        }
        if self.window != own:
            options["num_frames"] = self.window.num_frames
        if predictor is not None:
            options |= {"predictor": state_hash(predictor), "slots": time_steps}
        self.key = extractor_key(encoder=self.sha256, **options)

    def times(self, start_s: float, end_s: float) -> np.ndarray:
        """Windows at the encoder's own frame rate, evenly spaced over the part."""
        positions = [centre_position(clip, self.clips) for clip in range(self.clips)]
        return np.array(
            [clip_times(start_s, end_s, self.window.num_frames, self.fps, at) for at in positions]
        )

    def prepare(self, frames: torch.Tensor) -> torch.Tensor:
        """Resize, crop and normalise as in pretraining: [C, T, H, W]."""
        return self.encoder.preprocess(frames)

    def window_grid(self) -> TokenGrid:
        """The grid of all tokens of a window."""
        window = self.window
        return self.encoder.grid_of(
            torch.empty(1, 3, window.num_frames, window.crop_px, window.crop_px, device="meta")
        )

    def grid(self) -> tuple[int, int, int]:
        """The coarse grid that `features` returns, per layer."""
        return coarse_grid(self.window_grid(), self.max_tokens)

    @torch.inference_mode()
    def features(self, batch: torch.Tensor) -> torch.Tensor:
        """Tokens [B, M, D]; with several layers their tokens follow one another on the token axis (V-JEPA
        2)."""
        video = batch.to(self.device)
        grid = self.encoder.grid_of(video)
        if self.layers is None:
            tokens = self.encoder(video)
            observed = coarsen(tokens, grid, self.max_tokens)
            if self.predictor is None:
                return observed
            expected = predict_future(self.predictor, tokens, grid, self.future_steps)
            return torch.cat(
                [observed, coarsen_future(expected, grid, self.future_steps, self.max_tokens)], dim=1
            )
        by_layer = self.encoder.features(video, layers=self.layers)
        return torch.cat([coarsen(tokens, grid, self.max_tokens) for tokens in by_layer], dim=1)
