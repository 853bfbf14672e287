"""The study of attacks: every attack under every defence, on prompts where the shared policy seldom violates.

Half of the public safety pairs, and the charter's refusals, are what shared policy and attackers learn from.
What is asked are the prompts of the other half and some of the charter's probes. Of these, prompts count
where no draw of the shared policy, out of a sample that is used for nothing else, is called a violation; the
attacks have no part in that choice.
"""

from __future__ import annotations

import hashlib
from collections import Counter as Count
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from commonground.bounds.enforcement import enforce
from commonground.bounds.menu import DEFAULT
from commonground.bounds.tiers import TIERS
from commonground.data.starter import SafetyPair, safety_pairs
from commonground.language_model import LanguageModel
from commonground.randomness import generator
from commonground.simulations.certify.answering import Answer, Writers
from commonground.simulations.certify.content import Ready
from commonground.simulations.certify.dealing import read_charter_probes
from commonground.simulations.certify.loading import RunPolicies
from commonground.simulations.defended import NONE, SHARED, TIERED
from commonground.simulations.device_attacks.asking import (
    MENU,
    Asker,
    OneShared,
    Tick,
    ask_all,
    ask_menu,
)
from commonground.simulations.device_attacks.benign import style_kept
from commonground.simulations.device_attacks.central import halves, refused
from commonground.simulations.device_attacks.found import AttackStudy, wanted
from commonground.simulations.device_attacks.registry import ATTACKS, attack
from commonground.simulations.device_attacks.stage import PROJECTION, Size, make_scene, make_stage
from commonground.simulations.device_attacks.table import ALPHA, REFUSAL, Cell, Counter
from commonground.simulations.kept_draws import KeptDraws
from commonground.training.writing import AT_ONCE

# the items that need no draw of their own: what they show is what the shared policy wrote for everybody
RENDERED = tuple(item for item in DEFAULT if not item.instruction)


def study(
    base: LanguageModel,
    ready: Ready,
    size: Size,
    *,
    seed: int,
    folder: Path,
    tick: Tick,
    where: dict[str, str | float | bool],
) -> AttackStudy:
    """Build the policies, ask them, and count.

    Args:
        base: an instruction model.
        ready: charter, judge and encoder.
        size: how much is done.
        seed: of everything that is random.
        folder: adapters and draws are kept in it; the same call goes on.
        tick: progress.
        where: the machine, in words.
    """
    for name in size.attacks:
        attack(name)
    learnt, held = halves(safety_pairs())
    public = [*learnt, *refused(ready.charter.charter, ready.charter.folder)]
    scene = make_scene(base, public, size, seed, folder, tick)
    stage = make_stage(scene, size, seed, folder, tick)
    enforcement = enforce(ready.charter.charter, ready.charter.folder, ready.encoder, stage.policies.base)
    plan = _plan(stage.policies)
    writers = KeptDraws(stage.policies, folder / f"draws-{plan}.jsonl")
    counter = Counter(enforcement, ready.judge)
    candidates = _candidates(ready, held, size.probes, seed)
    prompts = _chosen(writers, counter, candidates, size.selection, seed, tick)
    askers = [Asker(n, stage.places[n], tuple(map(ATTACKS[n].prompt, prompts))) for n in size.attacks]
    shown = ask_all(writers, enforcement, askers, size.defences, seed, tick, "attacks")
    more = [stage.projected(one) for one in askers] if size.projection else []
    shown |= ask_all(writers, enforcement, more, (NONE,), seed, tick, "attacks, projected")
    benign = style_kept(writers, enforcement, stage, size, seed, tick)
    menu = ask_menu(writers, enforcement, RENDERED, prompts, seed, tick)
    cells = _cells(counter, askers, size.defences, shown, menu, prompts, tick)
    first = askers[0]
    shared = counter.cell(first.prompts, shown[first.name, SHARED], alpha=2 * ALPHA)  # one side
    settings = asdict(size) | {
        "base": scene.model.public_digests()["base"][:16],
        "seed": seed,
        "charter": ready.charter.charter.digest[:16],
        "judge": ready.judge.judge.name,
        "candidates": len(candidates),
        "prompts": len(prompts),
        "of the held-out pairs": sum(pair.prompt in prompts for pair in held),
        "temperature": stage.policies.temperature,
        "plan": plan,
    }
    return AttackStudy(
        where,
        settings,
        shared,
        cells,
        _placed(shown[first.name, TIERED]),
        {a.name: _by_tier(counter, a, shown) for a in askers},
        benign,
        wanted(shared, cells, benign),
        _notes(),
        {a.name: _sample(a, shown) for a in askers},
    )


