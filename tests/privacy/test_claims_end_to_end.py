"""The epsilon that a run prints is at least what its own noise, draws and flips cost, measured from outside.

Class of faults: a right claim and a right mechanism with the wrong wiring between them (noise scaled on the
way to a job, a claim solved at another rate than the one used, a mechanism that is never switched on).
Nothing of the accounting or of the noise is read here: see `toy_claims`. Each bound is the one most
favourable to the program that the sample allows at RARE, so that a right program fails once in a million;
what such a test can still see is said by the planted faults at the end, each of which must make it fail.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_claims as measure
import toy_device
import toy_study
from toy_claims import Measured

from commonground import randomness, recipe
from commonground.client.app import app
from commonground.client.devices import OPENERS
from commonground.manifest import TensorSpec
from commonground.privacy import private_claims
from commonground.privacy.adaptive_clip import RATE, AdaptiveClip
from commonground.server import deployed
from commonground.server.job import Job
from commonground.server.rounds import RoundEvent, run_rounds
from commonground.simulations import runner
from commonground.simulations.grid import InProcessGrid
from commonground.simulations.world import World
from commonground.strategies.central_noise import CentralNoise

BASE: dict[str, Any] = {
    "people": 30, "cohort": 6, "rounds": 30, "shared__tags": ["safety", "taste"],
    "privacy__shared__clip": 0.02, "privacy__shared__epsilon": 4.0, "privacy__private__clip": 0.002,
    "fleet__chunk": 256, "privacy__private__ridge": 0.0, "privacy__private__steps": 12,
    "strategy__average": False,
}  # fmt: skip
COMPARISON = {"privacy__unit": "comparison"}
LABEL = {"privacy__private__mechanism": "label", "privacy__private__epsilon": 1.0}
GRID: dict[str, dict[str, Any]] = {
    "central": {},
    "central, fleet": {"runtime": "fleet"},
    "central, unseen people": {"data__split": "unseen_people"},
    "comparison": COMPARISON,
    "comparison, label": {**COMPARISON, **LABEL},
    "local, label": {"privacy__trust": "local", **LABEL},
    "local, fleet": {"privacy__trust": "local", "runtime": "fleet"},
    "banded": {"privacy__shared__mechanism": "banded"},
    "banded, fleet": {"privacy__shared__mechanism": "banded", "runtime": "fleet", "cohort": 10},
    "adaptive, fleet": {
        "privacy__shared__clip_mode": "adaptive", "runtime": "fleet", "people": 120, "cohort": 50,
        "privacy__shared__clip": 10.0, "evaluation__people": 20, "rounds": 40,
    },
}  # fmt: skip

# What others stand for: each mechanism, unit and trust is measured in the suite once, on one of the runtimes.
SPARE = (
    *("central", "central, unseen people", "comparison", "local, fleet", "banded, fleet"),
    *("adaptive, fleet",),
)


class Runs:
    """A cell of the grid: without anybody under two seeds, and with a canary under the first."""

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path, changes: dict[str, Any]) -> None:
        settings = BASE | changes
        whole = settings.get("privacy__unit") != "comparison"

        def canary(world: World) -> dict[str, list[int]]:
            """Shared: all rows of one person, or one of them. Private: a taste of everybody."""
            rows = world.train_rows
            first = int(world.eligible[0])
            own = [*rows[first]["safety"], *rows[first]["taste"]] if whole else [rows[first]["safety"][0]]
            return {"shared": own, "private": [rows[p]["taste"][0] for p in world.evaluated.tolist()]}

        self.zeros = measure.run(patch, folder / "zeros", **settings)
        self.other = measure.run(patch, folder / "other", **settings | {"seed": 2})
        self.canary = measure.run(patch, folder / "canary", canary, **settings)


def check_shared(runs: Runs) -> None:
    """The shared claim against noise, canary and draws."""
    claim = runs.zeros.claims["shared"]
    epsilon, delta, rounds = measure.printed(claim), claim["delta"], len(runs.zeros.steps)
    both = (runs.zeros, runs.other)
    if claim["unit"] == "comparison":
        found = check_comparisons(runs, claim)
    elif claim["trust"] == "local":
        found = check_local(runs, claim)
    elif "banded" in claim:
        found = check_banded(runs, claim)
    else:
        zeros = [run.by_clip for run in both]
        assert all(measure.fresh_each_round(steps) for steps in zeros), "noise comes back in another round"
        one = measure.sensitivity(runs.canary.by_clip, runs.zeros.by_clip)
        noise = measure.most_deviation(np.concatenate(zeros)) / one
        if "adaptive" in claim:
            bits = np.concatenate([bit_noise(run) for run in both])
            noise = (noise**-2 + (2 * measure.most_deviation(bits)) ** -2) ** -0.5
        drawn = [measure.attendance(run) for run in both]
        rate = measure.least_rate(int(sum(one.sum() for one in drawn)), sum(one.size for one in drawn))
        assert all(measure.drawn_afresh(one, one.mean()) for one in drawn), "the same people are drawn"
        found = measure.sampled_epsilon(noise, rate, rounds, delta)
    assert found <= epsilon * 1.01, f"{found:.3f} is what it costs, {epsilon:.3f} is printed"


def check_comparisons(runs: Runs, claim: dict[str, Any]) -> float:
    """Epsilon of one comparison, among those of people who came: to be left out is no protection."""
    both = (runs.zeros, runs.other)
    zeros = np.concatenate([run.steps for run in both])
    noise = measure.most_deviation(zeros) / measure.sensitivity(runs.canary.steps, runs.zeros.steps)
    hits = tries = 0
    for run in both:
        rows, visits = run.people.train_rows, measure.visits_of(run.cohorts)
        sizes = {p: sum(len(rows[p][tag]) for tag in ("safety", "taste")) for p in rows}
        tries += sum(sizes[p] * len(v) for p, v in visits.items())
        hits += sum(len(drawn) for drawn in run.drawn)
        again = [row for drawn in run.drawn for row in drawn.tolist()]
        visited = {row: len(visits[p]) for p in visits for tag in ("safety", "taste") for row in rows[p][tag]}
        counts = np.array([again.count(row) for row in visited])
        turns, rate = np.array(list(visited.values())), len(again) / sum(visited.values())
        spread = np.square(counts - turns * rate).sum() / np.sum(turns * rate * (1 - rate))
        assert spread < 1.5, "the same comparisons are drawn in every round"
    rate = measure.least_rate(hits, tries)
    return measure.sampled_epsilon(noise, rate, len(runs.zeros.steps), claim["delta"])


def check_local(runs: Runs, claim: dict[str, Any]) -> float:
    """Epsilon of the messages of one person, each replaced by any other: twice the canary."""
    both = (runs.zeros, runs.other)
    one = [run.steps / np.sqrt(np.maximum(run.replies, 1))[:, None] for run in both]
    noise = measure.most_deviation(np.concatenate(one)) / measure.sensitivity(
        runs.canary.steps, runs.zeros.steps
    )
    most = max(len(v) for run in both for v in measure.visits_of(run.cohorts).values())
    assert most <= claim["participations"]
    return measure.sampled_epsilon(noise / 2, 1.0, claim["participations"], claim["delta"])


def check_banded(runs: Runs, claim: dict[str, Any]) -> float:
    """Epsilon of the whole run as one Gaussian, of the worst visits that the claim allows."""
    band, most = claim["banded"]["band"], claim["banded"]["participations"]
    both = (runs.zeros, runs.other)
    for visits in (v for run in both for v in measure.visits_of(run.cohorts).values()):
        assert len(visits) <= most
        assert all(later - early >= band for early, later in pairwise(visits))
    fresh = [measure.whitened(run.steps, band) for run in both]
    assert all(measure.fresh_each_round(noise) for noise in fresh)
    one = measure.sensitivity(runs.canary.steps, runs.zeros.steps)
    worst = measure.worst_visits(one, most, band, len(runs.zeros.steps))
    return measure.sampled_epsilon(
        measure.most_deviation(np.concatenate(fresh)) / worst, 1.0, 1, claim["delta"]
    )


def bit_noise(run: Measured) -> np.ndarray:
    """Noise on the count of bits of each round but the last, from the clips; all of them were within."""
    clips, replies = np.array(run.clips, np.float64), np.array(run.replies)
    cohort = run.people.claim.cohort
    return np.asarray(cohort * np.log(clips[:-1] / clips[1:]) / RATE - replies[:-1] / 2)


def check_private(runs: Runs) -> None:
    """The private claim against noise, canary, draws and flips."""
    claim, both = runs.zeros.claims["private"], (runs.zeros, runs.other)
    epsilon = claim["alone"]  # tastes are shared here, and the whole claim composes both trainings
    assert measure.printed(claim) >= epsilon
    if claim["mechanism"] == "label":
        flips = [flips_of(run) for run in both]
        turned, asked = sum(sum(f.values()) for f in flips), sum(len(f) for f in flips)
        share = measure.most_rate(turned, asked)
        assert math.log((1 - share) / share) <= epsilon if share < 0.5 else True, (
            "too few choices are flipped"
        )
        return
    canary = runs.canary
    moved = np.linalg.norm(canary.private - runs.zeros.private, axis=1)
    chosen = [int(canary.people.train_rows[p]["taste"][0]) for p in canary.people.evaluated]
    if runs.zeros.people.config.runtime == "fleet":  # rows have other numbers there
        return
    steps = runs.zeros.lifetime
    times = np.array([times_of(canary, row, steps) for row in chosen])
    one = float(np.max(moved[times > 0] / times[times > 0]))
    noise = measure.most_deviation(np.concatenate([run.private for run in both])) / math.sqrt(steps) / one
    hits = sum(int(used.sum()) for run in both for _, used, _ in run.taste)
    tries = sum(len(used) for run in both for _, used, _ in run.taste)
    rate = measure.least_rate(hits, tries)
    found = measure.sampled_epsilon(noise, rate, steps, claim["delta"])
    assert found <= epsilon * 1.01, f"{found:.3f} is what it costs, {epsilon:.3f} is printed"


def times_of(run: Measured, row: int, steps: int) -> int:
    """Steps of the private adapter that a comparison was drawn in; local models come after."""
    seen = [bool(used[rows == row][0]) for rows, used, _ in run.taste if row in rows]
    return sum(seen[:steps])


def flips_of(run: Measured) -> dict[int, bool]:
    """Comparison -> whether its choice is turned round, which must never change."""
    found: dict[int, bool] = {}
    tastes = {int(r) for p in run.people.train_rows for r in run.people.train_rows[p]["taste"]}
    for rows, _, flips in run.taste:
        for row, flip in zip(rows.tolist(), flips.tolist(), strict=True):
            if row in tastes:
                found.setdefault(row, flip)
    return found


@pytest.mark.parametrize(
    "cell", [pytest.param(name, marks=pytest.mark.night) if name in SPARE else name for name in GRID]
)
def test_what_is_printed_is_at_least_what_it_costs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cell: str
) -> None:
    runs = Runs(monkeypatch, tmp_path, GRID[cell])
    check_shared(runs)
    check_private(runs)


# -- a deployed study ----------------------------------------------------------------------------------

SECRETS = ("1", "2")  # of two studies in which every round asks somebody
DEPLOYED = ["people=12", "cohort=3", "rounds=24", "privacy.shared.epsilon=4"]


class Canary(toy_device.ToyDevice):
    """Sends zeros; the first person sends as much as the clip lets through, where SENDS says so."""

    sends = False

    def shared_update(self, round: int, shared: dict[str, np.ndarray], *given: Any, **named: Any) -> Any:
        loud = 1e6 if self.sends and self.person == 0 else 0.0
        self.target = {name: value + loud for name, value in shared.items()}
        return super().shared_update(round, shared)


def deployed_runs(
    patch: pytest.MonkeyPatch, folder: Path
) -> tuple[Any, list[np.ndarray], list[list[list[int]]]]:
    """The claim of a study as it is printed, steps of two runs without and one with a canary, and cohorts."""
    patch.setattr(toy_device, "SPECS", (TensorSpec("head.a", (measure.SIZE,)),))
    patch.setitem(OPENERS, "canary", Canary)
    patch.setenv("COMMONGROUND_DEVICE", "canary")
    steps, cohorts = [], []
    studies = [toy_study.make_study(folder / name, DEPLOYED, enrolled=0) for name in ("one", "two")]
    for study, secret in zip(studies, SECRETS, strict=True):
        (study.folder / "seed.key").write_text(secret)
    for name, number, sends in (("a", 0, False), ("b", 1, False), ("c", 0, True)):
        patch.setattr(Canary, "sends", sends)
        job = deployed.study_job(studies[number])
        seen = [np.zeros(measure.SIZE)]
        drawn: list[list[int]] = []

        def told(event: RoundEvent, seen: list[np.ndarray] = seen, drawn: list[list[int]] = drawn) -> None:
            seen.append(event.arrays["head.a"].astype(np.float64))
            drawn.append(list(event.people))

        alone = replace(job, checkpoint=str(folder / name), ledger=None, private=False, final_private=[])
        run_rounds(InProcessGrid(app, job.people), alone, told)
        steps.append(np.diff(np.stack(seen), axis=0))
        cohorts.append(drawn)
    # A round of nobody is void and releases nothing; who takes part is public where messages are counted.
    assert all(asked for drawn in cohorts for asked in drawn)
    return studies[0].terms.claim.to_dict(), steps, cohorts


def check_deployed(claim: dict[str, Any], steps: list[np.ndarray], cohorts: list[list[list[int]]]) -> None:
    """As `check_banded`; the noise is of the whole run, whoever took part."""
    band, most = claim["banded"]["band"], claim["banded"]["participations"]
    for visits in (v for drawn in cohorts for v in measure.visits_of(drawn).values()):
        assert len(visits) <= most
        assert all(later - early >= band for early, later in pairwise(visits))
    fresh = [measure.whitened(run, band) for run in steps[:2]]
    assert all(measure.fresh_each_round(noise) for noise in fresh)
    worst = measure.worst_visits(measure.sensitivity(steps[2], steps[0]), most, band, len(steps[0]))
    noise = measure.most_deviation(np.concatenate(fresh)) / worst
    found = measure.sampled_epsilon(noise, 1.0, 1, claim["delta"])
    assert found <= measure.printed(claim) * 1.01, f"{found:.3f} is what a deployed study costs"


def test_what_a_deployed_study_prints(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    check_deployed(*deployed_runs(monkeypatch, tmp_path))


# -- planted faults: each of them must be found --------------------------------------------------------

Plant = Callable[[pytest.MonkeyPatch], None]


def quieter_job(patch: pytest.MonkeyPatch) -> None:
    """30 % less noise on the way from the claim to a simulation's job."""
    real = runner._job

    def job(*given: Any) -> Path:
        path = real(*given)
        made = Job.load(path)
        quiet = {
            name: part | {"noise_multiplier": 0.7 * part["noise_multiplier"]}
            for name, part in made.mechanism.items()
        }
        replace(made, noise_multiplier=0.7 * made.noise_multiplier, mechanism=quiet).save(path)
        return path

    patch.setattr(runner, "_job", job)


