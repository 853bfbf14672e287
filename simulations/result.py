"""`result.json`: everything a run found, as plain values (schema 1)."""

from __future__ import annotations

import importlib.metadata
import platform
import resource
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from commonground.comparisons import TAGS
from commonground.embeddings import MAX_TOKENS
from commonground.evaluation.accuracy import (
    Attainable,
    low_agreement,
    paired,
    person_accuracy,
    policy_table,
)
from commonground.evaluation.erased import erased
from commonground.evaluation.format_probe import format_probe
from commonground.evaluation.welfare import welfare
from commonground.marking import marked
from commonground.privacy.statement import refuse_if_unaccounted, statement
from commonground.randomness import generator
from commonground.server.job import Job
from commonground.settings import to_dict
from commonground.simulations.attacks.outcome import attack_outcome, baseline_outcome
from commonground.simulations.egress import accounted, egress, released
from commonground.simulations.measure import Policy, margins
from commonground.simulations.stages import central_people
from commonground.simulations.world import World
from commonground.simulations.writing import save_adapters, write_samples
from commonground.strategies.safety_gate import ACTIONS

if TYPE_CHECKING:
    from commonground.simulations.certify.answering import Answer
    from commonground.simulations.folder import RunFolder
    from commonground.simulations.runner import Trained

PACKAGES = ("commonground", "flwr", "torch", "peft", "opacus", "transformers", "numpy")
ORDER = ("base", "pooled", "pooled_central", "local", "shared", "personal", "sft")
SEEN = frozenset({  # computed from people's data without noise, or from the machine's clock
    "seconds", "peak_memory_mb", "policies", "paired", "format_probe", "erased", "per_person",
    "per_person_safety", "welfare", "minority", "data", "truth", "private_bounds", "attack", "writing",
    "charter",
})  # fmt: skip
ERASED_PEOPLE = 1000  # held in memory in float64, with features of every direction


def assemble(
    world: World,
    trained: Trained,
    folder: RunFolder,
    began: float,
    shown: Sequence[Sequence[Answer]] | None = None,
) -> dict[str, Any]:
    """Measure every policy and put the result together.

    Args:
        world: the run's world.
        trained: adapters of every policy.
        folder: the run's folder, for receipts and the command that reproduces the run.
        began: `time.monotonic()` at the start of this process's part of the run.
        shown: what people are shown under the charter; see `write_samples`.
    """
    policies = {name: trained.policies[name] for name in ORDER if name in trained.policies}
    reference = _reference(world, world.test_rows)
    found = {name: _margins(world, policy, world.test_rows, reference) for name, policy in policies.items()}
    view = _View(world, policies["pooled"])
    resamples = world.config.evaluation.resamples

    def rng(name: str) -> np.random.Generator:
        return generator(world.config.seed, "bootstrap", name)

    tables = {
        name: policy_table(
            values,
            view.person,
            {str(tag): mask for tag, mask in view.tags.items()},
            people=view.people,
            rng=rng("policies"),  # the same draws for all: equal policies get equal intervals
            groups=view.groups,
            minority=view.minority,
            attainable=view.attainable,
            resamples=resamples,
        )
        for name, values in found.items()
    }
    taste = view.tags["taste"]
    accuracies = {
        name: person_accuracy(values[taste], view.person[taste], view.people)
        for name, values in found.items()
    }
    safety = view.tags["safety"]
    claims = _privacy(world, trained, folder)
    result: dict[str, Any] = {
        "schema": 1,
        "config": to_dict(world.config),
        "versions": _versions(),
        "seconds": round(time.monotonic() - began, 2),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "policies": tables,
        "paired": paired(accuracies, rng=rng("paired"), minority=view.minority, resamples=resamples),
        "format_probe": world.common.once("format", lambda: _format(world, rng("format"), resamples)),
        "erased": world.common.once("erased", lambda: _erased(world, rng("erased"), resamples)),
        "privacy": claims,
        "egress": egress(world, trained, folder.state),
        "curves": {
            arm: [event for event in trained.events if event["arm"] == arm] for arm in ("shared", "pooled")
        },
        "per_person": _per_person(world, view, accuracies),
        "per_person_safety": {
            name: _numbers(person_accuracy(values[safety], view.person[safety], view.people))
            for name, values in found.items()
        },
        "welfare": {name: welfare(values[np.isfinite(values)]) for name, values in accuracies.items()},
        "minority": {"source": view.minority_source, "people": int(view.minority.sum())},
        "data": _data(world),
        "truth": None if world.population.truth is None else _truth(world),
        "reproduce": reproduce(folder.path),
    }
    if trained.bounds:
        result["private_bounds"] = trained.bounds
    if world.config.gate.enabled:
        result["gate"] = _gate(trained.events, bool(np.isfinite(world.claim.epsilon)))
    if world.attack is not None:
        result["attack"] = attack_outcome(world, found, policies)
    elif baseline := baseline_outcome(world, policies):
        result["attack"] = baseline
    if world.models["shared"].kind == "policy":
        result["writing"] = write_samples(world, policies, shown=shown or ())
        save_adapters(world, policies, folder.path / "adapters")
    return marked(result, SEEN)


