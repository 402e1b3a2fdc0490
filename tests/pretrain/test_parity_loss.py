"""Loss and gradients beside the published training code, on shared random weights, clips and masks.

    JEPA_VJEPA2_REPO=...   a copy of facebookresearch/vjepa2
    JEPA_VJEPA21_REPO=...  a copy of it that has app/vjepa_2_1

The published step lives in functions inside a 500-line `main`. They are cut out of its source and run as they stand,
so that what is compared is that code and not a second reading of it. Masks come from the published collator, so the
tokens that its truncation drops are in play. `pytest -m parity -s` prints the largest relative differences.
"""

from __future__ import annotations

import ast
import importlib
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from jepa.masking import Mask
from jepa.models import EncoderConfig, PredictorConfig, load_encoder, load_predictor
from jepa.pretrain.objectives import ContextLossConfig, MaskedPrediction
from jepa.pretrain.objectives.targets import latents
from tests.models.test_parity_published import NORM, importing_from, random, saved, shaken

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
FRAMES, SIDE, BATCH = 8, 96, 4  # 4 x 6 x 6 tokens


def published_functions(variable: str, path: str, names: tuple[str, ...], scope: dict) -> SimpleNamespace:
    """Runs the named nested functions of a published file in a scope that stands in for their closure."""
    tree = ast.parse((Path(os.environ[variable]) / path).read_text())
    found = {n.name: n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name in names}
    assert set(found) == set(names)
    exec(compile(ast.Module(list(found.values()), type_ignores=[]), path, "exec"), scope)
    return SimpleNamespace(**{name: scope[name] for name in names})


@pytest.fixture(scope="module")
def v2() -> SimpleNamespace:
    with importing_from("JEPA_VJEPA2_REPO"):
        wrappers = importlib.import_module("src.utils.wrappers")
        return SimpleNamespace(
            encoder=importlib.import_module("src.models.vision_transformer").VisionTransformer,
            predictor=importlib.import_module("src.models.predictor").VisionTransformerPredictor,
            many=wrappers.MultiSeqWrapper,
            many_predictor=wrappers.PredictorMultiSeqWrapper,
            masks=importlib.import_module("src.masks.multiseq_multiblock3d")._MaskGenerator,
            apply_masks=importlib.import_module("src.masks.utils").apply_masks,
        )


@pytest.fixture(scope="module")
def v21() -> SimpleNamespace:
    with importing_from("JEPA_VJEPA21_REPO"):
        wrappers = importlib.import_module("app.vjepa_2_1.wrappers")
        return SimpleNamespace(
            encoder=importlib.import_module("app.vjepa_2_1.models.vision_transformer").VisionTransformer,
            predictor=importlib.import_module("app.vjepa_2_1.models.predictor").VisionTransformerPredictor,
            many=wrappers.MultiSeqWrapper,
            many_predictor=wrappers.PredictorMultiSeqWrapper,
            masks=importlib.import_module("src.masks.multiseq_multiblock3d")._MaskGenerator,
            apply_masks=importlib.import_module("src.masks.utils").apply_masks,
            distance=importlib.import_module("app.vjepa_2_1.models.utils.masks_dist").compute_mask_distance,
        )


def published_masks(module: SimpleNamespace, frames: int, kinds=((3, 0.15), (2, 0.4))) -> list[Mask]:
    torch.manual_seed(5)  # the collator draws from the global generator
    generators = [
        module.masks(
            (SIDE, SIDE), frames, (16, 16), 1 if frames == 1 else 2, (s, s), (1.0, 1.0), (0.75, 1.5), n
        )
        for n, s in kinds
    ]
    return [Mask(*generator(BATCH)) for generator in generators]


