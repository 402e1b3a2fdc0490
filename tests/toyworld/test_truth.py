"""Ground truth of toy-world videos, checked against the simulation and the rendered frames."""

import collections
import dataclasses
import itertools
import json
import subprocess
import sys

import numpy as np
import pytest

from jepa.errors import UserError
from jepa.toyworld import ToyWorldConfig, World
from jepa.toyworld.backdrop import FLOOR_Y
from jepa.toyworld.families import EVENTS, FAMILIES, HAZARDS
from jepa.toyworld.physics import Motion, let_down, topple
from jepa.toyworld.plan import RARE_FRACTION, WINDOW_S, held_out
from jepa.toyworld.render import Camera, Canvas, Part


def world(**keys):
    return World(ToyWorldConfig(**{"out": "", "height_px": 64, "width_px": 64, "duration_s": 4.0, **keys}))


def actor_path(shots, kind="disc", actor=0):
    """Position of an actor's first part of a kind in every frame."""
    found = [[p for p in parts if p.actor == actor and p.kind == kind] for parts in shots[0].frames]
    return np.array([[p[0].x, p[0].y] for p in found])


@pytest.mark.parametrize("family", ["motion", *EVENTS])
def test_every_outcome_of_a_family_can_be_made_and_is_listed_in_order(family):
    one = world(family=family)
    seen = set()
    for index in range(30):
        plan, truth = one.plan(index), one.truth(index)
        seen.add(plan.label)
        assert plan.tasks == truth["tasks"]
        assert 0 <= truth["precursor_start_s"] <= truth["event_s"] <= 4.0
        ends = [0.0, *(s["end_s"] for s in truth["segments"][:-1])]
        assert all(s["start_s"] < s["end_s"] <= 4.0 for s in truth["segments"])
        assert all(s["start_s"] >= end - 1e-6 for s, end in zip(truth["segments"], ends, strict=True))
        assert len(set(truth["captions"])) >= 2
        json.dumps(truth, allow_nan=False)
    assert seen == set(FAMILIES[family].outcomes)


def test_direction_is_the_way_the_shape_moves():
    one = world(family="motion", distractors=0, fps=16.0)
    for index in range(16):
        path = actor_path(one.simulate(index), kind=one.simulate(index)[0].frames[0][0].kind)
        step = (np.diff(path, axis=0) + 2) % 4 - 2  # the table is 4 m wide and wraps round
        angle = np.degrees(np.arctan2(*np.median(step, axis=0)[::-1])) % 360
        assert FAMILIES["motion"].outcomes[round(angle / 45) % 8] == one.plan(index).label


def test_discs_that_collide_touch_at_the_event_time_and_change_course_and_others_never_touch():
    one = world(family="collide", distractors=0)
    for index in range(20):
        shots, truth = one.simulate(index), one.truth(index)
        discs = [next(p for p in parts if p.actor == i) for parts in shots[0].frames for i in (0, 1)]
        gaps = np.array(
            [
                np.hypot(a.x - b.x, a.y - b.y) - a.size[0] - b.size[0]
                for a, b in zip(discs[::2], discs[1::2], strict=True)
            ]
        )
        k = round(truth["event_s"] * 16)
        if truth["tasks"]["collision"] == "yes":
            assert gaps[k - 1 : k + 1].min() < 0.12
        else:
            assert gaps.min() > 0.05


def test_a_collision_is_the_surer_the_nearer_it_is():
    """Straight-line extrapolation of the true positions: nearly sure just before, less so further ahead."""
    one = world(family="collide", distractors=0, duration_s=6.0)
    right = collections.defaultdict(list)
    for index in range(120):
        shots, plan = one.simulate(index), one.plan(index)
        event = round(shots[0].scene.event_s * 16)
        pair = [[next(p for p in parts if p.actor == i) for i in (0, 1)] for parts in shots[0].frames]
        between = np.array([[a.x - b.x, a.y - b.y] for a, b in pair])
        touch = pair[0][0].size[0] + pair[0][1].size[0]
        for ahead in (3, 40):
            k = event - ahead
            if k < 4:
                continue
            speed = (between[k] - between[k - 4]) / 4
            future = between[k] + speed * np.arange(0, 96)[:, None]
            hits = np.hypot(*future.T).min() < touch
            right[ahead].append(hits == (plan.label == "hit"))
    near, far = np.mean(right[3]), np.mean(right[40])
    assert near > 0.95
    assert 0.5 < far < near - 0.1


