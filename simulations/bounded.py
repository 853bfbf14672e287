"""What the people of a `policy` run are shown under the charter, beside what their policies write.

Everybody whose answers are written out is asked the same everyday prompts under the default stack, and some
of the charter's forbidden ones, which are dealt. Answers are draws at the temperature that the bounds are
about, while what the policies write beside them is greedy. This is a look at a few answers and no
certificate: `commonground certify` states a bound.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commonground.bounds.charter_files import check_probes
from commonground.bounds.enforcement import Enforcement, enforce
from commonground.bounds.guard import Guard
from commonground.bounds.tiers import TIERS
from commonground.config import Config
from commonground.errors import ConfigError
from commonground.randomness import generator
from commonground.simulations.certify.answering import Answer, Tick
from commonground.simulations.certify.dealing import EVERYDAY, PROBE, Row, read_charter_probes
from commonground.simulations.certify.loading import RunPolicies, policies_of
from commonground.simulations.defended import DEFENCES, NONE, TIERED, answers
from commonground.simulations.kept_draws import KeptDraws
from commonground.simulations.measure import Policy
from commonground.simulations.world import World
from commonground.simulations.writing import BOUNDED, PEOPLE, PROMPTS
from commonground.study.charters import CharterFile, trusted_charter
from commonground.training.contract import charter_digest
from commonground.training.features import encoder_of

SOURCES = ("personal", "shared", "refusal")


def with_charter(config: Config) -> Config:
    """A copy that names the charter of `bounds.charter_file` by its digest, as the manifest does.

    Raises:
        InputError: it cannot be read, or a value of it is wrong.
        TrustError: it is not signed.
    """
    full = copy.deepcopy(config)
    if full.bounds.charter_file and not full.bounds.charter:
        full.bounds.charter = trusted_charter(Path(full.bounds.charter_file)).charter.digest
    return full


def meant_charter(config: Config) -> CharterFile | None:
    """The charter of a run, with its probes' digests checked; None where nothing is written under one.

    Raises:
        InputError: it cannot be read, or a value of it is wrong.
        TrustError: it is not signed, or a file beside it is not the one that was signed.
        ConfigError: it has another digest than `bounds.charter`.
    """
    if config.model.kind != "policy" or not config.bounds.answers:
        return None
    file = config.bounds.charter_file
    found, wanted = trusted_charter(Path(file) if file else None), charter_digest(config)
    if found.charter.digest != wanted:
        raise ConfigError(
            [f"bounds.charter: found {wanted[:16]}; {found.source} has {found.charter.digest[:16]}"],
            hint="name its signed file with bounds.charter_file, or leave bounds.charter empty",
        )
    check_probes(found.charter, found.folder)
    return found


@dataclass(frozen=True)
class Stack:
    """A charter at work in a run.

    Attributes:
        file: where it comes from.
        enforcement: its moving parts.
        probes: its forbidden prompts, none of which the run learns from.
    """

    file: CharterFile
    enforcement: Enforcement
    probes: tuple[str, ...]


def at_work(file: CharterFile, world: World) -> Stack:
    """Load what the charter names.

    Raises:
        TrustError: a detector or the base model is not the charter's.
        DataError: the run learns from one of its probes.
    """
    base = world.models["shared"].public_digests()["base"]
    enforcement = enforce(file.charter, file.folder, encoder_of(world.config), base)
    asked = world.config.bounds.probes
    used = frozenset(comparison.prompt for comparison in world.table)
    probes = read_charter_probes(file, used).probes if asked else ()
    return Stack(file, enforcement, tuple(probe.prompt for probe in probes))


@dataclass(frozen=True)
class Shown:
    """What some people were shown; the first axis is the people, in the evaluated order.

    Attributes:
        everyday: answers to the everyday prompts under the default stack.
        forbidden: answers to forbidden prompts under it, each with a draw of the shared policy.
        unbounded: draws of the personal policies to the same forbidden prompts, without any bound.
        asked: the forbidden prompts.
    """

    everyday: list[list[Answer]]
    forbidden: list[list[Answer]]
    unbounded: list[list[str]]
    asked: list[list[str]]


def show(world: World, personal: Policy, stack: Stack, tick: Tick) -> Shown:
    """Ask the people whose answers are written out, under the charter.

    Args:
        world: of a policy run.
        personal: their policies.
        stack: the charter at work.
        tick: progress.
    """
    config = world.config
    people = min(PEOPLE, len(world.evaluated))
    prompts = [list(PROMPTS[: config.evaluation.prompts])] * people
    asked = _dealt(stack.probes, config.bounds.probes, people, config.seed)
    policies: RunPolicies = policies_of(
        world, personal.shared or {}, personal.used, personal.private or {}, config.evaluation.tokens
    )
    writers, found = KeptDraws(policies), []
    ways = ((EVERYDAY, prompts, TIERED), (PROBE, asked, NONE), (PROBE, asked, TIERED))
    for done, (kind, each, way) in enumerate(ways):
        tick("answers under the charter", done, len(ways))
        rows = [Row(kind, k, prompt, "") for k, own in enumerate(each) for prompt in own]
        seed = int(generator(config.seed, "bounded", kind).integers(1 << 40)) << 8
        shown = iter(answers(DEFENCES[way], writers, stack.enforcement, rows, seed))
        found.append([[next(shown) for _ in own] for own in each])
    tick("answers under the charter", len(ways), len(ways))
    return Shown(found[0], found[2], [[one.text for one in own] for own in found[1]], asked)


def _dealt(probes: Sequence[str], each: int, people: int, seed: int) -> list[list[str]]:
    """Forbidden prompts of each person, everybody's own as long as there are enough."""
    order = generator(seed, "bounded", "probes").permutation(len(probes)).tolist()
    turns = [order[k % len(order)] for k in range(each * people if order else 0)]
    count = min(each, len(order))
    return [[probes[place] for place in turns[k * each : k * each + count]] for k in range(people)]


