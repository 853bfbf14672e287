"""The fleet's kernel against the loop and vmap, small: a ratio of one run, and the same numbers of all."""

from __future__ import annotations

from commonground.simulations.bench import local
from commonground.simulations.bench.timing import one_thread


def quiet(_: str) -> None:
    """Nobody is told."""


def test_a_ratio_has_not_fallen_to_half_and_the_numbers_are_the_same() -> None:
    """Never an absolute time: the committed reference is the ratio that the fleet has to reach."""
    with one_thread():
        found = local.measure(quick=True, say=quiet)
    seen = {row.what: row.values for row in found.rows}
    assert found.bars[0].wanted == local.BAR == 45.0
    assert seen["fleet / loop"].median >= local.BAR / 2, "the fleet's kernel has become twice as slow"
    assert seen["fleet / vmap"].median > 1
    assert "same numbers" in found.notes[0]