def test_a_ball_leaves_the_shelf_exactly_at_the_labelled_time_and_only_if_labelled():
    one = world(family="ledge", distractors=0)
    for index in range(24):
        shots, truth = one.simulate(index), one.truth(index)
        height = actor_path(shots)[:, 1]
        left = height.max() - height.min() > 0.8
        assert (
            left == ("ball_falls" in truth["tasks"]) == (one.plan(index).label in ("falls_off", "let_down"))
        )
        assert truth["tasks"].get("ball_will_fall", "yes") == ("yes" if left else "no")
        if left:
            k = round(truth["event_s"] * 16)
            assert height[:k].max() - height[:k].min() < 0.03
            assert height[min(k + 6, 63)] < height[0] - 0.15


def test_towers_that_come_down_end_low_and_those_that_sway_end_as_they_began():
    one = world(family="tower", distractors=0)
    for index in range(20):
        shots = one.simulate(index)
        top = [max(p.y for p in parts if p.actor == 0) for parts in shots[0].frames]
        label = one.plan(index).label
        if label in ("falls", "let_down"):
            assert top[-1] < top[0] - 0.25
            assert top[round(shots[0].scene.event_s * 16)] > top[0] - 0.4  # it leans
        if label == "sways":
            assert abs(top[-1] - top[0]) < 0.1
        if label == "built":
            assert top[-1] > FLOOR_Y + 1


def fastest_drop(shot, kind):
    """The greatest fall of an actor's highest part from one frame to the next, metres."""
    tops = [max(p.y for p in parts if p.actor == shot[1] and p.kind == kind) for parts in shot[0].frames]
    return max(a - b for a, b in itertools.pairwise(tops))


@pytest.mark.parametrize(
    ("family", "falls", "twin", "kind", "actor"),
    [
        ("ledge", "falls_off", "let_down", "disc", 0),
        ("tower", "falls", "let_down", "box", 0),
        ("walker", "falls", "lies_down", "disc", 0),
        ("meeting", "push", "lays_down", "disc", 1),
    ],
)
def test_what_falls_and_its_gentle_twin_begin_and_end_alike_but_differ_in_pace(
    family, falls, twin, kind, actor
):
    one = world(family=family, distractors=0, duration_s=5.0)
    pace, ends = collections.defaultdict(list), collections.defaultdict(list)
    for index in range(50):
        label = one.plan(index).label
        if label in (falls, twin):
            shot = one.simulate(index)[0]
            pace[label].append(fastest_drop((shot, actor), kind))
            first, last = (
                np.mean([p.y for p in shot.frames[k] if p.actor == actor and p.kind == kind]) for k in (0, -1)
            )
            ends[label].append((first, last))
    assert np.median(pace[falls]) > 1.25 * np.median(pace[twin])
    apart = np.abs(np.mean(ends[falls], axis=0) - np.mean(ends[twin], axis=0))
    assert (apart < 0.15).all(), apart


def test_what_is_let_down_follows_the_path_of_the_fall_in_the_same_order():
    fall = np.zeros((40, 1, 3))
    fall[:, 0, 1] = np.concatenate([np.full(10, 2.0), 2 - 0.02 * np.arange(10) ** 2, np.full(20, 0.38)])
    slow = let_down(Motion(fall), 10, 19, 2.0).poses[:, 0, 1]
    assert (slow[:11] == 2.0).all() and np.allclose(slow[29:], fall[-1, 0, 1])
    assert (np.diff(slow) <= 1e-12).all()
    assert np.isclose(slow[19], (2.0 + 0.38) / 2, atol=0.02)  # half the way after half the time
    assert np.abs(np.diff(slow)).max() < 0.65 * np.abs(np.diff(fall[:, 0, 1])).max()