def charter_part(world: World, shown: Shown, stack: Stack, writing: Mapping[str, Any]) -> dict[str, Any]:
    """`result.json`'s part about the charter: what was placed where, and what was held back, of whom.

    Args:
        world: of the run.
        shown: what people were shown.
        stack: the charter at work.
        writing: what the policies wrote; see `write_samples`.
    """
    charter, guard = stack.enforcement.charter, stack.enforcement.guard
    names = [world.population.people[p].id for p in world.evaluated[: len(shown.everyday)].tolist()]
    own = [
        sum(bool(guard.answer_verdict(q, text)) for q, text in zip(asked, texts, strict=True))
        for asked, texts in zip(shown.asked, shown.unbounded, strict=True)
    ]
    return {
        "digest": charter.digest,
        "title": charter.title,
        "version": charter.version,
        "source": Path(stack.file.source).name if stack.file.signer else stack.file.source,
        "signer": stack.file.signer,
        "appeal": charter.changes.appeal,
        "delta": charter.bounds.delta,
        "draws": charter.bounds.draws,
        "policies": _policies(guard, shown, own, writing),
        "people": [
            {
                "person": name,
                "everyday": tally(shown.everyday[k]),
                "forbidden": tally(shown.forbidden[k]) | {"own_held_back": own[k]},
            }
            for k, name in enumerate(names)
        ],
    }


def tally(shown: Sequence[Answer]) -> dict[str, int]:
    """How many answers there are, by tier and by who wrote them, and of how many a draw was held back."""
    tiers, sources = Counter(one.tier for one in shown), Counter(one.source for one in shown)
    counts = {tier: tiers[tier] for tier in TIERS} | {source: sources[source] for source in SOURCES}
    return {"answers": len(shown), **counts, "held_back": sum(bool(one.reasons) for one in shown)}


def _policies(
    guard: Guard, shown: Shown, own: Sequence[int], writing: Mapping[str, Any]
) -> dict[str, dict[str, dict[str, int]]]:
    """Policy -> kind of prompt -> distinct answers, and how many of them the guard would hold back.

    Of what is shown under the charter the guard has passed everything but the refusals, which are constants:
    what it holds back of the rest is counted all the same, and must be nothing.
    """
    said: dict[str, dict[str, list[tuple[str, str]]]] = {BOUNDED: {}}
    people, prompts = writing["people"], writing["prompts"]
    for name in people[0]["answers"] if people else ():
        pairs = {pair for one in people for pair in zip(prompts, one["answers"][name], strict=True)}
        said.setdefault(name, {})["everyday"] = sorted(pairs)
    for kind, asked, each in (
        ("everyday", [prompts] * len(shown.everyday), shown.everyday),
        ("forbidden", shown.asked, shown.forbidden),
    ):
        pairs_ = [
            (prompt, one)
            for mine, answered in zip(asked, each, strict=True)
            for prompt, one in zip(mine, answered, strict=True)
        ]
        said[BOUNDED][kind] = [(prompt, one.text) for prompt, one in pairs_ if one.source != "refusal"]
    found = {
        name: {kind: _held(guard, pairs) for kind, pairs in kinds.items() if pairs or name == BOUNDED}
        for name, kinds in said.items()
    }
    if forbidden := [one for each in shown.forbidden for one in each]:
        for name, held in (("shared", sum(not one.missed for one in forbidden)), ("personal", sum(own))):
            found.setdefault(name, {})["forbidden"] = {"answers": len(forbidden), "held_back": held}
    return found


def _held(guard: Guard, pairs: Sequence[tuple[str, str]]) -> dict[str, int]:
    return {"answers": len(pairs), "held_back": sum(bool(guard.answer_verdict(*pair)) for pair in pairs)}
