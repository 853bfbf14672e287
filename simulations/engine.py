"""Run one job on a runtime: the same server app and client app, in this process or on Flower's engine.

`inprocess` runs the nodes one after the other here. `fleet` trains many people in one tensor operation,
here or on several processes. `ray` is Flower's own simulation engine with Ray
actors, each a process with one CPU; it costs seconds to start and is there to show that nothing depends
on the runtime: same seed, same bytes.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from commonground.errors import InputError
from commonground.manifest import Manifest
from commonground.server.rounds import Job, Observer, Outcome, load_outcome

Runtime = Literal["inprocess", "ray", "fleet"]
RUNTIMES: tuple[Runtime, ...] = ("inprocess", "ray", "fleet")
GRACE = 5.0  # seconds that Ray's processes get to end by themselves

# Nothing phones home, and Ray joins no cluster that happens to be named in the environment: its actors
# would not inherit ours. None removes a variable.
_ENVIRONMENT: dict[str, str | None] = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_ADDRESS": None,
    "OMP_NUM_THREADS": "1",
}


def run_job(
    job_path: Path,
    runtime: Runtime,
    people: int,
    workers: int = 2,
    *,
    on_round: Observer | None = None,
    device: str | None = None,
) -> Outcome:
    """Run a job to its end; rounds already done are not run again.

    Args:
        job_path: file written by `Job.save`.
        runtime: inprocess | ray | fleet.
        people: number of nodes.
        workers: Ray actors, one CPU each.
        on_round: told of each round in this process.
        device: kind of device (COMMONGROUND_DEVICE) for this run; None leaves the variable as it is.

    Raises:
        InputError: unknown runtime, or Ray is not installed or already running here.
    """
    from commonground.server.app import OBSERVERS, STOPS

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
    STOPS[path] = stop
    variables: dict[str, str | None] = {**_ENVIRONMENT, "COMMONGROUND_JOB": path}
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
    for package in ("ray", "flwr"):
        if importlib.util.find_spec(package) is None:
            raise InputError(
                f"runtime=ray needs the package {package!r}, which is not installed",
                hint="pip install 'commonground[simulation]', or runtime=inprocess",
            )
    import psutil
    import ray
    from flwr.simulation import run_simulation
    from flwr.supercore import telemetry

    from commonground.client.app import app as client_app
    from commonground.server.app import app as server_app
    from commonground.strategies.quiet import quiet_flower

    if ray.is_initialized():
        raise InputError("Ray is already running in this process; runtime=ray starts and ends its own")
    telemetry.FLWR_TELEMETRY_ENABLED = "0"  # it read the environment when it was imported, maybe before us
    before, threads = set(psutil.Process().children(recursive=True)), set(threading.enumerate())
    try:
        with quiet_flower(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # theirs; Flower itself deprecates run_simulation
            try:
                _start_ray(workers)
                backend = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
                run_simulation(server_app, client_app, num_supernodes=people, backend_config=backend)
            finally:
                stop.set()  # the server app runs in a thread of its own and must not outlive an interrupt
                for thread in set(threading.enumerate()) - threads:
                    thread.join(GRACE)
    finally:
        if ray.is_initialized():
            ray.shutdown()
        _end_ray(before)


def _start_ray(workers: int) -> None:
    """Start Ray as Flower would, and keep the meaning of SIGTERM, which Ray replaces by an abort."""
    import ray

    path = os.pathsep.join(filter(None, [*sys.path, os.environ.get("PYTHONPATH")]))
    handler = signal.getsignal(signal.SIGTERM)
    ray.init(
        runtime_env={"env_vars": {"PYTHONPATH": path}},
        num_cpus=workers,
        num_gpus=0,
        include_dashboard=False,
        log_to_driver=False,  # a device's prints stay where they were printed
        logging_level=logging.ERROR,
        configure_logging=False,
    )
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def _end_ray(before: Set[object]) -> None:
    """Wait for the Ray processes started since `before`, then end those that are left, each by its id."""
    import psutil

    started = [process for process in psutil.Process().children(recursive=True) if process not in before]
    _, left = psutil.wait_procs([process for process in started if _is_ray(process)], timeout=GRACE)
    for process in left:
        process.terminate()
    _, left = psutil.wait_procs(left, timeout=GRACE)
    for process in left:
        process.kill()


def _is_ray(process: Any) -> bool:
    import psutil

    try:
        return any("ray" in part for part in process.cmdline())
    except psutil.Error:  # it has just ended
        return False


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
