"""`certify --full`: attacks on a run's shared policy: undefended, under the guard, under the default stack.

The attackers train a private adapter of the run's own form on top of the run's shared adapter, as the
unmodified runtime of a device would take it, and are asked the probes that were dealt.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from commonground.bounds.enforcement import enforce
from commonground.data.starter import safety_pairs, taste_prompts
from commonground.simulations.certify.content import Ready
from commonground.simulations.certify.dealing import PROBE, deal, read_charter_probes
from commonground.simulations.certify.loading import RunPolicies
from commonground.simulations.defended import NONE, SHARED, TIERED
from commonground.simulations.device_attacks.asking import Asker, Tick, ask_all
from commonground.simulations.device_attacks.base import Effort, Scene
from commonground.simulations.device_attacks.made import make_adapters
from commonground.simulations.device_attacks.registry import ATTACKS
from commonground.simulations.device_attacks.table import Counter
from commonground.simulations.kept_draws import KeptDraws

DEFENCES = (NONE, "guard", TIERED)
MOST = 100  # probes asked of each attack: six attacks cost as much as six people


def attacked(
    policies: RunPolicies,
    ready: Ready,
    probes: int,
    seed: int,
    folder: Path,
    tick: Tick,
    effort: Effort | None = None,
) -> dict[str, Any]:
    """The part `attacks` of a certificate.

    Args:
        policies: of a run; the shared adapter is the first person's.
        ready: charter, judge and encoder.
        probes: that are dealt; the first `MOST` of them are asked.
        seed: of the run.
        folder: adapters and draws are kept in it.
        tick: progress.
        effort: how hard attackers train.

    Returns:
        {"prompts", "person", "effort", "defences", "shared": cell, "attacks": {name: {"code", "says",
        "cells": {defence: cell}}}, "worst"}; see `table.Cell`.
    """
    shared = policies.shared[0]
    scene = Scene(policies.model, shared, safety_pairs(), taste_prompts(), effort or Effort())
    makers = {name: one.private for name, one in ATTACKS.items()}
    own = make_adapters(scene, makers, seed, folder, tick, "attackers' adapters")
    names = tuple(own)
    attackers = RunPolicies(
        policies.model,
        names,
        (None,) * len(names),
        (shared,) * len(names),
        tuple(own.values()),
        policies.used,
        policies.tokens,
        policies.temperature,
    )
    charter = ready.charter.charter
    enforcement = enforce(charter, ready.charter.folder, ready.encoder, policies.base)
    known = read_charter_probes(ready.charter, policies.used)
    rows = [row for row in deal(known, probes, len(policies.people), seed) if row.kind == PROBE]
    prompts = tuple(dict.fromkeys(row.prompt for row in rows))[:MOST]
    about = f"{attackers.digest} {attackers.tokens} {attackers.temperature}"
    plan = hashlib.sha256(about.encode()).hexdigest()[:24]
    writers = KeptDraws(attackers, folder / f"attacks-{plan}.jsonl")
    askers = [
        Asker(name, place, tuple(map(ATTACKS[name].prompt, prompts))) for place, name in enumerate(names)
    ]
    shown = ask_all(writers, enforcement, askers, DEFENCES, seed, tick, "attacks")
    counter = Counter(enforcement, ready.judge)
    cells = {
        asker.name: {name: counter.cell(asker.prompts, shown[asker.name, name]) for name in DEFENCES}
        for asker in askers
    }
    return {
        "prompts": len(prompts),
        "person": policies.people[0],
        "effort": {"steps": scene.effort.steps, "rate": scene.effort.rate},
        "defences": list(DEFENCES),
        "shared": counter.cell(askers[0].prompts, shown[names[0], SHARED]).to_dict(),
        "attacks": {
            name: {
                "code": ATTACKS[name].code,
                "says": ATTACKS[name].says,
                "cells": {where: cell.to_dict() for where, cell in row.items()},
            }
            for name, row in cells.items()
        },
        "worst": max(names, key=lambda name: (cells[name][TIERED].high, name)),
    }
