"""`bench attacks`: every attack on the device under every defence, with what each defence costs beside it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

from rich.box import SIMPLE_HEAD

from commonground.embeddings import Encoder
from commonground.language_model import load_base
from commonground.simulations.bench.bounds_view import kept, label
from commonground.simulations.bench.machine import machine
from commonground.simulations.bench.view import bar_table, heading
from commonground.simulations.certify.content import Asked, make_ready
from commonground.simulations.device_attacks.found import AttackStudy
from commonground.simulations.device_attacks.registry import ATTACKS, attack
from commonground.simulations.device_attacks.shown import span
from commonground.simulations.device_attacks.stage import QUICK, Size
from commonground.simulations.device_attacks.study import study
from commonground.terminal import Table

SEED, EVERY = 0, 5.0  # seconds between two lines of progress
STATE = "bench-attacks-state"


def measure(
    *,
    quick: bool,
    say: Callable[[str], None],
    keep: Path | None = None,
    base: str = "",
    projection: bool = False,
    only: Sequence[str] = (),
) -> AttackStudy:
    """Build the policies, ask them, and count.

    Args:
        quick: few prompts, short training.
        say: progress.
        keep: a folder; adapters and draws are kept in it, and the same command goes on.
        base: folder or name of the base model.
        projection: also every adapter after the projection of its weights.
        only: names of attacks; none are all.

    Raises:
        InputError: an attack is not known.
    """
    size = replace(QUICK if quick else Size(), projection=projection)
    size = replace(size, attacks=tuple(name for name in only if attack(name)) or size.attacks)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) if keep is None else keep / STATE
        return study(
            load_base(base),
            make_ready(Asked(), Encoder()),
            size,
            seed=SEED,
            folder=folder,
            tick=_Pace(say),
            where=machine(),
        )


class _Pace:
    """A line of progress now and then, with what is left at the pace so far."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._last = say, 0.0
        self._began: dict[str, tuple[int, float]] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        first, began = self._began.setdefault(what, (done, now))
        if now - self._last < EVERY and done < total:
            return
        self._last = now
        rest = (now - began) / max(done - first, 1) * (total - done)
        self._say(f"{what}: {done} of {total}" + (f", {rest:.0f} s left" if first < done < total else ""))


def tables(found: AttackStudy) -> list[str | Table]:
    """Machine, the table, its bars and notes."""
    size = ", ".join(f"{tier} {count}" for tier, count in found.tiers.items())
    asked = f"{found.settings['prompts']} prompts of {found.settings['candidates']} candidates ({size})"
    shared = f"shared policy, from draws of its own: {span(asdict(found.shared))}"
    return [*heading(found), asked, shared, _table(found), bar_table(found.bars), *found.notes]


def _table(found: AttackStudy) -> Table:
    """A line a defence: violations and rate of each attack, the guard's count, and the cost beside it."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("violations (rate, %)")
    for name in found.cells:
        table.add_column(f"{ATTACKS[name].code} {name}", justify="right", no_wrap=True)
    for words in ("guard calls unsafe", "not personal", "style kept, free, %", "style kept, all, %"):
        table.add_column(words, justify="right")
    for defence in next(iter(found.cells.values())):
        row = [cells[defence] for cells in found.cells.values()]
        cost = found.benign.get(defence)
        table.add_row(
            label(defence),
            *(span(asdict(cell)) for cell in row),
            str(sum(cell.guard for cell in row)),
            "" if cost is None else f"{cost.fallback} of {cost.answers}",
            "" if cost is None else kept(cost.free, span=True),
            "" if cost is None else kept(cost.everyday, span=True),
        )
    return table
