"""PCA of temporally centred targets, against an eigendecomposition."""

import shutil

import pytest
import torch

from jepa.errors import UserError
from jepa.pretrain import trainer
from jepa.pretrain.objectives import MaskedPredictionConfig, pca_targets
from jepa.pretrain.objectives.pca_targets import PCAProjection
from jepa.pretrain.objectives.targets import temporally_centre
from tests.pretrain.conftest import PRINCIPAL, checkpoints, differences, losses, tensors

TIME_STEPS, POSITIONS, DIM = 4, 6, 12


def features(batch, seed=0, layers=2):
    """Large still differences between clips, a few directions in which they change, and a little noise."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.linalg.qr(torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(9))).Q
    size = torch.tensor([5.0, 3.0, 2.0] + [0.1] * (DIM - 3))
    found = []
    for layer in range(layers):
        still = 20 * torch.randn(batch, 1, POSITIONS, DIM, generator=generator)
        moving = torch.randn(batch, TIME_STEPS, POSITIONS, DIM, generator=generator) * size
        found.append((still + moving @ mix * (1 + layer)).flatten(1, 2))
    return found


def test_targets_are_the_changes_in_the_leading_directions_on_one_scale():
    principal = PCAProjection(2, DIM, 3)
    past = [features(32, seed) for seed in range(40)]
    for one in past:
        principal(one, TIME_STEPS)
        principal.update()
    now = features(64, seed=99)
    targets = principal(now, TIME_STEPS).split(DIM, dim=-1)
    for layer in range(2):
        changes = torch.cat([temporally_centre(one[layer], TIME_STEPS).flatten(0, 1) for one in past])
        _, vectors = torch.linalg.eigh(changes.T @ changes)
        expected = temporally_centre(now[layer], TIME_STEPS) @ vectors[:, -3:] @ vectors[:, -3:].T
        expected = expected / expected.square().mean().sqrt()
        assert torch.cosine_similarity(targets[layer].flatten(), expected.flatten(), dim=0) > 0.999
        assert targets[layer].square().mean().item() == pytest.approx(1, rel=0.1)
        assert torch.linalg.matrix_rank(targets[layer].flatten(0, 1), atol=1e-3) == 3


def test_what_stands_still_is_no_target():
    principal = PCAProjection(1, DIM, 3)
    principal(features(8, layers=1), TIME_STEPS)
    principal.update()
    still = [torch.randn(2, 1, POSITIONS, DIM).expand(-1, TIME_STEPS, -1, -1).flatten(1, 2)]
    assert principal(still, TIME_STEPS).abs().max() < 1e-5


def test_a_batch_does_not_choose_its_own_targets():
    """So they are the same whatever else is in the batch, and no history is needed in the first step."""
    principal, now = PCAProjection(2, DIM, 3), features(8)
    assert principal(now, TIME_STEPS).abs().max() == 0
    principal.update()
    whole = principal(now, TIME_STEPS)
    apart = torch.cat([principal([f[i : i + 1] for f in now], TIME_STEPS) for i in range(8)])
    torch.testing.assert_close(whole, apart)


def test_micro_batches_and_processes_add_up_to_one_batch(monkeypatch):
    whole, passes, halves = (PCAProjection(2, DIM, 3) for _ in range(3))
    for seed in range(3):
        batch = features(8, seed)
        parts = [[f[:4] for f in batch], [f[4:] for f in batch]]
        whole(batch, TIME_STEPS)
        for part in parts:
            passes(part, TIME_STEPS)
        other = PCAProjection(2, DIM, 3)
        other(parts[1], TIME_STEPS)
        halves(parts[0], TIME_STEPS)
        for one in (whole, passes):
            one.update()
        with monkeypatch.context() as two_processes:
            two_processes.setattr(
                pca_targets, "all_reduce_mean", lambda mine, other=other: (mine + other._sums) / 2
            )
            halves.update()
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(value, passes.state_dict()[name])
        torch.testing.assert_close(value, halves.state_dict()[name])


def test_what_is_not_finite_leaves_no_trace():
    principal = PCAProjection(2, DIM, 3)
    principal(features(8), TIME_STEPS)
    principal.update()
    before = {name: value.clone() for name, value in principal.state_dict().items()}
    poisoned = features(8, seed=1)
    poisoned[0][0, 0, 0] = float("nan")
    principal(poisoned, TIME_STEPS)
    principal.update()
    after = principal.state_dict()
    assert torch.equal(before["covariance"], after["covariance"])
    assert before["steps"] == after["steps"] == 1
    assert after["basis"].isfinite().all()


def test_a_run_with_components_goes_on_bit_identical(tiny):
    whole = trainer.train(tiny(*PRINCIPAL, out="whole"))
    half = tiny(*PRINCIPAL, out="parts")
    trainer.train(half)
    for later in checkpoints(half.out)[1:]:
        shutil.rmtree(later)
    trainer.train(half)
    assert differences(whole, half.out) == []
    assert losses(whole) == losses(half.out)
    state = tensors(whole)
    assert state["principal.steps"] == 8
    assert state["principal.basis"].shape == (2, 128, 3)


@pytest.mark.parametrize(
    "keys",
    [
        dict(pca_components=4),
        dict(pca_components=-1, temporally_centred=True),
        dict(pca_components=4, temporally_centred=True, target_encoder="none"),
        dict(pca_components=4, target="pixels"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused(keys):
    with pytest.raises(UserError):
        MaskedPredictionConfig(**keys)


def test_a_single_time_step_is_refused(tiny):
    with pytest.raises(UserError, match=r"data\.num_frames=2 makes one time step .* at least 4 frames"):
        trainer.train(tiny(*PRINCIPAL, "data.num_frames=2"))


def test_more_directions_than_channels_are_refused(tiny):
    with pytest.raises(UserError, match=r"objective\.pca_components=129 .* 128 channels"):
        trainer.train(tiny(*PRINCIPAL, "objective.pca_components=129"))
