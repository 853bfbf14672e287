"""No server is told how long a device worked on an answer."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState
from toy_patience import LIMIT

from commonground.client import untimed

PLAIN = InMemoryNodeState.get_message_processing_duration


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch) -> InMemoryNodeState:
    monkeypatch.setattr(InMemoryNodeState, "get_message_processing_duration", PLAIN)
    found = InMemoryNodeState(ObjectStoreFactory().store())
    found.msg_store["message"] = None  # only that it is there counts
    found.record_message_processing_start("message")
    found.time_store["message"].starting_at = time.time() - 5.0
    found.record_message_processing_end("message")
    return found


def test_flower_itself_tells_it(state: InMemoryNodeState) -> None:
    assert state.get_message_processing_duration("message") >= 5.0


def test_a_device_says_the_same_whatever_it_was(state: InMemoryNodeState) -> None:
    untimed.keep_times()
    assert state.get_message_processing_duration("message") == 0.0
    untimed.keep_times()
    assert state.get_message_processing_duration("message") == 0.0


def test_an_answer_that_came_too_late_still_shows_in_the_log(
    state: InMemoryNodeState, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = list[str]()
    monkeypatch.setattr(
        "flwr.supernode.nodestate.in_memory_nodestate.log",
        lambda level, text, *rest: lines.append(text % rest),
    )
    untimed.keep_times()
    assert state.get_message_processing_duration("unknown") == 0.0
    assert lines == ["Cannot get processing duration: Message ID unknown not found."]


def test_the_node_process_keeps_times_before_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own: what `node.main` runs last is Flower, with the constant in place."""
    program = """
import sys
from pathlib import Path
from types import SimpleNamespace
from commonground.client import node
from flwr.supernode import cli
from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState
from commonground.client import untimed
from commonground.manifest import Manifest, TensorSpec
cli.flower_supernode = lambda: print(InMemoryNodeState.get_message_processing_duration is untimed._constant)
manifest = Manifest((TensorSpec("shared.u", (2,)),), 1.0, False, {})
node.read_profile = lambda folder: SimpleNamespace(
    run=Path("run"), address="127.0.0.1:1", certificate=Path("c"), key=Path("k"),
    terms=lambda: SimpleNamespace(contract=manifest),
)
node.memory_bound = lambda manifest: 1 << 42
sys.exit(node.main(["--profile", "p", "--port", "1", "--secret", "s"]))
"""
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=LIMIT)
    assert (done.returncode, done.stdout.strip()) == (0, "True"), done.stderr
