"""What each way of bounding personalisation guarantees, in one word and one sentence.

    none         nothing: it worked against the attacks that were tried
    average      a statement about a mean, over answers or prompts
    per-output   a statement about every answer, for every private adapter

A guarantee holds for the unmodified runtime and whatever the private adapter holds. The owner of a device
with open weights can run other software; nothing here binds her then.
"""

from __future__ import annotations

from dataclasses import dataclass

from commonground.errors import InputError

GUARANTEES = ("none", "average", "per-output")


@dataclass(frozen=True)
class Mechanism:
    """A way of bounding personalisation.

    Attributes:
        guarantee: one of `GUARANTEES`.
        says: what holds, in a sentence that a certificate can print.
    """

    guarantee: str
    says: str


MECHANISMS: dict[str, Mechanism] = {
    "projection": Mechanism(
        "none", "Private weights are moved out of a safety subspace; an attacker who knows it walks around."
    ),
    "penalty": Mechanism(
        "average", "Training keeps a mean over safety pairs; single answers are free, and so is an attacker."
    ),
    "kl": Mechanism(
        "average", "A mean log-ratio is capped; at 0.1 nats a violation rate of 0.1 % may still reach 3.7 %."
    ),
    "reward": Mechanism(
        "per-output", "Every pair of answers whose shared margin is above 2c keeps its order."
    ),
    "best_of": Mechanism("per-output", "An answer is at most n times as likely as under the shared policy."),
    "guard": Mechanism(
        "per-output", "No answer is shown that the frozen detector does not call safe; what it misses passes."
    ),
    "budget": Mechanism(
        "per-output", "An answer is at most e^Delta times as likely as under the shared policy."
    ),
    "budget_and_guard": Mechanism(
        "per-output",
        "A violation that the detector misses is at most R e^Delta + 1 times as likely as under shared.",
    ),
    "menu": Mechanism(
        "per-output",
        "The shared policy writes every word; a private choice is at most as bad as any of K items.",
    ),
    "closed": Mechanism("per-output", "No private weights at all: the shared policy, or the refusal."),
}

TIER_MECHANISMS = {"free": "guard", "sensitive": "budget_and_guard", "closed": "closed"}


def mechanism(name: str) -> Mechanism:
    """The mechanism called `name`; raises `InputError` with the known names."""
    if name not in MECHANISMS:
        raise InputError(f"mechanism is {name!r}; known: {', '.join(MECHANISMS)}")
    return MECHANISMS[name]
