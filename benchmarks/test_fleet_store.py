"""How long the private states of a round's cohort take to read and write, and its receipts to keep.

5,000 people of 100,000, with the state of the default reward model (8 directions, Adam). Both stores, so
that the ratio can be read off; the fleet's whole and in chunks of 64 people, as the batched engine asks.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from commonground.simulations.fleet_store import FleetStore
from commonground.simulations.store import PrivateStore, Store

PEOPLE, COHORT, DIMS = 100_000, 5_000, 8
NAMES = ("adapter/private.v", "total/private.v", "moments/m.private.v", "moments/v.private.v")
ROUNDS = count(1)  # time only goes forward


def drawn(round: int) -> list[int]:
    cohort: list[int] = np.random.default_rng(round).choice(PEOPLE, COHORT, replace=False).tolist()
    return cohort


def states(people: int) -> dict[str, np.ndarray]:
    draws = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {n: draws.normal(size=(people, DIMS)).astype(np.float32) for n in NAMES}
    return arrays | {"steps": np.arange(people)}


@pytest.fixture(params=["sqlite", "fleet"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[PrivateStore]:
    """With one round behind it."""
    opened: PrivateStore = (
        Store(tmp_path) if request.param == "sqlite" else FleetStore(tmp_path, PEOPLE, "run")
    )
    round = next(ROUNDS)
    opened.write_many("private", drawn(round), round, states(COHORT))
    yield opened
    opened.close()


@pytest.mark.parametrize("chunk", [64, COHORT])
def test_a_cohort_is_read_and_written(benchmark: BenchmarkFixture, store: PrivateStore, chunk: int) -> None:
    arrays, visited = states(COHORT), list[int]()

    def visit(round: int, people: list[int]) -> None:
        for first in range(0, COHORT, chunk):
            mine = people[first : first + chunk]
            store.read_many("private", mine, round)
            some = {name: value[first : first + chunk] for name, value in arrays.items()}
            store.write_many("private", mine, round, some)

    def another() -> tuple[tuple[int, list[int]], dict[str, int]]:
        visited.append(next(ROUNDS))
        return (visited[-1], drawn(visited[-1])), {}

    benchmark.pedantic(visit, setup=another, rounds=10, warmup_rounds=1)  # type: ignore[no-untyped-call]
    assert store.has_many("private", drawn(visited[-1]), visited[-1]).all()


def test_receipts_of_a_cohort(benchmark: BenchmarkFixture, store: PrivateStore) -> None:
    digests = [f"{person:064x}" for person in range(COHORT)]

    def another() -> tuple[tuple[int, list[int]], dict[str, int]]:
        round = next(ROUNDS)
        return (round, drawn(round)), {}

    def keep(round: int, people: list[int]) -> None:
        store.keep_receipts("shared", round, people, digests, 3000, ["shared.safety.u"], "0.73")

    benchmark.pedantic(keep, setup=another, rounds=10, warmup_rounds=1)  # type: ignore[no-untyped-call]
    assert store.totals("shared") == (11 * COHORT, 11 * COHORT * 3000)
