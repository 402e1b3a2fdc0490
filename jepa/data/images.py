"""Still pictures among videos: one frame that stands for every moment."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch

from jepa.data.manifest import Item
from jepa.data.video.limits import LimitsConfig, check_path
from jepa.errors import VideoError


def read_image(item: Item, limits: LimitsConfig) -> torch.Tensor:
    """Uint8 [3, H, W], upright by its EXIF tag, alpha dropped.

    Raises:
        VideoError: it cannot be read or has too many pixels.
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
            upright = ImageOps.exif_transpose(picture).convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise VideoError(item.path, "decode", str(error)) from None
    return torch.from_numpy(np.array(upright)).permute(2, 0, 1)
