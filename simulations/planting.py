"""Planted people: who they are and how they answer, drawn by name so that person i never depends on the rest.

Letters (methods K): a person has style weights w = centre + tau * noise, rationality b ~ LogNormal(0, .3) and
slip rate eta ~ Beta(2, 38). Asked to choose between styles s and t of one prompt, the person prefers s with
probability (1 - eta) sigma(b gamma (w_s - w_t)) + eta sigma(-b gamma (w_s - w_t)).
A minority has the centre of the majority with the sign turned on some styles. Minority and group (an age
band) are correlated, not identical: a group says little about a person, as in real life.
"""

from __future__ import annotations

import functools
from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from commonground.comparisons import Person, Split
from commonground.errors import InputError
from commonground.randomness import fleeting

UNSEEN_BLOCK = 4  # with data.split=unseen_people one person in each block of four is unseen


@dataclass(frozen=True)
class Planting:
    """The law that planted people are drawn from.

    Attributes:
        styles: names of the answer styles, S of them.
        centre: what the majority likes, one weight a style; sums to 0.
        opposed: styles on which the minority's weight is the negative of the majority's; the majority's
            weights on them sum to 0 too, so both centres do.
        gamma: utility of one unit of weight, nats.
        tau: standard deviation of a person's own deviation from the centre, in units of weight.
        rationality: standard deviation of log b.
        flip: mean of eta, the probability of an answer against one's own mind.
        flip_strength: a + b of the Beta law of eta.
        groups: (name, share of people, share of minority in it).
        rho: part of people's safety answers that opposes the consensus.
        kappa: strength of the safety consensus, nats.
        favourite: True lets every question offer the person's favourite style, so that a few answers show
            it; the people are then no uniform sample of questions, and no truth is told.
    """

    styles: tuple[str, ...] = ("brief", "bullets", "emoji", "casual", "hedged", "formal", "analogy", "coach")
    centre: tuple[float, ...] = (0.6, 1.0, -1.0, -0.8, -0.6, 0.8, 0.4, -0.4)
    opposed: tuple[str, ...] = ("bullets", "emoji", "casual", "formal")
    gamma: float = 2.5
    tau: float = 0.4
    rationality: float = 0.3
    flip: float = 0.05
    flip_strength: float = 40.0
    groups: tuple[tuple[str, float, float], ...] = (
        ("18-34", 0.3, 0.35),
        ("35-54", 0.5, 0.15),
        ("55+", 0.2, 0.1),
    )
    rho: float = 0.02
    kappa: float = 4.0
    favourite: bool = False

    def __post_init__(self) -> None:
        """Raise `InputError` where the centres would not be centres or the shares not shares."""
        unknown = [style for style in self.opposed if style not in self.styles]
        if len(self.centre) != len(self.styles) or unknown:
            raise InputError(
                f"a planting has {len(self.styles)} styles, {len(self.centre)} weights and opposed styles "
                f"{self.opposed}; one weight a style is needed, and opposed styles among {self.styles}"
            )
        for name, total in (
            ("weights of the centre", sum(self.centre)),
            ("opposed weights", self._opposed_sum()),
        ):
            if abs(total) > 1e-9:
                raise InputError(f"the {name} sum to {total:g}; they must sum to 0")
        shares = [share for _, share, _ in self.groups]
        if abs(sum(shares) - 1) > 1e-9 or not all(0 <= part <= 1 for _, _, part in self.groups):
            raise InputError(f"groups are {self.groups}; shares must sum to 1, minority shares lie in [0, 1]")
        if not 0 <= self.flip < 0.5 or min(self.tau, self.rationality, self.rho) < 0 or self.rho > 1:
            raise InputError(
                f"flip={self.flip}, tau={self.tau}, rationality={self.rationality}, rho={self.rho}; "
                "accepted: flip in [0, 0.5), tau and rationality at least 0, rho in [0, 1]"
            )

    def _opposed_sum(self) -> float:
        return sum(
            weight for style, weight in zip(self.styles, self.centre, strict=True) if style in self.opposed
        )

    @property
    def minority_share(self) -> float:
        """Share of the minority among all people."""
        return sum(share * part for _, share, part in self.groups)

    @property
    def consensus(self) -> float:
        """Probability of the safe answer: (1 - rho) sigma(kappa) + rho sigma(-kappa); .9627 by default."""
        return float((1 - self.rho) * expit(self.kappa) + self.rho * expit(-self.kappa))

    @functools.cached_property
    def group_bounds(self) -> list[float]:
        """Cumulated shares of the groups."""
        return [float(bound) for bound in np.cumsum([share for _, share, _ in self.groups])]

    @functools.cached_property
    def centres(self) -> np.ndarray:
        """Weights of the majority and of the minority, (2, S)."""
        majority = np.array(self.centre, dtype=np.float64)
        signs = np.array([-1.0 if style in self.opposed else 1.0 for style in self.styles])
        return np.stack([majority, majority * signs])

    def style_pairs(self) -> np.ndarray:
        """Every unordered pair of two styles as indices, (S(S-1)/2, 2), first < second."""
        return np.stack(np.triu_indices(len(self.styles), 1), axis=1)