class _View:
    """The test comparisons as evaluation sees them: people renumbered 0..k-1 in the evaluated order."""

    def __init__(self, world: World, pooled: Policy) -> None:
        place = {person: k for k, person in enumerate(world.evaluated.tolist())}
        rows = world.test_rows
        self.person = np.array([place[p] for p in world.owner[rows].tolist()], dtype=np.int64)
        self.people = len(world.evaluated)
        tag = np.array([world.table[row].tag for row in rows.tolist()])
        self.tags = {name: np.asarray(tag == name) for name in TAGS}
        groups = [world.population.people[p].group for p in world.evaluated.tolist()]
        self.groups = groups if any(group is not None for group in groups) else None
        planted = world.population.minority
        if planted is not None:
            self.minority, self.minority_source = planted[world.evaluated], "planted"
        else:
            self.minority, self.minority_source = self._found(world, pooled), "least agreement in training"
        self.attainable = None
        truth = world.population.truth
        if truth is not None and (summary := truth.summary().get("taste")):
            best = summary["attainable"]
            self.attainable = Attainable(best["personal"], best["pooled"])

    def _found(self, world: World, pooled: Policy) -> np.ndarray:
        """The fifth of the people whose training comparisons agree least with the pooled model."""
        people = world.evaluated.tolist()
        rows = np.concatenate([world.train_rows[p]["taste"] for p in people])
        place = np.repeat(np.arange(len(people)), [len(world.train_rows[p]["taste"]) for p in people])
        values = _margins(world, pooled, rows, _reference(world, rows))
        return low_agreement(person_accuracy(values, place, len(people)))


def _reference(world: World, rows: np.ndarray) -> np.ndarray:
    """Margins of the base policy: 0 for rewards, log-probability differences for a language model."""
    base = Policy(world.models["shared"])
    return margins(world, base, rows)


