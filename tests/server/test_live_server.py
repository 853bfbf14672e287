"""A study's server as it runs: what the network reaches of it, hostile devices, kills, and how it ends."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import toy_device
from flwr.app import Message, RecordDict
from flwr.cli.build import build_fab_from_files
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.runtime import RuntimeHttpClient
from toy_fleet import LightDevice, Loop, update
from toy_patience import LIMIT, all_gone, until
from toy_port import LOW, own_port
from toy_study import make_study

from commonground.client.contact import fetch, open_client
from commonground.server.audit import verify
from commonground.server.control import FINISHED
from commonground.server.enrolment import invite
from commonground.server.executor import FOREIGN
from commonground.server.fleet_guard import FORGED, UNASKED
from commonground.server.state import Study, running
from commonground.server.supervisor import inside
from commonground.strategies.arrivals import NOT_ALLOWED
from commonground.study.invitation import Invitation, read_invitation
from commonground.study.public_parts import LARGEST, read_parts

pytestmark = pytest.mark.slow
# A network of two, of which one end is in a namespace of its own; a suite beside this one has another.
OUTSIDE = "10.{}.{}".format(*divmod(own_port() - LOW + 200 * 256, 256))
CLI = [sys.executable, "-m", "commonground.simulations.cli", "server"]
PLACES, ROUNDS = 5, 7


def ip(*words: str) -> bool:
    return subprocess.run(["ip", *words], check=False, capture_output=True).returncode == 0


@dataclass
class Live:
    """A running study.

    Attributes:
        study: its folder.
        outside: a command prefix that runs in another network namespace; empty where none can be made.
        host: address that the front door listens on.
        devices: closed at the end.
    """

    study: Study
    outside: list[str]
    host: str
    devices: list[LightDevice] = field(default_factory=list)

    def invited(self, name: str) -> Invitation:
        file = self.study.folder.parent / f"{name}.invite"
        invite(self.study, name, file)
        assert file.stat().st_mode & 0o777 == 0o600
        return read_invitation(file.read_bytes())

    def stranger(self, invitation: Invitation) -> LightDevice:
        self.devices.append(LightDevice(invitation))
        return self.devices[-1]

    def device(self, name: str) -> LightDevice:
        device = self.stranger(self.invited(name))
        answer = device.enrol()
        assert answer.status_code == 200, answer.text
        return device

    def up(self) -> None:
        done = command(
            "up",
            str(self.study.folder),
            "--detach",
            "--deadline",
            "15",
            "--min-online",
            "4",
            "--quarantine",
            "16",
        )
        assert done.returncode == 0, done.stderr


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*CLI, *words], check=False, capture_output=True, text=True, timeout=LIMIT)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server on one end of a cable, the other end of which is in a namespace of its own."""
    name = f"cg{os.getpid()}"
    apart = ip("netns", "add", name)
    if apart:
        assert ip("link", "add", f"{name}a", "type", "veth", "peer", "name", f"{name}b", "netns", name)
        assert ip("addr", "add", f"{OUTSIDE}.1/24", "dev", f"{name}a")
        assert ip("link", "set", f"{name}a", "up")
        assert ip("-n", name, "addr", "add", f"{OUTSIDE}.2/24", "dev", f"{name}b")
        assert ip("-n", name, "link", "set", f"{name}b", "up")
    host = f"{OUTSIDE}.1" if apart else "127.0.0.1"
    folder = tmp_path_factory.mktemp("live") / "study"
    values = [f"people={PLACES}", f"cohort={PLACES}", f"rounds={ROUNDS}", "privacy.shared.epsilon=inf"]
    study = make_study(folder, values, address=f"{host}:{own_port()}", enrolled=0)
    found = Live(study, ["ip", "netns", "exec", name] if apart else [], host)
    found.up()
    try:
        yield found
    finally:
        command("down", str(folder))
        for device in found.devices:
            device.close()
        if apart:
            ip("netns", "del", name)
            ip("link", "del", f"{name}a")


