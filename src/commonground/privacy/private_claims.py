"""The promise about private adapters, and the small parts that both claims are made of."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol

from commonground.errors import ConfigError, InputError
from commonground.privacy.accounting import (
    ACCOUNTANTS,
    DEFAULT,
    Charge,
    default_delta,
    delta_is_meaningful,
    epsilon_composed,
    epsilon_together,
    flip_probability,
    noise_for,
)

MECHANISMS = ("dp_sgd", "label")
NOMINAL = "nominal: what the same noise would give if delta meant something, as it does over many people"


class Claim(Protocol):
    """What both claims can do; they are dataclasses."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def epsilon_after(self, count: int, /, accountant: str | None = None) -> float:
        """Epsilon after so many releases."""
        ...


@dataclass(frozen=True)
class PrivateClaim:
    """The promise about one person's private adapter, towards anybody who sees anything derived from it.

    Attributes:
        mechanism: dp_sgd | label.
        unit: `comparison`, or `choice` (which of its two answers was preferred) for label.
        neighbours: what may differ.
        adversary: who sees what.
        epsilon: reached by the whole lifetime, at most the target.
        delta: 0 for label.
        accountant: rdp | prv, or `randomised response`.
        noise_multiplier: z of per-pair DP-SGD; 0 for label.
        sampling: q of one step.
        steps: lifetime T; the adapter freezes when they are spent.
        cap: public cap on comparisons a person; the expected batch is q * cap.
        clip: C of one pair's gradient; None if not given.
        flip_probability: of a reported choice; 0 for dp_sgd.
        units: comparisons that there can be, of all people together.
        alone: epsilon of private training alone, where what else the same comparison enters is left out.
        beside: what the shared adapter costs the same comparison, added or removed; see `both_claims`.
        replaced: the same, where the change of one comparison changes a whole message.
        why: why epsilon is infinite although private training has noise; else empty.
    """

    mechanism: str
    unit: str
    neighbours: str
    adversary: str
    epsilon: float
    delta: float
    accountant: str
    noise_multiplier: float
    sampling: float
    steps: int
    cap: int
    clip: float | None
    flip_probability: float
    units: int
    alone: float
    beside: tuple[Charge, ...] = ()
    replaced: tuple[Charge, ...] = ()
    why: str = ""

    @property
    def shared_too(self) -> bool:
        """Whether epsilon is of private and shared training together."""
        return bool(self.beside or self.replaced)

    @property
    def meaningful(self) -> bool:
        """Whether delta is small enough for so many comparisons."""
        return self.mechanism == "label" or delta_is_meaningful(self.units, self.delta)

    @property
    def expected_batch(self) -> float:
        """The b = q * cap by which every noised sum is divided."""
        return self.sampling * self.cap

    def charge(self, steps: int = 1) -> Charge:
        """What `steps` steps of DP-SGD cost; the label mechanism is no sampled Gaussian and has none."""
        if self.mechanism == "label":
            raise InputError("mechanism label spends its epsilon once per choice and has no charge per step")
        return Charge(self.sampling, self.noise_multiplier, steps)

    def epsilon_after(self, steps: int, accountant: str | None = None) -> float:
        """Epsilon after so many steps, and the whole shared training where that is part of it.

        A choice reported once has spent all of it.
        """
        if self.why:
            return math.inf
        if self.mechanism == "label":
            return self.epsilon if steps > 0 else 0.0
        if self.shared_too:
            own = self.charge(min(steps, self.steps))
            return epsilon_together(
                [own, *self.beside], self.replaced, self.delta, accountant or self.accountant
            )
        return after(
            self.charge, min(steps, self.steps), self.steps, self.delta, accountant or self.accountant
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe values; a label claim has no accountant's epsilon beside its own."""
        values = claim_values(self, self.steps) | {
            "meaningful": self.meaningful,
            "beside": [list(one) if isinstance(one, tuple) else one for one in self.beside],
            "replaced": [list(one) if isinstance(one, tuple) else one for one in self.replaced],
        }
        if self.replaced:  # no RDP curve
            values["epsilon_rdp"] = None
        if self.mechanism == "label":
            return values | {"epsilon_rdp": None, "epsilon_prv": None}
        return values if self.meaningful else nominal(values)


def private_claim(
    mechanism: str = "dp_sgd",
    epsilon_target: float = math.inf,
    delta: float | None = None,
    sampling: float = 0.25,
    steps: int = 0,
    cap: int = 40,
    accountant: str = DEFAULT,
    clip: float | None = None,
    people: int = 1,
) -> PrivateClaim:
    """Solve the noise, or the flips, of private adapters and say what they promise.

    Args:
        mechanism: dp_sgd (a comparison is protected, (epsilon, delta)) | label (only which answer was
            preferred, pure epsilon).
        epsilon_target: for the whole lifetime, above 0; infinity means no noise and no flips.
        delta: of dp_sgd; None means 1/(10 units), at most 0.001.
        sampling: q of a comparison in one step.
        steps: lifetime number of steps.
        cap: public cap on comparisons a person.
        accountant: rdp | prv.
        clip: C, only quoted.
        people: who may have a private adapter; delta is counted over the comparisons of all of them.

    Raises:
        ConfigError: every fault at once.
    """
    faults = [
        *unknown("privacy.private.mechanism", mechanism, MECHANISMS),
        *unknown("privacy.accountant", accountant, ACCOUNTANTS[:2]),
        *number_faults("privacy.private", epsilon_target, delta),
    ]
    if not 0 < sampling <= 1:
        faults.append(f"privacy.private.sampling is {sampling!r}; a rate above 0, at most 1, is needed")
    if steps < 0 or cap < 1:
        faults.append(f"privacy.private.steps is {steps}, the cap {cap}; at least 0 and 1 are needed")
    if faults:
        raise ConfigError(faults)
    units = people * cap
    delta = default_delta(units) if delta is None else float(delta)
    label = mechanism == "label"
    noise = 0.0 if label else noise_for(epsilon_target, delta, sampling, steps, accountant)
    spent = epsilon_target if label else epsilon_composed([(sampling, noise, steps)], delta, accountant)
    return PrivateClaim(
        mechanism=mechanism,
        unit="choice" if label else "comparison",
        neighbours="one choice between two tastes is turned round"
        if label
        else "one taste comparison is added or removed",
        adversary="anybody who sees the private adapter or anything derived from it",
        epsilon=spent,
        delta=0.0 if label else delta,
        accountant="randomised response" if label else accountant,
        noise_multiplier=noise,
        sampling=sampling,
        steps=steps,
        cap=cap,
        clip=clip,
        flip_probability=flip_probability(epsilon_target) if label else 0.0,
        units=units,
        alone=spent,
    )


def after(charge: Callable[[int], Charge], count: int, most: int, delta: float, accountant: str) -> float:
    """Epsilon of `count` of `most` releases; what all of them cost is an upper bound for fewer."""
    whole = epsilon_composed([charge(most)], delta, accountant)
    return whole if count == most else min(whole, epsilon_composed([charge(count)], delta, accountant))


def claim_values(claim: Claim, count: int) -> dict[str, Any]:
    """Fields of a claim as JSON-safe values, with the epsilon of both accountants after `count` releases."""
    values = {name: json_value(value) for name, value in asdict(claim).items()}
    for accountant in ACCOUNTANTS[:2]:
        values[f"epsilon_{accountant}"] = json_value(claim.epsilon_after(count, accountant))
    return values


def nominal(values: dict[str, Any]) -> dict[str, Any]:
    """The same values without an epsilon, where it is finite; what it would be stands beside."""
    if values["epsilon"] == "inf":
        return values
    none = {"epsilon": None, "epsilon_rdp": None, "epsilon_prv": None}
    return values | none | {"epsilon_if_many": values["epsilon"], "epsilon_if_many_is": NOMINAL}


def json_value(value: Any) -> Any:
    """JSON has no infinity; the word stands for it."""
    return "inf" if value == math.inf else value


def unknown(place: str, value: str, accepted: tuple[str, ...]) -> list[str]:
    """The fault of an unknown word, if it is one."""
    return [] if value in accepted else [f"{place} is {value!r}; accepted: {', '.join(accepted)}"]


def number_faults(place: str, epsilon: float, delta: float | None) -> list[str]:
    """The faults of a target epsilon and a delta."""
    faults = [] if epsilon > 0 else [f"{place}.epsilon is {epsilon!r}; above 0, or inf, is accepted"]
    if delta is not None and not 0 < delta < 1:
        faults.append(f"{place}.delta is {delta!r}; a number between 0 and 1 is accepted")
    return faults
