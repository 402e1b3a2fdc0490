import itertools
import json
import shutil
from collections import Counter as Counts

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from jepa.data import collate, open_stream
from jepa.errors import UserError
from jepa.masking import sample_masks
from jepa.pretrain import trainer
from jepa.pretrain.callbacks import OnlineProbe
from jepa.pretrain.checkpoint import read_tensors
from jepa.pretrain.distributed import apply_activation_checkpointing
from jepa.pretrain.export import ExportConfig
from jepa.pretrain.export import run as export
from jepa.pretrain.factory import build_objective
from jepa.pretrain.objectives import MaskedPrediction
from jepa.pretrain.optim import make_optimizer, set_rates
from tests.pretrain.conftest import checkpoints, differences, journal, losses, saved_values, tensors


def test_training_changes_the_encoder_and_the_target_follows_slowly(tiny):
    config = tiny("train.steps=4", "optim.ema=[0.9,0.9]")
    before = build_objective(config).encoder.state_dict()
    run = trainer.train(config)
    name = "blocks.0.attn.qkv.weight"
    moved = (tensors(run)[f"learner.encoder.{name}"] - before[name]).norm()
    followed = (tensors(run)[f"target.{name}"] - before[name]).norm()
    assert 0 < followed < moved
    assert (run / "config.yaml").exists()
    assert [step for step, _ in losses(run)] == [2, 4]


def test_the_loss_falls_when_one_batch_is_repeated(tiny, video_folder, tmp_path):
    (tmp_path / "list.txt").write_text(f"{video_folder / '00.mp4'} 0\n")
    run = trainer.train(
        tiny(
            f"data.root={tmp_path / 'list.txt'}", "train.steps=60", "optim.lr=0.002", "data.scale=[1,1]",
            "data.hflip=0", "objective.target=pixels", "optim.warmup_steps=5", "train.log_every=10",
        )
    )  # fmt: skip
    first, last = losses(run)[0][1], losses(run)[-1][1]
    assert last < 0.8 * first


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_continued_from_a_checkpoint_ends_bit_identical(tiny, workers):
    whole = trainer.train(tiny(f"data.workers={workers}", out="whole"))
    half = tiny(f"data.workers={workers}", "train.save_every=3", out="parts")
    trainer.train(half)
    # What a kill after step 3 would have left behind.
    for later in checkpoints(half.out)[1:]:
        shutil.rmtree(later)
    assert saved_values(half.out)["step"] < 8
    trainer.train(half)
    assert differences(whole, half.out) == []
    assert saved_values(whole)["bad_videos"] == saved_values(half.out)["bad_videos"]
    assert losses(whole) == losses(half.out)


def test_workers_do_not_change_the_result(tiny):
    a = trainer.train(tiny("train.steps=3", out="a"))
    b = trainer.train(tiny("train.steps=3", "data.workers=2", out="b"))
    assert differences(a, b) == []


def poison(monkeypatch, steps, value=float("nan")):
    """Makes the targets of the named steps, counted from 1, non-finite."""
    real, calls = MaskedPrediction.make_targets, []

    def poisoned(self, video):
        calls.append(1)
        targets = real(self, video)
        return targets * value if len(calls) in steps else targets

    monkeypatch.setattr(MaskedPrediction, "make_targets", poisoned)


def test_a_non_finite_step_touches_no_weight_and_keeps_its_batch(tiny, monkeypatch, capsys):
    config = tiny("train.steps=6", "train.log_every=1", "train.save_every=1", "train.keep=9")
    poison(monkeypatch, (3, 4))
    run = trainer.train(config)
    assert [loss is None for _, loss in losses(run)] == [False, False, True, True, False, False]
    states = [read_tensors(path) for path in checkpoints(run)]
    for before, after in itertools.pairwise(states[1:4]):
        assert all(torch.equal(before[k], after[k]) for k in before if not k.startswith("target."))
    assert states[-1]["optimizer.encoder.norm.weight.step"] == 4
    assert all(value.isfinite().all() for value in states[-1].values())

    kept = sorted((run / "nonfinite").iterdir())
    assert [path.name for path in kept] == ["step_00000003_rank0000.pt", "step_00000004_rank0000.pt"]
    assert str(kept[0]) in capsys.readouterr().err.replace("\n", "")
    content = torch.load(kept[0], weights_only=True)
    assert content["index"][0].tolist() == [8, 9, 10, 11]
    stream = open_stream(config.data, config.train.seed, config.train.batch_size)
    assert torch.equal(content["video"][0], collate([stream.dataset[i] for i in range(8, 12)])["video"])
    drawn = sample_masks(config.masks[0], (2, 4, 4), config.train.seed, range(8, 12))
    assert torch.equal(content["masks"][0][0][0], drawn.context)
    assert torch.equal(content["masks"][0][0][1], drawn.target)