_ASK = """
import http.client, json, socket, ssl, sys, time
host, port, ca, inner = sys.argv[1], int(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4])
context = ssl.create_default_context(cafile=ca)
found = {}
for path in json.loads(sys.argv[5]):
    for method in ("POST", "GET"):
        connection = http.client.HTTPSConnection(host, port, context=context, timeout=900)
        connection.putrequest(method, path, skip_accept_encoding=True)
        connection.putheader("Content-Type", "application/protobuf")
        connection.putheader("Content-Length", "0")
        connection.endheaders()
        found[f"{method} {path}"] = connection.getresponse().status
        connection.close()
        time.sleep(0.15)  # closed paths are answered ten times a second
for other in inner:
    with socket.socket() as one:
        one.settimeout(900)
        found[str(other)] = one.connect_ex((host, other)) == 0
print(json.dumps(found))
"""
CLOSED = [
    "/v1/control/list-nodes", "/v1/control/register-node", "/v1/control/start-run",
    "/v1/runtime/acquire-task", "/v1/runtime/pull-task-input", "/v1/fleet/../control/list-nodes",
    "/v1/fleet/%2e%2e/control/list-nodes", "/v1/fleet/..%2fcontrol/list-nodes",
    "/v1/fleet/%252e%252e/control/list-nodes", "//v1//control/list-nodes",
    "/v1/fleet/activate-node/../../control/list-nodes", "/v1/fleet/register-node", "/docs",
    "/openapi.json", "/health", "/v1/responses", "/", "/v1/CONTROL/list-nodes",
    "/enrol/../v1/control/list-nodes",
]  # fmt: skip


