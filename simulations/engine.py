"""Run one job on a runtime: the same server app and client app, in this process or on Flower's engine.

`inprocess` runs the nodes one after the other here. `fleet` trains many people in one tensor operation,
here or on several processes. `ray` is Flower's own simulation engine with Ray
actors, each a process with one CPU; it costs seconds to start and is there to show that nothing depends
on the runtime: same seed, same bytes.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from commonground.errors import InputError
from commonground.manifest import Manifest
from commonground.server.rounds import Job, Observer, Outcome, load_outcome
from commonground.simulations.cluster import ENVIRONMENT, ray_running

if TYPE_CHECKING:
    from flwr.serverapp import Grid

Runtime = Literal["inprocess", "ray", "fleet"]
RUNTIMES: tuple[Runtime, ...] = ("inprocess", "ray", "fleet")
GRACE = 5.0  # seconds that threads of Flower's engine get to end by themselves


def run_job(
    job_path: Path,
    runtime: Runtime,
    people: int,
    workers: int = 2,
    *,
    on_round: Observer | None = None,
    device: str | None = None,
    around: Callable[[Grid], Grid] | None = None,
) -> Outcome:
    """Run a job to its end; rounds already done are not run again.

    Args:
        job_path: file written by `Job.save`.
        runtime: inprocess | ray | fleet.
        people: number of nodes.
        workers: Ray actors, one CPU each.
        on_round: told of each round in this process.
        device: kind of device (COMMONGROUND_DEVICE) for this run; None leaves the variable as it is.
        around: what stands between the server app and its grid, e.g. attackers.

    Raises:
        InputError: unknown runtime, or Ray is not installed or already running here.
    """
    from commonground.server.app import GRIDS, OBSERVERS, STOPS

    if runtime not in RUNTIMES:
        raise InputError(f"runtime is {runtime!r}; accepted: {', '.join(RUNTIMES)}")
    path = str(Path(job_path).resolve())
    job = Job.load(Path(path))
    if people != job.people:
        raise InputError(f"{people} nodes for a job of {job.people} people; one node a person is needed")
    if (done := load_outcome(job)).finished:
        return done
    stop = threading.Event()
    if on_round is not None:
        OBSERVERS[path] = on_round
    if around is not None:
        GRIDS[path] = around
    STOPS[path] = stop
    variables: dict[str, str | None] = {**ENVIRONMENT, "COMMONGROUND_JOB": path}
    if device is not None:
        variables["COMMONGROUND_DEVICE"] = device
    try:
        with environment(variables):
            if runtime == "ray":
                _on_ray(people, workers, stop)
            elif runtime == "fleet":
                _as_fleet(path, job)
            else:
                _in_process(path, people)
    finally:
        OBSERVERS.pop(path, None)
        GRIDS.pop(path, None)
        STOPS.pop(path, None)
    return load_outcome(job)


def _in_process(path: str, people: int) -> None:
    from flwr.app import Context, RecordDict

    from commonground.client.app import app as client_app
    from commonground.server.app import app as server_app
    from commonground.simulations.grid import RUN, InProcessGrid
    from commonground.strategies.quiet import quiet_flower

    with quiet_flower():
        context = Context(RUN, 0, {}, RecordDict(), {"job": path})
        server_app(InProcessGrid(client_app, people), context)


def _as_fleet(path: str, job: Job) -> None:
    from flwr.app import Context, RecordDict

    from commonground.client.app import app as client_app
    from commonground.server.app import app as server_app
    from commonground.simulations.fleet_grid import FleetGrid
    from commonground.simulations.grid import RUN
    from commonground.simulations.shards import open_trainer
    from commonground.strategies.quiet import quiet_flower

    with quiet_flower(), open_trainer() as trainer:
        context = Context(RUN, 0, {}, RecordDict(), {"job": path})
        manifest = Manifest.from_dict(job.manifest).digest
        server_app(FleetGrid(client_app, job.people, trainer, manifest), context)


def _on_ray(people: int, workers: int, stop: threading.Event) -> None:
    with ray_running("runtime=ray", workers):
        from flwr.simulation import run_simulation
        from flwr.supercore import telemetry

        from commonground.client.app import app as client_app
        from commonground.server.app import app as server_app
        from commonground.strategies.quiet import quiet_flower

        telemetry.FLWR_TELEMETRY_ENABLED = "0"  # it read the environment when it was imported: before us?
        threads = set(threading.enumerate())
        with quiet_flower(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # theirs; Flower itself deprecates run_simulation
            try:
                backend = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
                run_simulation(server_app, client_app, num_supernodes=people, backend_config=backend)
            finally:
                stop.set()  # the server app runs in a thread of its own and must not outlive an interrupt
                for thread in set(threading.enumerate()) - threads:
                    thread.join(GRACE)


@contextmanager
def environment(variables: Mapping[str, str | None]) -> Iterator[None]:
    """Set environment variables for a while (None removes one), then put back everything as it was.

    Everything, because Flower and Ray set some on the way (PYTHONPATH, PYTHONBREAKPOINT and others).
    """
    before = dict(os.environ)
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
