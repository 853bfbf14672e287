"""What a node may do at the SuperLink: every call that no honest node makes is refused, and stores nothing.

The class: an authenticated caller is not the author of what the call contains. Each field that names somebody
(source, destination, question, object) is held to the caller.
"""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.proto.fleet_pb2 import PushMessagesRequest, PushMessagesResponse
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ObjectTree,
    PullObjectRequest,
    PullObjectResponse,
    PushObjectRequest,
    PushObjectResponse,
)
from flwr.proto.node_pb2 import Node
from flwr.supercore.error import FlowerError

from commonground.server import fleet_guard as module
from commonground.server.fleet_guard import (
    ANOTHERS,
    FLOOD,
    FOREIGN,
    FORGED,
    LATE,
    MALFORMED,
    SECOND,
    TRIES,
    UNASKED,
    FleetGuard,
    PlainLines,
    Refusals,
)
from commonground.server.limits import Limits

ME, OTHER, SERVER = 7, 2**63 + 5, 1
LEAF = "c" * 64
BOUNDS = Limits(objects=6, object_bytes=100, tree_bytes=1000)


class State:
    """A link state of two questions, one to each node."""

    def __init__(self) -> None:
        self.asked = {"q-me": ME, "q-other": OTHER}
        self.answered: str | None = None
        self.object_store = SimpleNamespace(get_object_tree=lambda name: ObjectTree(object_id=f"of {name}"))

    def get_valid_message_ins(self, name: str) -> dict[str, Any] | None:
        node = self.asked.get(name)
        return None if node is None else {"dst_node_id": node - 2**64 if node >= 2**63 else node}

    @contextmanager
    def session(self) -> Any:
        yield SimpleNamespace(scalar=lambda _: self.answered, scalars=lambda _: ["q-me"])


class Kit:
    def __init__(self) -> None:
        self.calls = Counter[str]()
        self.counts = Counter[tuple[str, int | None]]()
        self.state, self.stored = State(), True
        handlers = SimpleNamespace(
            push_messages=self.did("push", PushMessagesResponse()),
            push_object=lambda request, state: self.did("object", PushObjectResponse(stored=self.stored))(),
            confirm_message_received=self.did("confirm", None),
            pull_object=self.did("pull", PullObjectResponse(object_found=True)),
        )

        def count(reason: str, node: int | None, number: int) -> None:
            self.counts[reason, node] += number

        self.refusals = Refusals(count)
        self.guard = FleetGuard(handlers, BOUNDS, self.refusals, frozenset({LEAF}))
        self.guard.install(handlers)
        self.handlers = handlers

    def did(self, name: str, answer: Any) -> Any:
        def call(*_: Any) -> Any:
            self.calls[name] += 1
            return answer

        return call

    def push(self, tree: ObjectTree | None = None, messages: int = 1, **head: Any) -> None:
        request = PushMessagesRequest(node=Node(node_id=ME))
        for _ in range(messages):
            found = request.messages_list.add().metadata
            values = {
                "src_node_id": ME,
                "dst_node_id": SERVER,
                "reply_to_message_id": "q-me",
                "message_id": "m",
            }
            for name, value in {**values, "ttl": 60.0, "created_at": 1e9, **head}.items():
                setattr(found, name, value)
            request.message_object_trees.append(tree or ObjectTree(object_id="m"))
        self.handlers.push_messages(request, self.state)

    def counted(self) -> dict[tuple[str, int | None], int]:
        self.refusals.flush()
        return dict(self.counts)


def test_an_answer_to_an_open_question_passes_and_may_be_tried_again() -> None:
    kit = Kit()
    for _ in range(TRIES):
        kit.push()
    assert kit.calls["push"] == TRIES
    assert kit.counted() == {}
    with pytest.raises(FlowerError):
        kit.push()
    assert kit.counted() == {(FLOOD, ME): 1}


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        ({"src_node_id": SERVER}, FORGED),
        ({"src_node_id": OTHER}, FORGED),
        ({"src_node_id": SERVER, "dst_node_id": OTHER, "reply_to_message_id": ""}, FORGED),
        ({"dst_node_id": OTHER}, FORGED),
        ({"dst_node_id": ME}, FORGED),
        ({"reply_to_message_id": ""}, UNASKED),
        ({"reply_to_message_id": "q-other"}, ANOTHERS),
        ({"ttl": float("nan")}, MALFORMED),
        ({"created_at": float("inf")}, MALFORMED),
        ({"message_id": "another"}, MALFORMED),
        ({"messages": 2}, MALFORMED),
        ({"messages": 0}, MALFORMED),
    ],
)
def test_a_node_speaks_for_itself_in_answer(head: dict[str, Any], reason: str) -> None:
    kit = Kit()
    with pytest.raises(FlowerError):
        kit.push(**head)
    assert kit.calls["push"] == 0
    assert kit.counted() == {(reason, ME): 1}


