"""Side by side with the published code, on shared random weights in the published file layout.

    JEPA_VJEPA2_REPO=...   a copy of facebookresearch/vjepa2
    JEPA_VJEPA21_REPO=...  a copy of it that has app/vjepa_2_1
    JEPA_VJEPA1_REPO=...   a copy of facebookresearch/jepa

`pytest -m parity -s` prints the largest relative difference of each comparison; none may exceed 1e-5.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import warnings
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from jepa.models import (
    EncoderConfig,
    PredictorConfig,
    TokenGrid,
    load_classifiers,
    load_encoder,
    load_predictor,
)

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
TOLERANCE = 1e-5
NORM = partial(nn.LayerNorm, eps=1e-6)


@contextlib.contextmanager
def importing_from(variable: str) -> Iterator[None]:
    """The published repositories all call their packages `src` and `app`, so each is imported on its own."""
    path = os.environ.get(variable)
    if not path:
        pytest.skip(f"{variable} is not set")
    sys.path.insert(0, path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.path.remove(path)
        for name in [name for name in sys.modules if name.split(".")[0] in ("src", "app")]:
            del sys.modules[name]


@pytest.fixture(scope="module")
def v2() -> SimpleNamespace:
    with importing_from("JEPA_VJEPA2_REPO"):
        return SimpleNamespace(
            encoder=importlib.import_module("src.models.vision_transformer").VisionTransformer,
            predictor=importlib.import_module("src.models.predictor").VisionTransformerPredictor,
            classifier=importlib.import_module("src.models.attentive_pooler").AttentiveClassifier,
        )


@pytest.fixture(scope="module")
def v21() -> SimpleNamespace:
    with importing_from("JEPA_VJEPA21_REPO"):
        return SimpleNamespace(
            encoder=importlib.import_module("app.vjepa_2_1.models.vision_transformer").VisionTransformer,
            predictor=importlib.import_module("app.vjepa_2_1.models.predictor").VisionTransformerPredictor,
        )


@pytest.fixture(scope="module")
def v1() -> SimpleNamespace:
    with importing_from("JEPA_VJEPA1_REPO"):
        return SimpleNamespace(
            encoder=importlib.import_module("src.models.vision_transformer").VisionTransformer,
            predictor=importlib.import_module("src.models.predictor").VisionTransformerPredictor,
        )


def shaken(module: nn.Module, seed: int) -> nn.Module:
    """Every weight moved off its initial value, so that zeros and ones hide nothing; fixed positions stay."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        if "pos_embed" not in name:
            parameter.data.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return module.eval()


