"""Ray, an existing engine: started on this machine or joined elsewhere, and ended without a trace."""

from __future__ import annotations

import gc
import importlib.util
import logging
import os
import shutil
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Set
from contextlib import contextmanager, nullcontext
from typing import Any

from commonground.errors import InputError
from commonground.short_paths import LONGEST, short_folder

STARTS = 2  # tries to start Ray on a busy machine
SLOW = "timed out during startup"  # how Ray says that it was too slow
GRACE = 5.0  # seconds that Ray's processes get to end by themselves
SOCKET = "/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"  # in Ray's temporary folder
ANSWER = 20.0  # seconds in which the head of a cluster must say that it is there

# Nothing phones home, and Ray joins no cluster that happens to be named in the environment. None removes a
# variable.
ENVIRONMENT: dict[str, str | None] = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_ADDRESS": None,
    "OMP_NUM_THREADS": "1",
}
# What the processes of a cluster on other machines do not inherit from this one.
PASSED = (
    "COMMONGROUND_CACHE", "COMMONGROUND_CODE", "COMMONGROUND_DOWNLOADS", "HF_HUB_OFFLINE",
    "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_VERBOSITY", "DISABLE_TELEMETRY", "DO_NOT_TRACK",
    "TOKENIZERS_PARALLELISM",
)  # fmt: skip


@contextmanager
def ray_running(setting: str, cpus: int, address: str = "") -> Iterator[None]:
    """Have Ray for a while; call it with ENVIRONMENT set.

    Args:
        setting: what asks for Ray, for messages.
        cpus: processes to come, one CPU each.
        address: HOST:PORT of a running cluster; '' starts Ray on this machine with that many CPUs.

    Raises:
        InputError: Ray is not installed, is already running here, or the cluster cannot be used.
    """
    refuse_without_ray(setting)
    import psutil
    import ray

    if ray.is_initialized():
        raise InputError(f"Ray is already running in this process; {setting} starts and ends its own")
    before = set(psutil.Process().children(recursive=True))
    with _silence(), _room_for_sockets() if not address else nullcontext():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # theirs; Ray leaves open files to the collector
                _init(cpus, address)
                gc.collect()
            yield
        finally:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if ray.is_initialized():
                    ray.shutdown()
                _end(before)
                gc.collect()


@contextmanager
def _room_for_sockets() -> Iterator[None]:
    """Give Ray a short folder of its own where its sockets would have too long a path in the usual one.

    Raises:
        InputError: there is none.
    """
    usual = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    if len(os.fsencode(usual)) + len(SOCKET) <= LONGEST:
        yield
        return
    folder, before = short_folder(len(SOCKET)), os.environ.get("RAY_TMPDIR")
    os.environ["RAY_TMPDIR"] = str(folder)
    try:
        yield
    finally:
        os.environ.pop("RAY_TMPDIR")
        if before is not None:
            os.environ["RAY_TMPDIR"] = before
        shutil.rmtree(folder, ignore_errors=True)  # its logs and sockets; nothing of a run


@contextmanager
def _silence() -> Iterator[None]:
    """Keep Ray from printing a page for every process that is lost, which log_to_driver does not govern.

    The switch is Ray's own, of version 2.55, which Flower 1.42 pins; its debugger uses it.
    """
    from ray._private import worker

    before = getattr(worker, "_worker_logs_enabled", True)
    worker._worker_logs_enabled = False
    try:
        yield
    finally:
        worker._worker_logs_enabled = before


def refuse_without_ray(setting: str) -> None:
    """Raise `InputError` where Ray or Flower is not installed."""
    for package in ("ray", "flwr"):
        if importlib.util.find_spec(package) is None:
            raise InputError(
                f"{setting} needs the package {package!r}, which is not installed",
                hint="pip install 'commonground[simulation]', or runtime=inprocess",
            )


def refuse_silent(address: str) -> None:
    """Ask the head of a cluster whether it is there.

    `ray.init` would try for a minute and print pages, or end this process. Ray's head answers the health
    check that gRPC servers have; what answers otherwise, or not at all, is none.

    Raises:
        InputError: it does not answer within ANSWER seconds.
    """
    import grpc

    if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        return  # needs Ray's own certificates
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check", bytes, bytes)
        try:
            check(b"", timeout=ANSWER)
        except grpc.RpcError as error:
            raise InputError(
                f"fleet.address: no Ray cluster answers at {address!r}; accepted: HOST:PORT of its head",
                hint="ray status says whether one runs; fleet.address= (empty) starts Ray on this machine",
            ) from error


def _init(cpus: int, address: str) -> None:
    """Start or join Ray, and keep the meaning of SIGTERM, which Ray replaces by an abort."""
    import ray

    variables = {name: value for name, value in ENVIRONMENT.items() if value is not None}
    variables |= {name: os.environ[name] for name in PASSED if name in os.environ}
    quiet: dict[str, Any] = {
        "log_to_driver": False,  # a device's prints stay where they were printed
        "logging_level": logging.ERROR,
        "configure_logging": False,
    }
    handler = signal.getsignal(signal.SIGTERM)
    if address:
        refuse_silent(address)
        try:
            ray.init(address=address, runtime_env={"env_vars": variables}, **quiet)
        except Exception as error:  # another version of Python or Ray, no node of it here, and many more
            raise InputError(
                f"fleet.address: cannot join the cluster at {address!r}: {_first_line(error)}",
                hint="run this on a machine of that cluster, with the same versions of Python and Ray",
            ) from error
    else:
        variables["PYTHONPATH"] = os.pathsep.join(filter(None, [*sys.path, os.environ.get("PYTHONPATH")]))
        _start(
            address="local",  # and not whichever cluster was last started on this machine
            runtime_env={"env_vars": variables},
            num_cpus=cpus,
            num_gpus=0,
            include_dashboard=False,
            **quiet,
        )
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def _start(**how: Any) -> None:
    """Start Ray, again where it was too slow: it waits half a minute for its own parts, and no longer.

    Raises:
        InputError: it was too slow each time.
    """
    import psutil
    import ray

    before = set(psutil.Process().children(recursive=True))
    for left in reversed(range(STARTS)):
        try:
            ray.init(**how)
            return
        except Exception as error:  # Ray's own type here
            if SLOW not in str(error):
                raise
            if not left:
                raise InputError(
                    f"Ray did not start within its half minute, {STARTS} times: this machine is too busy",
                    hint="the same command goes on; fewer jobs beside it, or fewer processes, would help",
                ) from error
        _end(before)  # half a cluster is none
        gc.collect()


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _end(before: Set[object]) -> None:
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
