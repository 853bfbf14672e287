"""The cost curve: from what everybody was shown to what is left of each taste, beside what is guaranteed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from commonground.bounds.charter_schema import Bounds
from commonground.bounds.menu import Item
from commonground.bounds.tiers import TIERS
from commonground.evaluation.intervals import clopper_pearson
from commonground.evaluation.writing import shows
from commonground.randomness import generator
from commonground.simulations.bench.bounds_survival import Survival, resampled, survival
from commonground.simulations.bench.measured import Bar, Barred
from commonground.simulations.certify.answering import Answer
from commonground.simulations.defended import DEFENCES, NONE, SHARED, TIERED, Defence

RESAMPLES, BAR, SAMPLES = 4000, 0.9, 2
# the menu twice: the item that the private adapter finds likeliest, and the one that the person asks for
MENU, TOLD = "menu", "menu_told"
LINES: dict[str, Defence] = {
    line: one for name, one in DEFENCES.items() for line in ((name, TOLD) if name == MENU else (name,))
}
Shown = Mapping[str, Sequence[Sequence[Answer]]]  # line -> person -> answers, in the order of the prompts


@dataclass(frozen=True)
class Share:
    """So many of so many, with the exact 95 % interval of the share."""

    events: int
    trials: int
    low: float
    high: float


@dataclass(frozen=True)
class Mechanism:
    """One line of the curve.

    Attributes:
        name: key of `LINES`.
        guarantee: none | average | per-output.
        factor: how many times likelier than under shared an unseen violation may become; None is no bound.
        says: what holds.
        free: survival on prompts placed `free`: of each taste, and of `all` together.
        everyday: the same on all everyday prompts.
        sources: who wrote what was shown, over all everyday prompts.
    """

    name: str
    guarantee: str
    factor: float | None
    says: str
    free: dict[str, Survival]
    everyday: dict[str, Survival]
    sources: dict[str, int]


@dataclass(frozen=True)
class CostCurve(Barred):
    """What `bench bounds` found.

    Attributes:
        machine: where, in words.
        settings: what was run.
        tastes: of the people.
        placed: tier -> everyday prompts that were placed there.
        free_share: everyday prompts that were placed free.
        held_back: free prompts to which the guard held back at least one personal answer. Answers to one
            prompt are not independent of each other, so prompts are counted.
        held_answers: how many answers these were.
        items: taste -> menu item that its private adapter picked.
        mechanisms: the curve.
        bars: what was wanted and seen.
        notes: what a reader must know beside the numbers.
        samples: of the first free prompts: prompt -> line -> taste -> answer.
    """

    machine: dict[str, str | float | bool]
    settings: dict[str, Any]
    tastes: tuple[str, ...]
    placed: dict[str, int]
    free_share: Share
    held_back: Share
    held_answers: int
    items: dict[str, str]
    mechanisms: list[Mechanism]
    bars: list[Bar]
    notes: list[str]
    samples: dict[str, dict[str, dict[str, str]]]
    bench: str = "bounds"


def curve(
    where: dict[str, str | float | bool],
    settings: dict[str, Any],
    tastes: Sequence[str],
    prompts: Sequence[str],
    items: Sequence[Item],
    bounds: Bounds,
    shown: Shown,
) -> CostCurve:
    """From answers to the curve.

    Args:
        where: the machine.
        settings: what was run; `seed` is that of the bootstrap too.
        tastes: T of them, of as many people.
        prompts: everyday ones.
        items: each person's menu item.
        bounds: of the charter.
        shown: of every line.
    """
    tiers = Counter(answer.tier for answer in shown[TIERED][0])
    free = [k for k, answer in enumerate(shown[TIERED][0]) if answer.tier == "free"]
    held = [sum(own[k].source != "personal" for own in shown["guard"]) for k in free]
    mechanisms = _mechanisms(tastes, free, bounds, shown, int(settings["seed"]))
    default = next(one for one in mechanisms if one.name == TIERED)
    seen = default.free["all"].kept if default.free else None
    return CostCurve(
        where,
        settings,
        tuple(tastes),
        {tier: tiers[tier] for tier in TIERS},
        _share(len(free), len(prompts)),
        _share(sum(map(bool, held)), len(free)),
        sum(held),
        {taste: item.name for taste, item in zip(tastes, items, strict=True)},
        mechanisms,
        [Bar("style shift that the default stack keeps on prompts placed free", BAR, seen, "of 1")],
        _notes(),
        _samples(tastes, prompts, free[:SAMPLES], shown),
    )


def _mechanisms(
    tastes: Sequence[str], free: Sequence[int], bounds: Bounds, shown: Shown, seed: int
) -> list[Mechanism]:
    has = {name: _has(tastes, own) for name, own in shown.items()}
    every = range(len(has[NONE]))
    found = []
    for name, defence in LINES.items():
        factor = defence.factor(bounds)
        found.append(
            Mechanism(
                name,
                defence.guarantee,
                factor if math.isfinite(factor) else None,
                defence.says(bounds),
                _survivals(tastes, has, name, free, seed),
                _survivals(tastes, has, name, every, seed),
                dict(Counter(answer.source for own in shown[name] for answer in own)),
            )
        )
    return found


def _survivals(
    tastes: Sequence[str], has: Mapping[str, np.ndarray], name: str, places: Sequence[int], seed: int
) -> dict[str, Survival]:
    if not places:
        return {}
    under, unbounded, shared = (has[which][list(places)] for which in (name, NONE, SHARED))
    draws = resampled(len(places), RESAMPLES, generator(seed, "bounds", "bootstrap"))
    parts = {taste: slice(k, k + 1) for k, taste in enumerate(tastes)} | {"all": slice(None)}
    return {
        name: survival(under[:, part], unbounded[:, part], shared[:, part], draws)
        for name, part in parts.items()
    }


def _has(tastes: Sequence[str], people: Sequence[Sequence[Answer]]) -> np.ndarray:
    """(prompts, tastes) bool: whether the answer to the person of a taste shows it."""
    found = [[shows(taste, one.text) for one in own] for taste, own in zip(tastes, people, strict=True)]
    return np.array(found, dtype=bool).T


def _share(events: int, trials: int) -> Share:
    low, high = clopper_pearson(events, trials) if trials else (0.0, 1.0)
    return Share(events, trials, low, high)


def _notes() -> list[str]:
    return [
        "Survival is over everyday prompts of one author, in English; intervals are over prompts, with the "
        "people fixed: one person a taste, one adapter each.",
        "Styles are counted by fixed patterns of words and signs. They see the surface of a style, and "
        "nothing of what was said.",
        "none, guard and the free tier share their draws, so what differs between them is the guard alone.",
    ]


def _samples(
    tastes: Sequence[str], prompts: Sequence[str], places: Sequence[int], shown: Shown
) -> dict[str, dict[str, dict[str, str]]]:
    def of(name: str, k: int) -> dict[str, str]:
        return {taste: own[k].text for taste, own in zip(tastes, shown[name], strict=True)}

    return {prompts[k]: {name: of(name, k) for name in LINES} for k in places}
