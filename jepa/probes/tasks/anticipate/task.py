"""Action anticipation: the next action, and how soon a hazard starts, beside baselines of the present action only.

Three problems on windows that end at a time t and show nothing later: the action that starts next, the current action,
and the hazards. The current action is a classification of its own; its probe is saved beside the anticipation probe.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from jepa.data.manifest import Item
from jepa.errors import UserError
from jepa.probes.data.segments import (
    HazardWindows,
    Timeline,
    hazard_windows,
    next_action_windows,
    read_timelines,
)
from jepa.probes.data.splits import Fold, make_folds, select_test_part
from jepa.probes.evaluation.calibration import SoftmaxCalibration, softmax_calibrator
from jepa.probes.evaluation.cross_validate import HeadRun, majority
from jepa.probes.evaluation.metrics import calibration_error
from jepa.probes.evaluation.problem import Problem
from jepa.probes.evaluation.results import compare, own_metrics, result_row
from jepa.probes.features.build import ENCODER, Encoded, make_extractors
from jepa.probes.features.encode import Extractor
from jepa.probes.features.encoder_tokens import preprocessing_of
from jepa.probes.features.feature_set import FeatureSet
from jepa.probes.heads.base import class_targets, list_heads
from jepa.probes.saved import Probe
from jepa.probes.tasks.anticipate.alarm_tables import forecast_alarms, observed_alarms
from jepa.probes.tasks.anticipate.baselines import (
    base_rate_run,
    certain,
    hazards_after_action,
    next_after_action,
)
from jepa.probes.tasks.anticipate.hazard import (
    HazardCalibration,
    base_logits,
    cumulative,
    hazard_problem,
    known_outcome,
)
from jepa.probes.tasks.anticipate.probe import AnticipateProbe
from jepa.probes.tasks.anticipate.tables import (
    FORECASTS_FILE,
    hazard_rows,
    own_hazard_metrics,
    print_anticipation,
    write_forecasts,
)
from jepa.probes.tasks.base import Task, heads_for, register_task
from jepa.probes.tasks.classify import class_probe

if TYPE_CHECKING:
    from jepa.models import Encoder

WITH_FUTURE = "encoder + predictor"
ORACLE, CURRENT_PROBE = "current-action oracle", "current-action probe"
NEXT, CURRENT, HAZARD = "next_action", "current_action", "hazard"


@register_task
class Anticipate(Task):
    """`jepa probe task=anticipate`."""

    name, probe = "anticipate", AnticipateProbe
    timelines: list[Timeline]
    hazards: list[str]
    next_windows: list[Item]
    hazard_windows: HazardWindows
    window_s: float

    def check(self) -> None:
        """Heads must be fitted to hazards, and the video task's further tables have no meaning here."""
        super().check()
        self.config.refuse_unknown(
            "anticipate.current_heads", self.config.anticipate.current_heads, list_heads()
        )
        features = self.config.features
        self.config.refuse_unused(
            features__int8=features.int8,
            features__clips=features.clips != 1,
            features__layers=bool(features.layers),
            image_model=self.config.image_model is not None,
            conformal=bool(self.config.conformal),
        )
        if not self.kinds:
            raise UserError("task=anticipate needs linear or attentive in heads.kinds.")

    @property
    def kinds(self) -> list[str]:
        """Those heads that can be fitted to hazards."""
        return heads_for(self.config.heads.kinds, classes=False)

    @property
    def horizons_s(self) -> list[float]:
        """Times within which hazards are predicted."""
        return list(self.config.anticipate.horizons_s)

    def read(self, encoder: Encoder) -> Sequence[Item]:
        """Windows before every action, and at even steps through every video."""
        settings, data = self.config.anticipate, self.config.data
        timelines, self.hazards = read_timelines(data, settings)
        if data.folds is None:
            by_path = {timeline.path: timeline for timeline in timelines}
            kept, _ = select_test_part([timeline.video for timeline in timelines], data.test_split)
            timelines = [dataclasses.replace(by_path[video.path], video=video) for video in kept]
        self.timelines = timelines
        preprocessing = preprocessing_of(encoder)
        self.window_s = self.config.features.window_s or preprocessing.num_frames / preprocessing.fps
        self.next_windows = next_action_windows(timelines, settings.tau_s, self.window_s)
        self.hazard_windows = hazard_windows(
            timelines, self.hazards, settings.horizons_s, settings.stride_s, self.window_s
        )
        return [*self.next_windows, *self.hazard_windows.samples]

    def extractors(self, encoder: Encoder) -> list[Extractor]:
        """The encoder with its predictor where the export holds one; pixel baselines see the last frame."""
        from jepa.models import load_predictor
        from jepa.models.weights.native import PREDICTOR_FILE

        settings, predictor = self.config.anticipate, None
        if settings.predictor and (Path(self.config.encoder) / PREDICTOR_FILE).is_file():
            predictor = load_predictor(self.config.encoder)
        return make_extractors(
            self.config,
            encoder,
            last_frame=True,
            predictor=predictor,
            time_steps=settings.future_slots,
        )

    def problems(self, encoded: Encoded) -> list[Problem]:
        """Next action, current action (where there are several) and hazards (where there are any)."""
        self._drop_unreadable(encoded)
        folds, sets = self._video_folds(), _with_future(encoded)
        border, end = len(self.next_windows), len(self.next_windows) + len(self.hazard_windows.samples)
        self.folds = folds
        following = self._class_problem(NEXT, self.next_windows, folds, [s.part(0, border) for s in sets])
        sets = [s.part(border, end) for s in sets]
        current = self._class_problem(CURRENT, self.hazard_windows.samples, folds, sets)
        problems = [following] + ([current] if current.targets.outputs > 1 else [])
        if self.hazards:
            event = torch.from_numpy(self.hazard_windows.event)
            observed = torch.from_numpy(self.hazard_windows.observed)
            targets = hazard_problem(event, observed, len(self.horizons_s))
            problems.append(Problem(HAZARD, current.samples, targets, current.folds, sets))
        self.current = current
        return problems

    def _drop_unreadable(self, encoded: Encoded) -> None:
        readable = {sample.path for sample in encoded.samples}
        self.timelines = [timeline for timeline in self.timelines if timeline.path in readable]
        self.next_windows = [sample for sample in self.next_windows if sample.path in readable]
        ahead = self.hazard_windows
        kept = np.array([sample.path in readable for sample in ahead.samples], bool)
        samples = [sample for sample in ahead.samples if sample.path in readable]
        self.hazard_windows = HazardWindows(samples, ahead.event[kept], ahead.observed[kept])

    def _video_folds(self) -> list[Fold]:
        data = self.config.data
        return make_folds(
            [";".join(k for k, v in t.hazards.items() if v) or "-" for t in self.timelines],
            [t.group for t in self.timelines],
            [t.split for t in self.timelines],
            data.folds,
            data.val_fraction,
            self.config.split_seed,
        )

    def _class_problem(
        self, name: str, windows: Sequence[Item], folds: Sequence[Fold], sets: Sequence[FeatureSet]
    ) -> Problem:
        """The windows' labels as classes."""
        classes = sorted({sample.label for sample in windows})
        numbers = torch.tensor([classes.index(sample.label) for sample in windows])
        mapped = _window_folds(folds, [timeline.name for timeline in self.timelines], windows)
        runs = [majority(numbers, len(classes), mapped)]
        targets = class_targets(numbers, len(classes), softmax_calibrator("temperature"))
        return Problem(name, windows, targets, mapped, sets, runs)

    def evaluate(self, problem: Problem, encoded: Encoded) -> None:
        """Cross-validates the heads, after the baselines from the current action."""
        heads, seeds = self.config.heads, self.config.seeds
        if problem.name == CURRENT:
            problem.evaluate_all(self.config.anticipate.current_heads, heads, seeds)
            return
        if problem.name == HAZARD:
            problem.runs.append(base_rate_run(problem.targets.values, problem.folds))
        current = self.current if problem.name == HAZARD else self._current_in(problem)
        numbers = current.targets.values.numpy()
        known = {ORACLE: certain(numbers, current.targets.outputs)}
        if current.targets.outputs > 1:
            if not current.runs[1:]:  # only the majority: this problem has windows of its own
                own = next(data for data in current.sets if data.name == ENCODER)
                kinds = self.config.anticipate.current_heads
                current.runs += [current.evaluate(kind, own, heads, seeds) for kind in kinds]
            known[CURRENT_PROBE] = current.best(ENCODER).prediction
        for name, p in known.items():
            if problem.name == HAZARD:
                run = hazards_after_action(name, p, numbers, problem.targets.values, problem.folds)
            else:
                following = problem.targets.values.numpy(), problem.targets.outputs, problem.folds
                run = HeadRun(name, "-", next_after_action(p, numbers, *following), 0.0)
            problem.runs.append(run)
        problem.evaluate_all(self.kinds, heads, seeds)

    def _current_in(self, problem: Problem) -> Problem:
        """The current action in the windows of another problem."""
        by_name = {timeline.name: timeline for timeline in self.timelines}
        windows = [
            dataclasses.replace(sample, label=by_name[sample.name].label_at(sample.end_s - 1e-3))
            for sample in problem.samples
            if sample.end_s is not None
        ]
        return self._class_problem(CURRENT, windows, self.folds, problem.sets)

    def tables(self, problems: Sequence[Problem], encoded: Encoded) -> dict[str, Any]:
        """Next action, current action and hazards; every hazard forecast goes to OUT/forecasts.npz."""
        by_name = {problem.name: problem for problem in problems}
        following, current, hazard = by_name[NEXT], by_name.get(CURRENT), by_name.get(HAZARD)
        rates = self.config.anticipate.false_alarms_per_hour
        out: dict[str, Any] = {
            "anchor": "segment start",
            "window_s": self.window_s,
            "classes": self._classes(following),
            "hazards": self.hazards,
            "horizons_s": self.horizons_s,
            "folds": [
                {"name": f.name, "videos": [len(f.train), len(f.val), len(f.test)]} for f in self.folds
            ],
            CURRENT: {
                "classes": self._classes(self.current),
                "rows": [result_row(run, current) for run in current.runs] if current else [],
                "alarms": observed_alarms(
                    current, self._classes(current), self.timelines, self.hazards, rates
                )
                if current
                else [],
            },
            NEXT: {
                "classes": self._classes(following),
                "tau_s": self.config.anticipate.tau_s,
                "windows": len(following.samples),
                "rows": [result_row(run, following) for run in following.runs],
                "comparison": compare(following),
            },
            HAZARD: None,
        }
        if hazard is not None:
            event, observed = self._outcomes()
            write_forecasts(Path(self.config.out) / FORECASTS_FILE, hazard, event, observed)
            known = known_outcome(event, observed, len(self.horizons_s))
            out[HAZARD] = {
                "windows": len(hazard.samples),
                "onsets": int((event < len(self.horizons_s)).sum()),
                "known": known.float().mean((0, 1)).tolist(),
                "rows": hazard_rows(hazard, event, observed, self.horizons_s),
                "alarms": forecast_alarms(hazard, self.timelines, self.hazards, self.horizons_s, rates),
            }
        return out

    def _classes(self, problem: Problem) -> list[str]:
        return sorted({sample.label for sample in problem.samples})

    def _outcomes(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Bin of the next onset [n, H] and number of observed bins [n], per window."""
        return torch.from_numpy(self.hazard_windows.event), torch.from_numpy(self.hazard_windows.observed)

    def probes(
        self, problems: Sequence[Problem], encoded: Encoded, results: dict[str, Any]
    ) -> dict[str, Probe]:
        """The anticipation probe, and the current-action probe beside it."""
        by_name = {problem.name: problem for problem in problems}
        made: dict[str, Probe] = {"probe": self._anticipation_probe(by_name, encoded, results)}
        current = by_name.get(CURRENT)
        if current is not None:
            metadata = self.common_metadata([current], encoded, results)
            made[CURRENT] = class_probe(current.best(ENCODER), current, self._classes(current), metadata)
        return made

    def _anticipation_probe(
        self, problems: dict[str, Problem], encoded: Encoded, results: dict[str, Any]
    ) -> AnticipateProbe:
        """Both heads on the features that validation prefers: the encoder's, or with the predictor's."""
        following, hazard = problems[NEXT], problems.get(HAZARD)
        decisive = hazard or following
        names = [name for name in (ENCODER, WITH_FUTURE) if any(s.name == name for s in decisive.sets)]
        source = max(names, key=lambda name: decisive.best(name).val_score)
        run = following.best(source)
        assert run.own is not None and isinstance(run.own.calibration, SoftmaxCalibration)
        weights = {f"next.{k}": v for k, v in run.own.fitted.state().items()}
        weights["calibration"] = torch.zeros(0, 2)
        metadata = self.common_metadata([p for p in (following, hazard) if p is not None], encoded, results)
        document = {
            "task": self.name,
            "classes": results["classes"],
            "hazards": self.hazards,
            "horizons_s": self.horizons_s,
            "tau_s": self.config.anticipate.tau_s,
            "anchor": results["anchor"],
            "base_rates": [],
            "next_head": run.head,
            "hazard_head": run.head,
            "future_slots": encoded.tokens.future_steps if source == WITH_FUTURE else 0,
            **metadata,
            "calibration": {
                "method": "temperature for actions; scale and offset of the hazard per category where they help",
                "temperature": run.own.calibration.temperature,
                **metadata["calibration"],
                "next_action_accuracy": run.val_score,
            },
            "results": {
                "of": "the saved weights, on the test part of the first fold",
                NEXT: {"metric": "accuracy", **own_metrics(run, following)},
                "cross_validation": {NEXT: result_row(run, following)["accuracy"], "folds": len(self.folds)},
            },
        }
        if hazard is not None:
            rows = results[HAZARD]["rows"]
            self._add_hazards(document, weights, hazard, hazard.best(source), rows)
        return AnticipateProbe(document, weights)

    def _add_hazards(
        self,
        document: dict[str, Any],
        weights: dict[str, torch.Tensor],
        hazard: Problem,
        run: HeadRun,
        rows: Sequence[dict[str, Any]],
    ) -> None:
        """Adds the hazard head, its calibration and its metrics to a probe's metadata and weights."""
        assert run.own is not None and isinstance(run.own.calibration, HazardCalibration)
        assert run.own_val_logits is not None
        calibration, fold, bins = run.own.calibration, hazard.folds[0], len(self.horizons_s)
        weights["calibration"] = calibration.maps
        weights |= {f"hazard.{k}": v for k, v in run.own.fitted.state().items()}
        event, observed = self._outcomes()
        known = known_outcome(event[fold.val], observed[fold.val], bins).numpy()
        happened = event[fold.val].unsqueeze(-1).numpy() <= np.arange(bins)
        raw = cumulative(run.own_val_logits.unflatten(-1, (-1, bins))).numpy()
        calibrated = calibration(run.own_val_logits).numpy()

        def ece(p: np.ndarray, horizons: slice = slice(None)) -> float:
            where = known[..., horizons]
            return calibration_error(p[..., horizons][where], happened[..., horizons][where])

        document["hazard_head"] = run.head
        document["base_rates"] = cumulative(base_logits(hazard.targets.values[fold.train])).tolist()
        document["calibration"] |= {
            "ece_before": ece(raw),
            "ece_after": ece(calibrated),
            "ece_by_horizon": {
                str(round(1000 * h)): ece(calibrated, slice(k, k + 1)) for k, h in enumerate(self.horizons_s)
            },
        }
        document["results"][HAZARD] = own_hazard_metrics(run, hazard, event, observed, self.horizons_s)
        (row,) = (r for r in rows if (r["features"], r["head"]) == (run.features, run.head))
        document["results"]["cross_validation"][HAZARD] = row["mean"]

    def show(self, console: Any, results: dict[str, Any], encoded: Encoded) -> None:
        """The tables."""
        print_anticipation(console, results, encoded.report)


def _with_future(encoded: Encoded) -> list[FeatureSet]:
    """The feature sets, the encoder's divided into its own tokens and those with the predictor's behind them."""
    first, *others = encoded.sets
    if not encoded.tokens.future_steps:
        return [first, *others]
    t, h, w = encoded.tokens.grid()
    own = first.first_tokens(ENCODER, t * h * w, t)
    return [dataclasses.replace(first, name=WITH_FUTURE), own, *others]


def _window_folds(folds: Sequence[Fold], names: Sequence[str], windows: Sequence[Item]) -> list[Fold]:
    """Folds over videos as folds over their windows."""
    owner = {name: number for number, name in enumerate(names)}
    video = np.array([owner[window.name] for window in windows])
    mapped = [
        Fold(fold.name, *(np.flatnonzero(np.isin(video, part)) for part in (fold.train, fold.val, fold.test)))
        for fold in folds
    ]
    for fold in mapped:
        if not (len(fold.train) and len(fold.val) and len(fold.test)):
            raise UserError(
                f"Fold {fold.name!r} has a part without a single window. Use fewer folds, a longer list, or a shorter "
                "window (features.window_s)."
            )
    return mapped
