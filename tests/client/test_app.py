"""What a node answers: a sealed update or a constant, whatever happens on the device."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import toy_device
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from commonground.client.app import app
from commonground.client.devices import OPENERS, known_devices, open_device
from commonground.client.handlers import FAILED_REASON, REFUSED_REASON, sealed_content
from commonground.errors import EgressError, InputError
from commonground.manifest import Receipt, Sealed, seal
from commonground.simulations.grid import InProcessGrid

ZERO = {spec.name: np.zeros(spec.shape, np.float32) for spec in toy_device.SPECS}


@pytest.fixture(autouse=True)
def toy_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPENERS, "toy", toy_device.open_device)
    monkeypatch.setenv("COMMONGROUND_DEVICE", "toy")


def ask(kind: str = "train", person: int = 0, round: int = 1, **config: Any) -> Message:
    grid = InProcessGrid(app, 6)
    values = {
        "round": round,
        "person": person,
        "manifest": toy_device.manifest().digest,
        "final": False,
        **config,
    }
    arrays = ArrayRecord({name: Array(value) for name, value in ZERO.items()})
    content = RecordDict({"arrays": arrays, "config": ConfigRecord(values)})
    (reply,) = grid.send_and_receive([Message(content, dst_node_id=person + 1, message_type=kind)])
    return reply


def outbound(reply: Message) -> tuple[object, ...]:
    """Everything of a reply that its sender decides."""
    if reply.has_error():
        return (reply.error.code, reply.error.reason)
    return tuple((key, record.object_id) for key, record in reply.content.items())


def test_the_shared_reply_is_the_sealed_update_and_one_constant() -> None:
    reply = ask()
    sealed = toy_device.ToyDevice(0).shared_update(1, ZERO)
    assert list(reply.content) == ["arrays", "metrics"]
    assert list(reply.content["arrays"]) == ["head.a", "head.b"]
    assert dict(reply.content["metrics"]) == {"num-examples": 1}
    for name, value in sealed.tensors.items():
        np.testing.assert_array_equal(reply.content["arrays"][name].numpy(), value)


def test_another_manifest_is_refused_without_content() -> None:
    for kind in ("train", "train.private"):
        reply = ask(kind, manifest="0" * 64)
        assert outbound(reply) == ((1002, REFUSED_REASON) if kind == "train" else ())


@pytest.mark.parametrize("what", ["raise", "exit"])
def test_a_failing_shared_phase_answers_a_constant(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    monkeypatch.setenv("TOY_FAULT", f"shared:1:0:{what}")
    assert outbound(ask()) == (1001, FAILED_REASON)


def test_malformed_messages_answer_the_same_constants() -> None:
    grid = InProcessGrid(app, 1)
    for kind, expected in (("train", (1001, FAILED_REASON)), ("train.private", ())):
        (reply,) = grid.send_and_receive([Message(RecordDict(), dst_node_id=1, message_type=kind)])
        assert outbound(reply) == expected


@pytest.mark.parametrize("what", ["none", "raise", "print", "exit"])
def test_nothing_private_changes_an_outbound_byte(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    quiet = [outbound(ask("train.private")), outbound(ask(round=2)), outbound(ask(person=1))]
    monkeypatch.setenv("TOY_FAULT", f"private:1:0:{what}")
    with caplog.at_level(logging.WARNING):
        loud = [outbound(ask("train.private")), outbound(ask(round=2)), outbound(ask(person=1))]
    assert loud == quiet
    assert quiet[0] == ()
    assert ("private phase failed" in caplog.text) is (what in {"raise", "exit"})  # on this machine alone


def test_a_stalled_private_phase_comes_after_the_update_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two phases are two messages: the update is out before the private phase so much as begins."""
    order: list[str] = []

    class Slow(toy_device.ToyDevice):
        def private_update(self, round: int, shared: dict[str, np.ndarray], final: bool) -> None:
            order.append("private")

    monkeypatch.setitem(OPENERS, "toy", Slow)
    reply = ask()
    assert reply.has_content()
    assert order == []
    ask("train.private")
    assert order == ["private"]


@pytest.mark.parametrize(
    "make",
    [
        lambda sealed: sealed.tensors,
        lambda sealed: None,
        lambda sealed: type("Sealed", (), {"tensors": sealed.tensors, "metrics": sealed.metrics})(),
        lambda sealed: type(
            "Wider", (Sealed,), {"__init__": lambda self: None, "tensors": {"v": np.ones(3)}}
        )(),
    ],
)
def test_only_a_sealed_can_leave(make: Callable[[Sealed], Any]) -> None:
    sealed = seal(toy_device.manifest(), ZERO, round=1)
    assert set(sealed_content(sealed)) == {"arrays", "metrics"}
    with pytest.raises(EgressError, match="may not leave"):
        sealed_content(make(sealed))
    with pytest.raises(EgressError):
        Sealed(object(), ZERO, Receipt(1, "", 0, (), ""))


def test_a_device_that_hands_out_something_else_answers_the_constant(monkeypatch: pytest.MonkeyPatch) -> None:
    class Leaky(toy_device.ToyDevice):
        def shared_update(self, round: int, shared: dict[str, np.ndarray]) -> Any:
            return {**shared, "private.v": np.ones(3)}

    monkeypatch.setitem(OPENERS, "toy", Leaky)
    assert outbound(ask()) == (1001, FAILED_REASON)


def test_the_release_reaches_the_device_in_both_phases(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    class Reading(toy_device.ToyDevice):
        def shared_update(self, round: int, shared: dict[str, np.ndarray], **asked: Any) -> Sealed:
            seen.append(asked)
            return super().shared_update(round, shared)

        def private_update(
            self, round: int, shared: dict[str, np.ndarray], final: bool, **asked: Any
        ) -> None:
            seen.append(asked)

    monkeypatch.setitem(OPENERS, "toy", Reading)
    for kind in ("train", "train.private"):
        ask(kind, release="a signed paper")
        ask(kind)
    assert seen == [{"release": "a signed paper"}, {}] * 2


def test_one_torch_thread_in_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    class Counting(toy_device.ToyDevice):
        def shared_update(self, round: int, shared: dict[str, np.ndarray]) -> Sealed:
            seen.append(torch.get_num_threads())
            return super().shared_update(round, shared)

        def private_update(self, round: int, shared: dict[str, np.ndarray], final: bool) -> None:
            seen.append(torch.get_num_threads())

    monkeypatch.setitem(OPENERS, "toy", Counting)
    before = torch.get_num_threads()
    try:
        for kind in ("train", "train.private"):
            torch.set_num_threads(2)
            ask(kind)
    finally:
        torch.set_num_threads(before)
    assert seen == [1, 1]


def test_the_kind_of_device_is_chosen_here(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "toy" in known_devices()
    monkeypatch.setenv("COMMONGROUND_DEVICE", "toy_device:open_device")
    assert isinstance(open_device(3), toy_device.ToyDevice)
    assert open_device(3).manifest == toy_device.manifest()


@pytest.mark.parametrize("kind", ["", "nothing", "no.module:open", "os:nothing"])
def test_an_unknown_kind_is_one_clear_error(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setenv("COMMONGROUND_DEVICE", kind)
    with pytest.raises(InputError, match=rf"COMMONGROUND_DEVICE is '{kind}'") as caught:
        open_device(0)
    if ":" not in kind:
        assert "known devices: " in caught.value.message
        assert "toy" in caught.value.message


def test_a_message_cannot_choose_the_device() -> None:
    reply = ask(device="os:system", COMMONGROUND_DEVICE="os:system")
    assert outbound(reply) == outbound(ask())
