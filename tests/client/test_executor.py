"""The executor against a real Runtime API: what the server names is not run, and nothing but seals leaves."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_device
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.supercore.constant import TaskType
from toy_node import SECRET, ZERO, Node, bundle, question, running_node
from toy_patience import a_while, joined, until

from commonground.client.app import app
from commonground.client.devices import OPENERS, open_device
from commonground.client.executor import Executor, foreign_files
from commonground.client.runtime import Runtime
from commonground.client.tally import Tally, read_counts
from commonground.errors import TrustError
from commonground.manifest import Sealed

FAILED = (1001, "the shared phase failed on the device")
REFUSED = (1002, "the device refused the message")


@pytest.fixture(autouse=True)
def toy_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPENERS, "toy", toy_device.open_device)
    monkeypatch.setenv("COMMONGROUND_DEVICE", "toy")


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with running_node() as found:
        yield found


class Kit:
    """An executor on a node, stepped by the test."""

    def __init__(self, node: Node, folder: Path, app: ClientApp) -> None:
        self.node, self.tally = node, folder / "refusals.json"
        self.runtime = Runtime(node.address, SECRET)
        self.seen: list[tuple[str, int]] = []
        self.waits: list[float] = []
        self.executor = Executor(
            self.runtime,
            Tally(self.tally),
            app,
            lambda: open_device(0).manifest,
            lambda doing: self.seen.append((doing.doing, doing.round)),
            wait=self.waits.append,
        )

    def ask(self, message: Message, task: str = TaskType.CLIENT_APP) -> Message:
        self.node.give(message, task)
        assert self.executor.step()
        return self.node.reply()

    @property
    def counts(self) -> dict[str, int]:
        return read_counts(self.tally)


@pytest.fixture
def kits(tmp_path: Path) -> Iterator[Callable[[Node, ClientApp], Kit]]:
    made: list[Kit] = []

    def make(node: Node, app: ClientApp) -> Kit:
        made.append(Kit(node, tmp_path, app))
        return made[-1]

    yield make
    for kit in made:
        kit.runtime.close()


@pytest.fixture
def kit(node: Node, kits: Callable[[Node, ClientApp], Kit]) -> Kit:
    return kits(node, app)


def outbound(reply: Message) -> Any:
    """What of a reply its sender decides."""
    return (reply.error.code, reply.error.reason) if reply.has_error() else dict(reply.content)


def test_a_round_is_answered_by_the_installed_app(kit: Kit) -> None:
    reply = kit.ask(question(round=3))
    sealed = toy_device.ToyDevice(0).shared_update(3, ZERO)
    assert set(reply.content) == {"arrays", "metrics"}
    assert list(reply.content["arrays"]) == list(sealed.tensors)
    for name, value in sealed.tensors.items():
        np.testing.assert_array_equal(reply.content["arrays"][name].numpy(), value)
    assert dict(reply.content["metrics"]) == {"num-examples": 1}
    assert kit.seen == [("shared", 3), ("idle", 0)]
    assert kit.counts == {}
    assert kit.node.tasks[-1:] == ["flwr-clientapp finished completed"]


def test_an_answer_leaves_by_a_public_schedule(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """How long the work took is seen as a power of two of quarters of a second, whatever is answered."""
    now, took, ends = [0.0], [0.0], list[float]()
    kit.executor._clock, kit.executor._wait = lambda: now[0], lambda seconds: ends.append(now[0] + seconds)
    work = kit.executor._app

    def busy(message: Message, context: Any) -> Message:
        now[0] += took[0]
        return work(message, context)

    monkeypatch.setattr(kit.executor, "_app", busy)
    for took[0] in (0.0, 0.1, 0.25, 0.3, 0.5, 3.0, 100.0):
        for message in (question(), question(clip=1e9), question("train.private")):
            now[0] = 0.0
            kit.ask(message)
    assert ends == [moment for moment in (0.25, 0.25, 0.25, 0.5, 0.5, 4.0, 128.0) for _ in range(3)]


def test_the_private_phase_answers_nothing(kit: Kit) -> None:
    assert outbound(kit.ask(question("train.private", round=2))) == {}
    assert kit.seen == [("private", 2), ("idle", 0)]


def test_nothing_waits(kit: Kit) -> None:
    assert not kit.executor.step()


@pytest.mark.parametrize("kind", ["evaluate", "query", "train.other", "evaluate.more"])
def test_messages_of_another_type_are_refused_before_the_app_sees_them(
    kit: Kit, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kit.executor, "_app", None)  # calling it would end the task as failed
    assert outbound(kit.ask(question(kind))) == REFUSED
    assert kit.counts == {"unknown message": 1}


def test_a_task_of_another_type_is_never_run(kit: Kit, caplog: pytest.LogCaptureFixture) -> None:
    reply = kit.ask(question(), TaskType.AGENT_APP)
    assert reply.has_error()
    assert reply.error.code < 100  # Flower's own word, not the app's
    assert kit.seen == [("idle", 0)]
    assert kit.counts == {"no task of a ClientApp": 1}
    assert "flwr-agentapp" in caplog.text
    assert not kit.executor.step()
    assert outbound(kit.ask(question())).keys() == {"arrays", "metrics"}  # the study goes on


def test_code_in_the_bundle_is_refused_and_told(
    tmp_path: Path, kits: Callable[[Node, ClientApp], Kit], caplog: pytest.LogCaptureFixture
) -> None:
    mark = tmp_path / "evil"
    evil = f"open({str(mark)!r}, 'w').write('was here')\n"
    files = {"commonground/__init__.py": evil, "commonground/client/app.py": evil, "evil.pth": evil}
    with running_node(bundle(files)) as other, caplog.at_level(logging.WARNING):
        kit = kits(other, app)
        for round in (1, 2):
            assert outbound(kit.ask(question(round=round))).keys() == {"arrays", "metrics"}
        assert not mark.exists()
    assert kit.counts == {"foreign code": 1}
    assert (
        "ships 3 file(s) ('commonground/__init__.py', 'commonground/client/app.py', 'evil.pth')"
        in caplog.text
    )


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (bundle(), []),
        (bundle({"README.md": "words", "LICENSE": "words"}), []),
        (bundle({"a.py": "", "../up.py": ""}), ["a.py", "../up.py"]),
        (b"no archive", ["?"]),
        (b"", ["?"]),
    ],
)
def test_what_counts_as_code(content: bytes, found: list[str]) -> None:
    assert foreign_files(content) == found


def test_the_node_is_asked_under_the_secret_alone(node: Node) -> None:
    runtime = Runtime(node.address, b"another secret")
    with pytest.raises(TrustError, match="does not take this executor's secret") as caught, runtime.claim():
        pass
    assert caught.value.hint
    runtime.close()


@pytest.mark.parametrize(
    ("config", "reason"),
    [({"manifest": "0" * 64}, "another manifest"), ({"clip": 1e9}, "another clip")],
)
def test_what_a_device_refuses_is_a_counted_constant(kit: Kit, config: dict[str, Any], reason: str) -> None:
    assert outbound(kit.ask(question(**config))) == REFUSED
    assert kit.counts == {reason: 1}


@pytest.mark.parametrize(
    "message",
    [
        lambda: question(arrays={}),
        lambda: question(arrays={"head.a": np.full(3, np.nan, np.float32)}),
        lambda: question(round="three"),
        lambda: Message(RecordDict(), dst_node_id=42, message_type="train"),
        lambda: Message(RecordDict({"arrays": MetricRecord({"a": 1})}), dst_node_id=42, message_type="train"),
    ],
)
def test_malformed_messages_are_a_counted_constant(kit: Kit, message: Any) -> None:
    question()
    assert outbound(kit.ask(message())) == FAILED
    assert kit.counts == {"the shared phase failed": 1}


def test_an_oversized_message_is_refused_without_being_read(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kit.executor, "_app", None)
    large = {**ZERO, "more": np.zeros(400_000, np.float32)}
    assert outbound(kit.ask(question(arrays=large))) == REFUSED
    many = {str(k): np.full(1, k, np.float32) for k in range(200)}
    assert outbound(kit.ask(question(arrays=many))) == REFUSED
    assert kit.counts == {"an oversized message": 2}


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_a_message_that_the_node_still_fetches_is_waited_for(kit: Kit, kind: str) -> None:
    """Flower announces a message before it has its parts; forgotten then, later answers come too late."""
    message = question(kind, arrays={name: value + 0.25 for name, value in ZERO.items()})
    store = kit.node.state.object_store
    part = message.content["arrays"]["head.a"]
    kit.node.give(message)
    entry = store.store[part.object_id]
    content, entry.content, entry.is_available = entry.content, b"", False
    thread = threading.Thread(target=kit.executor.step)
    thread.start()
    a_while(0.7)
    assert thread.is_alive()
    assert part.object_id in store
    store.put(part.object_id, content)  # raises where it was forgotten
    joined(thread)
    assert kit.node.reply().has_error() is (kind == "evaluate")


@pytest.mark.parametrize("part", [b"", b"no object", b"Array  3\0abc", b"Message  2\0{}"])
def test_parts_that_are_damaged_are_a_counted_constant(
    kits: Callable[[Node, ClientApp], Kit], part: bytes
) -> None:
    with running_node() as other:  # objects are named by their content: a damaged one would stay
        kit, message = kits(other, app), question()
        other.give(message)
        other.state.object_store.store[message.content["arrays"].object_id].content = part or b"\0"
        assert kit.executor.step()
        assert outbound(other.reply()) == REFUSED
    assert kit.counts == {"a damaged message": 1}


@pytest.mark.parametrize("what", ["raise", "exit", "print"])
def test_an_error_provoked_in_the_app_tells_nothing(
    kit: Kit, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setenv("TOY_FAULT", f"shared:1:0:{what}")
    reply = kit.ask(question())
    assert toy_device.SECRET not in repr(reply)
    assert outbound(reply) == FAILED if what != "print" else set(reply.content) == {"arrays", "metrics"}


def leaky(make: Any) -> ClientApp:
    """An app that answers something that a device would not."""
    found = ClientApp()

    @found.train()  # type: ignore[untyped-decorator]
    def shared(message: Message, context: Any) -> Message:
        context.state["private"] = ConfigRecord({"text": toy_device.SECRET})
        return make(message)

    return found


def good() -> dict[str, np.ndarray]:
    return toy_device.ToyDevice(0).shared_update(1, ZERO).tensors


def content(arrays: dict[str, np.ndarray], **metrics: Any) -> RecordDict:
    record = ArrayRecord({name: Array(value) for name, value in arrays.items()})
    return RecordDict({"arrays": record, "metrics": MetricRecord(metrics or {"num-examples": 1})})


@pytest.mark.parametrize(
    "make",
    [
        lambda m: Message(Error(1001, toy_device.SECRET), reply_to=m),
        lambda m: Message(Error(77, FAILED[1]), reply_to=m),
        lambda m: Message(content({**good(), "private.v": np.ones(3, np.float32)}), reply_to=m),
        lambda m: Message(content({n: v for n, v in good().items() if n != "head.a"}), reply_to=m),
        lambda m: Message(content({n: v.astype(np.float64) for n, v in good().items()}), reply_to=m),
        lambda m: Message(content({n: v[None] for n, v in good().items()}), reply_to=m),
        lambda m: Message(content({n: v * np.float32(1e6) for n, v in good().items()}), reply_to=m),
        lambda m: Message(content({n: v * np.float32(np.nan) for n, v in good().items()}), reply_to=m),
        lambda m: Message(content(good(), accuracy=0.5), reply_to=m),
        lambda m: Message(content(good(), **{"num-examples": 3}), reply_to=m),
        lambda m: Message(RecordDict({**content(good()), "config": ConfigRecord({"t": "x"})}), reply_to=m),
        lambda m: Message(RecordDict(), reply_to=m),
        lambda m: None,
    ],
)
def test_the_guard_keeps_back_whatever_the_manifest_does_not_allow(
    node: Node, kits: Callable[[Node, ClientApp], Kit], make: Any
) -> None:
    kit = kits(node, leaky(make))
    assert outbound(kit.ask(question())) in (REFUSED, FAILED)
    assert sum(kit.counts.values()) == 1


def test_a_reply_is_built_anew_and_its_labels_with_it(
    node: Node, kits: Callable[[Node, ClientApp], Kit]
) -> None:
    """A dtype's name is a text that the sender chooses: one that numpy reads alike is a channel."""

    def odd(message: Message) -> Message:
        arrays = {n: Array(v.dtype.str, v.shape, "numpy.ndarray", Array(v).data) for n, v in good().items()}
        record = RecordDict({"metrics": MetricRecord({"num-examples": 1}), "arrays": ArrayRecord(arrays)})
        return Message(record, reply_to=message)

    kit = kits(node, leaky(odd))
    reply = kit.ask(question())
    assert list(reply.content) == ["arrays", "metrics"]
    assert {array.dtype for array in reply.content["arrays"].values()} == {"float32"}


