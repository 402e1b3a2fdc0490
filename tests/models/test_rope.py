"""Positions against their textbook forms, one token and one channel at a time."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa.errors import UserError
from jepa.models.rope import TokenGrid, apply_rope, axis_channels, check_ids, rope_table, sincos_table

GRID = TokenGrid(3, 4, 5)


@pytest.mark.parametrize(
    "head_dim, channels", [(64, 20), (80, 26), (88, 28), (104, 34), (32, 10), (16, 4), (4, 0)]
)
def test_channels_per_axis(head_dim, channels):
    assert axis_channels(head_dim) == channels


def textbook_angle(
    token: int, channel: int, head_dim: int, grid: TokenGrid, rotation: str, reference=None
) -> float:
    """Angle of one channel of one token, from the description of V-JEPA 2."""
    width = axis_channels(head_dim)
    if channel >= 3 * width:
        return 0.0
    time, rest = divmod(token, grid.h * grid.w)
    row, column = divmod(rest, grid.w)
    if reference is not None:
        row = row * (reference - 1) / (grid.h - 1)
        column = column * (reference - 1) / (grid.w - 1)
    position = (time, row, column)[channel // width]
    within_axis = channel % width
    pair = within_axis // 2 if rotation == "interleaved" else within_axis % (width // 2)
    return position * 10000 ** (-2 * pair / width)


@pytest.mark.parametrize("rotation", ["interleaved", "tiled"])
@pytest.mark.parametrize("reference", [None, 16])
def test_table_matches_the_textbook_form(rotation, reference):
    cos, sin = rope_table(GRID, 22, rotation, reference_grid=reference)
    assert cos.shape == sin.shape == (GRID.size, 22)
    for token in range(GRID.size):
        for channel in range(22):
            angle = textbook_angle(token, channel, 22, GRID, rotation, reference)
            assert cos[token, channel].item() == pytest.approx(math.cos(angle), abs=3e-6)
            assert sin[token, channel].item() == pytest.approx(math.sin(angle), abs=3e-6)


def test_chosen_tokens_get_their_rows_of_the_full_table():
    ids = torch.tensor([[59, 0, 17], [5, 5, 33]])
    full, part = rope_table(GRID, 32), rope_table(GRID, 32, ids=ids)
    for whole, chosen in zip(full, part, strict=True):
        assert chosen.shape == (2, 1, 3, 32)
        assert torch.equal(chosen[:, 0], whole[ids])


def test_single_row_or_column_stays_at_zero_when_stretched():
    for grid in (TokenGrid(2, 1, 3), TokenGrid(2, 3, 1)):
        cos, sin = rope_table(grid, 32, reference_grid=16)
        assert cos.isfinite().all()
        assert sin.isfinite().all()


def turned(vector: torch.Tensor, token: int, rotation: str) -> torch.Tensor:
    cos, sin = rope_table(TokenGrid(64, 1, 1), vector.numel(), rotation)
    return apply_rope(vector, (cos[token], sin[token]))


@settings(deadline=None, max_examples=30)
@given(a=st.integers(0, 20), b=st.integers(0, 20), shift=st.integers(1, 40), seed=st.integers(0, 99))
def test_interleaved_is_a_rotation_and_relative(a, b, shift, seed):
    generator = torch.Generator().manual_seed(seed)
    q, k = torch.randn(2, 24, generator=generator)
    assert turned(q, a, "interleaved").norm().item() == pytest.approx(q.norm().item(), rel=1e-5)
    here = turned(q, a, "interleaved") @ turned(k, b, "interleaved")
    there = turned(q, a + shift, "interleaved") @ turned(k, b + shift, "interleaved")
    assert there.item() == pytest.approx(here.item(), abs=1e-4)


def test_tiled_is_not_a_rotation():
    """The published flavour, kept as it is: norms change, products depend on absolute positions."""
    q, k = torch.randn(2, 24, generator=torch.Generator().manual_seed(0))
    norms = [turned(q, token, "tiled").norm().item() for token in range(10)]
    assert max(norms) - min(norms) > 0.1
    here = turned(q, 3, "tiled") @ turned(k, 1, "tiled")
    there = turned(q, 13, "tiled") @ turned(k, 11, "tiled")
    assert abs(here - there) > 1e-2


def test_rotation_matches_complex_multiplication():
    """A pair (u, v) turned by an angle is (u + iv) e^(i angle); the last two channels of 20 are not turned."""
    x = torch.randn(GRID.size, 20, generator=torch.Generator().manual_seed(0))
    cos, sin = rope_table(GRID, 20)
    expected = torch.view_as_real(
        torch.view_as_complex(x.view(-1, 10, 2)) * torch.complex(cos[:, ::2], sin[:, ::2])
    ).flatten(1)
    result = apply_rope(x, (cos, sin))
    assert torch.allclose(result, expected, atol=1e-6)
    assert torch.equal(result[:, 18:], x[:, 18:])


def test_table_is_formed_in_float32_and_cast_at_the_end():
    cos, sin = rope_table(TokenGrid(64, 1, 1), 24)
    assert cos.dtype == torch.float32
    x = torch.randn(64, 24, generator=torch.Generator().manual_seed(0))
    result = apply_rope(x.bfloat16(), (cos, sin))
    assert result.dtype == torch.bfloat16
    # At position 63 angles formed in bfloat16 would be off by about a radian.
    assert (result.float() - apply_rope(x, (cos, sin))).abs().max() < 0.05


def test_sincos_matches_the_textbook_form():
    dim, grid = 20, TokenGrid(2, 3, 4)
    table = sincos_table(grid, dim, grid)
    pairs = math.ceil(dim / 6)
    for token in range(grid.size):
        time, rest = divmod(token, 12)
        row, column = divmod(rest, 4)
        expected = []
        for position in (time, row, column):
            angles = [position * 10000 ** (-pair / pairs) for pair in range(pairs)]
            expected += [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]
        assert table[token].tolist() == pytest.approx(expected[:dim], abs=1e-6)


def test_sincos_of_another_grid_is_interpolated():
    trained = TokenGrid(4, 6, 6)
    table = sincos_table(TokenGrid(4, 12, 6), 24, trained).view(4, 12, 6, 24)
    whole = sincos_table(trained, 24, trained).view(4, 6, 6, 24)
    # Doubling an axis puts new row 2r + 1 a quarter of the way from row r to row r + 1.
    assert torch.allclose(table[:, 3], 0.75 * whole[:, 1] + 0.25 * whole[:, 2], atol=1e-6)


@pytest.mark.parametrize(
    "ids", [torch.zeros(2, 3, dtype=torch.int32), torch.zeros(3, dtype=torch.int64), torch.zeros(1, 3).long()]
)
def test_malformed_ids_are_refused(ids):
    with pytest.raises(UserError, match="keep"):
        check_ids("keep", ids, 2)
