import math

import pytest
import torch

from jepa.poses import apply_pose_difference, euler_to_matrix, matrix_to_euler, pose_differences


def test_angles_and_matrices_are_inverse_to_one_another() -> None:
    angles = (torch.rand(200, 3, generator=torch.Generator().manual_seed(0)) - 0.5) * torch.tensor(
        [6.0, 3.0, 6.0]
    )
    matrix = euler_to_matrix(angles.double())
    assert torch.allclose(matrix @ matrix.mT, torch.eye(3).double().expand(200, 3, 3), atol=1e-12)
    assert torch.allclose(euler_to_matrix(matrix_to_euler(matrix)), matrix, atol=1e-9)


@pytest.mark.parametrize("pitch", [math.pi / 2, -math.pi / 2])
def test_at_gimbal_lock_the_rotation_is_kept(pitch) -> None:
    matrix = euler_to_matrix(torch.tensor([0.3, pitch, 0.9], dtype=torch.float64))
    assert torch.allclose(euler_to_matrix(matrix_to_euler(matrix)), matrix, atol=1e-6)


def test_differences_lead_from_pose_to_pose_and_the_opening_stays_in_range() -> None:
    poses = torch.randn(6, 7, generator=torch.Generator().manual_seed(1)) * 0.5
    poses[:, 6] = poses[:, 6].abs().clamp(max=1)
    actions = pose_differences(poses)
    assert torch.allclose(apply_pose_difference(poses[:-1], actions), poses[1:], atol=1e-5)
    actions[:, 6] = 3.0
    assert (apply_pose_difference(poses[:-1], actions)[:, 6] == 1).all()
