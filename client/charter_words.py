"""The charter in words, before anybody accepts it: `device join` shows them, and so does the page."""

from __future__ import annotations

import json
import math
from typing import Any

from commonground.bounds.charter import diff_charters, open_charter
from commonground.study.carried import Carried
from commonground.study.signing import Paper, fingerprint

Document = dict[str, Any]
PLACED = (
    "Every question is placed before your own adapter sees it, and every answer is read by the charter's "
    "detectors before you see it, sentence by sentence. They are public and frozen; what your device learned "
    "does not act on them."
)
HELD = (
    "What is held back is replaced by an answer of the common ground, or by a sentence of the charter's own. "
    "Detectors err: they miss some harm, and hold back some answers that are harmless. Style and values are "
    "out of their reach."
)
BOUND = (
    "It belongs to what you accept: this device answers no server that brings another one, and no adapter "
    "that was made under another one."
)


def charter_known(carried: Carried) -> Document:
    """What a charter is, in short; keys as in `OwnerClient.status`."""
    charter = carried.charter
    return {
        "title": charter.title,
        "version": charter.version,
        "digest": charter.digest,
        "appeal": charter.changes.appeal,
        "constraints": {name: one.text for name, one in charter.constraints.items()},
    }


def charter_shown(carried: Carried) -> Document:
    """A charter for the page of consent; keys as in `OwnerClient.consent`."""
    rules = [
        {"id": name, "text": one.text, "severity": one.severity, "jurisdiction": one.jurisdiction}
        for name, one in carried.charter.constraints.items()
    ]
    words = [PLACED, *_tiers(carried), HELD, _bounds(carried), *_changes(carried), BOUND]
    return charter_known(carried) | {"signer": fingerprint(carried.signer), "rules": rules, "words": words}


def charter_words(carried: Carried) -> list[str]:
    """The same for a terminal, one paragraph an item."""
    charter = carried.charter
    rules = [f"- {one.text} ({one.severity}, {one.jurisdiction})" for one in charter.constraints.values()]
    named = f"the charter {charter.title!r}, version {charter.version}, digest {charter.digest[:12]}"
    first = f"What your model may not write, by {named}, signed by {fingerprint(carried.signer)}:"
    return [
        "\n".join([first, *rules]),
        *charter_shown(carried)["words"],
    ]


def charter_changes(before: str, carried: Carried | None) -> list[str]:
    """What changed since the charter that was accepted before, for a terminal; nothing where there was none.

    Args:
        before: the charter as the earlier invitation carried it, or ''.
        carried: the new one.
    """
    if carried is None or not before:
        return []
    paper = Paper.from_text(json.loads(before)["charter"], "the charter that was accepted before")
    changed = diff_charters(open_charter(paper, paper.signer), carried.charter)
    if not changed:
        return ["The charter is the very one that you accepted before."]
    return [
        "\n".join(["What changed in the charter that you accepted before:", *(f"- {c}" for c in changed)])
    ]


def _tiers(carried: Carried) -> list[str]:
    delta = carried.charter.bounds.delta
    return [
        "Everyday questions: your own model answers, and the detectors decide alone.",
        f"Questions near a risk, or that are not clear: your own model answers within a budget of {delta:g} "
        f"nats, so that no answer is more than {math.exp(min(delta, 700)):.3g} times as likely as it is "
        "without your adapter. Little of your style is left there.",
        "Questions that ask for what is forbidden: your own adapter is not asked at all.",
    ]


def _bounds(carried: Carried) -> str:
    bounds = carried.charter.bounds
    return (
        f"What a certificate is held to: at most {bounds.max_violation:.3g} of answers against the charter, "
        f"and at most {bounds.max_fallback:.3g} of everyday answers that are not your own model's, with "
        f"confidence {bounds.confidence:.3g}. That is measured, by commonground certify; it is no promise "
        "about one answer."
    )


def _changes(carried: Carried) -> list[str]:
    changes = carried.charter.changes
    return [
        f"Who may change it: {changes.who.strip()}",
        f"How it changes: {changes.how.strip()}",
        f"If you think that it decided wrongly: {changes.appeal.strip()}",
    ]
