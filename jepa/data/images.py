"""Still images among videos: a video file of one frame, which is shown for one second."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from jepa.data.crops import Cut
from jepa.data.manifest import Item
from jepa.data.transforms import crop_resize
from jepa.data.video.info import AS_CODED, VideoInfo
from jepa.data.video.limits import LimitsConfig, check_path
from jepa.errors import VideoError

IMAGE_DURATION_S = 1.0


def read_image(item: Item, limits: LimitsConfig) -> torch.Tensor:
    """Uint8 [3, H, W], upright by its EXIF tag, alpha dropped.

    Raises:
        VideoError: it cannot be read, has too many pixels, or holds several pictures (animated WebP or PNG).
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    source: Any
    if item.span is not None:
        from jepa.data.shards import open_span

        source = io.BytesIO(open_span(item).read())
    else:
        source = check_path(item.path, limits)
    try:
        with Image.open(source, formats=("JPEG", "PNG", "WEBP", "BMP", "TIFF")) as picture:
            if picture.width * picture.height > limits.max_pixels:
                reason = f"{picture.width}x{picture.height} pixels are more than limits.max_pixels={limits.max_pixels}"
                raise VideoError(item.path, "probe", reason)
            if (count := getattr(picture, "n_frames", 1)) > 1:
                reason = f"it holds {count} pictures, so it is no still; convert it to a video (MP4, GIF ...)"
                raise VideoError(item.path, "decode", reason)
            upright = ImageOps.exif_transpose(picture).convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise VideoError(item.path, "decode", str(error)) from None
    return torch.from_numpy(np.array(upright)).permute(2, 0, 1)


class ImageFile:
    """An image behind the interface that `VideoReader` expects of a backend: one frame at 0 s.

    Raises:
        VideoError: it cannot be read, has too many pixels, or holds several pictures (animated WebP or PNG).
    """

    notices: tuple[str, ...] = ()

    def __init__(self, item: Item, limits: LimitsConfig) -> None:
        self.start_s, self.duration_s = 0.0, IMAGE_DURATION_S
        self._picture = read_image(item, limits)
        self._array = self._picture.permute(1, 2, 0).numpy()
        height, width = self._array.shape[:2]
        self.display = (width, height)
        self.info = VideoInfo(
            path=item.path, container="image", codec="image", width=width, height=height, sample_aspect=1.0,
            fps=1 / IMAGE_DURATION_S, start_s=0.0, duration_s=IMAGE_DURATION_S, orientation=AS_CODED,
        )  # fmt: skip

    def times(self) -> np.ndarray:
        """[1] time of the frame."""
        return np.zeros(1)

    def at(self, seconds: Sequence[float], cut: Cut | None = None) -> Iterator[tuple[float, np.ndarray]]:
        """The frame for each of the times, uint8 [H, W, 3]; with `cut` uint8 [3, S, S], not mirrored yet."""
        shown = self._array
        if cut is not None:
            shown = crop_resize(self._picture, cut.box(*self._picture.shape[-2:]), cut.size).numpy()
        return ((0.0, shown) for _ in seconds)

    def numbered(self, numbers: Sequence[int]) -> Iterator[tuple[float, np.ndarray]]:
        """The frame for each of the numbers."""
        return ((0.0, self._array) for _ in numbers)

    def every(self, start_s: float | None = None) -> Iterator[tuple[float, np.ndarray]]:
        """The frame, once."""
        return iter([(0.0, self._array)])

    def close(self) -> None:
        """Nothing is open."""
