"""One run in a process of its own, so that its memory and its libraries are its own.

`python -m commonground.simulations.bench.point JSON` runs the main job of some settings in a temporary
folder and prints one line of JSON. With `kernel` the arithmetic alone is timed after every round, on the
people of that round: both then have the same machine at the same time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from commonground.errors import CommonGroundError
from commonground.simulations.bench.machine import peak_memory_mb
from commonground.simulations.bench.timing import one_thread

CHUNK = 64


@dataclass
class Point:
    """What a run took.

    Attributes:
        rounds: wall seconds of each round of the shared adapter.
        people: drawn in each.
        kernel: seconds of both phases' arithmetic alone, after each round; empty where nobody asked.
        looked_up: the same with the comparisons looked up, which the kernel needs first.
        total: wall seconds of the whole run, evaluation and page included.
        memory: peak of this process, MB.
    """

    rounds: list[float] = field(default_factory=list)
    people: list[int] = field(default_factory=list)
    kernel: list[float] = field(default_factory=list)
    looked_up: list[float] = field(default_factory=list)
    total: float = 0.0
    memory: float = 0.0


def run_point(settings: Sequence[str], *, kernel: bool = False, fresh: bool = False) -> Point:
    """Run in another process.

    Args:
        settings: `key=value` words.
        kernel: time the arithmetic alone as well.
        fresh: forget planted comparisons after each round, so that every round draws those of its cohort.

    Raises:
        CommonGroundError: it failed; with the last line of what it said.
    """
    task = json.dumps({"settings": list(settings), "kernel": kernel, "fresh": fresh})
    quiet = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [sys.executable, "-m", "commonground.simulations.bench.point", task],
        env=os.environ | quiet,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
        raise CommonGroundError(f"a run of the benchmark ended with {done.returncode}: {last}")
    return Point(**json.loads(done.stdout.strip().splitlines()[-1]))


class _Clock:
    """Progress of a run: keeps the rounds' times, and does between them what was asked for."""

    def __init__(self, run: Path, *, kernel: bool, fresh: bool) -> None:
        self.point, self._run, self._kernel, self._fresh = Point(), str(run.resolve()), kernel, fresh

    def stage(self, name: str, done: int, total: int) -> None:
        """Nothing."""

    def notice(self, words: str) -> None:
        """Nothing."""

    def round(self, event: dict[str, Any], total: int) -> None:
        """After a round, outside of its time."""
        if event["arm"] != "shared":
            return
        self.point.rounds.append(event["seconds"])
        self.point.people.append(event["people"])
        if self._kernel:
            kernel, looked_up = _kernel(self._run, event["round"])
            self.point.kernel.append(kernel)
            self.point.looked_up.append(looked_up)
        if self._fresh:
            _forget(self._run)


def _forget(run: str) -> None:
    from commonground.simulations.crowd import PlantedCrowd
    from commonground.simulations.world import world_of

    crowd = world_of(run).crowd
    if isinstance(crowd, PlantedCrowd):
        crowd._kept.clear()  # nobody but a benchmark wants this


def _kernel(run: str, round: int) -> tuple[float, float]:
    """Seconds of both phases for everybody: no sealing, strategy, messages or store."""
    from commonground.simulations.world import world_of
    from commonground.training.private_phase import first_private, private_phase
    from commonground.training.update import shared_phase, take

    world = world_of(run)
    model, plan = world.models["shared"], world.plans["shared"]
    shared = model.initial_shared()
    seconds = looked_up = 0.0
    for chunk in _chunks(world.people):
        began = time.perf_counter()
        here, people = world.crowd.visit(model, chunk, sorted(plan.shared.tags))
        shared_began = time.perf_counter()
        shared_phase(here, people, shared, plan.shared, seed=plan.seed, round=round)
        seconds += time.perf_counter() - shared_began
        here, people = world.crowd.visit(model, chunk, plan.private.tags)
        state = first_private(model, len(chunk), plan.private)
        private_began, visits = time.perf_counter(), plan.private.steps_per_visit
        frozen = take(shared, 1)
        private_phase(here, people, frozen, state, plan.private, seed=plan.seed, steps=visits)
        seconds += time.perf_counter() - private_began
        looked_up += time.perf_counter() - began
    return seconds, looked_up


def _chunks(people: int) -> Iterator[list[int]]:
    for first in range(0, people, CHUNK):
        yield list(range(first, min(first + CHUNK, people)))


def _main(task: str) -> None:
    began = time.perf_counter()
    from commonground.simulations.settings import read_settings

    asked = json.loads(task)
    settings = read_settings(None, asked["settings"])
    from commonground.simulations.runner import simulate

    with tempfile.TemporaryDirectory(prefix="commonground-bench-") as folder, one_thread():
        out = Path(folder) / "run"
        clock = _Clock(out, kernel=asked["kernel"], fresh=asked["fresh"])
        simulate(settings, out, clock)
    clock.point.total = time.perf_counter() - began
    clock.point.memory = peak_memory_mb()
    print(json.dumps(asdict(clock.point)))


if __name__ == "__main__":
    _main(sys.argv[1])
