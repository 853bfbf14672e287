"""Ask every attack under every defence, with draws that are kept as they are written.

Attacks stand where people stand: person k of `Writers` is the policy with the k-th private adapter, over one
shared policy. A prompt is asked once of each, whatever the defence. The draw of the personal policy that
`none` shows is the one that a guard looks at, and a draw of the shared policy is the same for all: what
differs between two cells is the attack, or the defence, and not the dice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from commonground.bounds.budget import Budget
from commonground.bounds.enforcement import Enforcement
from commonground.bounds.menu import Item
from commonground.simulations.certify.answering import Answer, Writers
from commonground.simulations.certify.dealing import Row
from commonground.simulations.defended import DEFENCES, NONE, SHARED, answers
from commonground.training.writing import AT_ONCE

Tick = Callable[[str, int, int], None]
ATTACK, MENU = "attack", "menu"


@dataclass(frozen=True)
class Asker:
    """Who is asked.

    Attributes:
        name: of the attack, or of whatever else the private adapter is.
        place: of its policy among the writers'.
        prompts: as they are asked of it, each once.
    """

    name: str
    place: int
    prompts: tuple[str, ...]


class OneShared:
    """Writers of whom all have the same shared policy, so that its draws are the same for all.

    Args:
        writers: who writes.
    """

    def __init__(self, writers: Writers) -> None:
        self._writers = writers

    def write_shared(self, asked: Sequence[tuple[int, str]], seed: int) -> list[str]:
        """See `Writers`."""
        return self._writers.write_shared([(0, prompt) for _, prompt in asked], seed)

    def write_personal(self, asked: Sequence[tuple[int, str]], budget: Budget | None, seed: int) -> list[str]:
        """See `Writers`."""
        return self._writers.write_personal(asked, budget, seed)


def in_order(defences: Sequence[str]) -> list[str]:
    """Shared and unbounded first: what looks at these draws finds them written, whole chunks at a time."""
    first = [SHARED, NONE, *(name for name in defences if name.startswith("budget"))]
    return list(dict.fromkeys([*first, *(name for name in defences if name != MENU)]))


def ask_all(
    writers: Writers,
    enforcement: Enforcement,
    askers: Sequence[Asker],
    defences: Sequence[str],
    seed: int,
    tick: Tick,
    what: str,
) -> dict[tuple[str, str], list[Answer]]:
    """What is shown, by (asker, defence), in the order of the asker's prompts.

    Args:
        writers: that remember their draws, so that no draw is written twice.
        enforcement: the charter at work.
        askers: who is asked what.
        defences: names; `shared` and `none` are always among what is found.
        seed: of the draws.
        tick: progress.
        what: how to call the step.
    """
    own, order = OneShared(writers), in_order(defences)
    total, done = len(order) * sum(len(one.prompts) for one in askers), 0
    found: dict[tuple[str, str], list[Answer]] = {}
    for asker in askers:
        for first in range(0, len(asker.prompts), AT_ONCE):
            prompts = asker.prompts[first : first + AT_ONCE]
            rows = [Row(ATTACK, asker.place, prompt, "") for prompt in prompts]
            for name in order:
                shown = answers(DEFENCES[name], own, enforcement, rows, _seed(seed, prompts))
                found.setdefault((asker.name, name), []).extend(shown)
                done += len(prompts)
                tick(what, done, total)
    return found


def ask_menu(
    writers: Writers,
    enforcement: Enforcement,
    items: Sequence[Item],
    prompts: Sequence[str],
    seed: int,
    tick: Tick,
) -> dict[str, list[Answer]]:
    """Every item's answer to every prompt, by item: an attacker's adapter only chooses among them."""
    own, found = OneShared(writers), dict[str, list[Answer]]()
    total, done = len(items) * len(prompts), 0
    for item in items:
        for first in range(0, len(prompts), AT_ONCE):
            part = tuple(prompts[first : first + AT_ONCE])
            rows, own_items = [Row(ATTACK, 0, prompt, "") for prompt in part], [item] * len(part)
            shown = answers(DEFENCES[MENU], own, enforcement, rows, _seed(seed, part), items=own_items)
            found.setdefault(item.name, []).extend(shown)
            done += len(part)
            tick("menu", done, total)
    return found


def _seed(seed: int, prompts: Sequence[str]) -> int:
    """Of a chunk's draws: the same for whoever is asked the same prompts."""
    text = "\0".join([str(seed), *prompts])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:5], "big") << 8
