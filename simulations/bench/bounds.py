"""`bench bounds`: what each way of bounding personalisation leaves of five tastes, and what it guarantees.

Benign people, everyday prompts. The guarantee of a mechanism is a theorem and its price is measured here: how
much of a person's style survives. Draws are at the temperature that the theorems are about.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from commonground.bounds.charter_files import default_charter, shipped_folder
from commonground.bounds.enforcement import Enforcement, enforce
from commonground.bounds.menu import Item, Menu
from commonground.embeddings import Encoder
from commonground.simulations.bench.bounds_curve import LINES, MENU, TOLD, CostCurve, Shown, curve
from commonground.simulations.bench.bounds_people import TASTES, people, picked
from commonground.simulations.bench.bounds_prompts import PROMPTS
from commonground.simulations.bench.bounds_view import tables
from commonground.simulations.bench.machine import machine
from commonground.simulations.certify.answering import Answer, Writers
from commonground.simulations.certify.dealing import EVERYDAY, Row
from commonground.simulations.defended import NONE, SHARED, answers
from commonground.simulations.kept_draws import KeptDraws

__all__ = ["measure", "tables"]  # what the command asks for

SEED = 0
# shared and unbounded first: the others then begin with draws that are known
ORDER = (SHARED, NONE, *(name for name in LINES if name not in (SHARED, NONE)))


def measure(
    *, quick: bool, say: Callable[[str], None], keep: Path | None = None, base: str = ""
) -> CostCurve:
    """Train the people, write under every mechanism, and count.

    Args:
        quick: two tastes, few prompts, short answers.
        say: progress.
        keep: a folder; adapters and draws are kept in it, and the same command goes on.
        base: folder or name of the base model.
    """
    where = machine()
    tastes, prompts, tokens = (TASTES[:2], PROMPTS[:8], 24) if quick else (TASTES, PROMPTS, 40)
    folder = None if keep is None else keep / "bench-bounds-state"
    policies = people(tastes, tokens=tokens, base=base, kept=folder, say=say)
    about = f"{policies.digest} {policies.tokens} {policies.temperature}"
    plan = hashlib.sha256(about.encode()).hexdigest()[:24]
    writers = KeptDraws(policies, None if folder is None else folder / f"draws-{plan}.jsonl")
    enforcement = enforce(default_charter(), shipped_folder(), Encoder(), policies.base)
    say("asking every adapter which menu item it takes")
    items = picked(policies, writers, Menu(), SEED)
    by_name = {item.name: item for item in Menu().items}
    shown = written(writers, enforcement, prompts, items, [by_name[taste] for taste in tastes], say)
    settings = {
        "tokens of an answer": tokens,
        "temperature": policies.temperature,
        "everyday prompts": len(prompts),
        "seed": SEED,
        "charter": enforcement.charter.digest[:16],
    }
    return curve(where, settings, tastes, prompts, items, enforcement.charter.bounds, shown)


def written(
    writers: Writers,
    enforcement: Enforcement,
    prompts: Sequence[str],
    items: Sequence[Item],
    told: Sequence[Item],
    say: Callable[[str], None],
) -> Shown:
    """What everybody is shown for every prompt under every line of the curve.

    Args:
        writers: one person an item.
        enforcement: the charter at work.
        prompts: everyday ones.
        items: the menu item of each private adapter.
        told: the menu item that each person asks for.
        say: progress.
    """
    shown: dict[str, list[list[Answer]]] = {}
    for place, name in enumerate(ORDER):
        shown[name] = []
        for person, item in enumerate(told if name == TOLD else items):
            say(f"{name} ({place + 1} of {len(ORDER)} ways), person {person + 1} of {len(items)}")
            rows = [Row(EVERYDAY, person, prompt, "") for prompt in prompts]
            own = [item] * len(rows) if name in (MENU, TOLD) else None
            seed = SEED + 100 * (person + 1)
            shown[name].append(answers(LINES[name], writers, enforcement, rows, seed, items=own))
    return shown
