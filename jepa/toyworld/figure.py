"""Articulated human figure made of capsules: poses are joint angles; walks, falls and handshakes are sequences."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from jepa.toyworld.backdrop import FLOOR_Y
from jepa.toyworld.render import Colour, Part
from jepa.toyworld.scene import SKIN

THIGH, SHIN, TORSO, UPPER, FORE, HEAD = 0.42, 0.42, 0.58, 0.3, 0.3, 0.17
HIP_M = THIGH + SHIN
_LYING_M = 0.12  # a body's half thickness: how high a hip lies


@dataclass(frozen=True)
class Pose:
    """Angles in radians; 0 hangs or stands straight, positive turns towards where the figure faces."""

    x: float
    """hip, metres"""
    facing: int = 1
    """1 to the right, -1 to the left"""
    lean: float = 0.0
    """torso from upright"""
    thighs: tuple[float, float] = (0.0, 0.0)
    """near and far"""
    knees: tuple[float, float] = (0.0, 0.0)
    """bend backwards, near and far"""
    arms: tuple[float, float] = (0.0, 0.0)
    """near and far, from hanging"""
    elbows: tuple[float, float] = (0.25, 0.25)
    """bend forwards"""

    @property
    def hip_y(self) -> float:
        """The hip is as high as the longer-reaching leg holds it."""
        reach = max(
            THIGH * math.cos(thigh) + SHIN * math.cos(thigh - knee)
            for thigh, knee in zip(self.thighs, self.knees, strict=True)
        )
        return FLOOR_Y + max(reach, _LYING_M)


@dataclass(frozen=True)
class Reach:
    """How far arms are on their way, each from 0 to about 1."""

    lift: float
    """what all do before they meet"""
    hint: float
    """what gives away what comes"""
    act: float
    """the act itself"""
    shake: float
    """up and down, radians"""


def walk(x: float, facing: int, distance: float, vigour: float = 1.0) -> Pose:
    """The pose after `distance` metres of walking; `vigour` 0 stands still."""
    phase = 2 * math.pi * distance / 1.15
    swing = 0.5 * vigour * math.sin(phase)
    lifts = [0.75 * vigour * max(0.0, math.cos(phase + shift)) for shift in (0.0, math.pi)]
    return Pose(
        x,
        facing,
        lean=0.06 * vigour,
        thighs=(swing, -swing),
        knees=(lifts[0], lifts[1]),
        arms=(-0.8 * swing, 0.8 * swing),
    )


def fallen(pose: Pose, angle: float) -> Pose:
    """`pose` gone over backwards by `angle`, pi / 2 lying on the back: the feet slip forwards from under it."""
    weight = min(angle / (math.pi / 2), 1.0)
    legs = tuple(thigh * (1 - weight) + 0.93 * angle for thigh in pose.thighs)
    return replace(
        pose,
        lean=pose.lean * (1 - weight) - angle,
        thighs=(legs[0], legs[1] - 0.18 * weight),
        knees=(pose.knees[0] * (1 - weight), pose.knees[1] * (1 - weight)),
        arms=(pose.arms[0] * (1 - weight) + 1.9 * math.sin(2 * min(angle, 0.8)), pose.arms[1] - 0.5 * weight),
    )


def draw(pose: Pose, shirt: Colour, actor: int) -> list[Part]:
    """The figure's parts, the far limbs first and darker; trousers are a dark shade of the shirt."""
    trousers: Colour = (0.25 + 0.15 * shirt[0], 0.25 + 0.15 * shirt[1], 0.32 + 0.15 * shirt[2])
    hip = pose.x, pose.hip_y
    neck = _step(hip, math.pi + _turn(pose, -pose.lean), TORSO)
    shoulder = _step(hip, math.pi + _turn(pose, -pose.lean), TORSO * 0.9)
    parts = [Part("shade", pose.x, FLOOR_Y - 0.02, (0.42, 0.07), (0.1, 0.1, 0.1), alpha=0.4)]
    for side, dim in ((1, 0.72), (0, 1.0)):
        sleeve = _dim(shirt, dim)
        if side == 0:
            parts.append(_limb(hip, neck, 0.135, shirt, actor))
            head = _step(neck, math.pi + _turn(pose, -pose.lean), 0.16)
            parts.append(Part("disc", *head, (HEAD,), SKIN, actor=actor))
            hair = _step(head, math.pi + _turn(pose, -pose.lean) - 0.7 * pose.facing, 0.07)
            parts.append(Part("disc", *hair, (HEAD * 0.72,), (0.28, 0.2, 0.16), actor=actor, flat=True))
        knee = _step(hip, _turn(pose, pose.thighs[side]), THIGH)
        foot = _step(knee, _turn(pose, pose.thighs[side] - pose.knees[side]), SHIN)
        parts += [
            _limb(hip, knee, 0.085, _dim(trousers, dim), actor),
            _limb(knee, foot, 0.07, _dim(trousers, dim), actor),
        ]
        elbow = _step(shoulder, _turn(pose, pose.arms[side] + pose.lean), UPPER)
        hand = _above_floor(_step(elbow, _turn(pose, pose.arms[side] + pose.lean + pose.elbows[side]), FORE))
        parts += [
            _limb(shoulder, elbow, 0.06, sleeve, actor),
            _limb(elbow, hand, 0.052, _dim(SKIN, dim), actor),
        ]
    return parts


def _turn(pose: Pose, angle: float) -> float:
    return angle * pose.facing


def _above_floor(point: tuple[float, float]) -> tuple[float, float]:
    return point[0], max(point[1], FLOOR_Y + 0.03)


def _step(start: tuple[float, float], angle: float, length: float) -> tuple[float, float]:
    """The other end of a limb that hangs at `angle` from straight down."""
    return start[0] + length * math.sin(angle), start[1] - length * math.cos(angle)


def _limb(a: tuple[float, float], b: tuple[float, float], radius: float, colour: Colour, actor: int) -> Part:
    return Part("capsule", *a, (b[0] - a[0], b[1] - a[1], radius), colour, actor=actor)


def _dim(colour: Colour, weight: float) -> Colour:
    return colour[0] * weight, colour[1] * weight, colour[2] * weight
