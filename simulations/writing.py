"""What each policy of a `policy` run writes, side by side, on prompts that nobody trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np

from commonground.data.starter import STYLES, taste_prompts
from commonground.evaluation.writing import on_topic_share, repetition, style_rate, words
from commonground.simulations.measure import Policy
from commonground.simulations.world import World
from commonground.training.model import Tensors
from commonground.training.policy import PolicyModel

# Written for this and in no training set, so that they are held out for everybody.
PROMPTS = (
    "How do I make pancakes?",
    "How can I stop putting off my homework?",
    "What is a good gift for my mother?",
    "How do I get a stain out of a shirt?",
    "Why is the sky blue?",
    "How do I plan a weekend with friends?",
)
PEOPLE = 8  # people whose answers are written out


def write_samples(
    world: World, policies: Mapping[str, Policy], tick: Callable[[str, int, int], None] | None = None
) -> dict[str, Any]:
    """Greedy answers of every policy for some people, with what can be measured on them.

    Args:
        world: the world of a policy run.
        policies: name -> policy; adapters of `private` are in the order of the evaluated people.
        tick: progress.

    Returns:
        {"prompts", "people": [{"person", "likes", "answers": {policy: [texts]}, "features": {policy:
        {"liked_rate", "words", "nats", "repeated", "on_topic"}}}]}; see report/writing_view.py.
    """
    prompts = list(PROMPTS[: world.config.evaluation.prompts])
    if not prompts:
        return {"prompts": [], "people": []}
    people = world.evaluated[:PEOPLE].tolist()
    common: dict[str, list[str]] = {}
    entries = []
    for place, person in enumerate(people):
        answers = {}
        for name, policy in policies.items():
            if policy.private is None:  # the same for everybody: written once
                if name not in common:
                    common[name] = _write(world, policy, None, prompts)
                answers[name] = common[name]
            else:
                own = {key: value[place] for key, value in policy.private.items()}
                answers[name] = _write(world, policy, own, prompts)
        likes = liked_style(world, person)
        model = _model(next(iter(policies.values())))
        entries.append(
            {
                "person": world.population.people[person].id,
                "likes": likes,
                "answers": answers,
                "features": {
                    name: _features(model, likes, prompts, texts) for name, texts in answers.items()
                },
            }
        )
        if tick is not None:
            tick("answers written", place + 1, len(people))
    return {"prompts": prompts, "people": entries}


def liked_style(world: World, person: int) -> str | None:
    """The starter style this person chose most often in training, of how often it was offered; else None."""
    style_of = {text: style for prompt in taste_prompts() for style, text in prompt.answers.items()}
    won: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    for row in world.train_rows[person]["taste"].tolist():
        comparison = world.table[row]
        if comparison.chosen in style_of and comparison.rejected in style_of:
            won[style_of[comparison.chosen]] += 1
            seen.update((style_of[comparison.chosen], style_of[comparison.rejected]))
    rates = {style: (won[style] + 0.5) / (seen[style] + 1) for style in STYLES if seen[style]}
    return max(rates, key=lambda style: rates[style]) if rates else None


def _model(policy: Policy) -> PolicyModel:
    return cast(PolicyModel, policy.model)


def _write(world: World, policy: Policy, private: Tensors | None, prompts: Sequence[str]) -> list[str]:
    return _model(policy).generate(prompts, policy.shared, private, tokens=world.config.evaluation.tokens)


def _features(
    model: PolicyModel, likes: str | None, prompts: Sequence[str], texts: Sequence[str]
) -> dict[str, float | None]:
    nats = [n for n in model.nats_per_token(prompts, texts) if np.isfinite(n)]
    return {
        "liked_rate": style_rate(likes, texts) if likes else None,
        "words": float(np.mean([len(words(text)) for text in texts])),
        "nats": float(np.mean(nats)) if nats else None,
        "repeated": float(np.mean([repetition(text) for text in texts])),
        "on_topic": on_topic_share(prompts, texts),
    }