def more_people(patch: pytest.MonkeyPatch) -> None:
    """Twice as many people are drawn as the claim counts on."""
    real = runner._job

    def job(*given: Any) -> Path:
        path = real(*given)
        made = Job.load(path)
        replace(made, q=2 * made.q).save(path)
        return path

    patch.setattr(runner, "_job", job)


def same_noise(patch: pytest.MonkeyPatch) -> None:
    """Every round has the noise of the first."""
    real = CentralNoise.noised
    patch.setattr(CentralNoise, "noised", lambda self, round, *given: real(self, 1, *given))


def quieter_world(patch: pytest.MonkeyPatch) -> None:
    """30 % less noise on devices, and on the way to them."""
    real = World.noise_std
    patch.setattr(World, "noise_std", property(lambda self: 0.7 * real.fget(self)))  # type: ignore[attr-defined]


def quieter_updates(patch: pytest.MonkeyPatch) -> None:
    """30 % less noise on updates beside an adapted clip."""
    real = AdaptiveClip.update_multiplier
    patch.setattr(AdaptiveClip, "update_multiplier", property(lambda self: 0.7 * real.fget(self)))  # type: ignore[attr-defined]


def half_rate(patch: pytest.MonkeyPatch) -> None:
    """The private claim is solved at half the rate that is used."""
    real = recipe.claims

    def claims(config: Any, people: int, half: Any = None) -> Any:
        shared, private = real(config, people, half)
        other = private_claims.private_claim(
            epsilon_target=config.privacy.private.epsilon, delta=private.delta, steps=private.steps,
            sampling=private.sampling / 2, cap=private.cap, clip=private.clip, people=people,
        )  # fmt: skip
        return shared, other

    patch.setattr("commonground.simulations.world.claims", claims)