def _margins(world: World, policy: Policy, rows: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Rewards, or implicit rewards beta log(pi / pi_0): what the policy has learned to prefer."""
    if policy.model.kind == "reward":
        return margins(world, policy, rows)
    found: np.ndarray = float(world.config.loss.beta or 1) * (margins(world, policy, rows) - reference)
    return found


def _privacy(world: World, trained: Trained, folder: RunFolder) -> dict[str, Any]:
    config = world.config
    sent = [spec.name for spec in world.manifests["shared"].sent]
    # What a strategy needs beside the adapter is clipped and noised jointly with it: one account for both.
    spec = world.models["shared"].shared_spec()
    extras = {} if world.half is None else world.half.sent(spec, max(1, len(world.groups)))
    bit = world.manifests["shared"].bit
    if np.isfinite(world.claim.epsilon):
        job = Job.load(folder.state / "job-shared.json")
        refuse_if_unaccounted(released(world, trained, folder.state), accounted(job))
    text = statement(
        world.claim,
        world.private_claim,
        people=len(world.eligible),
        released=[
            f"the shared adapter of every round ({', '.join(name for name in spec if name in sent)})",
            *(
                [f"what the strategy needs beside it, in the same clip and noise ({', '.join(extras)})"]
                if extras
                else []
            ),
            *([f"the count of bits ({bit.name}) and the clip C_t of every round"] if bit is not None else []),
        ],
        unit_words=[f"{tag}: {words}" for tag, words in sorted(world.population.unit.items())],
        seeded=config.privacy.noise == "seeded",
    )
    clip = config.privacy.shared.clip if np.isfinite(config.privacy.shared.epsilon) else None
    return {
        "statement": text,
        "shared": world.claim.to_dict() | {"clip": clip, "numbers": world.manifests["shared"].size},
        "private": world.private_claim.to_dict()
        | {
            "clip": config.privacy.private.clip if world.private_claim.noise_multiplier else None,
            "numbers": int(sum(np.prod(s) for s in world.models["shared"].private_spec().values())),
        },
    }


def _gate(events: list[dict[str, Any]], noised: bool) -> dict[str, Any]:
    """How often the safety gate did what, and what it found last, arm by arm; it reads released adapters."""
    found: dict[str, Any] = {}
    for event in events:
        if (decision := event.get("gate")) is not None:
            own = found.setdefault(event["arm"], dict.fromkeys(ACTIONS, 0))
            own[decision["action"]] += 1
            own["last"] = {"round": event["round"], **decision}
    return marked(found, {arm for arm in found if arm != "shared" or not noised})


def _format(world: World, rng: np.random.Generator, resamples: int) -> dict[str, Any]:
    train = [
        world.table[r] for p in world.evaluated.tolist() for tag in TAGS for r in world.train_rows[p][tag]
    ]
    test = [world.table[row] for row in world.test_rows.tolist()]
    return format_probe(train, test, resamples=resamples, rng=rng)


def _erased(world: World, rng: np.random.Generator, resamples: int) -> dict[str, Any]:
    people = world.evaluated[:ERASED_PEOPLE].tolist()
    train = np.concatenate([world.train_rows[p]["taste"] for p in people])
    test = np.array([r for r in world.test_rows.tolist() if world.table[r].tag == "taste"], dtype=np.int64)
    place = {person: k for k, person in enumerate(people)}
    test = test[np.isin(world.owner[test], people)]

    def side(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        block, features = world.features.block["taste"], world.features
        x = (block[features.chosen[rows]] - block[features.rejected[rows]]).double().numpy()
        return x, np.array([place[p] for p in world.owner[rows].tolist()], dtype=np.int64)

    learn, held = side(train), side(test)
    texts = _about(world, train)
    return erased(*learn, *held, people=len(people), rng=rng, resamples=resamples, texts=texts)


def _about(world: World, rows: np.ndarray) -> np.ndarray:
    """(n, 2) numbers of what each side of a comparison is about: its prompt, or the answer itself."""
    numbers: dict[str, int] = {}
    pairs = []
    for row in rows.tolist():
        comparison = world.table[row]
        sides = (comparison.prompt or comparison.chosen, comparison.prompt or comparison.rejected)
        pairs.append([numbers.setdefault(side, len(numbers)) for side in sides])
    return np.array(pairs, dtype=np.int64)


def _per_person(world: World, view: _View, accuracies: dict[str, np.ndarray]) -> dict[str, Any]:
    people = world.evaluated.tolist()

    return {
        "person": [world.population.people[p].id for p in people],
        "group": [world.population.people[p].group for p in people],
        "minority": [bool(m) for m in view.minority],
        "train_pairs": [len(world.train_rows[p]["taste"]) for p in people],
    } | {name: _numbers(values) for name, values in accuracies.items()}


def _numbers(values: np.ndarray) -> list[float | None]:
    return [float(v) if np.isfinite(v) else None for v in values]


def _data(world: World) -> dict[str, Any]:
    population = world.population
    return {
        "people": world.people,
        "evaluated": len(world.evaluated),
        "taking_part": len(world.eligible),
        "central": len(central_people(world)),
        "train": {str(tag): count for tag, count in world.crowd.counts().items()},
        "test": {tag: int(sum(world.table[r].tag == tag for r in world.test_rows.tolist())) for tag in TAGS},
        "left_out": population.left_out,
        "bad_rows": population.bad_rows,
        "notes": {tag: [asdict(note) for note in notes] for tag, notes in population.notes.items() if notes},
        "cut": population.cut,
        "tokens": {"prompt": world.config.model.prompt_tokens, "answer": world.config.model.answer_tokens}
        if world.config.model.kind == "policy"
        else {"answer": MAX_TOKENS},
        "unit": population.unit,
        "public": {tag: world.features.bases[tag].source for tag in TAGS},
    }


def _truth(world: World) -> dict[str, Any] | None:
    truth = world.population.truth
    return None if truth is None else truth.summary()


def reproduce(path: Path) -> str:
    """The command that makes this run again from its own configuration."""
    return f"commonground simulate --config {shlex.quote(str(path / 'config.yaml'))} --out again"


def _versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0], "platform": platform.platform(terse=True)}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found
