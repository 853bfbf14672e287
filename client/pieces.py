"""A piece of an answer, and why it is this one: what the vault tells its own person, and nobody else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

HELD = {
    "unsafe": "the charter's detector did not find it safe",
    "timeout": "it could not be checked in time",
    "score": "the check gave no clear result",
    "error": "it could not be written, or not be checked",
    "closed": "your question may ask for what the charter forbids, and it lets nobody answer then",
}
CLOSED = (
    "Your question may ask for what the charter forbids. Your own adapter is not asked then: the common "
    "ground answers."
)
SENSITIVE = (
    "Your question touches a risk, so your own adapter had a small budget: this may sound less like you than "
    "usual."
)
CONSTANT = "This sentence is the charter's own; no model wrote it."


@dataclass(frozen=True)
class Piece:
    """Text that has passed the charter's guard, or its refusal.

    Attributes:
        text: what is shown.
        source: personal | shared | base (which policy wrote it) | refusal (nobody: a public constant).
        tier: where the question was placed: free | sensitive | closed.
        constraint: of a refusal, the constraint whose it is; '' for the general one.
        reasons: one word a draw that was held back before: unsafe | error | timeout | score,
            or `closed` where the charter lets nobody draw.
    """

    text: str
    source: str
    tier: str
    constraint: str = ""
    reasons: tuple[str, ...] = ()


def why(asked: str, pieces: Sequence[Piece], charter: Mapping[str, Any] | None) -> str:
    """Why an answer is the one that it is, in words for its person; '' where nothing was held back.

    Args:
        asked: whose answer was asked for: personal | shared | base.
        pieces: of the answer, in order.
        charter: `constraints` (id -> text) and `appeal`, as `OwnerClient.status` has them.
    """
    if not pieces:
        return ""
    last, about = pieces[-1], charter or {}
    if last.source == "refusal":
        what = "The rest of this answer was held back" if len(pieces) > 1 else "This answer was held back"
        because = HELD.get(last.reasons[-1], HELD["error"]) if last.reasons else HELD["error"]
        rule = dict(about.get("constraints", {})).get(last.constraint, "")
        nearest = f" The nearest rule forbids: {rule}" if rule else ""
        appeal = f" If this is wrong: {about['appeal']}" if about.get("appeal") else ""
        return f"{what}: {because}.{nearest} {CONSTANT}{appeal}"
    if asked == "personal" and last.tier == "closed":
        return CLOSED
    if asked == "personal" and last.source == "shared":
        because = HELD.get(last.reasons[-1], HELD["error"]) if last.reasons else HELD["error"]
        return f"Your model's own answer was held back: {because}. The common ground answers in its place."
    if asked == "personal" and last.tier == "sensitive":
        return SENSITIVE
    return ""
