"""The privacy statement in plain sentences, and the refusal to make one that leaves a release out.

Every run prints and stores it (methods E0; what to state follows Ponomareva et al., JAIR 2023, arXiv
2303.00654). It must be true read alone: each claim names its unit, its neighbours, who sees what, every
number, and what is not covered.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from commonground.errors import PrivacyError, Reason
from commonground.privacy.accounting import FEW_PEOPLE, delta_is_meaningful, largest_delta
from commonground.privacy.adaptive_clip import RATE, TARGET, AdaptiveClip
from commonground.privacy.banded import BandedNoise
from commonground.privacy.claims import PrivateClaim, SharedClaim

ACCOUNTANT_WORDS = {
    "prv": "the PRV accountant",
    "rdp": "the RDP accountant",
    "gaussian": "the exact (analytic) Gaussian accountant",
}
SIDE_VIEW = (
    "This was a simulation: accuracies, texts and anything else that the report shows about single people is "
    "the researcher's omniscient view. It would not exist in a deployment and is not covered by any epsilon "
    "here."
)
SEEDED = (
    "Whoever knows the seed of this run has everything: all noise and all coins below were drawn from it, so "
    "that the run can be repeated, and can be taken away with it. What follows is what the same noise "
    "promises towards somebody who does not know it, as in a deployment, which draws it from the operating "
    "system."
)
SECRET = (
    "The noise and the coins of this run come from a secret number of the operating system that is kept in "
    "its state folder (noise.key) and nowhere else: whoever has that file can take all noise away, and once "
    "it is deleted nobody can."
)


def statement(
    shared_claim: SharedClaim,
    private_claim: PrivateClaim | None,
    *,
    people: int,
    released: Sequence[str],
    unit_words: Sequence[str],
    side_view: bool = True,
    seeded: bool = True,
) -> str:
    """The privacy statement E0, one paragraph a topic, separated by newlines.

    Args:
        shared_claim: the promise about the shared adapter.
        private_claim: the promise about private adapters, or None if there are none.
        people: people whose comparisons were used.
        released: every kind of thing that left a device or was made public, in words.
        unit_words: what a comparison is made of, e.g. how many comparisons one rating touches; each is
            written as a sentence of its own.
        side_view: whether a researcher looked at people from outside (every simulation).
        seeded: of a simulation, whether its noise came from the run's seed, which stands in its results.
    """
    private = [] if private_claim is None else [_private(private_claim)]
    units = " ".join(_sentence(word) for word in unit_words if word.strip())
    left = "; ".join(released) if released else "nothing"
    noisy = shared_claim.noise_multiplier > 0 or (
        private_claim is not None and math.isfinite(private_claim.epsilon)
    )
    parts = [
        *([SEEDED if seeded else SECRET] if side_view and noisy else []),
        _shared(shared_claim, people),
        *_noise(shared_claim),
        _sight(shared_claim),
        *private,
        *([f"About the unit. {units}"] if units else []),
        f"What left the devices or was made public: {left}.",
        *([SIDE_VIEW] if side_view else []),
    ]
    return "\n".join(parts)


def refuse_if_unaccounted(released_names: Iterable[str], accounted_names: Iterable[str]) -> None:
    """Raise `PrivacyError` if something was released that no account covers; then no epsilon is true."""
    accounted = sorted(set(accounted_names))
    missing = sorted(set(released_names) - set(accounted))
    if missing:
        raise PrivacyError(
            f"released without an account: {', '.join(map(repr, missing))}; accounted for: "
            f"{', '.join(map(repr, accounted)) or 'nothing'}",
            hint="charge every release to the ledger before it leaves, or do not release it",
            reason=Reason.UNACCOUNTED,
        )


def _shared(claim: SharedClaim, people: int) -> str:
    own = "everything one person ever contributed" if claim.unit == "person" else "one piece of feedback"
    head = (
        f"Shared adapter ({people} people): the unit of privacy is one {claim.unit}, that is, {own}; "
        f"neighbours are two populations where {claim.neighbours}."
    )
    if claim.epsilon == math.inf:
        return (
            f"{head} There is no noise, so epsilon is infinite: this run makes no promise about the shared "
            "adapter, and what a person said may be read from it."
        )
    if not claim.meaningful:
        return f"{head} {doubt(claim)} Noise was added, but no number is claimed for it."
    return (
        f"{head} The guarantee is epsilon = {_number(claim.epsilon)} at delta = {_number(claim.delta)} for "
        f"the whole run of {claim.rounds} rounds, by {ACCOUNTANT_WORDS[claim.accountant]}."
    )


def _noise(claim: SharedClaim) -> list[str]:
    adapted = [] if claim.adaptive is None else [_adapted(claim.adaptive)]
    if claim.noise_multiplier == 0:
        return adapted
    clip = "C" if claim.clip is None else f"C = {_number(claim.clip)}"
    loud = "noise of z*C with"
    if claim.adaptive is not None:
        clip, loud = "the C_t of its round", "and to a count of bits noise that together has"
    what = "whole update" if claim.unit == "person" else "gradient of each comparison"
    scale = f"{loud} z = {_number(claim.noise_multiplier)}; the {what} is clipped to {clip} in L2"
    if claim.banded is not None:
        return [_banded(claim, claim.banded, clip)]
    if claim.participations is not None:
        return [
            f"Mechanism: each device adds {scale}, so replacing a person moves a message by at most 2C. "
            f"A person sends at most {claim.participations} messages in T = {claim.rounds} rounds. "
            f"There is no amplification by sampling (q = {_number(claim.sampling)}), and that a person took "
            "part is not hidden."
        ]
    who = "the server adds to the sum" if claim.trust == "central" else "each device adds to its sum"
    if claim.unit == "person":
        coins = (
            f"In each of T = {claim.rounds} rounds every person takes part by an independent secret coin "
            f"with q = {_number(claim.sampling)} ({claim.cohort} of {claim.people} expected); everybody is "
            "charged every round, drawn or not. On real devices, which select themselves, this "
            "amplification does not exist and the claim must be made anew."
        )
    else:
        coins = (
            f"In each of T = {claim.rounds} rounds every comparison is drawn by an independent secret coin "
            f"with q = {_number(claim.sampling)}; being left out of a cohort ({claim.cohort} of "
            f"{claim.people} people expected) is not counted as protection. A person with many comparisons "
            "is protected less than this epsilon says."
        )
    return [f"Mechanism: {who} {scale}. {coins}", *adapted]


def _banded(claim: SharedClaim, noise: BandedNoise, clip: str) -> str:
    """The paragraph about noise that cancels between rounds."""
    return (
        f"Mechanism: the server adds to the sum of each of T = {claim.rounds} rounds noise that goes "
        f"together with that of other rounds (banded DP-FTRL, band b = {noise.band}): fresh noise of "
        f"deviation z*C*sens with z = {_number(claim.noise_multiplier)} and sens = "
        f"{_number(noise.sensitivity)}, less parts of the noise of the {noise.band - 1} rounds before, so "
        "that most of it cancels in sums over rounds. The "
        f"whole update is clipped to {clip} in L2. A person takes part in at most k = {noise.participations} "
        f"rounds, any two of them at least {noise.band} apart; each device keeps to both by itself and "
        f"refuses to join early. sens = sqrt(k) times {_number(noise.column_norm)}, the norm of a column of "
        "the band, so the whole run is one Gaussian release of multiplier z. No amplification by sampling is "
        f"claimed (people come by rota, {claim.cohort} of {claim.people} expected a round), and that a "
        "person took part is not hidden."
    )


def _adapted(clip: AdaptiveClip) -> str:
    """The paragraph about a clip that follows the median norm."""
    text = (
        f"The clip is adapted: it begins at C_1 = {_number(clip.start)}, no device accepts one above "
        f"{_number(clip.most)}, and each message carries one bit, whether the person's update was within C_t "
        "before the clip, as +1/2 or -1/2. C_t becomes C_t exp(-eta (b - gamma)) with eta = "
        f"{_number(RATE)} and gamma = {_number(TARGET)}, where b is the count of bits divided by the "
        f"{_number(clip.cohort)} people expected, plus 1/2. "
    )
    if clip.noise_multiplier > 0:
        text += (
            f"The sum of updates gets noise of deviation z_Delta C_t with z_Delta = "
            f"{_number(clip.update_multiplier)}, the count of bits noise of deviation s_b = "
            f"{_number(clip.bit_noise)}, of which one person moves it by 1/2: z_Delta^-2 + (2 s_b)^-2 = z^-2 "
            f"with z = {_number(clip.noise_multiplier)}, so both together are one release of multiplier z. "
        )
    return text + "C_t is made public in every round; it is computed from the released counts alone."


def _sight(claim: SharedClaim) -> str:
    seen = f"Who sees what: the adversary is {claim.adversary}."
    if claim.trust == "central":
        seen += (
            " Until secure summation exists the server could see single clipped updates in clear, and parts "
            "of a person's feedback can be reconstructed from such an update (gradient inversion)."
        )
    order = {
        "decoupled": "private adapters cannot influence what is sent",
        "alternating": "what is sent depends on private adapters, which the person-level unit covers",
        "joint": "what is sent depends on private adapters, which the person-level unit covers",
    }[claim.schedule]
    return f"{seen} The schedule is {claim.schedule}: {order}."


def _private(claim: PrivateClaim) -> str:
    head = (
        "Private adapters never leave their devices. Should anything derived from one leave, the unit is "
        f"one taste {claim.unit}, neighbours are two collections where {claim.neighbours}, and the adversary "
        f"is {claim.adversary}. What was said about safety is covered by the claim on the shared adapter "
        "alone, which a private one stands on."
    )
    if claim.why:
        alone = f"randomised response of epsilon = {_number(claim.alone)}"
        if claim.mechanism != "label":
            alone = f"noise worth epsilon = {_number(claim.alone)}"
        return (
            f"{head} No number holds: {claim.why}. So epsilon is infinite, although private training has "
            f"{alone} by itself, and nothing derived from a private adapter may leave: no adapter, no text "
            "written with it, no number computed with it."
        )
    if claim.epsilon == math.inf:
        return (
            f"{head} There is no protection (epsilon is infinite), so nothing derived from a private adapter "
            "may leave: no adapter, no text written with it, no number computed with it."
        )
    if claim.mechanism == "label":
        return (
            f"{head} Randomised response turns each reported choice round with probability "
            f"{_number(claim.flip_probability)}, drawn once and kept: epsilon = {_number(claim.epsilon)} "
            "with delta = 0. It protects the choice, not the text: which prompts and answers a person "
            "compared is not protected."
        )
    clip = "C" if claim.clip is None else f"C = {_number(claim.clip)}"
    how = (
        f"a lifetime of {claim.steps} steps of per-pair DP-SGD with Poisson sampling q = "
        f"{_number(claim.sampling)} of at most {claim.cap} comparisons, clip {clip} and z = "
        f"{_number(claim.noise_multiplier)}; when the steps are spent the adapter freezes."
    )
    if not claim.meaningful:
        return f"{head} {doubt(claim)} Noise was added, but no number is claimed for it. It has {how}"
    return (
        f"{head} The guarantee is epsilon = {_number(claim.epsilon)} at delta = {_number(claim.delta)}, by "
        f"{_accountant(claim)}, for {_together(claim)}{how}"
    )


def _accountant(claim: PrivateClaim) -> str:
    return ACCOUNTANT_WORDS["prv" if claim.replaced else claim.accountant]


def _together(claim: PrivateClaim) -> str:
    """What else the number covers, where taste comparisons are in the shared update too."""
    if not claim.shared_too:
        return ""
    moved = ", where another comparison may change a whole message, by up to 2C," if claim.replaced else ""
    return (
        "both adapters together: taste comparisons are in the shared update as well, under its clip and noise"
        f"{moved} and a private adapter is seen with the shared one that it stands on. Private training "
        f"alone is epsilon = {_number(claim.alone)}: "
    )


def doubt(claim: SharedClaim | PrivateClaim) -> str:
    """Why a claim that is not meaningful gets no number, in a sentence or two; empty where it is."""
    if claim.meaningful:
        return ""
    if isinstance(claim, SharedClaim) and claim.people < FEW_PEOPLE and _fits(claim):
        return f"{claim.people} people are fewer than {FEW_PEOPLE}, and for so few no epsilon is claimed."
    shown = -math.expm1(claim.units * math.log1p(-claim.delta))
    return (
        f"delta = {_number(claim.delta)} over {claim.units} units is meaningless: a mechanism that shows "
        f"each of them in clear with probability delta would keep the promise, and show at least one with "
        f"probability {_number(shown)}; at most {_number(largest_delta(claim.units))} is accepted."
    )


def _fits(claim: SharedClaim | PrivateClaim) -> bool:
    return delta_is_meaningful(claim.units, claim.delta)


def _sentence(words: str) -> str:
    """With a capital letter and a full stop; an ending that is there stays."""
    words = words.strip()
    return words[0].upper() + words[1:] + ("" if words[-1] in ".!?" else ".")


def _number(value: float) -> str:
    """Four significant digits."""
    return f"{value:.4g}"
