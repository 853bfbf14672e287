"""The in-process grid: deterministic, isolated, and it forgets."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from commonground.simulations.grid import RAISED_REASON, InProcessGrid

app = ClientApp()


@app.train()  # type: ignore[untyped-decorator]
def count(message: Message, context: Context) -> Message:
    """Counts its calls in the node's state; raises on the third."""
    times = int(context.state["calls"]["n"]) + 1 if "calls" in context.state else 1
    context.state["calls"] = ConfigRecord({"n": times})
    if message.content["config"].get("fail"):
        raise RuntimeError("private words")
    message.content["config"]["n"] = times  # a node may scribble on what it received
    return Message(message.content, reply_to=message)


def message(node: int, **config: int) -> Message:
    return Message(RecordDict({"config": ConfigRecord(dict(config))}), dst_node_id=node, message_type="train")


def numbers(grid: InProcessGrid, *messages: Message) -> list[int]:
    return [int(reply.content["config"]["n"]) for reply in grid.send_and_receive(list(messages))]


def test_each_node_has_its_own_state() -> None:
    grid = InProcessGrid(app, 3)
    assert list(grid.get_node_ids()) == [1, 2, 3]
    assert numbers(grid, message(1), message(1), message(3)) == [1, 2, 1]
    assert numbers(grid, message(1), message(2)) == [3, 1]
    assert grid.context(2).node_config == {"partition-id": 1, "num-partitions": 3}


def test_replies_come_in_the_order_of_the_messages() -> None:
    grid = InProcessGrid(app, 12)
    replies = grid.send_and_receive([message(node) for node in (12, 3, 7, 1, 10, 2)])
    assert [reply.metadata.src_node_id for reply in replies] == [12, 3, 7, 1, 10, 2]


def test_a_call_that_fails_leaves_the_state_and_says_nothing() -> None:
    grid = InProcessGrid(app, 1)
    assert numbers(grid, message(1)) == [1]
    (reply,) = grid.send_and_receive([message(1, fail=1)])
    assert (reply.error.code, reply.error.reason) == (2, RAISED_REASON)
    assert numbers(grid, message(1)) == [2]


def test_nodes_get_copies() -> None:
    grid = InProcessGrid(app, 2)
    shared = RecordDict({"config": ConfigRecord({})})
    grid.send_and_receive([Message(shared, dst_node_id=node, message_type="train") for node in (1, 2)])
    assert dict(shared["config"]) == {}


def test_a_reply_is_handed_out_once() -> None:
    grid = InProcessGrid(app, 2)
    ids = list(grid.push_messages([message(1), message(2)]))
    assert len(list(grid.pull_messages(ids[1:]))) == 1
    assert len(list(grid.pull_messages(ids))) == 1
    assert list(grid.pull_messages(ids)) == []


def test_memory_does_not_grow_with_rounds() -> None:
    echo = ClientApp()

    @echo.train()  # type: ignore[untyped-decorator]
    def answer(message: Message, context: Context) -> Message:
        return Message(message.content, reply_to=message)

    grid = InProcessGrid(echo, 4)

    def objects() -> int:
        gc.collect()
        return sum(type(thing) in {Message, RecordDict, Array} for thing in gc.get_objects())

    def one_round() -> None:
        content = RecordDict({"arrays": ArrayRecord({"w": Array(np.zeros(100, np.float32))})})
        grid.send_and_receive([Message(content, dst_node_id=n, message_type="train") for n in (1, 2, 3, 4)])

    one_round()
    before = objects()
    for _ in range(20):
        one_round()
    assert objects() == before


def test_a_node_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="node 5; nodes are 1 to 2"):
        InProcessGrid(app, 2).send_and_receive([message(5)])
