"""What a person is told before anything is accepted, derived by this device from the signed offer.

The one wording of it: `device join` shows it, and so does the page.
"""

from __future__ import annotations

import math
from datetime import datetime

import numpy as np

from commonground.client.charter_words import charter_words
from commonground.client.device_ledger import ACCOUNTANT
from commonground.client.learner import Understood
from commonground.privacy.accounting import Charge, epsilon_composed
from commonground.privacy.statement import statement
from commonground.study.signing import fingerprint

NOISE = {
    "local": (
        "The noise is added on this device, before a message leaves it. Nobody, the operator included, ever "
        "sees a message of yours without it, so the promise holds against the operator too."
    ),
    "central": (
        "The noise is added by the operator's server, to the sum of all, after your message has arrived. So "
        "the operator sees your single messages without noise, and could reconstruct parts of your safety "
        "feedback from one of them, the words included, until the study sums messages in secret. Your device "
        "cannot see whether the server adds the noise. Take part only if you trust the operator with your "
        "safety feedback."
    ),
    "none": (
        "Nobody adds noise. The operator sees your single messages as they are, and could reconstruct parts "
        "of your safety feedback from one of them, the words included; whoever looks at the shared adapter "
        "may learn some of it too. Take part only if all of them may know your safety feedback."
    ),
}
STAYS = (
    "Your comparisons, your taste adapter, what you chat and every score of yours stay on this device, "
    "encrypted. No message can carry them: a message has the tensors listed here and nothing else."
)
UNTOUCHED = "What you said about taste has no influence on any message."
TOUCHED = (
    "What you said about taste does have an influence on what is in the messages, within the same limits."
)
KNOWN = (
    "What the operator knows without any message: that you are enrolled and under which name, the address of "
    "your network, when your device is online, in which rounds it took part, and that it refused."
)
PAST = (
    "You can pause, take your data away, or leave at any time. What was sent before cannot be called back: "
    "its influence on the shared adapter stays, and so does the privacy that it cost."
)
STRONG, WEAK = 1.0, 3.0  # epsilons: from even odds to 73 % and to 95 % certainty; docs/privacy.md


def promise(meant: Understood, signer: str) -> list[str]:
    """The consent text of `device join`, one paragraph an item: which study, then what it means.

    Args:
        meant: the offer as this device understands it.
        signer: the operator's public key, hexadecimal.
    """
    offer = meant.offer
    return [
        f"Study {offer.study}, offer {offer.version}, signed by {fingerprint(signer)}. "
        f"{offer.purpose.strip()}",
        f"It is open from {_day(offer.opens)} to {_day(offer.closes)}. Ask: {offer.contact.strip()}",
        f"What is shared: {offer.shares.strip()}.",
        *consequences(meant),
        *([] if meant.charter is None else charter_words(meant.charter)),
    ]


def consequences(meant: Understood) -> list[str]:
    """What taking part means, one paragraph an item; the first says who adds the noise."""
    terms, config = meant.terms, meant.config
    apart = config.schedule == "decoupled" and "taste" not in config.shared.tags
    return [
        NOISE[terms.claim.trust if terms.claim.noise_multiplier > 0 else "none"],
        f"What leaves this device: at most {terms.most} message(s), any two at least {terms.separation} "
        f"round(s) apart, each of {_size(meant)}, and all of it clipped to length {meant.manifest.clip:.4g}.",
        epsilon_words(meant),
        f"{STAYS} {UNTOUCHED if apart else TOUCHED}",
        KNOWN,
        PAST,
    ]


def claim_in_full(meant: Understood) -> list[str]:
    """The same claim as every run of commonground states it, with every number; one paragraph an item."""
    claim, most = meant.terms.claim, meant.terms.most
    noised = claim.trust == "local" and claim.noise_multiplier > 0
    who = "with this device's noise" if noised else "clipped, without noise"
    released = [f"at most {most} messages of this device, {who}", "the shared adapter after each round"]
    return statement(
        claim,
        meant.terms.private_claim,
        people=claim.people,
        released=released,
        unit_words=[],
        side_view=False,
    ).splitlines()


def full_epsilon(meant: Understood) -> float:
    """Epsilon of all k messages, as this device computes it from the noise that the offer fixes."""
    return epsilon_composed([all_messages(meant)], meant.terms.claim.delta, ACCOUNTANT)


def all_messages(meant: Understood) -> Charge:
    """The charge of all k messages."""
    charge = meant.terms.account
    return charge._replace(steps=charge.steps * meant.terms.most)


def epsilon_words(meant: Understood) -> str:
    """What the epsilon of all messages together means, in one paragraph."""
    claim, epsilon = meant.terms.claim, full_epsilon(meant)
    who = f"This holds against {claim.adversary}."
    if math.isinf(epsilon):
        return (
            "Privacy: there is no noise, so nothing is promised (epsilon is infinite): what you said about "
            "harm may be read from your messages."
        )
    if not claim.meaningful:
        return (
            f"Privacy: noise is added, but with {claim.people} people no honest number can be given for it "
            f"(delta would have to be smaller). {who}"
        )
    factor = math.exp(epsilon) if epsilon < 700 else math.inf
    odds = f"{factor:.3g}" if factor < 1e6 else f"10 to the power {epsilon / math.log(10):.0f}"
    strength = (
        "That is a strong promise."
        if epsilon <= STRONG
        else "That is a moderate promise."
        if epsilon <= WEAK
        else "That is a weak promise: do not rely on it for anything that could hurt you."
    )
    return (
        f"Privacy: epsilon = {epsilon:.4g} at delta = {claim.delta:.3g} for all your messages "
        "together, computed by this device, against any other messages that you might have sent. In words: "
        f"whoever looks at everything that was released may find it up to {odds} times likelier under what "
        "you said than under anything else you could have said, so about something that was as likely as not "
        f"before they can be up to {certainty(epsilon)} sure. delta is what this leaves out: the probability "
        f"of any outcome may differ by another {claim.delta:.3g}. {strength} {who}"
    )


def certainty(epsilon: float) -> str:
    """How sure somebody can be who began at even odds, in %, rounded up: 100 e^eps / (1 + e^eps)."""
    left = 1 / (1 + math.exp(min(epsilon, 700.0)))
    if left < 5e-5:
        return "more than 99.99 %"
    digits = max(0, math.ceil(-math.log10(left)) - 1) if left < 0.1 else 0
    shown = math.ceil((100 - 100 * left) * 10**digits) / 10**digits
    return f"{min(shown, 99.99):.{digits}f} %"


def _size(meant: Understood) -> str:
    sent = meant.manifest.sent
    numbers = sum(int(np.prod(spec.shape)) for spec in sent)
    size = sum(int(np.prod(spec.shape)) * np.dtype(spec.dtype).itemsize for spec in sent)
    names = ", ".join(spec.name for spec in sent[:3]) + (", ..." if len(sent) > 3 else "")
    unit = f"{size / 1000:,.0f} kB" if size >= 1000 else f"{size} bytes"
    return f"{numbers:,} numbers in {len(sent)} tensor(s) ({names}), {unit}"


def _day(text: str) -> str:
    return datetime.fromisoformat(text).strftime("%d %B %Y, %H:%M UTC")
