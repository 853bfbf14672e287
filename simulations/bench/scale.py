"""`bench scale`: what a round costs as the population grows at a fixed cohort, and as the cohort grows.

Each point is a run in a process of its own. The first round is left out. In a small population the people of
a round have mostly been met before, and their comparisons are still in memory; in a large one they are drawn.
The bar is held against that; beside it stands the ratio where every round draws, which is the population's
own part.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from commonground.simulations.bench.machine import machine
from commonground.simulations.bench.measured import Bar, Measured, Row, paired, spread
from commonground.simulations.bench.point import Point, run_point

GROWTH = 1.15  # of a round, from the smallest population to the largest
MINUTES, GIGABYTES = 3.0, 2.0  # of the headline job
HEADLINE = (
    "runtime=fleet",
    "people=100000",
    "cohort=5000",
    "rounds=10",
    "shared.steps=5",
    "privacy.private.steps=10",  # lifetime: half of it at the one visit that most people get, 5 steps
)


def job(people: int, cohort: int, rounds: int) -> list[str]:
    """Settings of a run; five local steps of either kind a visit, and next to no evaluation."""
    visits = max(1.0, rounds * cohort / people)  # how often a person is drawn, see `commonground.recipe`
    return [
        "runtime=fleet",
        f"people={people}",
        f"cohort={cohort}",
        f"rounds={rounds}",
        "shared.tags=[safety,taste]",
        "shared.steps=5",
        f"privacy.private.steps={round(10 * visits)}",
        "evaluation.people=20",
        "evaluation.resamples=100",
    ]


def measure(*, quick: bool, headline: bool, say: Callable[[str], None]) -> Measured:
    """Run every point several times, in turn."""
    where = machine()
    populations = (200, 1000) if quick else (1_000, 10_000, 100_000)
    cohorts = (16, 64) if quick else (64, 512, 4096)
    fixed_cohort, fixed_people = (64, 1000) if quick else (512, 10_000)
    rounds, repetitions = (3, 1) if quick else (5, 3)
    grid = [(people, fixed_cohort) for people in populations]
    grid += [(fixed_people, cohort) for cohort in cohorts if (fixed_people, cohort) not in grid]
    ends = populations[0], populations[-1]
    points: dict[tuple[int, int], list[Point]] = {at: [] for at in grid}
    fresh: dict[int, list[Point]] = {people: [] for people in ends}
    for k in range(repetitions):
        for people, cohort in grid:
            say(f"{people:,} people, cohort {cohort:,}, {k + 1} of {repetitions}")
            points[people, cohort].append(run_point(job(people, cohort, rounds)))
        for people, found in fresh.items():
            say(f"{people:,} people, cohort {fixed_cohort:,}, everybody drawn anew, {k + 1} of {repetitions}")
            found.append(run_point(job(people, fixed_cohort, rounds), fresh=True))
    by_people = [(people, fixed_cohort) for people in populations]
    by_cohort = [(fixed_people, cohort) for cohort in cohorts]
    rows = [row for at in sorted(points) for row in _rows(at, points[at])]
    growth = spread(paired(_medians(points[by_people[-1]]), _medians(points[by_people[0]])))
    alike = spread(paired(_medians(fresh[ends[1]]), _medians(fresh[ends[0]])))
    what = f"a round, {ends[1]:,} people against {ends[0]:,}, cohort {fixed_cohort:,}"
    rows += [Row(what, "x", growth), Row(f"{what}, comparisons drawn in every round", "x", alike)]
    bars = [Bar(what, GROWTH, growth.median, "x", at_least=False)]
    if headline:
        say("the job of 100,000 people")
        one = run_point(HEADLINE)
        rows += [
            Row("100,000 people, whole job with evaluation", "min", spread([one.total / 60])),
            Row("100,000 people, peak memory", "GB", spread([one.memory / 1024])),
        ]
        bars += [
            Bar("100,000 people, whole job", MINUTES, one.total / 60, "min", at_least=False),
            Bar("100,000 people, peak memory", GIGABYTES, one.memory / 1024, "GB", at_least=False),
        ]
    return Measured(
        "scale",
        where,
        {"rounds": rounds, "local steps": "5 + 5", "shared.tags": "safety, taste"},
        rows,
        bars,
        [
            "each point is a process of its own; the first round of each is left out; a time is the median "
            "of a run's rounds",
            *([f"the job of 100,000 people: {' '.join(HEADLINE)}"] if headline else []),
        ],
        {
            "people": [_at(people, points[people, cohort]) for people, cohort in by_people],
            "cohort": [_at(cohort, points[people, cohort]) for people, cohort in by_cohort],
        },
    )


def _medians(points: Sequence[Point]) -> list[float]:
    return [statistics.median(point.rounds[1:]) for point in points]


def _rows(at: tuple[int, int], points: Sequence[Point]) -> list[Row]:
    what = f"{at[0]:,} people, cohort {at[1]:,}"
    return [
        Row(what, "s a round", spread(_medians(points))),
        Row(what, "MB peak", spread([point.memory for point in points])),
    ]


def _at(x: int, points: Sequence[Point]) -> dict[str, float]:
    seconds, memory = spread(_medians(points)), spread([point.memory for point in points])
    return {
        "x": float(x),
        "seconds": seconds.median,
        "seconds_min": seconds.min,
        "seconds_max": seconds.max,
        "memory": memory.median,
        "memory_min": memory.min,
        "memory_max": memory.max,
    }