# Laws by name, for data.taste.preset of the starter source.
PLANTINGS: dict[str, Planting] = {
    "": Planting(),
    "favourites": Planting(tau=1.5, flip=0.01, favourite=True),
    # A minority that its public group names: what a rule over groups can do for it, and what that costs.
    "named_minority": Planting(groups=(("most", 0.8, 0.0), ("few", 0.2, 1.0))),
}


@dataclass(frozen=True, eq=False)
class PlantedPerson:
    """One planted person with the truth about them.

    Attributes:
        person: id, group and split, as everybody sees them.
        minority: whether the person's centre is the minority's.
        utility: (S,) utility of each style, nats: gamma * w.
        rationality: b, how sharply utilities decide.
        flip: eta, probability of answering against one's own mind.
    """

    person: Person
    minority: bool
    utility: np.ndarray
    rationality: float
    flip: float

    def prefers(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Probability of preferring style `first` to style `second`; index arrays of one shape."""
        straight = expit(self.rationality * (self.utility[first] - self.utility[second]))
        return np.asarray((1 - self.flip) * straight + self.flip * (1 - straight))


def person_name(index: int) -> str:
    """The id of planted person number `index`."""
    return f"person-{index:06d}"


def draw_person(index: int, seed: int, planting: Planting, split: str = "warm") -> PlantedPerson:
    """Planted person number `index`: the same whoever else is drawn.

    Args:
        index: from 0.
        seed: the run's seed.
        planting: the law.
        split: `data.split`; with ``unseen_people`` one person of each four is unseen, never two of a block,
            so that the quarter is exact and still does not depend on how many people there are.
    """
    name = person_name(index)
    rng = fleeting(seed, "person", name, "self")
    group_coin, minority_coin = rng.random(2)
    place = min(bisect_right(planting.group_bounds, group_coin), len(planting.groups) - 1)
    group, _, part = planting.groups[place]
    minority = bool(minority_coin < part)
    noise = rng.standard_normal(len(planting.styles))
    weights = planting.centres[int(minority)] + planting.tau * (noise - noise.mean())
    rationality = float(np.exp(planting.rationality * rng.standard_normal()))
    strength = planting.flip_strength
    # The Beta draw comes last: how many numbers it takes from the stream depends on its parameters.
    flip = float(rng.beta(planting.flip * strength, (1 - planting.flip) * strength)) if planting.flip else 0.0
    side: Split = "train"
    if split == "unseen_people":
        side = "unseen" if index % UNSEEN_BLOCK == _unseen(seed, index // UNSEEN_BLOCK) else "train"
    return PlantedPerson(Person(name, group, side), minority, planting.gamma * weights, rationality, flip)


def unseen_people(people: int, seed: int, split: str) -> np.ndarray:
    """(people,) bool: who takes no part in shared training, without drawing the people."""
    unseen = np.zeros(people, bool)
    if split == "unseen_people":
        blocks = range(-(-people // UNSEEN_BLOCK))
        places = np.array([UNSEEN_BLOCK * block + _unseen(seed, block) for block in blocks], np.int64)
        unseen[places[places < people]] = True
    return unseen


def _unseen(seed: int, block: int) -> int:
    return int(fleeting(seed, "unseen people", block).integers(UNSEEN_BLOCK))