def test_the_context_of_an_app_is_not_stored(node: Node, kits: Callable[[Node, ClientApp], Kit]) -> None:
    kit = kits(node, leaky(lambda m: Message(content(good()), reply_to=m)))
    assert kit.ask(question()).has_content()
    assert dict(node.state.get_run_series_context(3).state) == {}


def test_a_device_that_cannot_be_opened_answers_the_constant(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMMONGROUND_DEVICE", "no such device")
    assert outbound(kit.ask(question())) == FAILED


def test_work_that_takes_longer_than_the_node_waits_is_kept_alive(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node gives a task up after 60 s without a sign; here signs are counted instead."""
    beats: list[int] = []
    acknowledge = kit.node.state.acknowledge_task_heartbeat

    def counted(task: int) -> bool:
        beats.append(task)
        return bool(acknowledge(task))

    class Slow(toy_device.ToyDevice):
        def shared_update(self, round: int, shared: dict[str, np.ndarray]) -> Sealed:
            until(lambda: len(beats) >= 3)
            return super().shared_update(round, shared)

    from commonground.client import runtime

    monkeypatch.setattr(runtime, "BEAT", 0.02)
    monkeypatch.setitem(OPENERS, "toy", Slow)
    monkeypatch.setattr(kit.node.state, "acknowledge_task_heartbeat", counted)
    assert kit.ask(question()).has_content()
    assert len(beats) >= 3


def test_ten_thousand_tasks_are_a_queue_and_nothing_more(kit: Kit) -> None:
    """Each is refused by itself, one after the other; twenty stand for the rest."""
    for k in range(20):
        kit.node.give(question(manifest="0" * 64, round=k + 1))
    for _ in range(20):
        assert kit.executor.step()
        assert outbound(kit.node.reply()) == REFUSED
    assert not kit.executor.step()
    assert kit.counts == {"another manifest": 20}


def test_the_pinned_version_of_flower_is_the_installed_and_the_declared_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import tomllib

    from commonground.client import runtime
    from commonground.errors import InputError

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert f"flwr=={runtime.FLOWER}" in project["dependencies"]
    runtime.check_flower()
    monkeypatch.setattr(runtime, "FLOWER", "1.0.0")
    with pytest.raises(InputError, match=r"flwr 1\.42\.0 is installed; .* with 1\.0\.0 alone") as caught:
        runtime.check_flower()
    assert caught.value.hint == "pip install flwr==1.0.0"


def test_a_real_vault_answers_through_the_executor(
    node: Node, kits: Callable[[Node, ClientApp], Kit], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its refusals (an unsigned adapter, a replay, NaN, another signer) are the constant, and are counted."""
    import toy_vault
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from commonground.client.sockets import NODE, socket_folder

    offer = toy_vault.offer_of(toy_vault.study_config())
    with toy_vault.running(tmp_path / "profile", offer) as vault:
        monkeypatch.setenv("COMMONGROUND_DEVICE", "vault")
        monkeypatch.setenv("COMMONGROUND_VAULT", str(socket_folder(vault.profile.folder) / NODE))
        vault.consent()
        vault.teach()
        kit, operator = kits(node, app), vault.operator
        arrays = operator.arrays()

        def ask(round: int, sent: dict[str, np.ndarray], release: str | None, kind: str = "train") -> Message:
            more = {} if release is None else {"release": release}
            return kit.ask(question(kind, sent, round=round, manifest=operator.manifest.digest, **more))

        first = operator.release(1, arrays)
        reply = ask(1, arrays, first)
        assert {name: array.shape for name, array in reply.content["arrays"].items()} == {
            spec.name: spec.shape for spec in operator.manifest.sent
        }
        again = ask(1, arrays, first)  # the same bytes: no fresh noise for a question asked twice
        assert dict(again.content) == dict(reply.content)
        broken = operator.arrays(float("nan"))
        moved = operator.arrays(0.5)
        for sent, release in (
            (arrays, None),
            (moved, first),
            (broken, operator.release(2, broken)),
            (moved, operator.release(2, moved, version=1)),
            (moved, operator.release(2, moved, key=Ed25519PrivateKey.generate())),
        ):
            assert outbound(ask(2, sent, release)) == FAILED
        assert outbound(ask(1, arrays, first, "train.private")) == {}
        vault.owner.pause()
        assert outbound(ask(2, moved, operator.release(2, moved))) == FAILED
        assert sum(vault.owner.status()["refusals"].values()) == 5  # one never came as far as the vault
        assert vault.owner.status()["sent"] == 1
    assert kit.counts == {"the shared phase failed": 6}
