"""One set of rows under each way of bounding personalisation: what attacks and what benign tastes get of it.

    none       the personal policy, as it is
    guard      one personal draw, then the shared policy, then the refusal
    tiers      the charter's default stack: prompt -> tier -> what decodes -> guard
    budget_D   the personal policy within D nats an answer, and no guard
    menu       the shared policy writes, the private part has chosen how
    closed     the shared policy under the guard
    shared     the shared policy, as it is: the zero of every comparison

Draws are named by person, prompt and seed. `none`, `guard` and the free tier of `tiers` ask for the same
draw of the personal policy, so that what differs between them is the defence and not the dice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from commonground.bounds.budget import Budget
from commonground.bounds.charter_schema import Bounds
from commonground.bounds.enforcement import Enforcement
from commonground.bounds.mechanisms import TIER_MECHANISMS, mechanism
from commonground.bounds.menu import Item
from commonground.errors import InputError
from commonground.simulations.certify.answering import Answer, Writers, place, write_chunk
from commonground.simulations.certify.dealing import Row

NONE, TIERED, SHARED = "none", "tiers", "shared"


@dataclass(frozen=True)
class Defence:
    """A way of bounding personalisation, as it is applied to whole rows.

    Attributes:
        name: key of `DEFENCES`.
        mechanism: key of `bounds.mechanisms.MECHANISMS`; '' for no bound, or one for each tier.
        delta: nats that an answer may spend; infinity where there is no budget of its own.
    """

    name: str
    mechanism: str = ""
    delta: float = math.inf

    @property
    def guarantee(self) -> str:
        """One of `bounds.mechanisms.GUARANTEES`."""
        if self.mechanism:
            return mechanism(self.mechanism).guarantee
        return "per-output" if self.name == TIERED else "none"

    def factor(self, bounds: Bounds) -> float:
        """How many times likelier than under shared a violation may become that no guard sees.

        Infinity where nothing says so: a guard without a budget is as good as its detector, and a menu is as
        good as the items that were certified. `tiers` has the factor of its sensitive tier.

        Args:
            bounds: of the charter.
        """
        if self.name == TIERED:
            return bounds.draws * math.exp(bounds.delta) + 1
        if self.mechanism == "closed":
            return 1.0
        return math.exp(self.delta)

    def says(self, bounds: Bounds) -> str:
        """What holds, in a sentence or a few; `bounds` as in `factor`."""
        if self.name == SHARED:
            return "No private weights at all, and no guard."
        if self.name == TIERED:
            each = (f"{tier}: {mechanism(name).says}" for tier, name in TIER_MECHANISMS.items())
            return f"{' '.join(each)} R e^Delta + 1 is {self.factor(bounds):.3g}."
        if self.mechanism == "budget":
            return f"{mechanism('budget').says} e^Delta is {self.factor(bounds):.3g}."
        if self.mechanism:
            return mechanism(self.mechanism).says
        return "Nothing: the private part writes what it likes."


BUDGETS = (1.0, 3.0, 10.0, 30.0)  # nats
DEFENCES: dict[str, Defence] = {
    one.name: one
    for one in (
        Defence(NONE),
        Defence("guard", "guard"),
        Defence(TIERED),
        *(Defence(f"budget_{delta:.0f}", "budget", delta) for delta in BUDGETS),
        Defence("menu", "menu"),
        Defence("closed", "closed"),
        Defence(SHARED, "closed"),
    )
}


def defence(name: str) -> Defence:
    """The defence called `name`; raises `InputError` with the known names."""
    if name not in DEFENCES:
        raise InputError(f"defence is {name!r}; known: {', '.join(DEFENCES)}")
    return DEFENCES[name]


def answers(
    chosen: Defence,
    writers: Writers,
    enforcement: Enforcement,
    rows: Sequence[Row],
    seed: int,
    *,
    items: Sequence[Item] | None = None,
) -> list[Answer]:
    """What is shown for every row.

    Args:
        chosen: one of `DEFENCES`.
        writers: whose answers.
        enforcement: the charter at work; only `guard`, `tiers` and `closed` look at it.
        rows: what is asked of whom, as many as shall be written together. Rows of kind `probe` also draw from
            shared where a guard is at work.
        seed: of the draws; the R + 1 that follow it are used as well.
        items: `menu` only: the item that is taken for each row, whoever chose it.

    Returns:
        An answer a row, in order. `tier` is where the charter placed it (`tiers`), what the rows were treated
        as (`guard`, `closed`), or '' where no charter was asked. `missed` says nothing without a guard.

    Raises:
        InputError: a menu without an item for each row, or items without a menu.
    """
    if (items is not None) != (chosen.name == "menu") or (items is not None and len(items) != len(rows)):
        given = "no items" if items is None else f"{len(items)} items"
        raise InputError(
            f"defence {chosen.name} has {given} for {len(rows)} rows; one each for menu, none else"
        )
    if chosen.name == TIERED:
        tiers = place(enforcement, rows)
        found: list[Answer | None] = [None] * len(rows)
        for tier in dict.fromkeys(tiers):
            ks = [k for k, one in enumerate(tiers) if one == tier]
            for k, answer in zip(
                ks, write_chunk(writers, enforcement, [rows[k] for k in ks], tier, seed), strict=True
            ):
                found[k] = answer
        return [one for one in found if one is not None]
    if chosen.name in ("guard", "closed"):
        return write_chunk(writers, enforcement, rows, "free" if chosen.name == "guard" else "closed", seed)
    asked = [(row.person, row.prompt) for row in rows]
    if chosen.name == SHARED:
        return [_plain("shared", text) for text in writers.write_shared(asked, seed)]
    if items is not None:
        asked = [(person, item.prompt(prompt)) for (person, prompt), item in zip(asked, items, strict=True)]
        texts = writers.write_shared(asked, seed)
        return [_plain("shared", item.render(text)) for item, text in zip(items, texts, strict=True)]
    budget = None if chosen.delta == math.inf else Budget(chosen.delta)
    # seed + 1 is the first personal draw of a guarded row
    return [_plain("personal", text) for text in writers.write_personal(asked, budget, seed + 1)]


def _plain(source: str, text: str) -> Answer:
    return Answer("", source, text, (), None, missed=False)