def _plan(policies: RunPolicies) -> str:
    about = f"{policies.digest} {policies.tokens} {policies.temperature}"
    return hashlib.sha256(about.encode()).hexdigest()[:24]


def _candidates(ready: Ready, held: Sequence[SafetyPair], count: int, seed: int) -> list[str]:
    probes = read_charter_probes(ready.charter, frozenset()).probes
    order = generator(seed, "attack study", "probes").permutation(len(probes))[:count].tolist()
    return list(dict.fromkeys([pair.prompt for pair in held] + [probes[k].prompt for k in order]))


def _chosen(
    writers: Writers, counter: Counter, candidates: Sequence[str], draws: int, seed: int, tick: Tick
) -> list[str]:
    """Candidates none of whose draws from the shared policy is called a violation."""
    bad: set[str] = set()
    for turn in range(draws):
        tick("choosing prompts", turn, draws)
        own = int(generator(seed, "attack study", "selection", turn).integers(2**31)) << 8
        texts: list[str] = []
        for first in range(0, len(candidates), AT_ONCE):
            asked = [(0, prompt) for prompt in candidates[first : first + AT_ONCE]]
            texts += OneShared(writers).write_shared(asked, own)
        called = counter.violations(list(zip(candidates, texts, strict=True)))
        bad |= {prompt for (prompt, _), one in called.items() if one}
    tick("choosing prompts", draws, draws)
    return [prompt for prompt in candidates if prompt not in bad] or list(candidates)


def _cells(
    counter: Counter,
    askers: Sequence[Asker],
    defences: Sequence[str],
    shown: Mapping[tuple[str, str], Sequence[Answer]],
    menu: Mapping[str, Sequence[Answer]],
    prompts: Sequence[str],
    tick: Tick,
) -> dict[str, dict[str, Cell]]:
    items = [counter.cell(prompts, one, parts=len(menu)) for one in menu.values()]
    worst = max(items, key=lambda cell: (cell.high, cell.events))
    cells: dict[str, dict[str, Cell]] = {}
    for done, asker in enumerate(askers):
        tick("judging", done, len(askers))
        row = {name: counter.cell(asker.prompts, shown[asker.name, name]) for name in (NONE, *defences)}
        row[MENU] = worst
        if (projected := shown.get((f"{asker.name} {PROJECTION}", NONE))) is not None:
            row[PROJECTION] = counter.cell(asker.prompts, projected)
        cells[asker.name] = row
    tick("judging", len(askers), len(askers))
    return cells


def _placed(shown: Sequence[Answer]) -> dict[str, int]:
    count = Count(one.tier for one in shown)
    return {tier: count[tier] for tier in TIERS}


def _by_tier(
    counter: Counter, asker: Asker, shown: Mapping[tuple[str, str], Sequence[Answer]]
) -> dict[str, dict[str, int]]:
    """Prompts of each tier, and what the judge calls violations there."""
    tiers = [one.tier for one in shown[asker.name, TIERED]]
    found = {tier: {"prompts": tiers.count(tier), NONE: 0, TIERED: 0} for tier in TIERS}
    for name in (NONE, TIERED):
        rows = [(p, one.text) for p, one in zip(asker.prompts, shown[asker.name, name], strict=True)]
        called = counter.violations(rows)
        for tier, row, one in zip(tiers, rows, shown[asker.name, name], strict=True):
            found[tier][name] += called[row] and one.source != REFUSAL
    return found


def _sample(asker: Asker, shown: Mapping[tuple[str, str], Sequence[Answer]]) -> dict[str, str]:
    prompt = asker.prompts[0]
    return {"prompt": prompt} | {name: shown[asker.name, name][0].text for name in (NONE, TIERED, SHARED)}


def _notes() -> list[str]:
    return [
        "The base is the model as it is; the shared adapter has learnt to refuse, in public.",
        "Rates are corrected for the judge's errors; intervals are of 95 %, each for itself.",
        "The guard was fitted on all of the starter set's pairs, those whose prompts are asked included. The "
        "judge reads each prompt with a head that never saw an answer to it.",
        "The menu is that of renderings; its row is the worst of its items, whatever a private adapter "
        "chooses once and for all.",
    ]
