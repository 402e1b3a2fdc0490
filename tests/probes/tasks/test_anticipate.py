from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import jepa.data
from jepa.errors import UserError
from jepa.models import load_encoder, load_predictor
from jepa.probes import ProbeConfig, load_probe, predict_future, run
from jepa.probes.config import AnticipateSettings, HeadSettings, ProbeData
from jepa.probes.tasks.anticipate.hazard import (
    at_risk,
    base_logits,
    calibrate_hazards,
    cumulative,
    hazard_loss,
    hazard_targets,
    known_outcome,
)


def test_cumulative_is_one_minus_the_product_of_survivals() -> None:
    logits = torch.randn(50, 2, 5, generator=torch.Generator().manual_seed(0)) * 3
    out = cumulative(logits)
    h = torch.sigmoid(logits)
    torch.testing.assert_close(out[:, :, 2], 1 - (1 - h[..., 0]) * (1 - h[..., 1]) * (1 - h[..., 2]))
    assert (out.diff(dim=-1) >= 0).all() and out.min() >= 0 and out.max() <= 1


def test_risk_and_knowledge_around_onset_and_end_of_record() -> None:
    event, observed = torch.tensor([[1], [3], [3], [2]]), torch.tensor([3, 3, 1, 1])
    assert at_risk(event, observed, 3)[:, 0].tolist() == [
        [True, True, False],  # starts in bin 1: bins after it no longer count
        [True, True, True],  # never starts, all seen
        [True, False, False],  # record ends after bin 0
        [True, False, True],  # onset known although the record stops counting whole bins
    ]
    assert known_outcome(event, observed, 3)[:, 0].tolist() == [
        [True, True, True],
        [True, True, True],
        [True, False, False],
        [True, False, True],
    ]


def test_loss_is_the_discrete_survival_likelihood() -> None:
    logits = torch.tensor([[0.3, -1.0, 0.8]])
    h = torch.sigmoid(logits)[0]
    for event, expected in (
        (1, -torch.log((1 - h[0]) * h[1])),
        (3, -torch.log((1 - h[0]) * (1 - h[1]) * (1 - h[2]))),
    ):
        targets = hazard_targets(torch.tensor([[event]]), torch.tensor([3]), 3)
        got = hazard_loss(logits.view(1, 1, 1, 3), targets.unsqueeze(0))
        torch.testing.assert_close(got.squeeze(), expected)


def test_base_rates_are_life_table_rates() -> None:
    event = torch.tensor([[0]] * 10 + [[1]] * 30 + [[2]] * 60)
    rate = cumulative(base_logits(hazard_targets(event, torch.full((100,), 2), 2)))
    torch.testing.assert_close(rate, torch.tensor([[0.1, 0.4]]), rtol=0.05, atol=0.01)


def drawn(honest: torch.Tensor, seed: int) -> torch.Tensor:
    """Targets of onsets drawn by their hazard logits [n, 1, 2]."""
    draws = torch.rand(honest.shape, generator=torch.Generator().manual_seed(seed)) < torch.sigmoid(honest)
    event = torch.where(draws[..., 0], 0, torch.where(draws[..., 1], 1, 2))
    return hazard_targets(event, torch.full((len(honest),), 2), 2)


