"""The process that runs a study's rounds: `python -m commonground.server.executor DIR PORT`.

Flower's own executor unpacks the bundle of a run and puts it first on the path, so whoever submits a run
chooses the code. This one unpacks nothing: it takes runs of exactly the study's own bundle, by its digest,
and runs the installed code on the study's folder. Every other run is refused and counted.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path

import httpx
from filelock import FileLock
from flwr.common.constant import SubStatus
from flwr.common.serde import run_from_proto
from flwr.proto.runtime_pb2 import AcquireTaskRequest, PullTaskInputRequest, PushTaskOutputRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor, SuperExecAuthHttpInterceptor
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity

from commonground.console import stay_quiet
from commonground.errors import CommonGroundError, InterruptedRunError
from commonground.server.bundle import build_bundle
from commonground.server.careful_grid import CarefulGrid
from commonground.server.deployed import run_study
from commonground.server.limits import limits
from commonground.server.places import refuse_node
from commonground.server.state import TROUBLE, Study
from commonground.server.superlink import HOST, SECRET, root_certificates
from commonground.terminal import log_to_stderr

POLL = 0.5  # seconds between looks for a task
PATIENCE = 3.0  # seconds to end by itself
ACQUIRE = "/flwr.proto.Runtime/AcquireTask"
FOREIGN = "run of another bundle"

log = logging.getLogger("commonground.server")


class Executor:
    """Takes tasks of one study from its SuperLink.

    Args:
        study: its folder.
        port: of the SuperLink, on loopback.
        stop: set it to end.
    """

    def __init__(self, study: Study, port: int, stop: threading.Event) -> None:
        self._study, self._stop = study, stop
        self._address, self._ca = f"{HOST}:{port}", root_certificates(study.folder)
        self._digest = build_bundle(study.folder / "bundle")[1]
        self._bounds = limits(study.manifest)
        secret = SuperExecAuthHttpInterceptor(
            master_secret=(study.run / SECRET).read_bytes(), protected_methods=[ACQUIRE]
        )
        self._client = RuntimeHttpClient.from_server_address(
            server_address=self._address,
            insecure=False,
            root_certificates=self._ca,
            interceptors=[RuntimeVersionHttpInterceptor(component_name="SuperExec"), secret],
        )

    def run(self) -> None:
        """Take tasks until `stop` is set."""
        while not self._stop.is_set():
            request = AcquireTaskRequest(
                supported_task_types={TaskType.SERVER_APP}, agentapp_fab_hashes=set()
            )
            try:
                found = self._client.AcquireTask(request)
            except httpx.HTTPError as error:
                log.warning("the SuperLink does not answer: %s", type(error).__name__)
                self._stop.wait(2 * POLL)
                continue
            if found.HasField("task") and found.token:
                self._take(found.token)
            else:
                self._stop.wait(POLL)

    def _take(self, token: str) -> None:
        settings = self._study.settings
        grid = CarefulGrid(
            self._address,
            self._ca,
            token,
            self._bounds,
            settings.deadline,
            functools.partial(refuse_node, self._study),
        )
        heartbeat = HeartbeatSender(make_task_heartbeat_fn_http(grid._runtime_client))
        heartbeat.start()
        ended, details = SubStatus.FAILED, "the rounds failed"
        try:
            task = grid._runtime_client.PullTaskInput(PullTaskInputRequest())
            TaskIdentity.task_id, TaskIdentity.run_id = task.task_id, task.run.run_id
            TaskIdentity.node_id = task.context.node_id
            grid.set_run(run_from_proto(task.run))
            if hashlib.sha256(task.fab.content).hexdigest() != self._digest:
                self._study.refuse(FOREIGN)
                log.warning("a run of another bundle was submitted; refused")
                details = FOREIGN
            else:
                self._study.set_fact(TROUBLE, None)
                run_study(grid, self._study, self._stop)
                ended, details = SubStatus.COMPLETED, ""
        except InterruptedRunError as error:
            ended, details = SubStatus.STOPPED, "stopped"
            log.info("%s", error)
        except CommonGroundError as error:
            log.error("%s", error.message)
            self._study.set_fact(TROUBLE, error.message)
            details = error.error_code
        finally:
            with suppress(RuntimeError):  # first: a beat of a task that has ended is a SIGINT
                heartbeat.stop()
            with suppress(Exception):  # the SuperLink may be gone; its own clock ends the task then
                grid._retry_invoker.max_tries = 1
                grid._runtime_client.PushTaskOutput(PushTaskOutputRequest(sub_status=ended, details=details))
            grid.close()


def main() -> None:
    """Run until a signal; leaves at once then, whatever a thread still waits for."""
    stay_quiet()
    log_to_stderr("%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells of every request
    stop = threading.Event()

    def end(*_: object) -> None:
        stop.set()
        threading.Timer(PATIENCE, os._exit, (0,)).start()  # Flower's client may wait for its server for ever

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    study = Study(Path(sys.argv[1]))
    try:
        with FileLock(study.run / "rounds.lock", timeout=0):  # no two may run the rounds of one study
            Executor(study, int(sys.argv[2]), stop).run()
    except Exception:
        log.exception("the executor ends")
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main()
