"""`bench local`: client-steps a second of three ways to take the same step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from commonground.errors import CommonGroundError
from commonground.simulations.bench.client_step import (
    CHUNK,
    PAIRS,
    SIZE,
    STEPS,
    Step,
    by_fleet,
    by_loop,
    by_vmap,
    difference,
    moved,
    step_task,
)
from commonground.simulations.bench.machine import machine
from commonground.simulations.bench.measured import Bar, Measured, Row, paired, spread
from commonground.simulations.bench.timing import Work, alternate
from commonground.training.model import Tensors

BAR = 45.0  # fleet against the loop; a test of ours holds half of it
SAME = 1e-5
LOOP, VMAP, FLEET = "per-pair autograd loop", "torch.func vmap", "fleet kernel"


def measure(*, quick: bool, say: Callable[[str], None]) -> Measured:
    """Check that all three give the same numbers, then time them in turn.

    Raises:
        CommonGroundError: they do not.
    """
    where = machine()
    people, checked, repetitions = (128, 8, 5) if quick else (256, CHUNK, 15)
    task = step_task(people)
    say("checking that the loop, vmap and the fleet give the same numbers")
    apart, change = agreement(task, range(checked))
    if not apart < SAME:
        raise CommonGroundError(
            f"the ways to take a step differ by {apart:.2g}; at most {SAME:g} is accepted"
        )
    say("timing")
    ways: dict[str, tuple[Callable[[Step, Sequence[int]], Tensors], int]] = {
        LOOP: (by_loop, 4 if quick else 8),
        VMAP: (by_vmap, CHUNK),
        FLEET: (by_fleet, people),
    }

    def worker(way: Callable[[Step, Sequence[int]], Tensors], count: int) -> Work:
        def work() -> float:
            way(task, range(count))
            return count * STEPS

        return work

    rates = alternate({name: worker(*each) for name, each in ways.items()}, repetitions)
    ratios = {
        "fleet / loop": spread(paired(rates[FLEET], rates[LOOP])),
        "fleet / vmap": spread(paired(rates[FLEET], rates[VMAP])),
        "vmap / loop": spread(paired(rates[VMAP], rates[LOOP])),
    }
    rows = [Row(name, "client-steps/s", spread(values)) for name, values in rates.items()]
    return Measured(
        "local",
        where,
        {"parameters": SIZE, "pairs": PAIRS, "steps a visit": STEPS, "chunk": CHUNK},
        rows + [Row(name, "x", values) for name, values in ratios.items()],
        [Bar("fleet kernel against the per-pair autograd loop", BAR, ratios["fleet / loop"].median, "x")],
        [
            f"same numbers: after {STEPS} steps of {checked} people the three differ by at most {apart:.1e}, "
            f"while numbers moved by up to {change:.2f}"
        ],
    )


def agreement(task: Step, people: Sequence[int]) -> tuple[float, float]:
    """Largest difference of vmap and fleet from the loop, and the largest change that there was."""
    plain = by_loop(task, people)
    apart = max(difference(way(task, people), plain) for way in (by_vmap, by_fleet))
    return apart, moved(task, plain)
