"""What was spent, as numbers for a gauge and as sentences that are true read alone."""

from __future__ import annotations

import math
from typing import Any

from commonground.client.device_ledger import ACCOUNTANT, DeviceLedger
from commonground.privacy.accounting import Charge, epsilon_composed
from commonground.privacy.ledger import SLACK
from commonground.privacy.statement import ACCOUNTANT_WORDS, statement
from commonground.study.offer import Terms

RELEASED = (
    "sealed messages of this device, at most one for each charge, with the names, shapes and sizes that the "
    "accepted offer lists"
)
NEIGHBOURS = (
    "Neighbours, for all of it: everything that this device sent is replaced by anything else. Where the "
    "claim of a study replaces it by zeros, its messages are charged here at half the noise multiplier, so "
    "the number may be larger than the study's own."
)
ELSE = (
    "What else is known of this device and is covered by no epsilon: that it is enrolled, and under which "
    "name; when it is online; in which rounds it took part; and that it refused, without the reason."
)
WHO = {
    "local": "The noise is added on this device, before anything leaves it.",
    "central": "The noise is added by the operator's server, and this device cannot see whether it is: the "
    "number protects from everybody who sees what the server publishes, not from the operator.",
}


def summary(ledger: DeviceLedger, terms: Terms, offer: str, cap: float) -> dict[str, Any]:
    """The account as plain values.

    Args:
        ledger: the device's.
        terms: of the accepted offer.
        offer: its digest.
        cap: the participant's own epsilon.

    Returns:
        epsilon (infinity where a charge has no noise; None where delta says nothing for so few people, and
        then epsilon_if_many holds the number), meaningful, delta, cap, share (of the cap that is used, 0 to
        1), charged, committed and reserved (messages of the whole profile), taken (rounds under this offer),
        left (messages before k or the cap ends it), most, separation, accountant.

    Raises:
        PrivacyError: something left that no charge covers, so that no epsilon is true.
    """
    claim, entries = terms.claim, ledger.entries()
    epsilon = ledger.epsilon(claim.delta)
    committed = sum(entry["status"] == "committed" for entry in entries)
    taken = sum(entry["offer"] == offer for entry in entries)
    return {
        "epsilon": epsilon if claim.meaningful else None,
        "epsilon_if_many": None if claim.meaningful else epsilon,
        "meaningful": claim.meaningful,
        "delta": claim.delta,
        "cap": cap,
        "share": _share(epsilon, cap),
        "charged": len(entries),
        "committed": committed,
        "reserved": len(entries) - committed,
        "taken": taken,
        "left": min(max(terms.most - taken, 0), _fitting(ledger.spent(), terms, cap)),
        "most": terms.most,
        "separation": terms.separation,
        "accountant": ACCOUNTANT,
    }


def in_words(ledger: DeviceLedger, terms: Terms, offer: str, cap: float) -> str:
    """The privacy statement of this device, one paragraph a topic, separated by newlines.

    It holds what the accepted offer promises (unit, neighbours, adversary, mechanism) and what this device
    has spent by its own record.

    Args:
        ledger: as in `summary`.
        terms: as in `summary`.
        offer: as in `summary`.
        cap: as in `summary`.

    Raises:
        PrivacyError: as in `summary`.
    """
    found = summary(ledger, terms, offer, cap)
    promised = statement(
        terms.claim,
        terms.private_claim,
        people=terms.claim.people,
        released=[RELEASED] if found["committed"] else [],
        unit_words=[],
        side_view=False,
    )
    private = ledger.private.in_words(terms.private_claim)
    return "\n".join([promised, _spent(found), private, WHO[terms.claim.trust], ELSE])


def _spent(found: dict[str, Any]) -> str:
    times = (
        f"By its own record this device has charged {found['charged']} message(s): {found['committed']} left "
        f"or were ready to leave, and {found['reserved']} were charged and never made, which counts all the "
        f"same. Under this offer it has taken part in {found['taken']} of at most {found['most']} round(s)."
    )
    number = found["epsilon"] if found["meaningful"] else found["epsilon_if_many"]
    if math.isinf(number):
        return f"{times} A message left without noise, so epsilon is infinite: nothing is promised about it."
    cap = "You set no cap" if math.isinf(found["cap"]) else f"Your cap is {found['cap']:.4g}"
    over = f" {NEIGHBOURS}" if found["charged"] else ""
    sure = (
        ""
        if found["meaningful"]
        else " With so few people delta means nothing: this is what the same noise would give among many."
    )
    return (
        f"{times} All of it together, over every study and run of this profile, is epsilon = {number:.4g} at "
        f"delta = {found['delta']:.4g}, by {ACCOUNTANT_WORDS[ACCOUNTANT]}.{sure}{over} {cap}; at most "
        f"{found['left']} more message(s) will be made under this offer. Nothing is ever refunded. The "
        "number is computed on this device from the noise that the accepted offer fixes; none that a server "
        "sends is read."
    )


def _share(epsilon: float, cap: float) -> float:
    if epsilon == 0 or math.isinf(cap):
        return 0.0
    return min(1.0, epsilon / cap)


def _fitting(spent: tuple[Charge, ...], terms: Terms, cap: float) -> int:
    """How many more charges, k at most, fit below the cap."""
    fits, too_many = 0, terms.most + 1
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        more = terms.account._replace(steps=middle)
        after = epsilon_composed([*spent, more], terms.claim.delta, ACCOUNTANT)
        fits, too_many = (middle, too_many) if after <= cap * (1 + SLACK) else (fits, middle)
    return fits
