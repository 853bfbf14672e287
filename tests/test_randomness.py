"""Streams by name: nothing but the name and the seed decides what is drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from commonground.randomness import generator, normal


def test_known_values_are_pinned() -> None:
    """Another value here means that no run of before can be repeated."""
    assert generator(1, "noise", "shared", 3).integers(0, 2**32, 3).tolist() == [
        4222214055,
        3276305158,
        3657140642,
    ]
    assert normal((2,), 1, "noise", 0).tolist() == pytest.approx([-0.11075741, 0.7056703], abs=1e-7)


def test_the_same_name_gives_the_same_stream() -> None:
    left, right = generator(5, "a", 1), generator(5, "a", 1)
    assert left.random(20).tolist() == right.random(20).tolist()
    assert torch.equal(normal((3, 2), 5, "a", 1), normal((3, 2), 5, "a", 1))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((1, "a", "b"), (1, "b", "a")),
        ((1, "a", 1), (1, "a", "1")),
        ((1, "ab"), (1, "a", "b")),
        ((1, "a", "bc"), (1, "ab", "c")),
        ((1, "a"), (2, "a")),
        ((1, "a"), (1, "a", "")),
        ((1, "a", 1, 23), (1, "a", 12, 3)),
        ((1, 2), (12,)),
        ((1, "a"), (1,)),
    ],
)
def test_different_names_are_different_streams(
    one: tuple[int, *tuple[str | int, ...]], other: tuple[int, *tuple[str | int, ...]]
) -> None:
    assert generator(*one).random(4).tolist() != generator(*other).random(4).tolist()


def test_streams_of_neighbours_are_uncorrelated_normals() -> None:
    draws = np.stack([normal((4000,), 0, "person", p).double().numpy() for p in range(6)])
    correlations = np.corrcoef(draws) - np.eye(6)
    assert np.abs(correlations).max() < 4.5 / np.sqrt(4000)
    assert np.abs(draws.mean(1)).max() < 4.5 / np.sqrt(4000)
    assert draws.std() == pytest.approx(1, abs=0.02)


def test_drawing_touches_no_global_state() -> None:
    torch.manual_seed(3)
    before, state = torch.get_rng_state(), repr(np.random.get_state(legacy=False))  # noqa: NPY002
    generator(1, "x").random(10)
    normal((10,), 1, "x")
    assert torch.equal(before, torch.get_rng_state())
    assert repr(np.random.get_state(legacy=False)) == state  # noqa: NPY002


def test_normals_are_float32_of_the_shape_asked_for() -> None:
    value = normal((2, 0, 3), 1, "empty")
    assert value.dtype == torch.float32
    assert tuple(value.shape) == (2, 0, 3)
    assert normal((), 1, "one").shape == ()