def planned(**changes: Any) -> Plant:
    """Another private plan than the claim is about."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        real = recipe.make_plan

        def plan(*given: Any) -> Any:
            made = real(*given)
            own = {k: v(getattr(made.private, k)) for k, v in changes.items() if hasattr(made.private, k)}
            common = {k: v(getattr(made.shared, k)) for k, v in changes.items() if hasattr(made.shared, k)}
            return replace(made, private=replace(made.private, **own), shared=replace(made.shared, **common))

        patch.setattr("commonground.simulations.world.make_plan", plan)

    return plant


def same_comparisons(patch: pytest.MonkeyPatch) -> None:
    """The same comparisons of a person are drawn in every round."""

    def fleeting(seed: int, name: str, round: int, person: int) -> Any:
        return randomness.fleeting(seed, name, 1, person)

    patch.setattr("commonground.training.shared_phase.fleeting", fleeting)


PLANTED: dict[str, tuple[str, Plant]] = {
    "central noise short in the job": ("central, fleet", quieter_job),
    "banded noise short in the job": ("banded, fleet", quieter_job),
    "noise comes back": ("central, fleet", same_noise),
    "twice the people": ("central, fleet", more_people),
    "noise of devices short": ("local, fleet", quieter_world),
    "adapted noise short": ("adaptive, fleet", quieter_updates),
    "private claim at half the rate": ("central", half_rate),
    "private noise short": ("central", planned(noise_multiplier=lambda z: 0.6 * z)),
    "nothing is flipped": ("comparison, label", planned(flip_probability=lambda p: 0.0)),
    "too few are flipped": ("comparison, label", planned(flip_probability=lambda p: p / 3)),
    "same comparisons each round": ("comparison", same_comparisons),
    "comparisons at three times the rate": ("comparison", planned(pair_sampling=lambda q: 3 * q)),
}


@pytest.mark.night
@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fault: str) -> None:
    """The check itself can fail: with each of these, what is printed is less than what it costs."""
    cell, plant = PLANTED[fault]
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        runs = Runs(monkeypatch, tmp_path, GRID[cell])
        check_shared(runs)
        check_private(runs)


@pytest.mark.night
def test_a_fault_in_a_deployed_study_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """30 % less noise on the way from the offer to the job."""
    real = deployed.study_job

    def job(study: Any) -> Job:
        made = real(study)
        part = made.mechanism["banded"]
        quiet = {"banded": part | {"noise_multiplier": 0.7 * part["noise_multiplier"]}}
        return replace(made, noise_multiplier=0.7 * made.noise_multiplier, mechanism=quiet)

    monkeypatch.setattr(deployed, "study_job", job)
    with pytest.raises(AssertionError, match="is what a deployed study costs"):
        check_deployed(*deployed_runs(monkeypatch, tmp_path))