def test_the_verdict_comes_in_time_where_no_step_waits_for_it(tiny, monkeypatch):
    """Between log steps the host learns of a bad step one step late; neither the count nor the weights suffer."""
    keys = ("train.steps=12", "train.log_every=12", "train.save_every=12")
    poison(monkeypatch, range(3, 7))
    run = trainer.train(tiny(*keys, "train.max_skipped=4"))
    assert tensors(run)["optimizer.encoder.norm.weight.step"] == 8
    poison(monkeypatch, range(3, 8))
    with pytest.raises(RuntimeError, match="not finite in 5 steps in a row, up to step 7"):
        trainer.train(tiny(*keys, "train.max_skipped=4", out="stopped"))


def test_a_loss_that_stays_non_finite_stops_the_run_with_finite_weights(tiny, monkeypatch):
    poison(monkeypatch, range(1, 99), float("inf"))
    config = tiny("train.steps=50", "train.max_skipped=3", "train.save_every=1")
    with pytest.raises(RuntimeError, match="not finite in 4 steps in a row"):
        trainer.train(config)
    start = build_objective(config).state_dict()
    saved = tensors(config.out)
    assert all(torch.equal(value, saved[f"learner.{name}"]) for name, value in start.items())


def test_another_seed_or_another_list_is_another_run(tiny, video_folder, tmp_path):
    trainer.train(tiny("train.steps=3"))
    with pytest.raises(UserError, match=r"train\.seed: 0 -> 1"):
        trainer.train(tiny("train.steps=3", "train.seed=1"))
    (tmp_path / "list.txt").write_text(f"{video_folder / '00.mp4'} 0\n")
    with pytest.raises(UserError, match="another list of videos"):
        trainer.train(tiny("train.steps=3", f"data.root={tmp_path / 'list.txt'}"))


def test_a_key_that_is_younger_than_the_run_had_its_default(tiny):
    run = trainer.train(tiny("train.steps=2"))
    file = checkpoints(run)[-1] / "state.json"
    state = json.loads(file.read_text())
    del state["config"]["optim"]["schedule"]
    file.write_text(json.dumps(state))
    with pytest.raises(UserError, match=r"optim\.schedule: cosine -> linear"):
        trainer.train(tiny("train.steps=3", "optim.schedule=linear"))
    assert saved_values(trainer.train(tiny("train.steps=3")))["step"] == 3


def test_more_steps_go_on_from_the_end(tiny):
    trainer.train(tiny("train.steps=3"))
    assert saved_values(trainer.train(tiny("train.steps=5")))["step"] == 5


@pytest.mark.parametrize("damage", ["truncated", "without state.json"])
def test_a_broken_newest_checkpoint_is_passed_over_and_named(tiny, capsys, damage):
    keys = ("train.steps=4", "train.save_every=2")
    whole = trainer.train(tiny(*keys, out="whole"))
    run = trainer.train(tiny(*keys))
    newest = checkpoints(run)[-1]
    if damage == "truncated":
        file = newest / "__0_0.distcp"
        file.write_bytes(file.read_bytes()[:1000])
    else:
        (newest / "state.json").unlink()
    trainer.train(tiny(*keys))
    report = capsys.readouterr().err
    assert newest.name in report and "resuming after step 2" in report
    assert differences(whole, run) == []


def test_unreadable_videos_are_replaced_counted_and_named(tiny, video_folder, tmp_path, capsys):
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for path in sorted(video_folder.glob("*.mp4"))[:6]:
        (mixed / path.name).symlink_to(path)
    (mixed / "broken.mp4").write_bytes(b"not a video")
    keys = (f"data.root={mixed}", "train.steps=8", "data.max_bad_fraction=0.5")
    run = trainer.train(tiny(*keys))
    assert saved_values(run)["bad_videos"]["bad"] >= 3
    assert capsys.readouterr().err.count("broken.mp4") == 1
    strict = tiny(*keys, "data.max_bad_fraction=0.01", "train.steps=30", out="strict")
    with pytest.raises(RuntimeError, match="max_bad_fraction"):
        trainer.train(strict)


