"""A real SuperLink in the hands of whoever runs it: any bundle, any message, to nodes that it lets in.

TLS, node authentication, a database and a secret, as `server up` starts it, and no rounds of ours between the
test and Flower: what a hostile server could send, a test can send.
"""

from __future__ import annotations

import hashlib
import secrets
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message
from flwr.cli.build import build_fab_from_files
from flwr.common.constant import SubStatus
from flwr.common.serde import run_from_proto
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    PullTaskInputRequest,
    PushTaskOutputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.supercore.constant import TaskType
from flwr.supercore.heartbeat import HeartbeatSender
from flwr.supercore.interceptors import SuperExecAuthHttpInterceptor
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid
from toy_node import environment
from toy_patience import LIMIT, until
from toy_port import own_port

from commonground.client.profile import Profile
from commonground.server.certificates import make_certificates
from commonground.server.control import Control, SuperLinkError
from commonground.server.superlink import listens

PROJECT = """\
[project]
name = "toy"
version = "1.0.0"
description = "A bundle of a test."
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "toy"
[tool.flwr.app.components]
serverapp = "evil:server"
clientapp = "evil:client"
[tool.flwr.app.config]
"""


def bundle(files: Mapping[str, str]) -> bytes:
    """A bundle that names code of its own, with these files."""
    texts = {"pyproject.toml": PROJECT, **files}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Flower's own making
        return bytes(build_fab_from_files({name: text.encode() for name, text in texts.items()})[0])


class SuperLink:
    """One SuperLink on loopback.

    Attributes:
        address: host:port. ca: PEM.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder, self._port = folder, own_port()
        self.address = f"127.0.0.1:{self._port}"
        made = make_certificates("toys", "127.0.0.1")
        self.ca = made.ca
        for name, pem in (("ca.crt", made.ca), ("server.crt", made.server), ("server.key", made.server_key)):
            (folder / name).write_bytes(pem)
        self._secret = secrets.token_hex(16).encode()
        (folder / "secret").write_bytes(self._secret)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers; what it knew before it knows again."""
        at = self._folder
        code = "from flwr.superlink.cli.flower_superlink import flower_superlink; flower_superlink()"
        words = ["--host", "127.0.0.1", "--port", str(self._port), "--database", str(at / "superlink.db")]
        words += ["--ssl-ca-certfile", str(at / "ca.crt"), "--ssl-certfile", str(at / "server.crt")]
        words += ["--ssl-keyfile", str(at / "server.key"), "--enable-supernode-auth"]
        words += ["--isolation", "process", "--superexec-auth-secret-file", str(at / "secret")]
        with (at / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code, *words, "--disable-runtime-dependency-installation"],
                stdout=log,
                stderr=log,
                env=environment(FLWR_HOME=str(at / "home"), FLWR_TELEMETRY_ENABLED="0")
                | {"FLWR_DISABLE_UPDATE_CHECK": "1"},
            )
        until(lambda: listens(self._port), (at / "log").read_text, alive=self._process)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it."""
        if self._process is not None:
            self._process.send_signal(number)
            try:
                self._process.wait(LIMIT)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process = None

    @contextmanager
    def control(self) -> Iterator[Control]:
        """Its Control API."""
        found = Control(self.address, self.ca)
        try:
            yield found
        finally:
            found.close()

    def let_in(self, profile: Profile) -> int:
        """Make a node key in a profile and let it in; the node's id."""
        key = ec.generate_private_key(ec.SECP384R1())
        form = (
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
        profile.key.write_bytes(key.private_bytes(*form))
        with self.control() as control:
            return control.register(key.public_key())

    def wait_for(self, node: int, online: bool = True) -> None:
        """Wait until a node is online, or no longer."""
        what = f"node {node} {'online' if online else 'offline'}"
        with self.control() as control:
            until(lambda: (node in control.online()) is online, what, unless=(SuperLinkError,))

    @contextmanager
    def run(self, content: bytes) -> Iterator[Run]:
        """A run of a bundle, whose server side is the test."""
        with self.control() as control:
            control.start(content, hashlib.sha256(content).hexdigest())
        signed = SuperExecAuthHttpInterceptor(
            master_secret=self._secret, protected_methods=["/flwr.proto.Runtime/AcquireTask"]
        )
        client = RuntimeHttpClient.from_server_address(self.address, False, self.ca, [signed])
        asked = AcquireTaskRequest(supported_task_types={TaskType.SERVER_APP})
        try:
            token = until(lambda: client.AcquireTask(asked).token, "a task of the run")
        finally:
            client.close()
        found = Run(self, token)
        try:
            yield found
        finally:
            found.close()


class Run:
    """The server side of one run."""

    def __init__(self, link: SuperLink, token: str) -> None:
        self._grid = HttpGrid(link.address, root_certificates=link.ca, token=token)
        self._heart = HttpGrid(link.address, root_certificates=link.ca, token=token)._runtime_client
        self._heart._retry_invoker.should_giveup = lambda error: True
        self._beats = HeartbeatSender(self._beat)
        task = self._grid._runtime_client.PullTaskInput(PullTaskInputRequest())
        TaskIdentity.task_id, TaskIdentity.run_id = task.task_id, task.run.run_id
        TaskIdentity.node_id = task.context.node_id
        self._grid.set_run(run_from_proto(task.run))
        self._beats.start()

    def _beat(self) -> bool:
        """Flower's own would send this process, which is pytest, a SIGINT where the run is known no more."""
        with suppress(Exception):
            self._heart.SendTaskHeartbeat(SendTaskHeartbeatRequest())
        return True

    def ask(self, message: Message, timeout: float = 120.0) -> Message:
        """One message and its answer."""
        (reply,) = self._grid.send_and_receive([message], timeout=timeout)
        assert isinstance(reply, Message)
        return reply

    def close(self) -> None:
        """End the run."""
        self._beats.stop()
        self._heart.close()
        try:
            self._grid._runtime_client.PushTaskOutput(PushTaskOutputRequest(sub_status=SubStatus.COMPLETED))
        finally:
            self._grid.close()
