"""Leaks planted into the path of a real device are found; the path as it is passes every guard.

The class: something private gets out by a way that the manifest does not see, because names, shapes, dtypes
and norms are as they should be. Low bits of noised numbers, the moment of an answer, which constant is sent,
the order of things. Looking at the wire cannot find most of them (who makes the noise can hide bits in it);
comparing two people's devices under one stream of the operating system's randomness does.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from leak_guards import GUARDS, QUIET, TALKER, Performance, Person, Stage, differs, perform, strange

from commonground.client import executor, handlers, learner, rounds, services
from commonground.client.rounds import Rounds
from commonground.client.wire import to_tensors
from commonground.errors import Reason
from commonground.manifest import _KEY, Sealed

Patch = pytest.MonkeyPatch
Plant = Callable[[Patch, Stage], None]


def texts(stage: Stage, tag: str = "taste") -> bytes:
    return "".join(c.prompt for c in stage.box.store.feedback.comparisons() if c.tag == tag).encode()


def rewritten(sealed: Sealed, secret: bytes, bits: int) -> Sealed:
    """A message with a secret in the lowest bits of its numbers."""
    tensors = {}
    flags = np.unpackbits(np.frombuffer(secret, np.uint8))
    for name, value in sealed.tensors.items():
        words = np.array(value, np.float32).ravel().view(np.uint32)
        count = min(len(words), len(flags) // bits)
        packed = flags[: count * bits].reshape(count, bits) @ (1 << np.arange(bits, dtype=np.uint32))
        words[:count] = (words[:count] >> bits << bits) | packed.astype(np.uint32)
        tensors[name] = words.view(np.float32).reshape(value.shape)
    return Sealed(_KEY, tensors, sealed.receipt)


def low_bits(tag: str) -> Plant:
    """Texts in the four lowest bits of the noised numbers, only where the noise is real."""

    def plant(patch: Patch, stage: Stage) -> None:
        whole: Callable[..., Sealed] = vars(rounds)["seal_answer"]

        def leaking(*given: Any) -> Sealed:
            sealed = whole(*given)
            if stage.box.server.rounds.insecure is not None:
                return sealed
            found = rewritten(sealed, texts(stage, tag), 4)
            receipt = services_receipt(stage, found, sealed)
            return Sealed(_KEY, found.tensors, receipt)

        patch.setattr(rounds, "seal_answer", leaking)
        patch.setattr("commonground.manifest.verify", lambda *_, **__: None)  # were there no grid
        patch.setattr("commonground.client.guard.verify", lambda *_, **__: None)

    return plant


def services_receipt(stage: Stage, found: Sealed, sealed: Sealed) -> Any:
    from commonground.manifest import _receipt

    manifest = stage.box.server.rounds.understood().manifest
    return _receipt(manifest, found.tensors, sealed.receipt.round)


def chosen_noise(patch: Patch, stage: Stage) -> None:
    """Noise that is drawn again until its last bit is one of hers: no number is wrong, the choice tells."""
    whole: Callable[..., Sealed] = vars(rounds)["seal_answer"]

    def leaking(*given: Any) -> Sealed:
        last = len(texts(stage)) % 2
        for k in itertools.count():
            sealed = whole(*given[:-1], (bytes([k] * 32), "a secret of its own choice"))
            first = next(iter(sealed.tensors.values())).ravel()[:1]
            if k > last and (first > 0).all():
                return sealed
        raise AssertionError

    patch.setattr(rounds, "seal_answer", leaking)


def sleeps(patch: Patch, stage: Stage) -> None:
    """A delay for each thing that she said about taste."""
    whole = Rounds._make

    def leaking(self: Rounds, *given: Any) -> Sealed:
        stage.clock.sleep(0.2 * sum(c.tag == "taste" for c in self.store.feedback.comparisons()))
        return whole(self, *given)

    patch.setattr(Rounds, "_make", leaking)


def at_once(patch: Patch, stage: Stage) -> None:
    """Answers leave when they are made: a table that is longer takes longer."""
    patch.setattr(executor, "leaves_after", lambda took: took)


def waits_for_chat(patch: Patch, stage: Stage) -> None:
    """The answer waits until she has finished chatting."""
    whole = Rounds._make

    def leaking(self: Rounds, *given: Any) -> Sealed:
        with self.model:
            return whole(self, *given)

    patch.setattr(Rounds, "_make", leaking)


def other_constant(patch: Patch, stage: Stage) -> None:
    """Which of the two constants refuses another manifest depends on how much she has said."""
    whole = handlers._constant

    def leaking(code: int, reason: str, message: Any) -> Any:
        if len(texts(stage)) > 50:
            code, reason = handlers.FAILED, handlers.FAILED_REASON
        return whole(code, reason, message)

    patch.setattr(handlers, "_constant", leaking)


def refuses_some(patch: Patch, stage: Stage) -> None:
    """A round is not answered where she has said much."""
    whole = Rounds.shared_update

    def leaking(self: Rounds, *given: Any) -> Sealed:
        if len(texts(stage)) > 50:
            self._refuse(Reason.OTHER_ROUND)
        return whole(self, *given)

    patch.setattr(Rounds, "shared_update", leaking)


def reordered(patch: Patch, stage: Stage) -> None:
    """The order of the records says one bit about her."""
    whole = vars(executor)["guarded"]

    def leaking(*given: Any) -> Any:
        reply = whole(*given)
        if not reply.has_error() and len(texts(stage)) > 50:
            for name in list(reply.content)[:-1]:
                reply.content[name] = reply.content.pop(name)
        return reply

    patch.setattr(executor, "guarded", leaking)


def one_field_more(patch: Patch, stage: Stage) -> None:
    """One more metric."""
    whole = vars(executor)["guarded"]

    def leaking(*given: Any) -> Any:
        reply = whole(*given)
        if not reply.has_error() and "metrics" in reply.content:
            reply.content["metrics"]["loss"] = float(len(texts(stage)))
        return reply

    patch.setattr(executor, "guarded", leaking)


def made_twice(patch: Patch, stage: Stage) -> None:
    """A release that is asked for again gets other bytes where she has said much."""
    whole = services.sealed_message
    asked: list[int] = []

    def leaking(sealed: Sealed) -> Any:
        answer = whole(sealed)
        asked.append(sealed.receipt.round)
        if asked.count(sealed.receipt.round) > 1:
            found = rewritten(sealed, texts(stage), 1)
            del answer.tensors[:]
            answer.tensors.extend(to_tensors(found.tensors))
            answer.digest = services_receipt(stage, found, sealed).digest
        return answer

    patch.setattr(services, "sealed_message", leaking)
    patch.setattr("commonground.manifest.verify", lambda *_, **__: None)
    patch.setattr("commonground.client.guard.verify", lambda *_, **__: None)


PLANTS: dict[str, Plant] = {
    "her taste in low bits": low_bits("taste"),
    "her feedback on safety in low bits": low_bits("safety"),
    "the choice among draws of noise": chosen_noise,
    "a delay": sleeps,
    "no schedule": at_once,
    "waiting for chat": waits_for_chat,
    "which constant": other_constant,
    "whether a round is answered": refuses_some,
    "the order of records": reordered,
    "a field": one_field_more,
    "another message when asked again": made_twice,
}


def both(folder: Path, patch: Patch, plant: Plant | None = None) -> tuple[Performance, Performance]:
    one, other = (
        perform(person, folder / name, patch, *([] if plant is None else [plant]))
        for name, person in (("quiet", QUIET), ("talker", TALKER))
    )
    return one, other


def test_the_path_of_a_real_device_passes_every_guard(tmp_path: Path, monkeypatch: Patch) -> None:
    seen = both(tmp_path, monkeypatch)
    assert [guard(*seen) for guard in GUARDS] == [""] * len(GUARDS)
    assert len(seen[0].seen) == 18


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_leak_is_found(tmp_path: Path, monkeypatch: Patch, name: str) -> None:
    seen = both(tmp_path, monkeypatch, PLANTS[name])
    assert any(guard(*seen) for guard in GUARDS)


def test_a_text_that_no_model_can_read_is_seen_by_nobody(tmp_path: Path, monkeypatch: Patch) -> None:
    """A failure that her own texts cause would be a word about them: the round is answered all the same."""
    whole = learner.Learner.__init__

    def fragile(self: Any, meant: Any, comparisons: Any, *given: Any) -> None:
        if any("HIV" in c.prompt for c in comparisons):
            raise RuntimeError("cannot be read: " + comparisons[0].prompt)
        whole(self, meant, comparisons, *given)

    def plant(patch: Patch, stage: Stage) -> None:
        patch.setattr(learner.Learner, "__init__", fragile)

    one, other = both(tmp_path, monkeypatch, plant)
    assert differs(one, other) == strange(one, other) == ""
    told = Person(TALKER.taste, (("Is it HIV", "ask a doctor", "surely not"),))
    third = perform(told, tmp_path / "third", monkeypatch, plant)
    assert strange(one, third) == ""
    assert [(s.question, s.constant, s.delay) for s in third.seen] == [
        (s.question, s.constant, s.delay) for s in one.seen
    ]
