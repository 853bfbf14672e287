"""What a person can do with what is hers: see, teach, undo, pause, take away, erase."""

from __future__ import annotations

import math
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from commonground.client import told
from commonground.client.answers import Answers
from commonground.client.charter_words import charter_known
from commonground.client.feedback import Verdict
from commonground.client.keys import change_passphrase, ways
from commonground.client.learner import Understood
from commonground.client.ledger_words import in_words, summary
from commonground.client.lives import ASKED, account
from commonground.client.outbox import Sent
from commonground.client.pieces import Piece
from commonground.client.rounds import PAUSED, Rounds
from commonground.client.takeout import erase, export
from commonground.data.dialogue import one_turn
from commonground.data.starter import STYLES, safety_pairs, taste_prompts
from commonground.embeddings import Encoder
from commonground.errors import CommonGroundError, InputError, PrivacyError, TrustError
from commonground.privacy.accounting import epsilon_composed
from commonground.study.invitation import KIND as INVITATION
from commonground.study.signing import Paper, fingerprint
from commonground.training.harm import HarmClassifier, features, shipped_classifier

Document = dict[str, Any]
SAFETY_EVERY = 4  # every fourth suggestion is about harm
TOKENS = 512  # most tokens of one answer
WAYS = ("base", "shared", "personal")
WORDS = {
    "consent": "Waiting for you: nothing leaves this device before you have read the offer and accepted it.",
    "paused": "Paused: nothing leaves this device and nothing is learned from the study until you resume.",
    "closed": "The study is not open now: nothing leaves this device.",
    "spent": "Your privacy budget is spent: no further message leaves this device. It goes on learning here.",
    "learning": "Learning: an update runs on this device now.",
    "ready": "Ready: this device answers when the study asks.",
}