def pairs_of(ours, theirs, names) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Gradients by our name, ours and theirs. Who has none on one side must have none on the other."""
    others, met, pairs = dict(theirs.named_parameters()), set(), {}
    for name, parameter in ours.named_parameters():
        other = names(name)
        met.update([other] if isinstance(other, str) else other)
        if isinstance(other, str):
            expected = others[other].grad
        else:  # published mask tokens lie apart, ours in one matrix; only the first is ever used
            assert all(others[o].grad is None for o in other[1:])
            expected = torch.stack(
                [torch.zeros_like(others[o]) if k else others[o].grad for k, o in enumerate(other)]
            )
        assert (expected is None) == (parameter.grad is None), name
        if expected is not None:
            pairs[name] = parameter.grad.flatten(), expected.flatten()
    assert [name for name, p in others.items() if name not in met and p.requires_grad] == []
    return pairs


def gap(one: torch.Tensor, other: torch.Tensor) -> float:
    """Length of the difference over the length."""
    return ((one.double() - other.double()).norm() / other.double().norm()).item()


def whole(pairs: dict, side: int) -> torch.Tensor:
    return torch.cat([pair[side] for pair in pairs.values()])


def assert_parity(what: str, run) -> None:
    """`run(dtype)` -> (our loss, their loss, {name: (our gradient, their gradient)}).

    Float32: the losses, and the gradient of all parameters together, to 1e-6. Each parameter on its own to 1e-6 in
    float64 (where the float32 table of our rotary positions is what is left), because in float32 the published code
    is itself further than that from its own float64 result; ours must not be much further from it than theirs.
    """
    mine, theirs, single = run(torch.float32)
    assert gap(mine, theirs) <= 1e-6
    together = gap(whole(single, 0), whole(single, 1))
    assert together <= 1e-6
    _, _, double = run(torch.float64)
    exact = max(gap(*pair) for pair in double.values())
    assert exact <= 1e-6
    ours_off = {name: gap(pair[0], double[name][1]) for name, pair in single.items()}
    theirs_off = {name: gap(pair[1], double[name][1]) for name, pair in single.items()}
    for name in single:
        assert ours_off[name] <= max(1e-6, 3 * theirs_off[name]), name
    apart = max(gap(*pair) for pair in single.values())
    print(
        f"{what}: loss {gap(mine, theirs):.1e}, gradient {together:.1e}, worst parameter {apart:.1e}; in float64 "
        f"{exact:.1e}; off the float64 gradient in float32: ours {max(ours_off.values()):.1e}, published "
        f"{max(theirs_off.values()):.1e}"
    )


def predictor_name(name: str):
    if name == "mask_tokens":
        return tuple(f"mask_tokens.{i}" for i in range(2))
    head, _, rest = name.partition(".")
    ours = ("embed", "blocks", "norm", "proj", "proj_context")
    return f"predictor_{head}.{rest}" if head in ours else name


def test_vjepa2_loss_and_gradients(v2, tmp_path):
    def run(dtype):
        torch.manual_seed(1)  # published modules start from the global generator
        sizes = {"num_frames": FRAMES, "num_heads": 2, "use_rope": True, "norm_layer": NORM}
        encoders = [
            shaken(v2.encoder(SIDE, embed_dim=64, depth=3, **sizes), seed).to(dtype) for seed in (31, 32)
        ]
        predictor = v2.predictor(
            (SIDE, SIDE), embed_dim=64, predictor_embed_dim=64, depth=2, use_mask_tokens=True, num_mask_tokens=2,
            **sizes,
        )  # fmt: skip
        predictor = shaken(predictor, 33).to(dtype)
        path = saved(
            tmp_path / "latest.pt", encoder=encoders[0], target_encoder=encoders[1], predictor=predictor
        )
        config = EncoderConfig(64, 3, 2, 256, position="tiled")
        pred_config = PredictorConfig(64, 1, 64, 64, 2, 2, 256, num_mask_tokens=2, position="tiled")
        objective = MaskedPrediction(
            load_encoder(path, config, key="encoder"), load_predictor(path, pred_config)
        )
        objective.requires_grad_(True)
        clip, masks = random(BATCH, 3, FRAMES, SIDE, SIDE, seed=34).to(dtype), published_masks(v2, FRAMES)
        with torch.no_grad():
            targets = latents(load_encoder(path, config, key="target_encoder"), clip, [-1])
        mine = objective(clip, targets, masks)["loss"]
        mine.backward()

        scope = scope_of(v2, encoders, predictor, masks)
        names = ("forward_target", "forward_context", "loss_fn")
        step = published_functions("JEPA_VJEPA2_REPO", "app/vjepa/train.py", names, scope)
        theirs = step.loss_fn(step.forward_context([clip]), step.forward_target([clip]))
        theirs.backward()
        pairs = pairs_of(objective.encoder, encoders[0], lambda name: name)
        return (
            mine.detach(),
            theirs.detach(),
            pairs | pairs_of(objective.predictor, predictor, predictor_name),
        )

    assert_parity("V-JEPA 2", run)


def scope_of(module: SimpleNamespace, encoders, predictor, masks: list[Mask]) -> dict:
    """What the published functions find around them."""
    return {
        "torch": torch, "F": F, "apply_masks": module.apply_masks, "loss_exp": 1.0,
        "masks_enc": [[m.context for m in masks]], "masks_pred": [[m.target for m in masks]],
        "encoder": module.many(encoders[0]), "target_encoder": module.many(encoders[1]),
        "predictor": module.many_predictor(predictor),
    }  # fmt: skip


@pytest.mark.parametrize("weighted", [True, False], ids=["by_distance", "cooldown"])
@pytest.mark.parametrize("frames", [FRAMES, 1], ids=["video", "image"])
@pytest.mark.parametrize("levels", [4, 1])
def test_vjepa2_1_loss_and_gradients(v21, tmp_path, frames, weighted, levels):
    weight, deep = 0.5, levels > 1

    def run(dtype):
        torch.manual_seed(1)  # published modules start from the global generator
        sizes = {"num_frames": FRAMES, "num_heads": 2, "use_rope": True, "interpolate_rope": True,
                 "img_temporal_dim_size": 1, "n_output_distillation": levels, "norm_layer": NORM}  # fmt: skip
        encoders = [
            shaken(v21.encoder((SIDE, SIDE), embed_dim=64, depth=12, **sizes), seed).to(dtype)
            for seed in (41, 42)
        ]
        predictor = v21.predictor(
            (SIDE, SIDE), embed_dim=64, predictor_embed_dim=64, depth=4, use_mask_tokens=True, num_mask_tokens=2,
            return_all_tokens=True, **sizes,
        )  # fmt: skip
        predictor = shaken(predictor, 43).to(dtype)
        path = saved(
            tmp_path / "latest.pt", encoder=encoders[0], target_encoder=encoders[1], predictor=predictor
        )
        config = EncoderConfig(64, 12, 2, 256, rope_reference_grid=16, image_tokenizer=True,
                               modality_embedding=True, output_layers=(3, 6, 9, 12))  # fmt: skip
        pred_config = PredictorConfig(64, levels, levels * 64, 64, 4, 2, 256, num_mask_tokens=2,
                                      rope_reference_grid=16, context_head=True, modality_embedding=True)  # fmt: skip
        objective = MaskedPrediction(
            load_encoder(path, config, key="encoder"),
            load_predictor(path, pred_config),
            multi_layer=deep,
            context=ContextLossConfig(weight, by_distance=weighted),
        )
        objective.requires_grad_(True)
        clip = random(BATCH, 3, frames, SIDE, SIDE, seed=44).to(dtype)
        masks = published_masks(v21, frames, ((3, 0.15),) if frames == 1 else ((3, 0.15), (2, 0.4)))
        with torch.no_grad():
            targets = latents(load_encoder(path, config, key="target_encoder"), clip, [-1], multi_layer=deep)
        mine = objective(clip, targets, masks)["loss"]
        mine.backward()

        scope = scope_of(v21, encoders, predictor, masks) | {
            "embed_dim_encoder": 64, "levels_predictor": levels, "img_temporal_dim_size": 1,
            "normalize_predictor": False,
        }  # fmt: skip
        names = ("forward_target", "forward_context", "loss_fn")
        step = published_functions("JEPA_VJEPA21_REPO", "app/vjepa_2_1/train.py", names, scope)
        their_targets = step.forward_target([clip])
        predicted, again = step.forward_context([clip])
        enc, pred = scope["masks_enc"], scope["masks_pred"]
        distances = v21.distance(pred, enc, SIDE // 16, False) if weighted else None
        theirs = step.loss_fn(predicted, their_targets, pred, False, None)
        theirs = theirs + weight * step.loss_fn(again, their_targets, enc, False, distances)
        theirs.backward()
        pairs = pairs_of(objective.encoder, encoders[0], lambda name: name)
        return (
            mine.detach(),
            theirs.detach(),
            pairs | pairs_of(objective.predictor, predictor, predictor_name),
        )

    assert_parity(f"V-JEPA 2.1, {levels} levels, {frames} frames, by distance {weighted}", run)
