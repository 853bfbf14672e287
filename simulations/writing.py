"""What each policy of a `policy` run writes, side by side, on prompts that nobody trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from commonground.adapters import PRIVATE, SHARED, ModelCard
from commonground.data.starter import STYLES, taste_prompts
from commonground.evaluation.writing import on_topic_share, repetition, style_rate, words
from commonground.own_folders import numbered
from commonground.simulations.measure import Policy
from commonground.simulations.world import World
from commonground.training.policy import PolicyModel
from commonground.training.writing import Request

if TYPE_CHECKING:
    from commonground.simulations.certify.answering import Answer

BOUNDED = "bounded"  # what a person is shown under the charter, beside what the policies write
# Written for this and in no training set, so that they are held out for everybody.
PROMPTS = (
    "How do I make pancakes?",
    "How can I stop putting off my homework?",
    "What is a good gift for my mother?",
    "How do I patch a bicycle tyre?",
    "Why do leaves turn red in autumn?",
    "How do I plan a weekend with friends?",
    "How can I keep my desk tidy?",
    "What should I pack for a picnic?",
    "How do I teach a child to swim?",
    "Why does bread go stale?",
    "What makes a good holiday photo album?",
    "How can I spend less time on my phone?",
)
PEOPLE = 8  # people whose answers are written out


def write_samples(
    world: World,
    policies: Mapping[str, Policy],
    tick: Callable[[str, int, int], None] | None = None,
    shown: Sequence[Sequence[Answer]] = (),
) -> dict[str, Any]:
    """Greedy answers of every policy for some people, with what can be measured on them.

    Args:
        world: the world of a policy run.
        policies: name -> policy; adapters of `private` are in the order of the evaluated people.
        tick: progress.
        shown: what each of these people is shown under the charter, prompt by prompt; empty without one.

    Returns:
        {"prompts", "people": [{"person", "likes", "answers": {policy: [texts]}, "features": {policy:
        {"liked_rate", "words", "nats", "repeated", "on_topic"}}, "shown": [{"tier", "source", "reasons"}]}]};
        see report/writing_view.py. With `shown` there is a policy `bounded`, and "shown" says of each of its
        answers why it is what it is.
    """
    prompts = list(PROMPTS[: world.config.evaluation.prompts])
    if not prompts:
        return {"prompts": [], "people": []}
    people = world.evaluated[:PEOPLE].tolist()
    model = _model(policies)
    written = _texts(model, policies, prompts, len(people), world.config.evaluation.tokens)
    entries = []
    for place, person in enumerate(people):
        likes = liked_style(world, person)
        answers = {name: written[name, place if policies[name].by_person else None] for name in policies}
        if shown:
            answers[BOUNDED] = [one.text for one in shown[place]]
        entry = {
            "person": world.population.people[person].id,
            "likes": likes,
            "answers": answers,
            "features": {name: _features(model, likes, prompts, texts) for name, texts in answers.items()},
        }
        if shown:
            entry["shown"] = [
                {"tier": one.tier, "source": one.source, "reasons": list(one.reasons)} for one in shown[place]
            ]
        entries.append(entry)
        if tick is not None:
            tick("answers measured", place + 1, len(people))
    return {"prompts": prompts, "people": entries}


def _texts(
    model: PolicyModel, policies: Mapping[str, Policy], prompts: Sequence[str], people: int, tokens: int
) -> dict[tuple[str, int | None], list[str]]:
    """Answers to every prompt by (policy, place of the person, or None where it is the same for all)."""
    keys: list[tuple[str, int | None]] = []
    requests: list[Request] = []
    for name, policy in policies.items():
        for place in range(people) if policy.by_person else [None]:
            own, shared = None, policy.shared
            if policy.used is not None:
                shared = {key: value[place] for key, value in policy.used.items()}
            if policy.private is not None:
                own = {key: value[place] for key, value in policy.private.items()}
            keys.append((name, place))
            requests += [Request(prompt, shared, own) for prompt in prompts]
    written = model.generate_each(requests, tokens=tokens)
    return {key: written[k * len(prompts) : (k + 1) * len(prompts)] for k, key in enumerate(keys)}


def save_adapters(world: World, policies: Mapping[str, Policy], folder: Path) -> None:
    """The released shared adapter and the written-out people's private ones, in PEFT's layout with a card.

    Args:
        world: the world of a policy run.
        policies: as in `write_samples`.
        folder: `shared/` and `private/p0001/` ... are written into it; the id of a person stands in a file.
    """
    model, config = _model(policies), world.config
    claim, own = world.claim, world.private_claim
    taste, safety = config.data.taste, config.data.safety
    words = f"taste: {taste.source}, safety: {safety.source}"
    personal = policies["personal"]
    epsilon = claim.epsilon if claim.meaningful or np.isinf(claim.epsilon) else None
    card = ModelCard(config.rounds, len(world.eligible), epsilon, claim.delta, claim.unit, words)
    model.adapters.save(SHARED, personal.shared or {}, folder / "shared", card)
    for place, person in enumerate(world.evaluated[:PEOPLE].tolist()):
        tensors = {key: value[place] for key, value in (personal.private or {}).items()}
        card = ModelCard(config.rounds, 1, own.epsilon, own.delta, own.unit, words)
        whose = world.population.people[person].id
        model.adapters.save(PRIVATE, tensors, folder / "private" / numbered(place), card, whose)


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


def _model(policies: Mapping[str, Policy]) -> PolicyModel:
    return cast(PolicyModel, next(iter(policies.values())).model)


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