@pytest.mark.parametrize(("family", "task"), [("fire", "fire_starts"), ("hand", "hand_grasps")])
def test_half_of_all_videos_show_the_state_at_first_between_and_at_last_whatever_the_answer(family, task):
    """So a frame in which it burns, or in which the hand holds the thing, does not tell the answer."""
    one = world(family=family, distractors=0)
    seen = collections.defaultdict(list)
    for index in range(80):
        shot, plan = one.simulate(index)[0], one.plan(index)
        for when, k in (("first", 0), ("middle", 32), ("last", 63)):
            parts = shot.frames[k]
            if family == "fire":
                on = any(p.kind == "polygon" and p.flat for p in parts)
            else:
                on = next(p.drop for p in parts if p.actor == 0 and p.drop) > 0.1
            seen[when, plan.tasks[task]].append(on)
    assert {(when, answer): np.mean(on) for (when, answer), on in seen.items()} == {key: 0.5 for key in seen}


def test_an_inverted_pendulum_keeps_its_energy_and_falls_slower_in_weak_gravity():
    times = np.arange(31) / 60  # whole steps of the integration
    angles = topple(0.1, 0.5, 9.81, 1.0, times)
    speed = np.gradient(angles, times)[2:-2]
    energy = 0.5 * speed**2 + 9.81 * np.cos(angles[2:-2])
    assert np.ptp(energy) < 0.15
    assert topple(0.1, 0.5, 3.0, 1.0, times)[-1] < angles[-1]


def test_physics_is_the_same_in_every_process():
    code = (
        "from jepa.toyworld import *; from jepa.toyworld.truth import truth_text; import hashlib;"
        "w = World(ToyWorldConfig(out='', family='events', duration_s=4.0, height_px=64, width_px=64));"
        "h = hashlib.sha256();"
        "[h.update(truth_text(w.truth(i)).encode()) for i in (0, 1, 2, 3, 4, 5, 6, 7)];"
        "h.update(next(w.frames(3)).tobytes()); print(h.hexdigest())"
    )
    prints = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(prints) == 1


def test_a_million_videos_are_addressed_without_being_made():
    one = world(family="events", part="all")
    plan = one.plan(999_999_999)
    assert plan.split == "test_surprise" and plan.tasks["possible"] in ("yes", "no")
    assert one.plan(7) == world(family="events", part="all", videos=8).plan(7)
    with pytest.raises(UserError, match="numbered from 0"):
        one.plan(-1)