class Belongings:
    """The owner's side of the vault.

    Args:
        rounds: the node's side, which holds store and model.
    """

    def __init__(self, rounds: Rounds) -> None:
        self._rounds, self._store = rounds, rounds.store
        self._profile, self._lives = rounds.profile, rounds.lives
        self._answers = Answers(rounds)
        self._harm: tuple[Encoder, HarmClassifier] | None = None
        self.erased = threading.Event()

    def status(self) -> Document:
        """See `OwnerClient.status`."""
        offer, accepted = self._profile.terms(), self._rounds.accepted()
        meant, newest = self._meant(), self._rounds.newest()
        counts = self._store.feedback.counts()
        state = self._state(meant)
        return {
            "study": self._profile.study,
            "name": self._profile.name,
            "address": self._profile.address,
            "state": state,
            "words": WORDS[state],
            "paused": bool(self._store.get(PAUSED)),
            "consented": accepted is not None,
            "open": offer.is_open(),
            "offer": {"version": offer.version, "digest": offer.digest},
            "accepted": None if accepted is None else accepted.offer,
            "kind": offer.settings.model.kind,
            "base": dict(offer.base),
            "charter": None if meant is None or meant.charter is None else charter_known(meant.charter),
            "comparisons": {
                "safety": counts["safety"],
                "taste": counts["taste"],
                "ties": counts["tie"] + counts["both bad"],
                "cap": offer.settings.data.pairs_per_person,
            },
            "shared": {
                "version": 0 if newest is None else newest.version,
                "round": 0 if newest is None else newest.round,
            },
            "private": self._lives.told(meant),
            "refit": self._lives.why(),
            "refusals": {row["reason"]: row["count"] for row in self._store.refusals.all()},
            "sent": len(self._store.outbox.receipts()),
        }

    def add(self, prompt: str, chosen: str, rejected: str, tag: str, why: str) -> int:
        """See `OwnerClient.add`."""
        return self._store.feedback.add(prompt, chosen, rejected, tag, why)

    def tie(self, prompt: str, a: str, b: str, verdict: str) -> int:
        """See `OwnerClient.tie`."""
        return self._store.feedback.undecided(prompt, a, b, verdict)

    def undo(self) -> Document | None:
        """See `OwnerClient.undo`; the caller lets `Rounds.catch_up` run after it."""
        with self._store.transaction():
            found = self._store.feedback.undo()
            if found is not None:
                self._lives.taken_back(found)
        return None if found is None else _verdict(found)

    def comparisons(self, offset: int, limit: int) -> Document:
        """See `OwnerClient.comparisons`."""
        items = [_verdict(found) for found in self._store.feedback.page(offset, limit)]
        return {"total": sum(self._store.feedback.counts().values()), "items": items}

    def suggest(self) -> Document | None:
        """See `OwnerClient.suggest`."""
        if self._profile.terms().settings.model.kind != "reward":
            return None
        known = {(v.prompt, frozenset((v.first, v.second))) for v in self._store.feedback.all()}
        draw = secrets.SystemRandom()
        for _ in range(50):  # then even one that was answered before
            if draw.randrange(SAFETY_EVERY) == 0:
                pair = draw.choice(safety_pairs())
                prompt, answers = pair.prompt, [pair.safe, pair.unsafe]
            else:
                taste = draw.choice(taste_prompts())
                prompt, answers = taste.prompt, [taste.answers[style] for style in draw.sample(STYLES, 2)]
            if (prompt, frozenset(answers)) not in known:
                break
        draw.shuffle(answers)
        return {"prompt": prompt, "answers": answers}

    def generate(self, prompt: str, which: str, tokens: int) -> Iterator[Piece]:
        """See `OwnerClient.generate`."""
        if which not in WAYS:
            raise InputError(f"which is {which!r}; accepted: {', '.join(WAYS)}")
        if not 1 <= tokens <= TOKENS:
            raise InputError(f"tokens is {tokens}; accepted: 1 to {TOKENS}")
        if not prompt.strip():
            raise InputError("the prompt is empty; a text is needed")
        yield from self._answers.write(self._rounds.workshop(), one_turn(prompt), which, tokens)

    def propose_tag(self, prompt: str, a: str, b: str) -> str:
        """See `OwnerClient.propose_tag`."""
        if self._harm is None:
            encoder = Encoder("")
            self._harm = encoder, shipped_classifier(encoder.embed)
        encoder, classifier = self._harm
        rows = features(lambda texts: encoder.embed(texts, keep=False), [(prompt, a, b)])
        return classifier.propose(rows)[0]

    def learned(self) -> Document:
        """See `OwnerClient.learned`."""
        with self._rounds.model:
            meant = self._rounds.workshop()
            return told.learned(self._rounds, meant)

    def refit(self) -> Document:
        """See `OwnerClient.refit`."""
        version = self._rounds.refit(ASKED)
        life = self._lives.of(version)
        return {"version": version, "taste": life.taste, "steps": life.steps}

    def ledger(self) -> Document:
        """See `OwnerClient.ledger`."""
        terms, cap = self._rounds.understood().terms, self._cap()
        spent = self._rounds.ledger.epsilon(terms.claim.delta)
        found = summary(self._rounds.ledger, terms, self._profile.offer, cap)
        one = epsilon_composed([*self._rounds.ledger.spent(), terms.account], terms.claim.delta, "gaussian")
        entries = [
            {"time": e["time"], "key": e["key"], "status": e["status"], "q": e["sampling"]}
            | {"z": e["noise_multiplier"], "steps": e["steps"]}
            for e in reversed(self._rounds.ledger.entries())
        ]
        return {
            "trust": terms.claim.trust,
            "unit": terms.claim.unit,
            "epsilon": _number(spent),
            "delta": terms.claim.delta,
            "cap": _number(cap),
            "left": _number(max(0.0, cap - spent) if math.isfinite(spent) else 0.0),
            "one": _number(one),
            "messages": found["charged"],
            "messages_left": found["left"],
            "most": terms.most,
            "separation": terms.separation,
            "meaningful": found["meaningful"],
            "words": in_words(self._rounds.ledger, terms, self._profile.offer, cap).splitlines(),
            "entries": entries,
            "private": account(self._rounds.ledger.private.summary(terms.private_claim))
            | {"words": self._rounds.ledger.private.in_words(terms.private_claim)},
        }

    def private_cap(self, epsilon: float) -> Document:
        """See `OwnerClient.private_cap`; the caller lets `Rounds.catch_up` run after it."""
        self._rounds.ledger.private.set_cap(epsilon)
        return account(self._rounds.ledger.private.summary(self._rounds.understood().terms.private_claim))

    def receipts(self) -> list[Document]:
        """See `OwnerClient.receipts`."""
        sent = self._store.outbox.receipts()
        if not sent:
            return []
        terms = self._rounds.understood().terms
        # Entries are in the order of the charges, so a message's epsilon is that of all up to its own.
        spent, so_far = {}, []
        for entry in self._rounds.ledger.entries():
            so_far.append((entry["sampling"], entry["noise_multiplier"], entry["steps"]))
            spent[entry["scope"], entry["key"]] = epsilon_composed(so_far, terms.claim.delta, "gaussian")
        return [_receipt(one, spent[one.scope, one.key]) for one in sent]

    def receipt(self, number: int) -> tuple[Document, Sent]:
        """See `OwnerClient.receipt`."""
        found = self._store.outbox.receipt(number)
        listed = next(one for one in self.receipts() if one["id"] == number)
        return listed, found

    def consent(self) -> Document:
        """See `OwnerClient.consent`."""
        offer, accepted = self._profile.terms(), self._store.consent.current()
        found: Document = {
            "offer": {
                name: getattr(offer, name)
                for name in ("study", "version", "digest", "purpose", "contact", "shares", "opens", "closes")
            }
            | {"software": offer.software, "signer": fingerprint(self._profile.signer)},
            "accepted": None,
            "withdrawn": self._withdrawn(),
            "changed": accepted is not None and accepted.offer != offer.digest,
            "fits": None,
        }
        if accepted is not None:
            old = Paper.from_text(accepted.paper).content
            found["accepted"] = {
                "digest": accepted.offer,
                "version": old.get("version", 0),
                "time": accepted.time,
                "epsilon_cap": _number(accepted.epsilon_cap),
            }
        try:
            meant = self._rounds.understood()
        except CommonGroundError as error:
            return found | {"fits": error.message, "words": [], "leaves": []}
        return found | told.meaning(meant)

    def accept(self, digest: str, epsilon_cap: float) -> Document:
        """See `OwnerClient.accept`."""
        offer = self._profile.terms()
        if digest != offer.digest:
            raise TrustError(
                f"the offer is {offer.digest[:12]}; what you would accept is {digest[:12]}",
                hint="read the offer again: it is not the one you saw",
            )
        self._rounds.understood()  # raises where this device cannot take part
        content = Paper.from_text(self._profile.invitation.read_bytes(), "the invitation").opened(
            INVITATION, self._profile.signer, "the invitation"
        )
        self._store.consent.accept(offer.digest, str(content["offer"]), self._profile.signer, epsilon_cap)
        return self.consent()

    def withdraw(self) -> Document:
        """See `OwnerClient.withdraw`."""
        self._store.consent.withdraw()
        return self.consent()

    def passphrase(self, old: str, new: str) -> Document:
        """See `OwnerClient.passphrase`."""
        change_passphrase(self._profile.folder, old or None, new)
        return {"ways": list(ways(self._profile.folder))}

    def pause(self, paused: bool) -> Document:
        """See `OwnerClient.pause` and `resume`."""
        self._store.put(PAUSED, "yes" if paused else "")
        return self.status()

    def adapters(self) -> list[Document]:
        """See `OwnerClient.adapters`."""
        current = self._store.adapters.current()
        found = []
        for version in reversed(self._store.adapters.all()):
            life = self._lives.of(version.version)
            found.append(
                {
                    "version": version.version,
                    "time": version.time,
                    "reason": version.note,
                    "steps": life.steps,
                    "taste": life.taste,
                    "release": version.shared_version,
                    "current": current is not None and version.version == current.version,
                }
            )
        return found

    def rollback(self, version: int) -> Document:
        """See `OwnerClient.rollback`."""
        with self._rounds.model:
            self._lives.rollback(version)
        return self.status()

    def reset(self) -> Document:
        """See `OwnerClient.reset`."""
        with self._rounds.model:
            self._lives.reset()
        return self.status()

    def export(self, path: Path) -> Document:
        """See `OwnerClient.export`."""
        try:
            terms = self._rounds.understood().terms
            words = in_words(self._rounds.ledger, terms, self._profile.offer, self._cap())
        except (CommonGroundError, PrivacyError) as error:  # her data is hers whatever else is wrong
            words = f"The privacy statement cannot be made: {error.message}"
        try:
            charter = self._profile.charter()
        except CommonGroundError:
            charter = ""
        counts = export(self._store, path, statement=words, charter=charter)
        return {"path": str(path), "bytes": counts["bytes"]}

    def erase(self) -> Document:
        """See `OwnerClient.erase`."""
        with self._rounds.model:
            self._store.close()
            words = erase(self._profile.folder)
            self.erased.set()
        return {"erased": True, "words": words}

    def _state(self, meant: Understood | None) -> str:
        accepted = self._rounds.accepted()
        if accepted is None:
            return "consent"
        if self._store.get(PAUSED):
            return "paused"
        if not self._profile.terms().is_open():
            return "closed"
        if self._rounds.busy.is_set():
            return "learning"
        if meant is not None:
            found = summary(self._rounds.ledger, meant.terms, accepted.offer, accepted.epsilon_cap)
            if found["left"] == 0:
                return "spent"
        return "ready"

    def _meant(self) -> Understood | None:
        """What is derived by now; looking at the status loads no model."""
        return self._rounds.derived

    def _withdrawn(self) -> str | None:
        """When the newest consent was taken back."""
        newest = self._store.consent.history()[-1:]
        return newest[0].withdrawn if newest else None

    def _cap(self) -> float:
        accepted = self._rounds.accepted()
        return math.inf if accepted is None else accepted.epsilon_cap


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else "inf"


def _verdict(found: Verdict) -> Document:
    return {
        "id": found.id,
        "time": found.time,
        "prompt": found.prompt,
        "chosen": found.first,
        "rejected": found.second,
        "tag": found.tag or "taste",
        "verdict": "better" if found.verdict == "first" else found.verdict,
        "why": found.why,
    }


def _receipt(sent: Sent, epsilon: float) -> Document:
    return {
        "id": sent.id,
        "time": sent.time,
        "round": sent.receipt.round,
        "release": int(sent.key.removeprefix("release-")),
        "bytes": sent.receipt.bytes,
        "names": [name for name, _, _ in sent.tensors],
        "digest": sent.receipt.digest,
        "epsilon": _number(epsilon),
    }
