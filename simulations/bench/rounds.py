"""`bench round`: a whole round of the same job on each runtime, and of the fleet against its own kernel.

Everybody is in the cohort in every round, so that the first one, which is not counted, warms all of them up.
Private adapters are trained with per-pair clipping and noise in all runtimes; a release that is a sum is
noised by the server (epsilon 8). Rules that need replies one by one cannot be, so there epsilon is infinite.
"""

from __future__ import annotations

from collections.abc import Callable

from commonground.simulations.bench.machine import machine
from commonground.simulations.bench.measured import Bar, Measured, Row, paired, spread
from commonground.simulations.bench.point import CHUNK, Point, run_point

STEPS = 5
RUNTIMES = ("inprocess", "ray", "fleet")
WORDS = {"inprocess": "one by one in this process", "ray": "Flower's Ray engine", "fleet": "fleet"}
VARIANTS: dict[str, tuple[str, ...]] = {
    "summed release": (),
    "individual replies": ("strategy.name=fedmedian", "privacy.shared.epsilon=inf"),
}
OF_KERNEL = {"summed release": 0.60, "individual replies": 0.30}
OF_RAY = {"summed release": 15.0, "individual replies": 8.0}


def job(people: int, rounds: int) -> list[str]:
    """The settings of a job in which everybody takes `STEPS` steps of either kind in every round."""
    return [
        f"people={people}",
        f"cohort={people}",
        f"rounds={rounds}",
        "shared.tags=[safety,taste]",
        f"shared.steps={STEPS}",
        f"privacy.private.steps={2 * STEPS * rounds}",
        "evaluation.people=20",
        "evaluation.resamples=100",
        f"fleet.chunk={CHUNK}",
    ]


def measure(*, quick: bool, say: Callable[[str], None]) -> Measured:
    """Run the job on each runtime in turn, several times."""
    where = machine()
    people, large, rounds, repetitions = (48, 128, 2, 1) if quick else (512, 4096, 3, 3)
    rows: list[Row] = []
    bars: list[Bar] = []
    for variant, extra in VARIANTS.items():
        points: dict[str, list[Point]] = {runtime: [] for runtime in (*RUNTIMES, "large")}
        for k in range(repetitions):
            for name, found in points.items():
                size, runtime = (large, "fleet") if name == "large" else (people, name)
                say(f"{variant}: {runtime} with {size} people, {k + 1} of {repetitions}")
                words = [*job(size, rounds), *extra, f"runtime={runtime}"]
                found.append(run_point(words, kernel=runtime == "fleet"))
        rows += _rows(variant, points, people, large)
        bars += _bars(variant, points)
    return Measured(
        "round",
        where,
        {"people": people, "cohort": people, "rounds": rounds, "local steps": f"{STEPS} + {STEPS}"},
        rows,
        bars,
        [
            "the first round of each run is left out; a Ray engine of 2 actors, one thread each, the others "
            "one thread",
            "kernel: both phases' arithmetic for the same people right after each round, given their "
            "comparisons; no sealing, strategy, messages or store",
        ],
    )


def _seconds(points: list[Point]) -> list[float]:
    return [second for point in points for second in point.rounds[1:]]


def _share(points: list[Point], looked_up: bool = False) -> list[float]:
    """The kernel's time in that of its round."""
    kernel = [s for p in points for s in (p.looked_up if looked_up else p.kernel)[1:]]
    return paired(kernel, _seconds(points))


def _rows(variant: str, points: dict[str, list[Point]], people: int, large: int) -> list[Row]:
    rows = [Row(f"{variant}: {WORDS[r]}", "s a round", spread(_seconds(points[r]))) for r in RUNTIMES]
    fleet = _seconds(points["fleet"])
    for runtime in ("ray", "inprocess"):
        ratio = paired(_seconds(points[runtime]), fleet)
        rows.append(Row(f"{variant}: fleet against {WORDS[runtime]}", "x", spread(ratio)))
    for name, size in (("fleet", people), ("large", large)):
        cohort = f"cohort {size:,}"
        rows += [
            Row(f"{variant}: kernel / fleet's round, {cohort}", "x", spread(_share(points[name]))),
            Row(
                f"{variant}: the same with looking up comparisons, {cohort}",
                "x",
                spread(_share(points[name], looked_up=True)),
            ),
        ]
    return rows


def _bars(variant: str, points: dict[str, list[Point]]) -> list[Bar]:
    ray = spread(paired(_seconds(points["ray"]), _seconds(points["fleet"])))
    return [
        Bar(
            f"{variant}: kernel / fleet's round, same job",
            OF_KERNEL[variant],
            spread(_share(points["fleet"])).median,
            "x",
        ),
        Bar(f"{variant}: fleet against Flower's Ray engine", OF_RAY[variant], ray.median, "x"),
    ]