def test_outcomes_are_balanced_within_every_split():
    one = world(family="motion")
    counts = collections.Counter((p.split, p.label) for p in map(one.plan, range(1600)))
    assert {split: n for (split, _), n in counts.items()}.keys() == {"train", "val", "test"}
    for split, total in (("train", 1120), ("val", 160), ("test", 320)):
        assert {n for (s, _), n in counts.items() if s == split} == {total // 8}


def test_combinations_in_the_unseen_part_are_never_trained_on_though_each_factor_is():
    plans = [world(family="events").plan(i).shots[0].event for i in range(2000)]
    unseen = [world(family="events", part="combinations").plan(i).shots[0].event for i in range(400)]
    assert not {(p.family, p.colour, p.shape) for p in plans} & {
        (p.family, p.colour, p.shape) for p in unseen
    }
    assert all(held_out(p.family, p.colour, p.shape) for p in unseen)
    for piece in ("colour", "shape", "outcome"):
        assert {getattr(p, piece) for p in unseen} <= {getattr(p, piece) for p in plans}


def test_looks_say_nothing_about_the_outcome():
    plans = [world(family="fire").plan(i).shots[0].event for i in range(6000)]
    looks = collections.defaultdict(list)
    for p in plans:
        looks[p.colour, p.shape].append(p.tasks["fire_starts"] == "yes")
    assert all(abs(np.mean(answers) - 0.5) < 0.1 for answers in looks.values())


def test_other_physics_lies_outside_the_trained_range():
    plans = [world(family="events").plan(i).shots[0].event for i in range(300)]
    other = [world(family="events", part="physics").plan(i).shots[0].event for i in range(100)]
    low, high = min(p.gravity for p in plans), max(p.gravity for p in plans)
    assert all(not low - 3 < p.gravity < high + 3 for p in other)


def test_rare_hazards_come_at_their_fraction():
    one = world(family="events", part="rare", duration_s=4.0)
    plans = [one.plan(i).shots[0].event for i in range(20_000)]
    hazards = sum((p.family, p.outcome) in HAZARDS for p in plans)
    expected = 20_000 * 4.0 / WINDOW_S * RARE_FRACTION
    assert abs(hazards - expected) < 4 * expected**0.5


def test_impossible_videos_share_every_frame_with_possible_ones():
    """In each group of four, the frames at any time are the same multiset in the possible and the impossible pair."""
    one = world(family="events", part="surprise", temporal_noise=0.0, duration_s=3.0)
    for quad in (0, 4):
        videos = [list(one.frames(quad + i)) for i in range(4)]
        answers = [one.plan(quad + i).tasks["possible"] for i in range(4)]
        assert answers == ["yes", "yes", "no", "no"]
        assert len({one.plan(quad + i).group for i in range(4)}) == 1
        for k in range(len(videos[0])):
            frames = [videos[i][k].tobytes() for i in range(4)]
            assert sorted(frames[:2]) == sorted(frames[2:])
        assert any((videos[0][k] != videos[2][k]).any() for k in range(len(videos[0])))


def test_boxes_hold_what_is_painted():
    """Painting the scene without an actor changes pixels inside its box only, shadows aside."""
    one = world(family="ledge", distractors=0)
    for index in (0, 1, 2, 3):
        shot, truth = one.simulate(index)[0], one.truth(index)
        for k in (0, 20, 40):
            box = truth["boxes"][0][k]
            images = []
            for parts in (shot.frames[k], [p for p in shot.frames[k] if p.actor != 0]):
                canvas = Canvas(64, 64)
                canvas.paint(parts, shot.cameras[k])
                images.append(canvas.image.copy())
            rows, columns = np.nonzero(np.abs(images[0] - images[1]).max(axis=2) > 0.1)
            if box is None:
                assert len(rows) == 0
                continue
            left, top, right, bottom, visible = box
            assert abs(columns.min() - left) < 1.5 and abs(columns.max() + 1 - right) < 1.5
            assert abs(rows.min() - top) < 1.5 and abs(rows.max() + 1 - bottom) < 1.5
            assert 0 < visible <= 1


def test_an_occluder_lowers_the_visible_fraction():
    shares = {}
    for occluders in (0, 4):
        one = world(family="walker", occluders=occluders)
        boxes = [box for index in range(8) for box in one.truth(index)["boxes"][0] if box]
        shares[occluders] = np.mean([box[4] for box in boxes])
    assert shares[4] < shares[0] - 0.05


def test_videos_of_several_shots_have_cuts_fades_and_dissolves_at_the_labelled_times():
    one = world(family="film", duration_s=20.0, distractors=0, background="varied")
    kinds = set()
    for index in range(6):
        truth = one.truth(index)
        frames = np.stack(list(one.frames(index))).astype(float)
        change = np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2, 3))
        quiet = np.median(change)
        for transition in truth["transitions"]:
            kinds.add(transition["kind"])
            k = round(transition["at_s"] * 16)
            if transition["kind"] == "cut":
                assert change[k - 1] > max(3 * quiet, 1.0)
            elif transition["kind"] == "fade":
                assert frames[k - 1 : k + 1].mean() < 0.35 * frames[k - 16].mean()
            else:
                assert transition["end_s"] > transition["start_s"]
                assert change[k - 1] < 30
        ends = [s["end_s"] for s in truth["scenes"]]
        assert ends[:-1] == [s["start_s"] for s in truth["scenes"]][1:] and ends[-1] == 20.0
        assert len(truth["intensity_per_s"]) == 20 and all(0 <= v <= 1 for v in truth["intensity_per_s"])
        for item in truth["breaks"]:
            near = any(abs(h["onset_s"] - item["time_s"]) < 2 for h in truth["hazards"])
            assert not (item["good"] and near)
    assert kinds == {"cut", "fade", "dissolve"}


