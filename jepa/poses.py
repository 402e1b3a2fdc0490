"""Poses of a gripper, [x, y, z, three Euler angles, opening]: differences as actions, and actions applied to poses.

Angles are extrinsic x, y, z in radians, R = Rz Ry Rx, as in DROID and V-JEPA 2-AC. All on the device of the tensors.
"""

from __future__ import annotations

import torch
from torch import Tensor

POSE_DIM = 7


def euler_to_matrix(angles: Tensor) -> Tensor:
    """Angles [..., 3] to rotation matrices [..., 3, 3].

    Example:
        >>> euler_to_matrix(torch.zeros(3)).equal(torch.eye(3))
        True
    """
    (cx, cy, cz), (sx, sy, sz) = angles.cos().unbind(-1), angles.sin().unbind(-1)
    rows = [
        cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx,
        sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx,
        -sy, cy * sx, cy * cx,
    ]  # fmt: skip
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def matrix_to_euler(matrix: Tensor) -> Tensor:
    """Rotation matrices [..., 3, 3] to angles [..., 3]; at gimbal lock the third angle is 0.

    Example:
        >>> angles = torch.tensor([0.1, -0.2, 0.3])
        >>> torch.allclose(matrix_to_euler(euler_to_matrix(angles)), angles)
        True
    """
    flat = matrix[..., 2, 0].abs() > 1 - 1e-7
    y = (-matrix[..., 2, 0]).clamp(-1, 1).asin()
    x = torch.atan2(matrix[..., 2, 1], matrix[..., 2, 2])
    z = torch.atan2(matrix[..., 1, 0], matrix[..., 0, 0])
    locked = torch.atan2(-matrix[..., 1, 2], matrix[..., 1, 1])
    return torch.stack([torch.where(flat, locked, x), y, torch.where(flat, torch.zeros_like(z), z)], dim=-1)


def pose_differences(poses: Tensor) -> Tensor:
    """Actions [..., T - 1, 7] that lead from each pose of [..., T, 7] to the next.

    Translation and opening are subtracted, the rotation is R_next R^T (facebookresearch/vjepa2,
    app/vjepa_droid/droid.py).
    """
    rotation = euler_to_matrix(poses[..., 3:6])
    turn = matrix_to_euler(rotation[..., 1:, :, :] @ rotation[..., :-1, :, :].mT)
    change = poses[..., 1:, :] - poses[..., :-1, :]
    return torch.cat([change[..., :3], turn, change[..., 6:]], dim=-1)


def apply_pose_difference(pose: Tensor, action: Tensor) -> Tensor:
    """The pose [..., 7] after an action [..., 7]; the opening stays between 0 and 1.

    Example:
        >>> poses = torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.2], [0.2, 0.1, 0.3, 0.5, 0.4, 0.6, 0.9]])
        >>> torch.allclose(apply_pose_difference(poses[0], pose_differences(poses)[0]), poses[1], atol=1e-6)
        True
    """
    turned = euler_to_matrix(action[..., 3:6]) @ euler_to_matrix(pose[..., 3:6])
    opening = (pose[..., 6:] + action[..., 6:]).clamp(0, 1)
    return torch.cat([pose[..., :3] + action[..., :3], matrix_to_euler(turned), opening], dim=-1)