def test_the_clip_must_divide_into_tokens(tiny):
    with pytest.raises(UserError, match=r"data\.crop_px=30 .* Use data\.crop_px=32"):
        trainer.train(tiny("data.crop_px=30"))
    with pytest.raises(UserError, match=r"data\.num_frames=5"):
        trainer.train(tiny("data.num_frames=5"))


def test_building_a_model_leaves_the_callers_random_state_alone(tiny):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build_objective(tiny())
    assert torch.equal(torch.rand(3), expected)


def starting(state, prefix):
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def test_an_export_loads_and_gives_the_targets_features(tiny, tmp_path, capsys):
    import jepa

    config = tiny("train.steps=3", "optim.ema=[0.5,0.5]")
    run = trainer.train(config)
    clip = torch.randn(1, 3, 4, 32, 32)
    state = tensors(run)
    for weights in ("target", "context"):
        folder = export(ExportConfig(str(run), str(tmp_path / weights), weights=weights))
        assert f"wrote {folder}, the {weights} encoder after 3 steps" in capsys.readouterr().out
        encoder = jepa.load_encoder(folder)
        assert encoder.preprocessing.num_frames == 4
        assert encoder.preprocessing.crop_px == 32
        assert encoder.metadata["steps"] == 3
        objective = build_objective(config)
        objective.load_state_dict(starting(state, "learner."))
        if weights == "target":
            objective.encoder.load_state_dict(starting(state, "target."))
        assert torch.equal(encoder(clip), objective.encoder(clip))
    loaded = jepa.load_encoder(run)
    assert torch.equal(loaded(clip), jepa.load_encoder(tmp_path / "target")(clip))
    assert (loaded.training, loaded.metadata["weights"], loaded.preprocessing.crop_px) == (
        False,
        "target",
        32,
    )


def test_an_export_for_transformers_gives_the_same_features(tiny, tmp_path):
    transformers = pytest.importorskip("transformers")
    import jepa
    import jepa.models.adapters.transformers_model  # registers the model class

    run = trainer.train(tiny("train.steps=2"))
    native = jepa.load_encoder(export(ExportConfig(str(run), str(tmp_path / "native"))))
    folder = export(ExportConfig(str(run), str(tmp_path / "hf"), format="hf"))
    theirs = transformers.AutoModel.from_pretrained(folder)
    clip = torch.randn(1, 3, 4, 32, 32)
    outputs = theirs(clip.transpose(1, 2))
    assert torch.allclose(outputs.last_hidden_state, native(clip), atol=1e-6)


def test_nothing_to_export_is_reported(tmp_path):
    with pytest.raises(UserError, match="no checkpoint"):
        export(ExportConfig(str(tmp_path), str(tmp_path / "out")))


@pytest.mark.parametrize(
    ("keys", "what"), [("objective.target_encoder=none", "sigreg"), ("objective.target=pixels", "")]
)
def test_runs_without_a_target_say_so_when_one_is_exported(tiny, tmp_path, keys, what):
    more = ["objective.sigreg.weight=0.1", "objective.sigreg.slices=16"] if what else []
    run = trainer.train(tiny(keys, *more, "train.steps=3"))
    folder = export(ExportConfig(str(run), str(tmp_path / "context"), weights="context"))
    assert (folder / "encoder.safetensors").exists()
    if what:
        assert not any(name.startswith("target.") for name in tensors(run))
        with pytest.raises(UserError, match="weights=context"):
            export(ExportConfig(str(run), str(tmp_path / "target")))


def test_micro_steps_accumulate_to_the_same_run(tiny):
    """Cutting a batch into micro-batches changes the order of sums, and nothing else."""
    whole = trainer.train(tiny("train.log_every=1", out="whole"))
    accumulated = trainer.train(tiny("train.micro_batch=1", "train.log_every=1", out="accumulated"))
    for (_, a), (_, b) in zip(losses(whole), losses(accumulated), strict=True):
        assert a == pytest.approx(b, abs=1e-6)
    with pytest.raises(UserError, match=r"train\.micro_batch=3 does not divide"):
        trainer.train(tiny("train.micro_batch=3", out="uneven"))


@pytest.mark.parametrize("how", ["selective", "full"])
def test_activation_checkpointing_changes_no_bit(tiny, how):
    plain = trainer.train(tiny("train.steps=3", out="plain"))
    assert (
        differences(plain, trainer.train(tiny("train.steps=3", f"train.activation_checkpointing={how}")))
        == []
    )


