"""What a device's model writes: nothing that the accepted charter's guard has not passed, and why."""

from __future__ import annotations

import json
import secrets
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_charter
import toy_profile
import toy_vault
from toy_charter import FORBIDDEN, NEAR, UNSAFE, signed_charter
from toy_models import tiny_base
from toy_patience import a_while
from toy_vault import Vault, running
from toy_world import HashEncoder

from commonground import language_model
from commonground.bounds.budget import Budget
from commonground.bounds.guard import REFUSAL
from commonground.client import answers, learner, told
from commonground.client.charter_words import charter_changes
from commonground.client.devices import Device
from commonground.client.invited import derive
from commonground.client.learner import understand
from commonground.client.pieces import CLOSED, SENSITIVE, Piece, why
from commonground.client.profile import read_profile
from commonground.client.promise import promise
from commonground.errors import ConfigError, EgressError, InputError, TrustError
from commonground.manifest import Manifest
from commonground.study.carried import carry, read_carried
from commonground.study.charters import read_charter
from commonground.study.invitation import read_invitation
from commonground.study.offer import Offer, as_config
from commonground.study.signing import Paper
from commonground.training.contract import CHARTER

MODEL = {"kind": "policy", "adapter": "lora", "layers": 2, "rank": 2}
FREE, SENSITIVE_PROMPT, CLOSED_PROMPT = "what is a tide", f"what is a {NEAR} tide", f"boil {FORBIDDEN}"
SAFE, HARM = "the moon rises. ", f"the {UNSAFE} falls. "


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(language_model, "load_base", lambda base: tiny_base())
        yield