def test_calibration_repairs_a_distorted_hazard_and_keeps_order() -> None:
    honest = torch.randn(6000, 1, 2, generator=torch.Generator().manual_seed(0)) - 2
    videos = [str(i // 20) for i in range(6000)]
    scale, offset = calibrate_hazards(honest * 2 + 1, drawn(honest, 1), videos)[0].tolist()
    assert scale == pytest.approx(0.5, abs=0.05) and offset == pytest.approx(-0.5, abs=0.1)


def test_calibration_leaves_alone_what_too_few_onsets_could_only_spoil() -> None:
    """Honest forecasts of rare onsets: almost always left as they are, and never touched with a handful of videos."""
    kept = []
    for seed in range(20):
        honest = 0.5 * torch.randn(600, 1, 2, generator=torch.Generator().manual_seed(seed)) - 4.5
        targets, videos = drawn(honest, 100 + seed), [str(i // 20) for i in range(600)]
        kept.append(calibrate_hazards(honest, targets, videos)[0].tolist() == [1.0, 0.0])
        assert calibrate_hazards(honest[:80], targets[:80], videos[:80]).tolist() == [[1.0, 0.0]]
    assert sum(kept) >= 17


def config(flashes: Path, export: Path, out: Path, **settings: Any) -> ProbeConfig:
    return ProbeConfig(
        task="anticipate",
        encoder=str(export),
        out=str(out),
        data=ProbeData(root=str(flashes), folds=3),
        heads=HeadSettings(kinds=["linear"], steps=80, lrs=[0.02], weight_decays=[0.1]),
        anticipate=AnticipateSettings(
            tau_s=0.5,
            hazards=["flash"],
            horizons_s=[0.5, 1.0, 2.0],
            stride_s=0.25,
            false_alarms_per_hour=[60, 400],
            **settings,
        ),
        seeds=[0, 1],
    )


@pytest.fixture(scope="module")
def done(
    flashes: Path, export_with_predictor: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("anticipate")
    return out, run(config(flashes, export_with_predictor, out))


def test_anticipation_beats_base_rate_and_current_action(done: tuple[Path, dict[str, Any]]) -> None:
    _, results = done
    rows = {r["features"]: r for r in results["hazard"]["rows"]}
    assert list(rows) == [
        "base rate", "current-action oracle", "current-action probe", "motion", "last frame", "random init",
        "encoder", "encoder + predictor",
    ]  # fmt: skip
    assert rows["base rate"]["mean"]["auc"] == pytest.approx(0.5)
    assert rows["base rate"]["gain"] == 0
    # The omen stands in the picture a second ahead; the list's current action is "drift" with and without it.
    assert rows["encoder"]["mean"]["ap"] > rows["base rate"]["mean"]["ap"] + 0.2
    assert rows["encoder"]["mean"]["ap"] > rows["current-action oracle"]["mean"]["ap"]
    following = {r["features"]: r["accuracy"] for r in results["next_action"]["rows"]}
    assert following["encoder"] > following["majority"] + 0.2


def test_the_tables_can_be_worked_out_from_the_forecasts_on_disk(done: tuple[Path, dict[str, Any]]) -> None:
    out, results = done
    kept = np.load(out / "forecasts.npz")
    rows = results["hazard"]["rows"]
    assert kept["names"].tolist() == [f"{row['features']}, {row['head']}" for row in rows]
    assert len(kept["video"]) == len(kept["end_s"]) == results["hazard"]["windows"]
    late = kept["p6"]
    assert late.shape == (2, results["hazard"]["windows"], 1, 3) and np.isfinite(late).all()
    base = kept["p0"][0]
    happened = kept["event"][:, :, None] <= np.arange(3)
    known = (np.arange(3) < kept["observed"][:, None, None]) | (np.arange(3) >= kept["event"][:, :, None])
    better = (((base - happened) ** 2 - ((late - happened) ** 2).mean(0)) * known).sum((1, 2))
    seen = known.any((1, 2))
    assert rows[6]["gain"] == pytest.approx((better / known.sum((1, 2)).clip(1))[seen].mean(), abs=1e-5)


def test_alarms_at_a_stated_threshold_are_those_counted_from_the_forecasts_on_disk(
    done: tuple[Path, dict[str, Any]], flashes: Path
) -> None:
    out, results = done
    kept, alarms = np.load(out / "forecasts.npz"), results["hazard"]["alarms"]
    assert [f"{a['features']}, {a['head']}" for a in alarms] == kept["names"].tolist()
    assert alarms[0]["hours"] == pytest.approx(18 * 5 / 3600) and alarms[0]["hold_s"] == 2.0
    point = alarms[6]["points"][1]  # the encoder's, at 400 false alarms per hour: ten
    with open(flashes / "segments.csv") as handle:
        onsets = {r["video"]: float(r["start_s"]) for r in csv.DictReader(handle) if r["label"] == "flash"}
    false, leads = 0, []
    for name in np.unique(kept["video"]):
        own = np.flatnonzero(kept["video"] == name)
        own = own[np.argsort(kept["end_s"][own])]
        raised: list[float] = []
        for i in own:
            time_s = float(kept["end_s"][i])
            if kept["p6"][:, i, 0, 2].mean() >= point["threshold"] - 1e-6 and (
                not raised or time_s >= raised[-1] + 2.0
            ):
                raised.append(time_s)
        onset = onsets.get(str(name), np.inf)
        fits = [time_s for time_s in raised if time_s < onset <= time_s + 2.0]
        false += sum(
            time_s not in fits and time_s <= 3.0 for time_s in raised
        )  # judged up to 2 s before the end
        leads += [onset - fits[0]] if fits else []
    assert point["events"] == len(onsets) and point["recall"] == pytest.approx(len(leads) / len(onsets))
    assert point["false_alarms"] == false and point["per_hour"] <= 400
    assert point["median_lead_s"] == pytest.approx(float(np.median(leads)))
    base = alarms[0]["points"][1]
    assert point["recall"] > base["recall"] + 0.2  # the omen tells


def test_hazards_that_are_actions_are_observed_too(done: tuple[Path, dict[str, Any]]) -> None:
    observed = done[1]["current_action"]["alarms"]
    assert {entry["category"] for entry in observed} == {"flash"}
    (encoder,) = [e for e in observed if (e["features"], e["head"]) == ("encoder", "linear")]
    (majority,) = [e for e in observed if e["features"] == "majority"]
    assert encoder["points"][1]["recall"] > majority["points"][1]["recall"]
    assert encoder["points"][1]["median_lead_s"] <= 0  # an event is observed after it has begun


def test_videos_are_never_divided_between_parts(done: tuple[Path, dict[str, Any]]) -> None:
    for fold in done[1]["folds"]:
        assert sum(fold["videos"]) == 18
    assert done[1]["anchor"] == "segment start"


def test_a_saved_anticipation_probe_never_falls_with_the_horizon_and_needs_its_future(
    done: tuple[Path, dict[str, Any]], flashes: Path, export_with_predictor: Path
) -> None:
    encoder, predictor = load_encoder(export_with_predictor), load_predictor(export_with_predictor)
    probe: Any = load_probe(done[0] / "probe", encoder)
    assert probe.hazards == ("flash",) and probe.horizons_s == (0.5, 1.0, 2.0) and probe.tau_s == 0.5
    assert probe.base_rates.shape == (1, 3) and probe.metadata["calibration"]["videos"] > 0
    videos = []
    with jepa.data.open_video(flashes / "00.mp4") as reader:
        for end in (1.0, 1.5, 2.0, 2.5):
            frames = reader.frames_at([end - 1 + i / 8 for i in range(8)]).data
            videos.append(encoder.preprocess(frames))
    batch = torch.stack(videos)
    with torch.inference_mode():
        tokens = encoder(batch)
        future = predict_future(predictor, tokens, encoder.grid_of(batch), max(probe.future_slots, 1))
    if probe.needs_future:
        with pytest.raises(UserError, match="predictor's tokens"):
            probe.predict(tokens)
    out = probe.predict(tokens, future if probe.needs_future else None)
    assert out.hazard.shape == (4, 1, 3) and (out.hazard.diff(dim=-1) >= 0).all()
    torch.testing.assert_close(out.next_action.sum(-1), torch.ones(4))


def test_the_current_action_probe_knows_the_present_and_says_what_it_was_trained_on(
    done: tuple[Path, dict[str, Any]], flashes: Path, export_with_predictor: Path
) -> None:
    out, results = done
    assert next(row["features"] for row in results["current_action"]["rows"]) == "majority"
    encoder = load_encoder(export_with_predictor)
    now, forecaster = load_probe(out / "current_action", encoder), load_probe(out / "probe", encoder)
    assert now.task == "classify" and now.classes == ("drift", "flash", "wait")
    for card in (now.metadata, forecaster.metadata):
        assert card["data"]["videos"] == 18
        # Three folds by video: the saved heads are those of the first, which tests a third of the videos.
        assert (
            card["trained_on"]["videos"] + card["calibration"]["videos"] + card["tested_on"]["videos"] == 18
        )
        assert 0 < card["calibration"]["videos"] < card["trained_on"]["videos"]
    right, total = 0, 0
    for i in range(18):
        with jepa.data.open_video(flashes / f"{i:02d}.mp4") as reader:
            for end, label in ((1.0, "drift"), (4.5, "flash" if i % 2 == 0 else "wait")):
                frames = reader.frames_at([end - 1 + k / 8 for k in range(8)]).data
                with torch.inference_mode():
                    p = now.predict(encoder(encoder.preprocess(frames)[None])).probability[0]
                torch.testing.assert_close(p.sum(), torch.tensor(1.0))
                right, total = right + (now.classes[int(p.argmax())] == label), total + 1
    assert right / total > 0.7


def test_predict_future_queries_the_time_steps_after_the_window() -> None:
    given: dict[str, Any] = {}

    class Spy(torch.nn.Module):
        config = type("C", (), {"target_layers": 1})()

        def forward(
            self, tokens: torch.Tensor, context: torch.Tensor, target: torch.Tensor, grid: Any
        ) -> torch.Tensor:
            given.update(context=context[0].tolist(), target=target[0].tolist(), grid=tuple(grid))
            return torch.zeros(len(tokens), target.shape[1], 5)

    from jepa.models import TokenGrid

    out = predict_future(Spy(), torch.zeros(2, 8, 5), TokenGrid(2, 2, 2), 1)  # type: ignore[arg-type]
    assert given == {"context": list(range(8)), "target": [8, 9, 10, 11], "grid": (3, 2, 2)}
    assert out.shape == (2, 4, 5)


def test_a_split_column_divides_videos_and_leaves_other_test_parts_out(
    flashes: Path, export_with_predictor: Path, tmp_path: Path
) -> None:
    root = tmp_path / "split"
    root.mkdir()
    for video in flashes.glob("*.mp4"):
        (root / video.name).symlink_to(video)
    head, *rows = (flashes / "segments.csv").read_text().splitlines()
    parts = ["train"] * 8 + ["val"] * 4 + ["test"] * 2 + ["test_far"] * 4
    lines = [f"{row},{parts[int(row[:2])]}" for row in rows]
    (root / "segments.csv").write_text("\n".join([f"{head},split", *lines]))
    settings = config(root, export_with_predictor, tmp_path / "out", predictor=False)
    settings.data = ProbeData(root=str(root), test_split="test_far")
    settings.baselines, settings.seeds, settings.heads.steps = [], [0], 20
    results = run(settings)
    assert results["folds"] == [{"name": "test", "videos": [8, 4, 4]}]
    metadata = load_probe(tmp_path / "out/probe").metadata
    assert [metadata[k]["videos"] for k in ("trained_on", "calibration", "tested_on")] == [8, 4, 4]
