"""Attacks on what is sent: attackers' devices train and seal, and another vector is sent in place of that.

Whatever comes out is clipped to C afterwards (`rewriting.py`), since the server refuses what is longer.
Letters: n people in the cohort, f of them attackers, x_i the honest updates, mu and s their mean and standard
deviation (of each number, over the people).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from commonground.comparisons import Comparison, Tag
from commonground.errors import InputError
from commonground.randomness import fleeting
from commonground.simulations.attacks.base import Attack, Cohort, Scene
from commonground.simulations.attacks.data import LabelFlip
from commonground.simulations.attacks.numerics import hiding_distance, least_noticed, unit

DIRECTIONS = ("unit", "std", "sign")


def _everybody(cohort: Cohort, vector: np.ndarray) -> np.ndarray:
    """The same vector from every attacker."""
    return np.tile(vector, (len(cohort.people), 1))


@dataclass(frozen=True)
class SignFlip(Attack):
    """-a x: the own update, turned round."""

    factor: float = 1.0

    changes = "update: -factor times the own one"
    knows = "the own update"
    source = "Li, Xu, Chen, Giannakis, Ling, AAAI 2019, 1811.03761"
    limits = (("factor", 0, math.inf),)
    rewrites = True

    def send(self, cohort: Cohort) -> np.ndarray:
        """See `Attack`."""
        return -self.factor * cohort.own


@dataclass(frozen=True)
class Scaling(LabelFlip):
    """Model replacement: a flipped update, times m/f, so that it outweighs everybody else's.

    `factor` 0 is m/f. Under a clip nothing is left of the factor but that the update has full length.
    """

    factor: float = 0.0

    changes = "training as label_flip, and update: m/f (or factor) times the own one"
    knows = "the own update, m, and how many attackers are in the cohort"
    source = "Bagdasaryan, Veit, Hua, Estrin, Shmatikov, AISTATS 2020, 1807.00459"
    limits = (("factor", 0, math.inf),)
    rewrites = True

    def send(self, cohort: Cohort) -> np.ndarray:
        """See `Attack`."""
        return (self.factor or cohort.expected / len(cohort.people)) * cohort.own


@dataclass(frozen=True)
class Gaussian(Attack):
    """Noise: every number from N(0, std^2)."""

    std: float = 1.0

    changes = "update: Gaussian noise"
    knows = "nothing"
    source = "Blanchard, El Mhamdi, Guerraoui, Stainer, NeurIPS 2017, 1703.02757"
    limits = (("std", 0, math.inf),)
    rewrites = True

    def send(self, cohort: Cohort) -> np.ndarray:
        """See `Attack`; a person's draws do not depend on who else attacks."""
        size = cohort.own.shape[1]
        draws = [
            fleeting(cohort.seed, "gaussian", cohort.round, p).standard_normal(size) for p in cohort.people
        ]
        return self.std * np.stack(draws)


@dataclass(frozen=True)
class Alie(Attack):
    """mu - z s: "a little is enough". `z` 0 is z_max, see `numerics.hiding_distance`."""

    z: float = 0.0

    changes = "update: the honest mean, moved by z standard deviations of each number"
    knows = "every honest update of the cohort"
    source = "Baruch, Baruch, Goldberg, NeurIPS 2019, 1902.06156"
    limits = (("z", 0, math.inf),)
    rewrites = True

    def send(self, cohort: Cohort) -> np.ndarray:
        """See `Attack`."""
        seen, f = cohort.seen, len(cohort.people)
        z = self.z or hiding_distance(len(cohort.honest) + f, f)
        return _everybody(cohort, seen.mean(0) - z * seen.std(0))


@dataclass(frozen=True)
class MinMax(Attack):
    """mu + g p, with the largest g that keeps it no further from any honest update than those are apart.

    `direction` p: unit (-mu/|mu|), std (-s) or sign (-sign mu).
    """

    direction: str = "unit"

    changes = "update: as far against the honest mean as the two most distant honest updates are apart"
    knows = "every honest update of the cohort"
    source = "Shejwalkar, Houmansadr, NDSS 2021"
    rewrites = True
    total = False

    def __post_init__(self) -> None:
        """Check the option."""
        if self.direction not in DIRECTIONS:
            raise InputError(
                f"{self.direction!r}; accepted: {', '.join(DIRECTIONS)}", key="attack.options.direction"
            )

    def send(self, cohort: Cohort) -> np.ndarray:
        """See `Attack`."""
        seen = cohort.seen
        mean = seen.mean(0)
        away = {"unit": -unit(mean), "std": -seen.std(0), "sign": -np.sign(mean)}[self.direction]
        return _everybody(cohort, least_noticed(seen, away, total=self.total))


@dataclass(frozen=True)
class MinSum(MinMax):
    """As min_max, with sums of squared distances."""

    changes = "update: as min_max, with the sum of squared distances to the honest updates"
    total = True


@dataclass(frozen=True)
class AdaptiveUnderClip(Attack):
    """C times the unit vector against the honest mean: the most that a clip of C leaves to an attacker."""

    changes = "update: C times the unit vector against the honest mean"
    knows = "C, and every honest update of the cohort"
    source = "the bound of Sun, Kairouz, Suresh, McMahan, 2019, 1911.07963, used up"
    rewrites = True

    def send(self, cohort: Cohort) -> np.ndarray:
        """See `Attack`."""
        return _everybody(cohort, -cohort.clip * unit(cohort.seen.mean(0)))


@dataclass(frozen=True)
class LossLiar(Attack):
    """A false answer to the question how badly one is served, so as to weigh more; comparisons are flipped.

    `loss`: what is claimed, nats, before the strategy's own bound. It changes the weight under q-FedAvg,
    alpha-fair and max-min rules; under others it is label_flip.
    """

    loss: float = 100.0

    changes = "training as label_flip, and the loss that a strategy asks for (q-FedAvg, alpha-fair, max-min)"
    knows = "nothing"
    source = "against Li, Sanjabi, Beirami, Smith, ICLR 2020, 1905.10497"
    limits = (("loss", 0, math.inf),)

    def hold(
        self, person: int, name: str, tag: Tag, held: Sequence[Comparison], scene: Scene
    ) -> list[Comparison]:
        """See `Attack`."""
        return LabelFlip().hold(person, name, tag, held, scene)

    @property
    def claims(self) -> float | None:
        """See `Attack`."""
        return float(self.loss)