def test_an_agents_actions_say_where_it_goes_next():
    """Integrating the recorded thrust with the table's drag gives the vehicle's path while nothing is in its way."""
    one = world(family="agent", distractors=0, fps=24.0)
    errors = []
    for index in range(12):
        truth, shots = one.truth(index), one.simulate(index)
        path = np.array(
            [[p.x, p.y] for parts in shots[0].frames for p in parts if p.kind == "box" and p.size[0] > 0.2]
        )
        velocity = np.diff(path, axis=0) * 24
        thrust = np.array(truth["actions"][0]["values"])
        drag = -np.log(0.2)
        predicted = velocity[:-1] + (thrust[1:-1] - drag * velocity[:-1]) / 24
        errors.append(np.median(np.abs(predicted - velocity[1:])))
        still = np.median(np.abs(velocity[1:] - velocity[:-1]))
    assert np.median(errors) < 0.5 * still


def test_a_clearer_world_sets_events_and_decoys_further_apart():
    def heights(clarity):
        one = world(family="fire", clarity=clarity, distractors=0)
        out = collections.defaultdict(list)
        for index in range(60):
            shot = one.simulate(index)[0]
            k = max(0, round(shot.scene.event_s * 16) - 2)
            out[shot.plan.event.outcome].append(sum(p.alpha for p in shot.frames[k] if p.kind == "puff"))
        return np.mean(out["ignites"]) - np.mean(out["smoulders"])

    assert heights(1.0) > heights(0.0) + 0.5


def test_painted_shapes_have_the_area_of_their_formulas():
    canvas = Canvas(128, 128)
    for part, area in (
        (Part("disc", 2, 2, (0.7,), (1, 1, 1), flat=True), np.pi * 0.49),
        (Part("box", 2, 2, (0.6, 0.3, 0.0), (1, 1, 1), 0.4, flat=True), 4 * 0.18),
        (
            Part("capsule", 1.5, 2, (1.0, 0.3, 0.2), (1, 1, 1), flat=True),
            np.pi * 0.04 + 0.4 * np.hypot(1, 0.3),
        ),
        (Part("polygon", 2, 2, (0.8, 0.0, 0.0, 0.8, -0.8, 0.0, 0.0, -0.8), (1, 1, 1), flat=True), 1.28),
    ):
        canvas.image[:] = 0
        canvas.paint([part], Camera())
        assert canvas.image[..., 0].sum() * (4 / 128) ** 2 == pytest.approx(area, rel=0.01)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"family": "tower", "duration_s": 1.0}, "too short"),
        ({"family": "motion", "part": "surprise"}, "mixes event families"),
        ({"family": "fire", "part": "physics"}, "no gravity"),
        ({"part": "easy"}, "not known"),
    ],
)
def test_knobs_that_do_not_go_together_are_refused(keys, words):
    with pytest.raises(UserError, match=words):
        world(**keys)


def test_distractors_do_not_touch_the_scene():
    few, many = (world(family="ledge", distractors=n).truth(3) for n in (0, 5))
    assert {k: v for k, v in few.items() if k not in ("world", "boxes")} == {
        k: v for k, v in many.items() if k not in ("world", "boxes")
    }


def test_one_video_does_not_depend_on_how_many_are_made():
    config = ToyWorldConfig(out="", family="events", duration_s=3.0, height_px=64, width_px=64)
    few, many = World(config), World(dataclasses.replace(config, videos=10**9))
    assert few.truth(5) == many.truth(5)


def test_sentences_put_an_before_vowels():
    one = world(family="motion")
    texts = [text for index in range(24) for text in one.truth(index)["captions"]]
    assert any("orange" in text for text in texts)
    assert not any(" a orange" in text or "A orange" in text for text in texts)


def test_no_event_shows_before_its_scene_begins():
    """A board, a hand or a foot that is already on its way at time 0 would start with a jerk."""
    one = world(family="tower", precursor_s=6.0, distractors=0)
    for index in range(20):
        boards = [
            next(p for p in parts if p.actor == 1 and p.kind == "box")
            for parts in one.simulate(index)[0].frames
        ]
        if one.plan(index).label in ("falls", "sways"):
            assert abs(boards[0].angle) < 1e-6
            assert max(abs(b.angle - a.angle) for a, b in itertools.pairwise(boards)) < 0.2
