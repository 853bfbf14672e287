"""What a run really did: noise, sensitivity, draws and flips, measured from outside of the privacy code.

A run is made three times: as it is with every gradient replaced by zero (twice, under two seeds), and with
the gradients of one protected unit alone, the canary. What is released by the first is noise; what the second
releases more is the most that one unit can do, since its clip is far below any gradient. Everything is
compared in units of each other, so no clip, denominator, rate or step size of the code under test is read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_world
from scipy.stats import beta, chi2

from commonground.privacy.banded import strategy_matrix
from commonground.server.rounds import RoundEvent
from commonground.simulations import runner
from commonground.simulations.devices import STREAM
from commonground.simulations.engine import run_job
from commonground.simulations.fleet import states_before
from commonground.simulations.stores import open_store
from commonground.simulations.world import World, build_world
from commonground.training import features
from commonground.training.reward import RewardModel

RARE = 1e-6  # how seldom a right program may fail one of the tests below by chance
SIZE = 48  # numbers of a shared adapter's block


@dataclass
class Measured:
    """One run.

    Attributes:
        claims: `privacy` of its result.
        steps: (T, d) what each round released more than the one before.
        cohorts: the people of each round.
        replies: updates of each round.
        clips: the clip of each round, where it is adapted.
        drawn: rows of the comparisons of each person-level or comparison-level shared gradient.
        taste: for each private gradient, rows, whether drawn, whether turned round.
        private: (P, dims) private adapters when their steps are spent, before any averaging.
        lifetime: steps of them.
        world: of the run.
    """

    claims: dict[str, Any] = field(default_factory=dict)
    steps: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    cohorts: list[list[int]] = field(default_factory=list)
    replies: list[int] = field(default_factory=list)
    clips: list[float | None] = field(default_factory=list)
    drawn: list[np.ndarray] = field(default_factory=list)
    taste: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=list)
    private: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    lifetime: int = 0
    world: World | None = None

    @property
    def by_clip(self) -> np.ndarray:
        """`steps`, each in units of its round's clip where that is adapted."""
        return np.asarray(self.steps / np.array([clip or 1.0 for clip in self.clips])[:, None])

    @property
    def people(self) -> World:
        """The run's world."""
        assert self.world is not None
        return self.world


def run(
    monkeypatch: pytest.MonkeyPatch,
    out: Path,
    canary: Callable[[World], Mapping[str, Sequence[int]]] | None = None,
    **changes: Any,
) -> Measured:
    """`simulate` as it is, up to what it measures afterwards.

    Args:
        monkeypatch: puts the gradients away.
        out: the run's folder.
        canary: rows of the comparisons whose gradients count, of each part; None counts nobody's.
        changes: of `toy_world.tiny_config`.
    """
    found = Measured()
    allowed: dict[str, list[int]] | None = None
    whole = RewardModel.gradient_sums
    first: list[np.ndarray] = []

    def spied(
        model: RewardModel, batch: Any, trained: Any, loss: Any, settings: Any, weights: Any, clip: Any = None
    ) -> Any:
        nonlocal allowed
        rows, mask = batch.rows.index.numpy(), batch.rows.mask.numpy() > 0
        used = (weights.numpy() > 0) & mask
        if batch.part == "private":
            for line in range(len(rows)):
                here = mask[line]
                found.taste.append(
                    (rows[line][here], used[line][here], batch.rows.flip.numpy()[line][here] > 0)
                )
        else:
            found.drawn.extend(rows[line][used[line]] for line in range(len(rows)))
        keep = np.zeros(rows.shape, np.float32)
        if canary is not None and changes.get("runtime") == "fleet":
            # Rows are numbered within a cohort there: the canary is whoever comes first in it.
            keep[:1] = batch.part == "shared"
        elif canary is not None:
            if allowed is None:
                allowed = {part: list(mine) for part, mine in canary(WORLDS[-1]).items()}
            keep = np.isin(rows, allowed[batch.part]).astype(np.float32)
        return whole(model, batch, trained, loss, settings, weights * weights.new_tensor(keep), clip)

    def watched(path: Path, *given: Any, on_round: Any, **named: Any) -> Any:
        def told(event: RoundEvent) -> None:
            if event.arm == "shared":
                first.append(np.concatenate([v.ravel() for v in event.arrays.values()]).astype(np.float64))
                found.cohorts.append(list(event.people))
                found.replies.append(event.replies)
                found.clips.append(event.clip)
            on_round(event)

        return run_job(path, *given, on_round=told, **named)

    def measured(world: World, trained: Any, folder: Any, began: float, shown: Any = None) -> dict[str, Any]:
        from commonground.simulations.result import _privacy

        found.world = world
        store = open_store(world.config, folder.state, world.people)
        try:
            state = states_before(store, world, STREAM, world.evaluated.tolist(), world.config.rounds + 2)
        finally:
            store.close()
        found.private = state.adapter["private.v"].double().numpy()
        found.lifetime = int(state.steps.max())
        return {"privacy": _privacy(world, trained, folder)}

    def built(*given: Any, **named: Any) -> World:
        WORLDS.append(build_world(*given, **named))
        return WORLDS[-1]

    with monkeypatch.context() as patch:
        patch.setattr(toy_world, "SIZE", SIZE)
        patch.setattr(features, "Encoder", toy_world.HashEncoder)
        patch.setattr(RewardModel, "gradient_sums", spied)
        patch.setattr(runner, "run_job", watched)
        patch.setattr(runner, "build_world", built)
        patch.setattr(runner, "assemble", measured)
        patch.setattr(runner, "build_page", lambda parts, path: path.write_text("not built"))
        found.claims = runner.simulate(toy_world.tiny_config(**changes), out)["privacy"]
    start = np.concatenate([v.ravel() for v in found.people.first_arrays("shared").values()])
    found.steps = np.diff(np.stack([start.astype(np.float64), *first]), axis=0)
    return found


