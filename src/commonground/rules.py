"""What the values of a configuration must obey, one rule a function.

A rule yields (key, message) for every fault; the message says what was found and what is accepted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import Any

from commonground.comparisons import TAGS
from commonground.config import AUTO, Config
from commonground.privacy.adaptive_clip import LEAST_COHORT
from commonground.privacy.banded import largest_band

Fault = tuple[str, str]
Rule = Callable[[Config], Iterator[Fault]]

SCHEDULES = ("decoupled", "alternating", "joint")
RUNTIMES = ("inprocess", "ray", "fleet")
KINDS = ("reward", "policy")
SOURCES = ("starter", "ratings", "pairs", "hub")
CLIP_MODES = ("fixed", "adaptive")
MECHANISMS = ("gaussian", "banded")
SPLITS = ("warm", "cold", "unseen_people")
SHA = re.compile(r"[0-9a-f]{64}")


def value_of(config: Config, key: str) -> Any:
    """The value at a dotted key."""
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


def choices(config: Config) -> Iterator[Fault]:
    """Keys with a fixed list of accepted values."""
    accepted: dict[str, tuple[str, ...]] = {
        "runtime": RUNTIMES,
        "schedule": SCHEDULES,
        "model.kind": KINDS,
        "model.form": ("linear", "tanh", "basis"),
        "model.basis": ("public", "planted"),
        "model.adapter": ("lora", "core", "styles"),
        "model.shared_factors": ("one", "both", "merged"),
        "data.taste.source": SOURCES,
        "data.safety.source": SOURCES,
        "data.split": SPLITS,
        "privacy.unit": ("person", "comparison"),
        "privacy.trust": ("central", "local"),
        "privacy.noise": ("seeded", "os"),
        "privacy.accountant": ("rdp", "prv"),
        "privacy.private.mechanism": ("dp_sgd", "label"),
        "privacy.shared.clip_mode": CLIP_MODES,
        "privacy.shared.mechanism": MECHANISMS,
    }
    for key, known in accepted.items():
        if value_of(config, key) not in known:
            yield key, f"found {value_of(config, key)!r}; accepted: {', '.join(known)}"
    if config.loss.name is not None:
        from commonground.losses import LOSSES  # loads torch, which takes seconds

        if config.loss.name not in LOSSES:
            yield "loss.name", f"found {config.loss.name!r}; known losses: {', '.join(sorted(LOSSES))}"
    wrong = [tag for tag in config.shared.tags if tag not in TAGS]
    if wrong or "safety" not in config.shared.tags or len(set(config.shared.tags)) != len(config.shared.tags):
        yield "shared.tags", f"found {config.shared.tags}; accepted: [safety] or [safety,taste]"


def numbers(config: Config) -> Iterator[Fault]:
    """Keys with a lower bound, an upper bound, or both."""
    least: dict[str, float] = {
        "people": 2,
        "rounds": 1,
        "cohort": 1,
        "seed": 0,
        "shared.steps": 1,
        "shared.batch": 1,
        "model.layers": 0,
        "model.rank": 1,
        "model.dims": 1,
        "model.prompt_tokens": 16,
        "model.answer_tokens": 1,
        "data.pairs_per_person": 2,
        "data.test_pairs": 1,
        "data.taste.min_gap": 0,
        "data.safety.min_gap": 0,
        "evaluation.people": 1,
        "evaluation.resamples": 100,
        "evaluation.prompts": 0,
        "evaluation.tokens": 1,
        "privacy.shared.participations": 1,
        "privacy.shared.band": 1,
        "privacy.private.steps": 1,
        "privacy.private.ridge": 0,
        "loss.sft": 0,
        "fleet.chunk": 1,
        "fleet.shards": 1,
        "gate.tolerance": 0,
        "gate.steps": 1,
        "attack.seed": 0,
        "bounds.probes": 0,
        "bounds.reward": 0,
        "bounds.constraint": 0,
        "bounds.kl": 0,
        "bounds.kl_worst": 0,
    }
    for key, low in least.items():
        value = value_of(config, key)
        if value is not None and value != AUTO and value < low:
            yield key, f"found {value}; accepted: at least {low:g}"
    positive = (
        "shared.rate", "loss.beta", "privacy.shared.epsilon", "privacy.shared.clip",
        "privacy.shared.clip_start", "privacy.private.epsilon", "privacy.private.clip",
        "privacy.private.rate", "strategy.norm_bound", "gate.rate", "bounds.constraint_rate",
    )  # fmt: skip
    for key in positive:
        value = value_of(config, key)
        if value is not None and value <= 0:
            yield (
                key,
                f"found {value:g}; accepted: above 0" + (" (inf = no privacy)" if "epsilon" in key else ""),
            )
    fractions = ("privacy.shared.delta", "privacy.private.delta")
    for key in fractions:
        value = value_of(config, key)
        if value is not None and not 0 < value < 1:
            yield key, f"found {value:g}; accepted: between 0 and 1"
    sampling = config.privacy.private.sampling
    if sampling is not None and not 0 < sampling <= 1:
        yield "privacy.private.sampling", f"found {sampling:g}; accepted: above 0, at most 1"
    if not 0 <= config.attack.fraction <= 1:
        yield "attack.fraction", f"found {config.attack.fraction:g}; accepted: at least 0, at most 1"
    if not 0 <= config.loss.flip < 0.5:
        yield "loss.flip", f"found {config.loss.flip:g}; accepted: 0 up to, not including, 0.5"


def together(config: Config) -> Iterator[Fault]:
    """Keys that must fit each other."""
    if config.cohort is not None and config.cohort > config.people >= 2:
        yield "cohort", f"found {config.cohort}; accepted: at most people, which is {config.people}"
    if config.fleet.shards > config.people >= 2:
        yield (
            "fleet.shards",
            f"found {config.fleet.shards}; accepted: at most people, which is {config.people}",
        )
    if config.fleet.shards > 1 and config.runtime != "fleet":
        yield (
            "fleet.shards",
            f"found {config.fleet.shards} with runtime={config.runtime}; accepted: runtime=fleet",
        )
    if config.fleet.address and config.fleet.shards < 2:
        yield (
            "fleet.address",
            f"found {config.fleet.address!r} with one shard; accepted: fleet.shards above 1",
        )
    host, _, port = config.fleet.address.rpartition(":")
    if config.fleet.address and not (host and "/" not in host and port.isdecimal() and int(port) < 1 << 16):
        yield "fleet.address", f"found {config.fleet.address!r}; accepted: HOST:PORT of a Ray head, or ''"
    if config.privacy.unit == "comparison" and config.schedule in SCHEDULES[1:]:
        yield (
            "privacy.unit",
            f"found 'comparison' with schedule={config.schedule}; accepted: person. When shared gradients "
            "pass through a private adapter fitted on the same comparisons, one comparison moves them all, "
            "so only the person-level claim holds (schedule=decoupled allows both)",
        )
    for tag in TAGS:
        source = getattr(config.data, tag)
        if source.source in ("ratings", "pairs") and not source.path:
            yield f"data.{tag}.path", f"found ''; accepted: the path of the {source.source} source"
    if config.data.safety.source == "ratings":
        yield (
            "data.safety.source",
            "found 'ratings'; accepted: starter, pairs, hub (a rating is no safety judgement)",
        )
    if config.gate.enabled and config.model.kind != "reward":
        yield (
            "gate.enabled",
            f"found true with model.kind={config.model.kind}; accepted: false, or model.kind=reward (a "
            "language model would be scored on every public pair after every round, at more than the "
            "round's cost)",
        )
    knowable = config.model.kind == "reward" and config.data.taste.source == "starter"
    if config.model.basis == "planted" and not knowable:
        yield (
            "model.basis",
            "found 'planted'; accepted: public (the truth is known only with model.kind=reward and "
            "data.taste.source=starter)",
        )
    if config.model.kind == "reward" and config.model.form == "basis":
        if config.schedule == SCHEDULES[0]:
            yield (
                "model.form",
                f"found 'basis' with schedule={config.schedule}; accepted: with alternating or joint, where "
                "the shared phase looks at the private weights, or linear, tanh",
            )
        if "taste" not in config.shared.tags:
            yield (
                "model.form",
                f"found 'basis' with shared.tags={config.shared.tags}; accepted: with [safety,taste], since "
                "directions of taste are learned together from tastes, or linear, tanh",
            )
    if config.model.kind == "reward" and config.loss.name == "sft":
        yield (
            "loss.name",
            "found 'sft' with model.kind=reward; accepted: a loss over rewards (sft needs a policy)",
        )
    if config.bounds.charter and config.model.kind == "reward":
        yield (
            "bounds.charter",
            "found one with model.kind=reward; accepted: '', since a charter bounds answers and a reward "
            "model writes none",
        )
    if config.bounds.charter and not SHA.fullmatch(config.bounds.charter):
        yield (
            "bounds.charter",
            f"found {config.bounds.charter!r:.40}; accepted: a SHA-256 in 64 hexadecimal digits, or ''",
        )
    if config.privacy.private.mechanism == "label" and config.loss.name not in (None, "rdpo"):
        yield (
            "loss.name",
            f"found {config.loss.name!r} with privacy.private.mechanism=label; accepted: rdpo or null, "
            "the loss that is unbiased under the flips of randomised response",
        )


def noise_needs_a_clip(config: Config) -> Iterator[Fault]:
    """Noise is a multiple of the clip: without a finite one there is no end of it."""
    privacy, model = config.privacy, config.model
    quiet = model.kind == "policy" and model.adapter != "styles"  # there null means no noise
    private = math.inf if privacy.private.epsilon is None and quiet else privacy.private.epsilon or 8.0
    if privacy.private.mechanism == "label":
        private = math.inf
    parts = (("shared", privacy.shared.epsilon, privacy.shared), ("private", private, privacy.private))
    for name, target, part in parts:
        if part.clip is not None and math.isinf(part.clip) and math.isfinite(target):
            yield (
                f"privacy.{name}.clip",
                f"found inf with privacy.{name}.epsilon={target:g}; accepted: a finite number above 0, since "
                "the noise is a multiple of it, or inf with epsilon=inf",
            )


def banded_noise(config: Config) -> Iterator[Fault]:
    """What banded noise needs: a server that adds it, one clip, and people enough to wait their turn."""
    if config.privacy.shared.mechanism != "banded":
        return
    needs = (("privacy.unit", "person"), ("privacy.trust", "central"), ("privacy.shared.clip_mode", "fixed"))
    for key, needed in needs:
        if (found := value_of(config, key)) != needed:
            yield key, f"found {found!r} with privacy.shared.mechanism=banded; accepted: {needed}"
    cohort = max(2, config.people // 5) if config.cohort is None else config.cohort
    most, band = largest_band(config.people, max(1, cohort), config.rounds), config.privacy.shared.band
    if band is not None and band > most:
        yield (
            "privacy.shared.band",
            f"found {band}; accepted: at most {most}, since {cohort} of {config.people} people are expected "
            f"in each of {config.rounds} rounds and nobody comes twice within {band}",
        )


def adapted_clip(config: Config) -> Iterator[Fault]:
    """What an adapted clip needs: noise by the server on whole people's messages, and enough of them."""
    if config.privacy.shared.clip_mode != "adaptive":
        return
    for key, needed in (("privacy.unit", "person"), ("privacy.trust", "central")):
        if (found := value_of(config, key)) != needed:
            yield key, f"found {found!r} with privacy.shared.clip_mode=adaptive; accepted: {needed}"
    cohort = max(2, config.people // 5) if config.cohort is None else config.cohort
    if cohort < LEAST_COHORT:
        yield (
            "privacy.shared.clip_mode",
            f"found 'adaptive' with a cohort of {cohort}; accepted: with at least {LEAST_COHORT} people "
            "expected a round, or fixed",
        )
    start, most = config.privacy.shared.clip_start, config.privacy.shared.clip
    if start is not None and most is not None and start > most:
        yield "privacy.shared.clip_start", f"found {start:g}; accepted: at most privacy.shared.clip, {most:g}"


def private_bounds(config: Config) -> Iterator[Fault]:
    """What the bounds on private parts need: rewards to bound, and the model that the public pairs fit."""
    bounds, model = config.bounds, config.model
    if bounds.charter_file and model.kind == "reward":
        yield (
            "bounds.charter_file",
            f"found {bounds.charter_file!r} with model.kind=reward; accepted: '', since a reward model "
            "writes no answers",
        )
    if math.isfinite(bounds.reward) and model.kind != "reward":
        yield (
            "bounds.reward",
            f"found {bounds.reward:g} with model.kind={model.kind}; accepted: inf, or model.kind=reward (a "
            "policy's answers are bounded by the charter)",
        )
    if math.isinf(bounds.constraint_rate):
        yield "bounds.constraint_rate", "found inf; accepted: a finite number above 0"


RULES: tuple[Rule, ...] = (
    choices,
    numbers,
    together,
    noise_needs_a_clip,
    adapted_clip,
    banded_noise,
    private_bounds,
)