class Counter(TorchDispatchMode):
    """Counts how often operators run, the backward pass included."""

    def __init__(self):
        super().__init__()
        self.calls = Counts()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls[func.overloadpacket.__name__] += 1
        return func(*args, **kwargs or {})


def test_activation_checkpointing_repeats_what_it_says(tiny):
    """`full` runs every operator of a block again, `selective` all but matrix products and attention."""
    calls = {}
    for how in ("none", "selective", "full"):
        objective = build_objective(tiny())
        apply_activation_checkpointing([objective], how)
        tokens = torch.randn(2, 8, 128)
        with Counter() as counter:
            for block in objective.encoder.blocks:
                tokens = block(tokens)
            tokens.sum().backward()
        calls[how] = (counter.calls["addmm"], counter.calls["gelu"])
    products, gelus = calls["none"]
    assert calls["selective"] == (products, 2 * gelus)
    assert calls["full"][0] > products and calls["full"][1] == 2 * gelus


def test_a_cooldown_begins_with_another_runs_weights_and_moments_at_step_0(tiny):
    first = trainer.train(tiny("train.steps=4", out="first"))
    keys = (f"train.init_from={first}", "optim.schedule=linear", "optim.final_lr=0", "optim.warmup_steps=0")
    config = tiny(
        *keys, "train.steps=4", "train.log_every=1", "train.save_every=1", "train.keep=4", "optim.lr=1e-4"
    )
    run = trainer.train(config)
    rates = [row["lr"] for row in journal(run)]
    assert rates == pytest.approx([1e-4, 2e-4 / 3, 1e-4 / 3, 0.0])
    one, last = (read_tensors(checkpoints(run)[i]) for i in (0, -1))
    before = tensors(first)
    name = "encoder.blocks.0.attn.qkv.weight"
    assert 0 < (one[f"learner.{name}"] - before[f"learner.{name}"]).abs().max() < 1e-3
    assert last[f"optimizer.{name}.step"] == 8
    with pytest.raises(UserError, match="no checkpoint"):
        trainer.train(tiny("train.init_from=/nowhere", out="other"))
    with pytest.raises(UserError, match="does not fit"):
        trainer.train(tiny(f"train.init_from={first}", "model.predictor_depth=2", out="other"))


def test_weight_decay_rises_and_spares_vectors(tiny):
    config = tiny("optim.weight_decay=0.04", "optim.final_weight_decay=0.4", "train.log_every=1")
    optimizer = make_optimizer(build_objective(config), config.optim)
    seen = []
    for step in (0, 7):
        rates = set_rates(optimizer, config.optim, step, config.train.steps)
        seen.append(([group["weight_decay"] for group in optimizer.param_groups], rates["weight_decay"]))
    assert seen[0] == ([pytest.approx(0.04), 0.0], pytest.approx(0.04))
    assert seen[1] == ([pytest.approx(0.4), 0.0], pytest.approx(0.4))


def test_an_online_probe_writes_into_the_log(tiny):
    seen = []

    def probe(step, encoder):
        seen.append(step)
        return {"probe": float(encoder.embed_dim)}

    run = trainer.train(tiny("train.steps=4"), callbacks=[OnlineProbe(probe)])
    assert seen == [2, 4]
    assert [row["probe"] for row in journal(run)] == [128.0, 128.0]


def test_a_mixture_of_clip_lengths_trains_and_resumes(tiny, video_folder):
    keys = ("data.root=", f"data.mix=[{{root:{video_folder}}},{{root:{video_folder},num_frames:8}}]")
    keys = (*keys, "train.steps=5", "train.save_every=2")
    whole = trainer.train(tiny(*keys, out="whole"))
    parts = tiny(*keys, out="parts")
    trainer.train(parts)
    for later in checkpoints(parts.out)[1:]:
        shutil.rmtree(later)
    trainer.train(parts)
    assert differences(whole, parts.out) == []


@pytest.mark.slow
def test_compiled_blocks_do_the_same_run(tiny):
    plain = trainer.train(tiny("train.log_every=1", out="plain"))
    compiled = trainer.train(
        tiny("train.log_every=1", "train.compile=true", "train.activation_checkpointing=selective")
    )
    for (_, a), (_, b) in zip(losses(plain), losses(compiled), strict=True):
        assert a == pytest.approx(b, abs=1e-5)
    assert tensors(plain).keys() == tensors(compiled).keys()
