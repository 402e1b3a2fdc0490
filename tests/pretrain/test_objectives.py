"""Each objective against its textbook form, and where its targets come from."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from jepa.config import COMMANDS, compose_config, config_class, to_dataclass
from jepa.errors import UserError
from jepa.masking import Mask, MaskConfig, sample_masks
from jepa.models import Preprocessing, create_model, create_predictor, save_encoder
from jepa.pretrain.factory import build_objective
from jepa.pretrain.objectives import (
    ContextLossConfig,
    MaskedPrediction,
    MaskedPredictionConfig,
    SIGReg,
    ViewInvariance,
    epps_pulley,
    gather_tokens,
    sigreg,
)
from jepa.pretrain.objectives.masked_prediction import TargetSIGRegConfig, four_layers
from jepa.pretrain.objectives.targets import distance_to_target, latents, pixel_targets
from jepa.pretrain.objectives.view_invariance import BatchNorm
from jepa.pretrain.target_encoder import TargetEncoder

LEVELS = (1, 2, 3, 4)


@pytest.fixture(scope="module")
def parts():
    torch.manual_seed(0)
    encoder = create_model("vit_nano", patch_px=8)
    predictor = create_predictor("vit_nano", dim=32, depth=1, num_heads=2, mlp_dim=64)
    return encoder, predictor, torch.randn(3, 3, 4, 16, 24)


def settings(*overrides):
    keys = [
        "data.root=v", "out=r", "model.name=vit_nano", "model.patch_px=8", "model.predictor_dim=32",
        "model.predictor_depth=1", "model.predictor_heads=2", "data.crop_px=16", "data.num_frames=4",
        *overrides,
    ]  # fmt: skip
    return to_dataclass("pretrain", compose_config("pretrain", config_class(COMMANDS["pretrain"]), keys))


def half_masks(grid, count=1, batch=3):
    return [sample_masks(MaskConfig("tokens", 0.5), grid, 0, range(batch), stream) for stream in range(count)]


# V-JEPA 2: the loss at target tokens


@pytest.mark.parametrize("distance", ["l1", "l2", "smooth_l1"])
def test_the_loss_is_the_mean_distance_at_target_tokens_over_masks(parts, distance):
    encoder, predictor, video = parts
    grid = encoder.grid_of(video)
    masks = [sample_masks(MaskConfig("tokens", h), grid, 0, range(3), s) for s, h in enumerate((0.5, 0.75))]
    targets = torch.randn(3, grid.size, encoder.embed_dim)
    row = MaskedPrediction(encoder, predictor, distance=distance)(video, targets, masks)

    expected = []
    for context, target in masks:
        predicted = predictor(encoder(video, keep=context), context, target, grid)
        per_clip = []
        for b in range(3):
            gap = predicted[b] - targets[b, target[b]]
            size = gap.abs()
            per_value = {
                "l1": size,
                "l2": gap**2,
                "smooth_l1": torch.where(size < 1, 0.5 * gap**2, size - 0.5),
            }[distance]
            per_clip.append(per_value.mean().item())
        expected.append(np.mean(per_clip))
    assert row["loss"].item() == pytest.approx(np.mean(expected), rel=1e-5)
    assert [row["loss_mask0"].item(), row["loss_mask1"].item()] == pytest.approx(expected, rel=1e-5)
    assert set(row) == {"loss", "loss_mask0", "loss_mask1"}
    assert row["loss"].dtype == torch.float32
    assert not row["loss_mask0"].requires_grad


def test_gradients_reach_encoder_and_predictor_but_never_the_target_encoder():
    config = settings()
    objective = build_objective(config)
    video = torch.randn(3, 3, 4, 16, 16)
    masks = half_masks(objective.encoder.grid_of(video))
    objective(video, objective.make_targets(video), masks)["loss"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in objective.parameters())
    assert all(p.grad is None for p in objective.target.target_encoder.encoder.parameters())


def test_target_pixels_do_not_reach_the_prediction(parts):
    """Changing what is masked does not change the prediction: no leak."""
    encoder, predictor, video = parts
    grid = encoder.grid_of(video)
    mask = sample_masks(MaskConfig("temporal", 0.5), grid, 0, range(1))
    time_steps = sorted({int(t) // (grid.h * grid.w) for t in mask.target[0]})
    other = video[:1].clone()
    for k in time_steps:
        other[:, :, 2 * k : 2 * k + 2] = torch.randn(1, 3, 2, 16, 24)
    objective = MaskedPrediction(encoder, predictor)
    assert torch.equal(objective.predict(video[:1], mask), objective.predict(other, mask))


# Targets


def test_latent_targets_are_normalised_features_of_the_named_depths(parts):
    encoder, _, video = parts
    both = latents(encoder, video, [0, 2, -1])
    embedded, second, last = both.split(encoder.embed_dim, dim=-1)
    assert torch.allclose(last, F.layer_norm(encoder(video), (128,)), atol=1e-5)
    assert torch.allclose(second, F.layer_norm(encoder.features(video, layers=2), (128,)), atol=1e-5)
    assert torch.allclose(embedded, F.layer_norm(encoder.patch_embed(video), (128,)), atol=1e-5)
    assert both.mean(-1).abs().max() < 1e-4


def test_temporally_centred_targets_are_what_differs_from_the_mean_over_the_clip(parts):
    encoder, _, video = parts
    whole = latents(encoder, video, (0, 2))
    t, h, w = encoder.grid_of(video)
    found = latents(encoder, video, (0, 2), temporally_centred=True)
    expected = whole.clone()
    for position in range(h * w):
        at = [time_step * h * w + position for time_step in range(t)]
        expected[:, at] -= sum(whole[:, one] for one in at)[:, None] / t
    torch.testing.assert_close(found, expected)
    # A still clip has nothing to predict at the patch embedding; a single image keeps its targets.
    still = latents(encoder, video[:, :, :1].expand(-1, -1, 4, -1, -1), (0,), temporally_centred=True)
    assert still.abs().max() < 1e-5
    torch.testing.assert_close(
        latents(encoder, video[:, :, :1], (1,), temporally_centred=True),
        latents(encoder, video[:, :, :1], (1,)),
    )


def test_deep_targets_norm_each_level_on_its_own():
    encoder = create_model("vit_nano", patch_px=8, output_layers=LEVELS)
    video = torch.randn(2, 3, 4, 16, 16)
    deep = latents(encoder, video, [-1], multi_layer=True)
    levels = encoder.features(video, layers=list(LEVELS))
    assert torch.allclose(deep, torch.cat([F.layer_norm(x, (128,)) for x in levels], -1), atol=1e-5)


def test_four_levels_are_the_published_ones_or_evenly_spaced():
    assert four_layers(12) == (3, 6, 9, 12)
    assert four_layers(24) == (6, 12, 18, 24)
    assert four_layers(40) == (10, 20, 30, 40)
    assert four_layers(48) == (12, 24, 38, 48)
    assert four_layers(32) == (8, 16, 24, 32)
    assert four_layers(6) == (1, 3, 4, 6)
    with pytest.raises(UserError, match="at least 4"):
        four_layers(3)


def test_pixel_targets_are_the_patches_in_token_order(parts):
    encoder, _, video = parts
    grid = encoder.grid_of(video)
    targets = pixel_targets(video, 2, 8)
    assert targets.shape == (3, grid.size, 2 * 8 * 8 * 3)
    t, h, w = 1, 0, 2
    token = (t * grid.h + h) * grid.w + w
    patch = video[1, :, 2:4, 0:8, 16:24].permute(1, 2, 3, 0).reshape(-1)
    assert torch.equal(targets[1, token], patch)
    image = pixel_targets(video[:, :, :1], 2, 8)  # an image fills a tubelet twice
    assert torch.equal(image[..., : 8 * 8 * 3], image[..., 8 * 8 * 3 :])


def test_gather_tokens_picks_rows():
    tokens = torch.arange(24.0).view(2, 4, 3)
    index = torch.tensor([[3, 0], [1, 1]])
    assert torch.equal(gather_tokens(tokens, index), torch.stack([tokens[0, [3, 0]], tokens[1, [1, 1]]]))


# Target encoders


def test_an_ema_target_encoder_is_an_exponential_average():
    encoder = create_model("vit_nano", patch_px=8)
    target_encoder = TargetEncoder.ema(encoder)
    start = target_encoder.encoder.norm.weight.clone()
    with torch.no_grad():
        encoder.norm.weight += 1.0
    for _ in range(3):
        target_encoder.update(0.9)
    assert torch.allclose(target_encoder.encoder.norm.weight, start + 1 - 0.9**3)
    target_encoder.update(1.0)
    assert torch.allclose(target_encoder.encoder.norm.weight, start + 1 - 0.9**3)
    target_encoder.update(0.0)
    assert torch.equal(target_encoder.encoder.norm.weight, encoder.norm.weight)
    assert not any(p.requires_grad for p in target_encoder.encoder.parameters())
    assert not target_encoder.encoder.training


def exported(folder, **changes):
    torch.manual_seed(9)
    encoder = create_model("vit_micro", **{"patch_px": 8, **changes})
    save_encoder(folder, encoder, Preprocessing(4, 4.0, 18, 16), {})
    return encoder


def test_a_frozen_target_encoder_of_another_width_gives_the_targets_and_stays(tmp_path):
    source = exported(tmp_path)
    config = settings(
        "objective.target_encoder=frozen",
        f"objective.target_encoder_from={tmp_path}",
        "objective.target_layers=[3,-1]",
    )
    objective = build_objective(config)
    target_encoder = objective.target.target_encoder
    video = torch.randn(2, 3, 4, 16, 16)
    targets = objective.make_targets(video)
    layer_targets = [F.layer_norm(x, (192,)) for x in source.features(video, layers=[3, 6])]
    assert torch.allclose(targets, torch.cat(layer_targets, -1), atol=1e-5)
    masks = half_masks(objective.encoder.grid_of(video), batch=2)
    objective(video, targets, masks)["loss"].backward()
    before = {k: v.clone() for k, v in target_encoder.encoder.state_dict().items()}
    target_encoder.update(0.0)
    assert all(torch.equal(v, before[k]) for k, v in target_encoder.encoder.state_dict().items())


def test_a_frozen_target_encoder_with_other_tokens_is_refused(tmp_path):
    exported(tmp_path, patch_px=16)
    config = settings("objective.target_encoder=frozen", f"objective.target_encoder_from={tmp_path}")
    with pytest.raises(UserError, match=r"patch_px=16.*model\.patch_px=16"):
        build_objective(config)


def test_without_a_target_encoder_the_gradient_goes_through_the_targets_too():
    """Both sides of the distance move the encoder: with the prediction detached, the targets alone do."""
    config = settings(
        "objective.target_encoder=none", "objective.sigreg.weight=0.1", "objective.sigreg.tokens=4"
    )
    objective = build_objective(config)
    assert objective.make_targets(torch.randn(1, 3, 4, 16, 16)) is None
    video = torch.randn(3, 3, 4, 16, 16)
    masks = half_masks(objective.encoder.grid_of(video))
    row = objective(video, None, masks, progress=0.25)
    targets = latents(objective.encoder, video, [-1])
    predicted = objective.predict(video, masks[0])
    prediction = (predicted - gather_tokens(targets, masks[0].target)).abs().mean()
    assert row["loss"].item() == pytest.approx((prediction + 0.1 * row["sigreg"]).item(), rel=1e-5)
    row["loss"].backward()
    whole = objective.encoder.norm.bias.grad.clone()
    objective.zero_grad()
    F.l1_loss(predicted, gather_tokens(targets.detach(), masks[0].target)).backward()
    assert not torch.allclose(whole, objective.encoder.norm.bias.grad, rtol=0.1)


def test_pixels_need_no_target_encoder_but_may_have_one():
    video = torch.randn(3, 3, 4, 16, 16)
    rows = []
    for target_encoder in ("ema", "none"):
        config = settings("objective.target=pixels", f"objective.target_encoder={target_encoder}")
        objective = build_objective(config)
        targets = objective.make_targets(video)
        assert (targets is None) == (target_encoder == "none")
        assert ("target" in objective.exportable()) == (target_encoder == "ema")
        rows.append(objective(video, targets, half_masks(objective.encoder.grid_of(video)))["loss"])
    assert torch.equal(*rows)


# V-JEPA 2.1: the loss at context tokens


def test_distance_to_target_is_that_of_all_pairs():
    grid = (3, 5, 4)
    mask = sample_masks(MaskConfig("tokens", 0.1), grid, 0, range(20))
    positions = np.stack(np.unravel_index(np.arange(60), grid), -1).astype(float)
    found = distance_to_target(*mask, grid)
    for b in range(20):
        gap = positions[mask.context[b]][:, None] - positions[mask.target[b]][None]
        assert found[b].numpy() == pytest.approx(np.sqrt((gap**2).sum(-1)).min(1), rel=1e-6)
    one = Mask(torch.arange(59)[None], torch.tensor([[59]]))  # a batch of one keeps its axis
    assert distance_to_target(*one, grid)[0, 0].item() == pytest.approx(math.sqrt(4 + 16 + 9))


@pytest.mark.parametrize("by_distance", [True, False])
def test_the_context_loss_weighs_context_tokens_by_their_distance(by_distance):
    config = settings(
        "objective.multi_layer=true", "objective.image_tokenizer=true", "objective.context.weight=0.4",
        f"objective.context.by_distance={by_distance}", "objective.context.image_weight=0.7",
    )  # fmt: skip
    objective = build_objective(config)
    for frames, weight in ((4, 0.4), (1, 0.7)):
        video = torch.randn(3, 3, frames, 16, 16)
        grid = objective.encoder.grid_of(video)
        masks = half_masks(grid, 2)
        targets = objective.make_targets(video)
        row = objective(video, targets, masks)
        at_target, at_context = [], []
        for mask in masks:
            tokens = objective.encoder(video, keep=mask.context, multi_layer=True)
            predicted, again = objective.predictor(tokens, *mask, grid, image=frames == 1, with_context=True)
            at_target.append((predicted - gather_tokens(targets, mask.target)).abs().mean().item())
            error = (again - gather_tokens(targets, mask.context)).abs().mean(-1)
            weights = distance_to_target(*mask, grid) ** -0.5 if by_distance else torch.ones_like(error)
            at_context.append((error * weights).mean().item())
        assert row["loss_target"].item() == pytest.approx(np.mean(at_target), rel=1e-5)
        assert row["loss_context"].item() == pytest.approx(np.mean(at_context), rel=1e-5)
        assert row["loss"].item() == pytest.approx(
            np.mean(at_target) + weight * np.mean(at_context), rel=1e-5
        )


def test_the_context_weight_waits_then_rises_then_holds(parts):
    objective = MaskedPrediction(*parts[:2], context=ContextLossConfig(0.5, None, (0.05, 0.1)))
    weights = [objective.context_weight(p) for p in (0.0, 0.05, 0.075, 0.1, 0.99)]
    assert weights == pytest.approx([0, 0, 0.25, 0.5, 0.5])
    constant = MaskedPrediction(*parts[:2], context=ContextLossConfig(0.5))
    assert constant.context_weight(0.0) == 0.5


# SIGReg


def test_epps_pulley_is_its_integral():
    """N times the weighted squared gap between two characteristic functions, here by fine numerical integration."""
    x = np.random.default_rng(0).normal(0.3, 1.7, size=(40, 2))
    t = np.linspace(-3, 3, 20001)
    for column, found in zip(x.T, epps_pulley(torch.tensor(x)), strict=True):
        empirical = np.exp(1j * t[:, None] * column).mean(1)
        integrand = np.abs(empirical - np.exp(-(t**2) / 2)) ** 2 * np.exp(-(t**2) / 2)
        assert found.item() == pytest.approx(40 * np.trapezoid(integrand, t), rel=2e-3)


def test_epps_pulley_of_a_point_has_a_closed_form():
    """All samples 0: the empirical function is 1. N times the integral of (1 - phi)^2 phi over the line is
    N sqrt(2 pi) (1 - sqrt 2 + 1 / sqrt 3); beyond 3 lies less than 0.3 % of the weight phi."""
    closed = 10 * math.sqrt(2 * math.pi) * (1 - math.sqrt(2) + 1 / math.sqrt(3))
    assert epps_pulley(torch.zeros(10, 1)).item() == pytest.approx(closed, rel=0.02)


def test_sigreg_is_small_for_a_gaussian_and_large_for_collapse():
    torch.manual_seed(0)
    test = SIGReg(256)
    gauss = torch.randn(500, 16)
    healthy = test(gauss, 0.5).item()
    # Its expectation: N E|empirical - phi|^2 = 1 - phi^2, integrated with the weight phi.
    assert healthy == pytest.approx(math.sqrt(2 * math.pi) * (1 - 1 / math.sqrt(3)), abs=0.2)
    line = torch.randn(500, 1) @ F.normalize(torch.randn(1, 16), dim=-1) * 4
    for wrong in (torch.zeros(500, 16), line, 2 * gauss, gauss + 1, gauss.abs()):
        assert test(wrong, 0.5).item() > 10 * healthy


def test_sigreg_pulls_a_collapsed_cloud_apart():
    torch.manual_seed(0)
    z = (0.01 * torch.randn(200, 8)).requires_grad_(True)
    test, optimizer = SIGReg(64), torch.optim.Adam([z], lr=0.05)
    for step in range(150):
        optimizer.zero_grad()
        test(z, step / 150).backward()
        optimizer.step()
    covariance = torch.cov(z.detach().T)
    assert torch.linalg.eigvalsh(covariance).min() > 0.5
    assert (covariance.diagonal() - 1).abs().max() < 0.35


def test_directions_depend_on_seed_and_progress_alone():
    z = torch.randn(30, 8)
    state = torch.random.get_rng_state()
    values = [SIGReg(16, seed)(z, p).item() for seed, p in ((0, 0.1), (0, 0.1), (0, 0.2), (1, 0.1))]
    assert values[0] == values[1]
    assert len(set(values)) == 3
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_batch_over_two_processes_gives_the_same_statistic_and_gradient(monkeypatch):
    """A stand-in for the mean over two processes: each sees its half and the mean of both."""
    z = torch.randn(20, 6, dtype=torch.float64)
    whole = z.clone().requires_grad_(True)
    expected = epps_pulley(whole).mean()
    expected.backward()
    halves = [z[:10].clone().requires_grad_(True), z[10:].clone().requires_grad_(True)]
    sent = []
    monkeypatch.setattr(sigreg, "mean_over_processes", lambda value: sent.append(value) or value)
    for half in halves:
        epps_pulley(half)
    monkeypatch.setattr(sigreg, "mean_over_processes", lambda _: (sent[0] + sent[1]) / 2)
    monkeypatch.setattr(sigreg, "num_processes", lambda: 2)
    both = epps_pulley(halves[0]).mean()
    both.backward()
    assert both.item() == pytest.approx(expected.item())
    assert torch.allclose(torch.cat([half.grad for half in halves]), whole.grad)


# LeJEPA: views


def test_views_meet_the_centre_of_the_global_ones():
    encoder = create_model("vit_nano", patch_px=8)
    regulariser = SIGReg(16)
    objective = ViewInvariance(encoder, regulariser, weight=0.1, global_views=2, hidden_dim=16, out_dim=4)
    video = torch.randn(5, 3, 4, 16, 16)
    masks = half_masks(encoder.grid_of(video), count=3, batch=5)
    row = objective(video, None, masks, progress=0.5)
    pooled = [encoder(video, keep=m.context).mean(1) for m in masks]
    z = objective.project(torch.cat(pooled)).view(3, 5, 4)
    centre = (z[0] + z[1]) / 2
    invariance = torch.stack([(view - centre) ** 2 for view in z]).mean()
    statistic = torch.stack([regulariser(view, 0.5) for view in z]).mean()
    assert row["invariance"].item() == pytest.approx(invariance.item(), rel=1e-4)
    assert row["sigreg"].item() == pytest.approx(statistic.item(), rel=1e-4)
    assert row["loss"].item() == pytest.approx((0.9 * invariance + 0.1 * statistic).item(), rel=1e-4)


def test_batch_norm_is_that_of_torch():
    x = torch.randn(12, 5) * 3 + 1
    assert torch.allclose(BatchNorm(5)(x), torch.nn.BatchNorm1d(5)(x), atol=1e-5)


# Mistakes


@pytest.mark.parametrize(
    "keys",
    [
        dict(target="sound"), dict(distance="cosine"), dict(target_layers=[]), dict(target_encoder="mean"),
        dict(target_encoder="frozen"), dict(target_encoder_from="x"),
        dict(target="pixels", target_encoder="frozen", target_encoder_from="x"),
        dict(target="pixels", multi_layer=True), dict(target="pixels", temporally_centred=True),
        dict(multi_layer=True, target_layers=[1, 2]), dict(sigreg=TargetSIGRegConfig(0.1)),
    ],
    ids=str,
)  # fmt: skip
def test_what_does_not_go_together_is_refused(keys):
    with pytest.raises(UserError):
        MaskedPredictionConfig(**keys)


def test_one_view_is_not_enough():
    with pytest.raises(UserError, match="at least two masks"):
        build_objective(settings("objective=view_invariance"))


def test_a_clip_that_does_not_divide_is_refused():
    with pytest.raises(UserError, match=r"data\.crop_px=30 .* Use data\.crop_px=32"):
        build_objective(settings("data.crop_px=30"))
    mixed = ("data.root=", "data.mix=[{root:a},{root:b,num_frames:1},{root:c,num_frames:5}]")
    with pytest.raises(UserError, match=r"data\.mix\.2\.num_frames=5"):
        build_objective(settings(*mixed))