WORLDS: list[World] = []  # of this process, the newest last


# -- what the measured numbers mean ---------------------------------------------------------------------


def printed(claim: dict[str, Any]) -> float:
    """The epsilon of a claim, of the nominal kind where the people are few."""
    value = claim["epsilon_if_many"] if claim["epsilon"] is None else claim["epsilon"]
    return float(value)


def most_deviation(samples: np.ndarray) -> float:
    """The largest deviation of a centred normal that such samples may come from, but for one case in 1/RARE.

    Chi-square: sum x^2 / sigma^2 is below its RARE quantile once in so many cases.
    """
    flat = samples.ravel()
    return float(np.sqrt(np.square(flat).sum() / chi2.ppf(RARE, len(flat))))


def least_rate(hits: int, tries: int) -> float:
    """The smallest probability that so many hits may come from (Clopper and Pearson, one side, RARE)."""
    return float(beta.ppf(RARE, hits, tries - hits + 1)) if hits else 0.0


def most_rate(hits: int, tries: int) -> float:
    """The largest one."""
    return float(beta.ppf(1 - RARE, hits + 1, tries - hits)) if hits < tries else 1.0


def fresh_each_round(noise: np.ndarray) -> bool:
    """Whether the rows of (T, d) look independent: their sum has the deviation that T of them should have."""
    rounds, size = noise.shape
    total = np.square(noise.sum(0)).sum() / (rounds * np.square(noise).mean())
    return bool(chi2.ppf(RARE, size) < total < chi2.ppf(1 - RARE, size))


def drawn_afresh(hits: np.ndarray, rate: float) -> bool:
    """Whether the 0 and 1 of (units, rounds) look independent between rounds and between units.

    Counts of rows and of columns are binomial then, and their dispersion about chi-square.
    """
    fine = True
    for counts, tries in ((hits.sum(1), hits.shape[1]), (hits.sum(0), hits.shape[0])):
        spread = np.square(counts - tries * rate).sum() / (tries * rate * (1 - rate))
        fine &= bool(spread < chi2.ppf(1 - RARE, len(counts)) * 1.3)
    return fine


def sampled_epsilon(noise: float, rate: float, steps: int, delta: float) -> float:
    """Epsilon of T sampled Gaussians by dp_accounting's connect-the-dots."""
    from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism

    if noise < 0.05:
        return float("inf")
    one = from_gaussian_mechanism(noise, sampling_prob=rate, value_discretization_interval=1e-3)
    return float(one.self_compose(steps).get_epsilon_for_delta(delta))


def sensitivity(steps: np.ndarray, zeros: np.ndarray) -> float:
    """Norm of the largest difference that the canary made in one round."""
    most = float(np.linalg.norm(steps - zeros, axis=1).max())
    assert most > 0, "the canary was never drawn"
    return most


def whitened(steps: np.ndarray, band: int) -> np.ndarray:
    """C times what was released: fresh noise again, if it was banded by this band."""
    return np.asarray(strategy_matrix(band, len(steps)) @ steps)


def worst_visits(norm: float, visits: int, band: int, rounds: int) -> float:
    """Most that `visits` visits of this norm, `band` apart, move C times the releases."""
    matrix = strategy_matrix(band, rounds)
    return norm * float(np.sqrt(visits * np.square(matrix[:, 0]).sum()))


def attendance(run: Measured) -> np.ndarray:
    """(N, T) of 0 and 1: which of those who may be drawn was in which round."""
    hits = np.zeros((len(run.people.eligible), len(run.cohorts)))
    for round, cohort in enumerate(run.cohorts):
        hits[np.searchsorted(run.people.eligible, cohort), round] = 1
    return hits


def visits_of(cohorts: Sequence[Sequence[int]]) -> dict[int, list[int]]:
    """Rounds of each person."""
    found: dict[int, list[int]] = defaultdict(list)
    for round, cohort in enumerate(cohorts, 1):
        for person in cohort:
            found[person].append(round)
    return found
