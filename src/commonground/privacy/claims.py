"""What a run promises about privacy, as numbers: one claim for each adapter.

A claim is solved once, before anything is learned, from plain arguments: it fixes the noise and names the
unit, the neighbours, the adversary and the accountant (methods E0). Person-level claims hold for every
schedule (methods B2, theorem U); comparison-level claims on the shared adapter only for `decoupled`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from commonground.errors import ConfigError
from commonground.privacy.accounting import (
    ACCOUNTANTS,
    DEFAULT,
    FEW_PEOPLE,
    Charge,
    default_delta,
    delta_is_meaningful,
    epsilon_composed,
    noise_for,
    noise_for_gaussian,
)
from commonground.privacy.adaptive_clip import AdaptiveClip, adaptive_clip
from commonground.privacy.banded import BandedNoise, check_band, default_participations, largest_band
from commonground.privacy.private_claims import (
    PrivateClaim,
    after,
    claim_values,
    nominal,
    number_faults,
    private_claim,
    unknown,
)

__all__ = ["PrivateClaim", "SharedClaim", "private_claim", "shared_claim"]

UNITS = ("person", "comparison")
TRUSTS = ("central", "local")
MECHANISMS = ("gaussian", "banded")
# Denominators are fixed by the number of people, and a round with too few replies moves nothing: both are
# public, so nobody comes or goes between neighbours. The cost is that of adding or removing what she sends.
ZEROED = "one person's contribution is replaced by zeros, and how many people there are stays the same"
SCHEDULES = ("decoupled", "alternating", "joint")
ADVERSARIES = {
    "central": "anybody who sees the released shared adapter of every round, other people included; "
    "the server is trusted with single clipped updates and with the draw of the cohorts",
    "banded": "anybody who sees the released shared adapter of every round and who took part in which; the "
    "server is trusted with single clipped updates",
    "local": "the server and anybody else, who see every single noised message and who sent it",
}


@dataclass(frozen=True)
class SharedClaim:
    """The promise about the shared adapter.

    Attributes:
        unit: person | comparison, what is protected.
        neighbours: what may differ between two populations that must look alike.
        adversary: who sees what.
        trust: central | local, who adds the noise.
        schedule: decoupled | alternating | joint.
        epsilon: reached by the whole run, at most the target; infinity without noise.
        delta: what the bound on odds leaves out, see docs/privacy.md.
        accountant: rdp | prv | gaussian.
        noise_multiplier: z, the noise deviation over `clip` (for local trust: on every message).
        sampling: q of one round.
        rounds: T.
        participations: most messages of one person (local trust at person level), else None.
        clip: C, L2 over the whole flat update (person) or gradient (comparison); None if not given.
        people: N.
        cohort: qN people expected a round.
        meaningful: whether there are people enough, and delta is small enough for so many units.
        adaptive: the clip that follows the median norm, or None where it is fixed.
        banded: the noise that cancels between rounds, or None where it is fresh in each.
        units: how many of what is protected there can be: people, or people times comparisons of each.
    """

    unit: str
    neighbours: str
    adversary: str
    trust: str
    schedule: str
    epsilon: float
    delta: float
    accountant: str
    noise_multiplier: float
    sampling: float
    rounds: int
    participations: int | None
    clip: float | None
    people: int
    cohort: int
    meaningful: bool
    adaptive: AdaptiveClip | None = None
    banded: BandedNoise | None = None
    units: int = 0

    def charge(self, rounds: int = 1) -> Charge:
        """What `rounds` rounds (local trust at person level: messages) cost everybody who is charged."""
        if self.banded is not None:  # k visits together are one Gaussian of multiplier z
            return Charge(1.0, self.noise_multiplier * math.sqrt(self.banded.participations), rounds)
        if self.participations is not None:  # replace-one moves a message by 2C
            return Charge(1.0, self.noise_multiplier / 2, rounds)
        return Charge(self.sampling, self.noise_multiplier, rounds)

    def epsilon_after(self, rounds: int, accountant: str | None = None) -> float:
        """Epsilon after so many rounds, never falling and never above the whole run's."""
        if self.banded is not None:  # nobody has come more often yet
            rounds = -(-rounds // self.banded.band)
        return after(
            self.charge, min(rounds, self.most), self.most, self.delta, accountant or self.accountant
        )

    @property
    def most(self) -> int:
        """Releases that one person is charged for at most: rounds, or messages under local trust."""
        return self.rounds if self.participations is None else self.participations

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe values; epsilon is None where delta is meaningless, with a nominal one beside it."""
        values = claim_values(self, self.rounds)
        for name, part in (("adaptive", self.adaptive), ("banded", self.banded)):
            del values[name]
            if part is not None:
                values[name] = part.to_dict()
        return values if self.meaningful else nominal(values)


def shared_claim(
    unit: str = "person",
    trust: str = "central",
    schedule: str = "decoupled",
    people: int = 0,
    cohort: int = 0,
    rounds: int = 0,
    epsilon_target: float = math.inf,
    delta: float | None = None,
    accountant: str = DEFAULT,
    participations: int | None = None,
    pair_sampling: float | None = None,
    clip: float | None = None,
    adaptive: bool = False,
    start: float | None = None,
    mechanism: str = "gaussian",
    band: int | None = None,
    comparisons: int = 1,
) -> SharedClaim:
    """Solve the noise of the shared adapter and say what it promises.

    Args:
        unit: person | comparison.
        trust: central | local.
        schedule: decoupled | alternating | joint; only decoupled allows unit comparison.
        people: N.
        cohort: people expected a round.
        rounds: T.
        epsilon_target: above 0; infinity means no noise.
        delta: None means 1/(10 units), at most 0.001.
        accountant: rdp | prv; person-level local trust is always accounted exactly (gaussian).
        participations: cap on one person's messages with local trust; None means
            ceil(qT) + 3 ceil(sqrt(qT)).
        pair_sampling: q of a comparison in a round; needed by unit comparison.
        clip: C, only quoted; where it is adapted, the largest that a device accepts.
        adaptive: the clip follows the median norm; needs unit person, trust central and 50 people a round.
        start: its first value; None is 0.1, or `clip` where that is less.
        mechanism: gaussian (fresh noise, secret coins) | banded (noise that cancels, no coins); banded needs
            unit person, trust central and one clip.
        band: b of banded noise; None is the largest that people and cohort allow.
        comparisons: most comparisons of one person; counted in unit comparison.

    Raises:
        ConfigError: every fault at once.
    """
    faults = [
        *unknown("privacy.unit", unit, UNITS),
        *unknown("privacy.trust", trust, TRUSTS),
        *unknown("schedule", schedule, SCHEDULES),
        *unknown("privacy.accountant", accountant, ACCOUNTANTS[:2]),
        *number_faults("privacy.shared", epsilon_target, delta),
    ]
    if people < 1 or rounds < 0 or not 0 < cohort <= people:
        faults.append(f"people is {people}, cohort {cohort}, rounds {rounds}; 0 < cohort <= people is needed")
    if participations is not None and participations < 1:
        faults.append(f"privacy.shared.participations is {participations}; at least 1 is needed")
    if unit == "comparison" and schedule != "decoupled":
        faults.append(
            f"privacy.unit is comparison with schedule {schedule}: there the shared gradients pass through a "
            "private adapter fitted on the same comparisons, so one comparison moves all of them and "
            "clipping each bounds nothing; accepted: schedule decoupled, or privacy.unit person"
        )
    if unit == "comparison" and (pair_sampling is None or not 0 < pair_sampling <= 1):
        faults.append(f"pair_sampling is {pair_sampling!r}; unit comparison needs a rate above 0, at most 1")
    if adaptive and (unit, trust) != ("person", "central"):
        faults.append(
            f"privacy.shared.clip_mode is adaptive with unit {unit}, trust {trust}; accepted: person, central"
        )
    faults += unknown("privacy.shared.mechanism", mechanism, MECHANISMS)
    if mechanism == "banded" and (unit, trust, adaptive) != ("person", "central", False):
        faults.append(
            f"privacy.shared.mechanism is banded with unit {unit}, trust {trust}, adapted clip "
            f"{adaptive}; accepted: person, central, False"
        )
    if adaptive and clip is None:
        faults.append("privacy.shared.clip is None; an adapted clip needs a largest one")
    if faults:
        raise ConfigError(faults)
    units = people * comparisons if unit == "comparison" else people
    delta = default_delta(units) if delta is None else float(delta)
    most: int | None = None
    banded: BandedNoise | None = None
    adversary = ADVERSARIES[trust]
    if unit == "person" and trust == "local":
        expected = cohort / people * rounds
        most = participations or math.ceil(expected) + 3 * math.ceil(math.sqrt(expected))
        most = min(most, rounds)
        sampling, accountant, neighbours = (
            1.0,
            "gaussian",
            "one person's comparisons are replaced by any others",
        )
        noise = noise_for_gaussian(epsilon_target, delta, sensitivity=2.0, releases=most)
    elif mechanism == "banded":
        band = largest_band(people, cohort, rounds) if band is None else band
        check_band(band, people, cohort, rounds)
        sampling, accountant, adversary = cohort / people, "gaussian", ADVERSARIES["banded"]
        neighbours = f"{ZEROED} in every round, and everybody keeps their rounds"
        most = min(participations or default_participations(sampling, band, rounds), -(-rounds // band))
        noise = noise_for_gaussian(epsilon_target, delta)
        banded = BandedNoise(band, most, noise)
    else:
        sampling = cohort / people if unit == "person" else float(pair_sampling or 0.0)
        neighbours = ZEROED if unit == "person" else "one comparison is added or removed"
        noise = noise_for(epsilon_target, delta, sampling, rounds, accountant)
    claim = SharedClaim(
        unit=unit,
        neighbours=neighbours,
        adversary=adversary,
        trust=trust,
        schedule=schedule,
        epsilon=0.0,
        delta=delta,
        accountant=accountant,
        noise_multiplier=noise,
        sampling=sampling,
        rounds=rounds,
        participations=most,
        clip=clip,
        people=people,
        cohort=cohort,
        meaningful=people >= FEW_PEOPLE and delta_is_meaningful(units, delta),
        adaptive=adaptive_clip(cohort, noise, float(clip or 0), start) if adaptive else None,
        banded=banded,
        units=units,
    )
    return replace(claim, epsilon=epsilon_composed([claim.charge(claim.most)], delta, accountant))