def test_the_network_reaches_the_fleet_and_enrolment_and_nothing_else(live: Live) -> None:
    ports = {"superlink": int((live.study.run / "superlink.port").read_text())}
    tree = psutil.Process(running(live.study.folder)).children(recursive=True)
    for process in [psutil.Process(running(live.study.folder)), *tree]:
        for connection in process.net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN:
                ports[f"{process.name()} {connection.laddr.port}"] = connection.laddr.port
                front = connection.laddr.port == int(live.study.settings.address.split(":")[1])
                assert connection.laddr.ip == (live.host if front else "127.0.0.1"), connection
    front = int(live.study.settings.address.split(":")[1])
    inner = sorted(set(ports.values()) - {front})
    assert len(inner) >= 2  # the SuperLink's and enrolment's
    known = ["/v1/fleet/activate-node", "/v1/fleet/pull-messages", "/enrol", "/parts"]
    arguments = [live.host, str(front), str(live.study.folder / "ca.crt"), json.dumps(inner)]
    done = subprocess.run(
        [*live.outside, sys.executable, "-c", _ASK, *arguments, json.dumps(CLOSED + known)],
        check=False, capture_output=True, text=True, timeout=LIMIT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {key: found[key] for key in found if key.split()[-1] in CLOSED and found[key] != 404} == {}
    assert [found[f"GET {path}"] for path in known] == [404] * 3 + [200]
    assert found["POST /parts"] == 404
    with open_client((live.study.folder / "ca.crt").read_text()) as client:
        taken = fetch(client, f"https://{live.study.settings.address}/parts", LARGEST, "the parts")
    assert read_parts(taken, live.study.offer.base["parts"]) == {}
    assert {found["POST /v1/fleet/activate-node"], found["POST /v1/fleet/pull-messages"]} == {401}
    assert found["POST /enrol"] == 403
    if live.outside:  # on loopback the inner ports are open to this machine, as they must be
        assert [port for port in inner if found[str(port)]] == []
    until(lambda: live.study.refusals().get("front door: closed path", 0) >= len(CLOSED))


def honest(message: Message) -> RecordDict:
    specs = toy_device.SPECS
    return update({spec.name: np.full(spec.shape, 0.125, np.float32) for spec in specs})


class Hostile:
    """Another wrong answer in every round."""

    def __init__(self, device: LightDevice) -> None:
        self.device, self.done = device, dict[int, str]()

    def __call__(self, message: Message) -> RecordDict | None:
        round = int(message.content["config"]["round"])
        right = {spec.name: np.full(spec.shape, 0.125, np.float32) for spec in toy_device.SPECS}
        name = toy_device.SPECS[0].name
        self.device.before_push = lambda data: data
        if round == 1:
            self.done[1] = "shape"
            return update(right | {name: np.zeros((9, 9), np.float32)})
        if round == 2:
            self.done[2] = "NaN"
            return update(right | {name: np.full(3, np.nan, np.float32)})
        if round == 3:
            self.done[3] = "norm"
            return update(right | {name: np.full(3, 1e30, np.float32)})
        if round == 4:
            self.done[4] = "1 GB"
            try:
                self.device.web.post(
                    "/v1/fleet/push-object",
                    content=(bytes(1 << 20) for _ in range(1024)),
                    headers={"content-length": str(1 << 30), "content-type": "application/x-protobuf"},
                )
            except httpx.HTTPError:
                self.done[4] += ", cut off"
            return update(right, loss=3)
        if round == 5:
            self.done[5] = "never sent"
            self.device.push(message, update(right), objects=False)
            return None
        if round == 6:
            self.done[6] = "many objects"
            many = {f"t{k}": np.full(1, k, np.float32) for k in range(40)}
            return update(right | many)
        self.done[round] = "broken bytes"
        self.device.before_push = lambda data: data[:-1] + b"?"
        return honest(message)


class Impostor:
    """An enrolled device that speaks as others do, floods, and fetches what is not its own.

    Args:
        device: its own.
        victim: gives another's question under way, or None.
    """

    def __init__(self, device: LightDevice, victim: LightDevice) -> None:
        self.device, self.victim, self.statuses = device, victim, dict[str, int | str]()
        self.questions: list[Message] = []  # the victim's

    def __call__(self, message: Message) -> None:
        run = message.metadata.run_id
        nan = update({spec.name: np.full(spec.shape, np.nan, np.float32) for spec in toy_device.SPECS})
        order = RecordDict({"arrays": message.content["arrays"], "config": message.content["config"]})
        for name, head in (
            ("as the server", {"src_node_id": 1, "dst_node_id": self.victim.node}),
            ("a question of its own", {"src_node_id": self.device.node, "dst_node_id": self.victim.node}),
            ("a question to the server", {"src_node_id": self.device.node, "dst_node_id": 1}),
        ):
            self.tried(name, Message(order, self.victim.node, "train"), run, **head)
        if self.questions:
            own = {"src_node_id": self.device.node}
            self.tried("another's question", Message(nan, reply_to=self.questions[-1]), run, **own)
            self.tried("as the victim", Message(nan, reply_to=self.questions[-1]), run)
            node, theirs = Node(node_id=self.device.node), self.questions[-1].metadata.message_id
            request = ConfirmMessageReceivedRequest(node=node, run_id=run, message_object_id=theirs)
            self.status("another's message", lambda: self.device.fleet.ConfirmMessageReceived(request))
        self.device.push(message, nan)
        self.tried("a second reply", Message(honest(message), reply_to=message), run)

    def tried(self, name: str, message: Message, run: int, **head: Any) -> None:
        self.status(name, lambda: self.device.speak(message, run, **head))

    def status(self, name: str, call: Callable[[], object]) -> None:
        try:
            call()
            self.statuses.setdefault(name, "taken")
        except httpx.HTTPStatusError as error:
            self.statuses[name] = error.response.status_code


@pytest.mark.night
def test_hostile_devices_are_refused_and_counted_and_the_study_goes_on(live: Live) -> None:
    study = live.study
    ada = live.device("ada")
    imposed = Impostor(live.device("eve"), ada)

    def watched(message: Message) -> RecordDict:
        imposed.questions.append(message)
        return honest(message)

    good = [Loop(ada, watched), Loop(live.device("bea"), honest)]
    liar = Loop(imposed.device, imposed)
    bad = live.device("cyd")
    wrong = Hostile(bad)
    # Keys and tokens that are not the study's.
    stranger = live.stranger(live.invited("dan"))
    with pytest.raises(httpx.HTTPStatusError):
        stranger.activate()
    thief = live.stranger(bad.invitation)
    for refused in (thief.enrol(), stranger.enrol("A" * 43), thief.web.post("/enrol", content=b"{")):
        assert (refused.status_code, refused.json()) == (403, {"error": "refused"})
    assert bad.enrol().json()["slot"] == 3  # asked again by the same key, the same answer
    with pytest.raises(httpx.HTTPStatusError):
        thief.activate()
    hostile = Loop(bad, wrong)

    until(lambda: study.overview()["rounds"]["done"] >= 2)
    pid = running(study.folder)
    assert pid is not None
    parts = psutil.Process(pid).children(recursive=True)
    os.kill(pid, signal.SIGKILL)
    psutil.wait_procs(parts, 15)
    assert not [part for part in parts if part.is_running() and part.status() != psutil.STATUS_ZOMBIE]
    before = {row["version"]: row["tensors"] for row in study.overview()["releases"]}
    live.up()
    until(lambda: study.overview()["finished"])
    for loop in (*good, hostile, liar):
        loop.end()

    view = study.overview()
    releases = {row["version"]: row["tensors"] for row in view["releases"]}
    assert before.items() <= releases.items()
    assert len(releases) == ROUNDS + 1
    assert view["rounds"]["done"] == ROUNDS
    assert [row["replies"] for row in view["rounds"]["list"]] == [2] * ROUNDS
    assert set(wrong.done) == set(range(1, ROUNDS + 1))
    for loop in good:  # one paper a round, whatever was killed in between
        assert len(set(loop.releases)) == ROUNDS + 1
    refusals = study.refusals()
    assert refusals["update does not pass the manifest"] >= 3  # shape, NaN, norm
    for reason in (
        "front door: message too large",
        "front door: node key is not enrolled",
        "enrolment: token used before",
        "enrolment: unknown token",
        "enrolment: request or proof does not hold",
        "reply names more objects than the manifest has",
    ):
        assert refusals.get(reason), (reason, refusals)
    assert verify(study.folder, study.signer)["lines"] > ROUNDS
    # A node speaks for itself alone, and whoever does not is named.
    # While a question is open these are refused; once it is over they are late, and dropped without a word
    # (tests/server/test_fleet_guard.py has both, without the race).
    for name in ("a second reply", "another's question", "another's message"):
        assert imposed.statuses.pop(name, 403) in (403, "taken")
    assert imposed.statuses.pop("as the victim", 403) == 403
    assert imposed.statuses == dict.fromkeys(
        ("as the server", "a question of its own", "a question to the server"), 403
    )
    places = {row["name"]: row for row in view["places"]}
    assert set(places) == {"cyd", "eve"}
    assert {FORGED, UNASKED, NOT_ALLOWED} <= set(places["eve"]["reasons"])
    assert NOT_ALLOWED in places["cyd"]["reasons"]
    assert places["eve"]["quarantined"]
    assert not places["cyd"]["quarantined"]  # seven refusals at most, and sixteen are allowed here

    done = command("revoke", str(study.folder), "cyd")
    assert done.returncode == 0, done.stderr
    counted = study.refusals()["front door: node key is not enrolled"]
    with pytest.raises(httpx.HTTPStatusError):
        bad.activate()
    until(lambda: study.refusals()["front door: node key is not enrolled"] > counted)
    assert bad.enrol().status_code == 403
    people = study.overview()["people"]
    assert (people["enrolled"], people["revoked"], people["invited"]) == (3, 1, 1)


EVIL = """
import pathlib
pathlib.Path("{mark}").touch()
from flwr.serverapp import ServerApp
app = ServerApp()
"""


@pytest.mark.night
def test_a_run_that_names_other_code_is_refused_and_a_task_needs_the_secret(
    live: Live, tmp_path: Path
) -> None:
    until(lambda: live.study.overview()["finished"])
    control = inside(live.study)
    assert control is not None
    mark = tmp_path / "mark"
    project = (live.study.folder / "bundle" / "pyproject.toml").read_text()
    evil = project.replace("commonground.server.app:app", "evil:app").encode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        data = build_fab_from_files({"pyproject.toml": evil, "evil.py": EVIL.format(mark=mark).encode()})[0]
    run = control.start(data, hashlib.sha256(data).hexdigest())
    until(lambda: live.study.refusals().get(FOREIGN))
    until(lambda: control.status(run)[0] == FINISHED)
    assert control.status(run)[1:] == ("failed", FOREIGN)
    assert not mark.exists()
    control.close()
    address = f"127.0.0.1:{(live.study.run / 'superlink.port').read_text().strip()}"
    ca = (live.study.folder / "ca.crt").read_bytes()
    version = RuntimeVersionHttpInterceptor(component_name="SuperExec")
    with RuntimeHttpClient.from_server_address(address, False, ca, [version]) as client:
        request = AcquireTaskRequest(supported_task_types={TaskType.SERVER_APP}, agentapp_fab_hashes=set())
        with pytest.raises(httpx.HTTPStatusError) as refused:
            client.AcquireTask(request)
    assert refused.value.response.status_code == 401


@pytest.mark.night
def test_it_says_in_one_line_why_it_does_not_start_and_ends_when_told(live: Live, tmp_path: Path) -> None:
    folder = str(live.study.folder)
    until(lambda: running(live.study.folder))
    twice = command("up", folder)
    assert twice.returncode == 2
    assert "runs already (process" in twice.stderr
    assert len(twice.stderr.strip().splitlines()) == 3  # what it is about to do, the error, the hint

    port = int(live.study.settings.address.split(":")[1])
    other = make_study(tmp_path / "other", address=f"{live.host}:{port}", enrolled=0)
    for extra in ([], ["--detach"]):
        taken = command("up", str(other.folder), *extra)
        assert taken.returncode == 2
        assert f"cannot listen on {live.host}:{port}: Address already in use" in taken.stderr
        assert running(other.folder) is None

    pid = running(live.study.folder)
    assert pid is not None
    os.kill(pid, signal.SIGTERM)
    assert all_gone([pid])
    assert running(live.study.folder) is None
    with socket.socket() as one:
        assert one.connect_ex((live.host, port)) != 0
    assert {part["state"] for part in live.study.overview()["health"]} == {"down"}
    assert "was not running" in command("down", folder).stdout