def saved(path, **modules: nn.Module):
    """A checkpoint as published training writes it."""
    parts = {
        key: {f"module.backbone.{name}": tensor for name, tensor in module.state_dict().items()}
        for key, module in modules.items()
    }
    torch.save({**parts, "opt": {"state": {}}, "scaler": None, "epoch": 3, "loss": 0.5, "lr": 1e-4}, path)
    return path


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ids(batch: int, count: int, size: int, seed: int) -> Tensor:
    """Different tokens of the grid for each sample, in ascending order as published masks are."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack(
        [torch.randperm(size, generator=generator)[:count].sort().values for _ in range(batch)]
    )


def assert_close(what: str, ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    difference = ((ours - theirs).abs().max() / theirs.abs().max()).item()
    print(f"{what}: {difference:.1e}")
    assert difference <= TOLERANCE


# (tubelets, rows, columns): square, odd and not square, one tubelet
GRIDS = [TokenGrid(4, 4, 4), TokenGrid(3, 5, 7), TokenGrid(1, 7, 3)]


@torch.no_grad()
@pytest.mark.parametrize("heads", [2, 4], ids=["head_dim64", "head_dim32"])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_vjepa2_encoder(v2, tmp_path, grid, heads):
    frames, size = 2 * grid.t, (16 * grid.h, 16 * grid.w)
    theirs = shaken(
        v2.encoder(
            size, num_frames=frames, embed_dim=128, depth=3, num_heads=heads, use_rope=True, norm_layer=NORM
        ),
        seed=1,
    )
    path = saved(
        tmp_path / "latest.pt", encoder=shaken(v2.encoder(**vars_of(theirs)), 9), target_encoder=theirs
    )
    ours = load_encoder(path, EncoderConfig(128, 3, heads, 512, position="tiled"))
    video = random(2, 3, frames, *size)
    assert_close(f"V-JEPA 2 encoder {grid}", ours(video), theirs(video))
    keep = ids(2, max(grid.size // 3, 2), grid.size, seed=2)
    assert_close(f"V-JEPA 2 encoder {grid} masked", ours(video, keep), theirs(video, keep))
    theirs.out_layers = [0, 2]
    for layer, one, other in zip([1, 3], ours.features(video, [1, 3]), theirs(video), strict=True):
        assert_close(f"V-JEPA 2 encoder {grid} block {layer}", one, other)
    theirs.out_layers = None
    image = video[:, :, :1]
    assert_close(f"V-JEPA 2 encoder {grid} one frame", ours(image), theirs(image.repeat(1, 1, 2, 1, 1)))


def vars_of(encoder: nn.Module) -> dict:
    """Arguments that rebuild a published encoder of the same shape."""
    return {
        "img_size": (encoder.img_height, encoder.img_width),
        "num_frames": encoder.num_frames,
        "embed_dim": encoder.embed_dim,
        "depth": len(encoder.blocks),
        "num_heads": encoder.num_heads,
        "use_rope": True,
        "norm_layer": NORM,
    }


@torch.no_grad()
@pytest.mark.parametrize("side", [4, 5])
def test_vjepa2_predictor_with_every_mask_token(v2, tmp_path, side):
    grid = TokenGrid(3, side, side)
    theirs = shaken(
        v2.predictor(
            (16 * side, 16 * side),
            num_frames=6,
            embed_dim=48,
            predictor_embed_dim=64,
            depth=3,
            num_heads=2,
            use_mask_tokens=True,
            num_mask_tokens=4,
            use_rope=True,
            norm_layer=NORM,
        ),
        seed=3,
    )
    path = saved(tmp_path / "latest.pt", predictor=theirs)
    config = PredictorConfig(48, 1, 48, 64, 3, 2, 256, num_mask_tokens=4, mask_index=1, position="tiled")
    ours = load_predictor(path, config)
    context, target = ids(2, 20, grid.size, seed=4), ids(2, 9, grid.size, seed=5)
    tokens = random(2, 20, 48, seed=6)
    assert_close(
        "V-JEPA 2 predictor default token",
        ours(tokens, context, target, grid),
        theirs(tokens, context, target),
    )
    for index in range(4):
        assert_close(
            f"V-JEPA 2 predictor token {index}",
            ours(tokens, context, target, grid, mask_index=index),
            theirs(tokens, context, target, mask_index=index),
        )


@torch.no_grad()
@pytest.mark.parametrize("depth", [1, 4])
def test_vjepa2_attentive_classifier(v2, tmp_path, depth):
    sweep = [
        shaken(v2.classifier(embed_dim=64, num_heads=16, depth=depth, num_classes=7), seed) for seed in (7, 8)
    ]
    states = [{f"module.{name}": tensor for name, tensor in m.state_dict().items()} for m in sweep]
    path = tmp_path / "probe.pt"
    torch.save({"classifiers": states, "opt": [{}], "epoch": 1, "batch_size": 2, "world_size": 1}, path)
    ours = load_classifiers(path)
    tokens = random(3, 30, 64)
    assert len(ours) == 2
    for number, (one, other) in enumerate(zip(ours, sweep, strict=True)):
        assert_close(
            f"V-JEPA 2 classifier depth {depth} of sweep {number}", one(tokens)["label"], other(tokens)
        )


def build_v21(v21, grid: TokenGrid, heads: int) -> nn.Module:
    return shaken(
        v21.encoder(
            (16 * grid.h, 16 * grid.w),
            num_frames=max(2 * grid.t, 2),
            embed_dim=64,
            depth=12,
            num_heads=heads,
            use_rope=True,
            interpolate_rope=True,
            img_temporal_dim_size=1,
            norm_layer=NORM,
        ),
        seed=11,
    )


@torch.no_grad()
@pytest.mark.parametrize("grid", [*GRIDS[:2], TokenGrid(2, 18, 2)], ids=str)
def test_vjepa2_1_encoder_on_video_and_image(v21, tmp_path, grid):
    theirs = build_v21(v21, grid, heads=2)
    path = saved(tmp_path / "ema.pt", ema_encoder=theirs, target_encoder=build_v21(v21, grid, heads=1))
    ours = load_encoder(
        path,
        EncoderConfig(
            64,
            12,
            2,
            256,
            rope_reference_grid=16,
            image_tokenizer=True,
            modality_embedding=True,
            output_layers=(3, 6, 9, 12),
        ),
    )
    for name, frames in (("video", 2 * grid.t), ("image", 1)):
        steps = 1 if frames == 1 else grid.t
        video = random(2, 3, frames, 16 * grid.h, 16 * grid.w)
        keep = ids(2, max(steps * grid.h * grid.w // 3, 2), steps * grid.h * grid.w, seed=12)
        label = f"V-JEPA 2.1 encoder {grid} {name}"
        assert_close(label, ours(video), theirs(video))
        assert_close(f"{label} masked", ours(video, keep), theirs(video, keep))
        assert_close(f"{label} joined layers", ours(video, multi_layer=True), theirs(video, training=True))
        assert_close(
            f"{label} joined layers masked",
            ours(video, keep, multi_layer=True),
            theirs(video, keep, training=True),
        )
        theirs.out_layers = [2, 5, 8, 11]
        outputs = zip(ours.features(video, [3, 6, 9, 12]), theirs(video), strict=True)
        for layer, (one, other) in zip(theirs.out_layers, outputs, strict=True):
            assert_close(f"{label} level {layer}", one, other)
        theirs.out_layers = None


@torch.no_grad()
@pytest.mark.parametrize("layers", [1, 4])
@pytest.mark.parametrize("stretched", [False, True])
def test_vjepa2_1_predictor_with_both_heads(v21, tmp_path, layers, stretched):
    grid = TokenGrid(3, 5, 5)
    theirs = shaken(
        v21.predictor(
            (80, 80),
            num_frames=6,
            embed_dim=48,
            predictor_embed_dim=64,
            depth=12,
            num_heads=2,
            use_mask_tokens=True,
            num_mask_tokens=3,
            use_rope=True,
            interpolate_rope=stretched,
            return_all_tokens=True,
            img_temporal_dim_size=1,
            n_output_distillation=layers,
            teacher_embed_dim=104 if layers == 1 else None,
            norm_layer=NORM,
        ),
        seed=13,
    )
    ours = load_predictor(
        saved(tmp_path / "latest.pt", predictor=theirs),
        PredictorConfig(
            48,
            layers,
            104 if layers == 1 else 4 * 48,
            64,
            12,
            2,
            256,
            num_mask_tokens=3,
            rope_reference_grid=16 if stretched else None,
            context_head=True,
            modality_embedding=True,
        ),
    )
    context, target = ids(2, 20, grid.size, seed=14), ids(2, 9, grid.size, seed=15)
    tokens = random(2, 20, 48 * layers, seed=16)
    for mod, image in (("video", False), ("image", True)):
        for index in range(3):
            mine = ours(tokens, context, target, grid, mask_index=index, image=image, with_context=True)
            other = theirs(tokens, context, target, mod=mod, mask_index=index)
            for head, one, two in zip(("target", "context"), mine, other, strict=True):
                assert_close(
                    f"V-JEPA 2.1 predictor {layers} layers {mod} token {index} {head} head", one, two
                )


@torch.no_grad()
@pytest.mark.parametrize("grid", [TokenGrid(4, 6, 6), TokenGrid(2, 5, 7)], ids=["trained", "other"])
def test_vjepa1_encoder(v1, tmp_path, grid):
    theirs = shaken(
        v1.encoder(96, num_frames=8, embed_dim=64, depth=2, num_heads=2, uniform_power=True, norm_layer=NORM),
        17,
    )
    ours = load_encoder(
        saved(tmp_path / "v1.pth.tar", target_encoder=theirs),
        EncoderConfig(64, 2, 2, 256, position="sincos", sincos_grid=(4, 6, 6)),
    )
    video = random(2, 3, 2 * grid.t, 16 * grid.h, 16 * grid.w)
    keep = ids(2, grid.size // 3, grid.size, seed=18)
    assert_close(f"V-JEPA encoder {grid}", ours(video), theirs(video))
    assert_close(f"V-JEPA encoder {grid} masked", ours(video, keep), theirs(video, keep))


@torch.no_grad()
def test_vjepa1_predictor(v1, tmp_path):
    grid = TokenGrid(4, 6, 6)
    theirs = shaken(
        v1.predictor(
            96,
            num_frames=8,
            embed_dim=48,
            predictor_embed_dim=64,
            depth=2,
            num_heads=2,
            uniform_power=True,
            use_mask_tokens=True,
            num_mask_tokens=2,
            norm_layer=NORM,
        ),
        19,
    )
    ours = load_predictor(
        saved(tmp_path / "v1.pth.tar", predictor=theirs),
        PredictorConfig(
            48, 1, 48, 64, 2, 2, 256, num_mask_tokens=2, position="sincos", sincos_grid=(4, 6, 6)
        ),
    )
    context, target = ids(2, 20, grid.size, seed=20), ids(2, 9, grid.size, seed=21)
    tokens = random(2, 20, 48, seed=22)
    for index in range(2):
        assert_close(
            f"V-JEPA predictor token {index}",
            ours(tokens, context, target, grid, mask_index=index),
            theirs(tokens, None, context, target, mask_index=index),
        )