@pytest.fixture(scope="module")
def toys() -> Iterator[None]:
    """The encoder that the toy charter's heads were made on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answers, "Encoder", HashEncoder)
        patch.setattr(learner, "Encoder", HashEncoder)
        yield


def charter_of(folder: Path, **changes: Any) -> tuple[Offer, str]:
    """An offer under a toy charter, and what its invitation carries."""
    file = signed_charter(folder, **changes)
    text = carry(Paper.from_text(file.read_text()), folder)
    config = toy_vault.study_config(model=MODEL, bounds__charter=read_charter(file).charter.digest)
    return toy_vault.offer_of(config), text


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory, small: None, toys: None) -> Iterator[Vault]:
    folder = tmp_path_factory.mktemp("box")
    offer, text = charter_of(folder / "charter")
    with running(folder / "p", offer, charter=text) as found:
        found.consent()
        yield found


class Script:
    """Stands in for the model: says what it is told, and keeps what was asked of it."""

    def __init__(self, personal: Sequence[str], shared: Sequence[str] = (SAFE,)) -> None:
        self.texts = {True: list(personal), False: list(shared)}
        self.asked: list[tuple[bool, Budget | None]] = []
        self.open = 0

    def write(
        self, meant: Any, prompt: str, own: Any, tokens: int, budget: Budget | None = None
    ) -> Iterator[str]:
        mine = own[1] is not None
        self.asked.append((mine, budget))
        assert self.open == 0, "another draw is still half written, its adapters act"
        self.open += 1
        try:
            yield from self.texts[mine]
        finally:
            self.open -= 1


@contextmanager
def scripted(monkeypatch: pytest.MonkeyPatch, *texts: Sequence[str]) -> Iterator[Script]:
    script = Script(*texts)
    with monkeypatch.context() as patch:
        patch.setattr(told, "write", script.write)
        patch.setattr(told, "policies", lambda *_: ({}, {}))
        yield script


def said(box: Vault, prompt: str, which: str = "personal") -> list[Piece]:
    return list(box.owner.generate(prompt, which, 8))


def test_each_tier_decodes_as_the_charter_says(box: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted(monkeypatch, ["mine ", "too. ", "And more."], ["ours."]) as script:
        assert said(box, FREE) == [
            Piece("mine too. ", "personal", "free"),
            Piece("And more.", "personal", "free"),
        ]
        assert said(box, SENSITIVE_PROMPT)[-1] == Piece("And more.", "personal", "sensitive")
        assert said(box, CLOSED_PROMPT) == [Piece("ours.", "shared", "closed")]
    assert script.asked == [(True, None), (True, Budget(1.0)), (False, None)]


@pytest.mark.parametrize(("which", "source"), [("shared", "shared"), ("base", "base")])
def test_answers_of_others_are_guarded_too(
    box: Vault, monkeypatch: pytest.MonkeyPatch, which: str, source: str
) -> None:
    with scripted(monkeypatch, ["mine."], [SAFE]) as script:
        assert said(box, FREE, which) == [Piece(SAFE, source, "free")]
    with scripted(monkeypatch, ["mine."], [HARM]) as script:
        (piece,) = said(box, FREE, which)
        assert (piece.source, piece.reasons) == ("refusal", ("unsafe",))
        assert script.asked == [(False, None)]  # one draw: another would see what was rejected


def test_what_is_held_back_is_the_shared_answer_and_then_a_constant(
    box: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    with scripted(monkeypatch, [HARM, SAFE], [SAFE]):
        assert said(box, FREE) == [Piece(SAFE, "shared", "free", "", ("unsafe",))]
    with scripted(monkeypatch, [HARM], [HARM]):
        assert said(box, FREE) == [Piece(REFUSAL, "refusal", "free", "", ("unsafe", "unsafe"))]
    with scripted(monkeypatch, [SAFE, HARM, SAFE], [SAFE]):
        first, last = said(box, FREE)
        assert (first.text, last.text, last.source) == (SAFE, REFUSAL, "refusal")


def test_she_takes_the_charter_with_her(box: Vault, tmp_path: Path) -> None:
    box.owner.export(tmp_path / "mine.zip")
    with zipfile.ZipFile(tmp_path / "mine.zip") as archive:
        assert archive.read("charter.json").decode() == box.profile.charter()
        assert "Toy charter" in archive.read("charter.json").decode()


def test_a_refusal_names_the_constraint_whose_it_is(box: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    work = box.server.mine._answers.enforcement(box.server.rounds.understood())
    monkeypatch.setattr(work.guard, "_pick", lambda prompt: "No tides of these.")
    with scripted(monkeypatch, [HARM], [HARM]):
        assert said(box, FREE)[-1].constraint == "tides"


def fails(*_: Any) -> Any:
    raise RuntimeError("broken")


def hangs(*_: Any) -> Any:
    a_while(5)
    return [0.0]


@pytest.mark.parametrize(("broken", "reason"), [(fails, "error"), (hangs, "timeout")])
def test_a_check_that_fails_or_hangs_shows_nothing_of_any_model(
    box: Vault, monkeypatch: pytest.MonkeyPatch, broken: Any, reason: str
) -> None:
    work = box.server.mine._answers.enforcement(box.server.rounds.understood())
    monkeypatch.setattr(work.guard, "_timeout", 0.2)
    with scripted(monkeypatch, ["mine."], ["ours."]) as script, monkeypatch.context() as patch:
        patch.setattr(work.guard.detector, "score", broken)
        (piece,) = said(box, FREE)
        assert (piece.text, piece.source, piece.reasons) == (REFUSAL, "refusal", (reason, reason))
        script.asked.clear()
        patch.undo()
        patch.setattr(told, "write", script.write)
        patch.setattr(told, "policies", lambda *_: ({}, {}))
        patch.setattr(work.placement, "tier", broken)
        assert said(box, FREE)[0].tier == "closed"
        assert script.asked == [(False, None)]  # where nobody knows what is asked, no private weight is


def test_a_model_that_dies_ends_in_a_constant(box: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(told, "policies", lambda *_: ({}, {}))
    monkeypatch.setattr(told, "write", fails)
    assert [(p.source, p.reasons) for p in said(box, FREE)] == [("refusal", ("error", "error"))]


def test_after_a_draw_was_held_back_half_written_the_next_is_the_shared_policy_s_bit_for_bit(
    box: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    for k in range(4):
        box.owner.add("how do I boil an egg", "moon moon sea", f"yes no {'maybe ' * k}", "taste")
    arrays = box.operator.arrays(0.05)
    box.device.private_update(1, arrays, True, release=box.operator.release(1, arrays))
    work = box.server.mine._answers.enforcement(box.server.rounds.understood())
    monkeypatch.setattr(secrets, "randbits", lambda bits: 5)
    verdicts: list[float] = []

    def judge(prompts: Sequence[str], texts: Sequence[str] | None = None) -> list[float]:
        return [verdicts.pop() if verdicts else 0.0]

    monkeypatch.setattr(work.guard.detector, "score", judge)
    whole = {
        way: "".join(p.text for p in box.owner.generate(FREE, way, 24)) for way in ("personal", "shared")
    }
    assert whole["personal"] != whole["shared"]
    verdicts.append(1.0)  # of the first sentence
    found = list(box.owner.generate(FREE, "personal", 24))
    assert (found[0].source, found[0].reasons) == ("shared", ("unsafe",))
    assert "".join(p.text for p in found) == whole["shared"]


def test_temperature_and_randomness_are_those_of_every_answer(
    box: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert told.TEMPERATURE == 0.7
    for prompt in (FREE, SENSITIVE_PROMPT):
        assert len({"".join(p.text for p in said(box, prompt)) for _ in range(6)}) > 1


def test_no_text_of_hers_is_embedded_into_a_file(
    tmp_path: Path, toys: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[bool] = []

    class Spy(HashEncoder):
        def embed(self, texts: Sequence[str], progress: Any = None, *, keep: bool = True) -> np.ndarray:
            kept.append(keep)
            return super().embed(texts, progress, keep=keep)

    monkeypatch.setattr(answers, "Encoder", Spy)
    offer, text = charter_of(tmp_path / "charter")
    with running(tmp_path / "p", offer, charter=text) as box:
        box.consent()
        said(box, CLOSED_PROMPT)
    assert kept
    assert not any(kept)


def test_a_charter_for_another_base_model_writes_nothing(tmp_path: Path, toys: None) -> None:
    offer, text = charter_of(tmp_path / "charter", base="1" * 64)
    with running(tmp_path / "p", offer, charter=text) as box:
        box.consent()
        with pytest.raises(TrustError, match="the base model has the digest 0000000000000000"):
            said(box, FREE)


def test_a_charter_is_tried_before_anybody_accepts_it(
    tmp_path: Path, toys: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer, text = charter_of(tmp_path / "base", base="1" * 64)
    with pytest.raises(TrustError, match="the charter was made for 1111111111111111"):
        derive(read_invitation(toy_profile.invite(offer, "a ca", charter=text)), None, lambda words: None)
    monkeypatch.setattr(toy_charter, "UNSAFE", "the")  # half of all answers have it, in every style
    offer, text = charter_of(tmp_path / "style")
    with pytest.raises(ConfigError, match="answers that differ in taste alone"):
        derive(read_invitation(toy_profile.invite(offer, "a ca", charter=text)), None, lambda words: None)


def test_the_charter_is_part_of_what_is_accepted_and_of_every_message(tmp_path: Path, toys: None) -> None:
    offer, text = charter_of(tmp_path / "one")
    other, other_text = charter_of(tmp_path / "other", max_violation=0.9)
    assert offer.manifest["versions"][CHARTER] == offer.config["bounds"]["charter"]
    assert (offer.digest, offer.manifest) != (other.digest, other.manifest)
    with running(tmp_path / "p", offer, charter=text) as box:
        with pytest.raises(TrustError, match="what you would accept is"):
            box.owner.accept(other.digest, 4.0)
        box.consent()
        device: Device = box.device
        assert device.manifest.digest != Manifest.from_dict(other.manifest).digest  # so the node refuses it
        stranger = toy_vault.Operator(replace(other, opens=offer.opens, closes=offer.closes))
        arrays = stranger.arrays(0.01)
        # as if it were under the accepted offer: what was signed is an adapter of another manifest
        text_of_release = stranger.release(1, arrays, offer=offer.digest)
        with pytest.raises(EgressError, match="refused"):
            box.device.shared_update(1, arrays, release=text_of_release)
        assert box.owner.status()["refusals"] == {"other tensors than were signed": 1}
        assert box.owner.status()["charter"]["title"] == "Toy charter"
    # an operator who changes the charter in a later invitation is another offer, and this device's is gone
    (tmp_path / "p" / "invitation").write_text(toy_profile.invite(other, charter=other_text))
    with pytest.raises(TrustError, match="this device joined"):
        read_profile(tmp_path / "p").terms()


def test_an_offer_without_a_charter_is_refused_in_words(toys: None) -> None:
    config = toy_vault.study_config(model=MODEL)
    old = toy_profile.toy_offer(config=as_config(config))
    with pytest.raises(TrustError) as caught:
        understand(old)
    assert "names no charter" in caught.value.message
    assert "new offer" in str(caught.value.hint)


def test_another_charter_s_text_with_the_offer_is_refused(tmp_path: Path, toys: None) -> None:
    offer, text = charter_of(tmp_path / "one")
    _, other = charter_of(tmp_path / "other", max_violation=0.9)
    for given, words in ((other, "the offer names"), ("", "is missing from the invitation")):
        with pytest.raises(TrustError, match=words):
            understand(offer, None, given)
    spoiled = json.loads(text)
    spoiled["files"]["near.json"] = spoiled["files"]["closed.json"]
    with pytest.raises(TrustError, match="detector near has the digest"):
        understand(offer, None, json.dumps(spoiled))
    found = understand(offer, None, text)
    told_at_join = "\n".join(promise(found, "ab" * 32))
    assert found.charter is not None
    for words in (
        "the charter 'Toy charter', version 1, digest " + offer.config["bounds"]["charter"][:12],
        "- No tides of xylophones. (high, universal)",
        "within a budget of 1 nats",
        "at most 0.05 of answers against the charter",
        "Who may change it: us\nHow it changes: anew",
        "If you think that it decided wrongly: Write to us.",
        "this device answers no server that brings another one",
    ):
        assert told_at_join.count(words) == 1, words


def test_what_changed_in_the_charter_is_told_to_who_accepted_an_earlier_one(tmp_path: Path) -> None:
    _, text = charter_of(tmp_path / "one")
    file = signed_charter(tmp_path / "other", max_violation=0.9)
    new = read_carried(
        carry(Paper.from_text(file.read_text()), file.parent), read_charter(file).charter.digest, "hash"
    )
    (line,) = charter_changes(text, new)
    assert line.splitlines()[1:] == ["- bounds.max_violation: 0.05 -> 0.9"]
    (same,) = charter_changes(carry(Paper.from_text(file.read_text()), file.parent), new)
    assert "the very one that you accepted before" in same
    assert charter_changes("", new) == charter_changes(text, None) == []


ABOUT = {"constraints": {"fraud": "Help to cheat."}, "appeal": "Write to us."}


@pytest.mark.parametrize(
    ("asked", "pieces", "words"),
    [
        ("personal", [], []),
        ("personal", [Piece("a", "personal", "free")], []),
        ("shared", [Piece("a", "shared", "closed")], []),
        ("shared", [Piece("a", "shared", "sensitive")], []),
        ("personal", [Piece("a", "shared", "closed")], [CLOSED]),
        ("personal", [Piece("a", "personal", "sensitive")], [SENSITIVE]),
        (
            "personal",
            [Piece("a", "shared", "free", "", ("timeout",))],
            ["held back: it could not be checked in time", "common ground answers in its place"],
        ),
        (
            "shared",
            [Piece("a", "refusal", "free", "fraud", ("unsafe",))],
            ["This answer was held back", "did not find it safe", "forbids: Help to cheat.", "Write to us."],
        ),
        (
            "personal",
            [Piece("a", "refusal", "closed", "fraud", ("closed",))],
            ["it lets nobody answer then", "forbids: Help to cheat."],
        ),
        (
            "personal",
            [Piece("b", "personal", "free"), Piece("a", "refusal", "free", "", ("score",))],
            ["The rest of this answer was held back", "no clear result"],
        ),
    ],
)
def test_why_in_words(asked: str, pieces: list[Piece], words: list[str]) -> None:
    found = why(asked, pieces, ABOUT)
    assert bool(found) == bool(words)
    assert all(part in found for part in words)


def test_a_reward_study_has_no_charter_and_writes_nothing(
    tmp_path: Path, toys: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from commonground.training import features

    monkeypatch.setattr(features, "Encoder", HashEncoder)
    with running(tmp_path / "p", toy_vault.offer_of(toy_vault.study_config())) as box:
        assert box.owner.consent()["charter"] is None
        with pytest.raises(InputError, match="writes none"):
            said(box, FREE)