def test_a_second_reply_is_refused_and_a_late_one_is_nobodys_fault() -> None:
    kit = Kit()
    kit.state.answered = "m"
    kit.push()  # the same again: an answer that was lost
    kit.state.answered = "before"
    with pytest.raises(FlowerError):
        kit.push()
    kit.push(reply_to_message_id="over")
    assert kit.calls["push"] == 1
    assert kit.counted() == {(SECOND, ME): 1, (LATE, None): 1}


def tree_of(*children: ObjectTree) -> ObjectTree:
    return ObjectTree(object_id="m", children=children)


def part(name: str, *children: str) -> ObjectTree:
    return ObjectTree(object_id=name, children=[ObjectTree(object_id=child) for child in children])


def deep(levels: int) -> ObjectTree:
    tree = found = ObjectTree(object_id="m")
    for level in range(levels):
        found = found.children.add()
        found.object_id = str(level)
    return tree


@pytest.mark.parametrize(
    ("tree", "reason"),
    [
        (tree_of(*(part(str(k)) for k in range(100))), FLOOD),
        (deep(100), FLOOD),
        # An object that all honest replies share: with parts named for it, everybody else's would be refused.
        (tree_of(part(LEAF, "x")), MALFORMED),
        (tree_of(part("a", "x"), part("a")), MALFORMED),
    ],
)
def test_a_tree_has_the_objects_of_one_reply(tree: ObjectTree, reason: str) -> None:
    kit = Kit()
    with pytest.raises(FlowerError):
        kit.push(tree)
    assert kit.counted() == {(reason, ME): 1}


def test_objects_that_nobody_waits_for_and_large_ones_end() -> None:
    kit = Kit()
    kit.stored = False
    one = PushObjectRequest(node=Node(node_id=ME), object_id="x", object_content=b"y")
    for _ in range(TRIES * BOUNDS.objects + 1):
        kit.handlers.push_object(one, kit.state)
    before = kit.calls["object"]
    with pytest.raises(FlowerError):
        kit.handlers.push_object(one, kit.state)
    kit.push()  # a reply opens it again
    kit.stored = True
    kit.handlers.push_object(one, kit.state)
    assert kit.calls["object"] == before + 1
    with pytest.raises(FlowerError):
        kit.handlers.push_object(
            PushObjectRequest(node=Node(node_id=ME), object_content=bytes(101)), kit.state
        )
    assert kit.counted() == {(FLOOD, ME): 2}


def test_a_node_fetches_and_confirms_what_was_sent_to_it() -> None:
    kit = Kit()

    def pull(name: str) -> Any:
        return kit.handlers.pull_object(PullObjectRequest(node=Node(node_id=ME), object_id=name), kit.state)

    assert pull("of q-me").object_found
    assert not pull("of q-other").object_found
    for name, fine in (("q-me", True), ("over", True), ("q-other", False)):
        request = ConfirmMessageReceivedRequest(node=Node(node_id=ME), message_object_id=name)
        if fine:
            kit.handlers.confirm_message_received(request, kit.state, None)
        else:
            with pytest.raises(FlowerError):
                kit.handlers.confirm_message_received(request, kit.state, None)
    assert (kit.calls["pull"], kit.calls["confirm"]) == (1, 1)
    assert kit.counted() == {(FOREIGN, None): 1, (FOREIGN, ME): 1}


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", 10)
    kit = Kit()
    for number in range(50):
        kit.push(reply_to_message_id=f"over {number}")
    assert len(kit.guard._pushes) == 10
    assert kit.counted() == {(LATE, None): 50}


def test_no_line_of_a_log_is_a_strangers() -> None:
    record = logging.LogRecord(
        "flwr", 40, "", 0, "object_id=%s", ("x\n2027 ERROR root \x1b[31m" + "y" * 5000,), None
    )
    assert PlainLines().filter(record)
    line = record.getMessage()
    assert "\n" not in line
    assert "\x1b" not in line
    assert len(line) < 400
    assert line.startswith("object_id=x\\n2027 ERROR root \\x1b[31my")
    broken = logging.LogRecord("flwr", 40, "", 0, "%d %s\n", ("x",), None)
    assert PlainLines().filter(broken)
    assert broken.getMessage() == "%d %s\\n"
