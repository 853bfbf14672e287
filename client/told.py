"""What an offer means, and what an adapter learned, in words and figures for the person herself."""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch

from commonground.bounds.budget import Budget
from commonground.client.charter_words import charter_shown
from commonground.client.learner import Understood
from commonground.client.promise import claim_in_full, consequences, full_epsilon
from commonground.client.rounds import Rounds
from commonground.comparisons import Comparison
from commonground.data.starter import STYLES, TastePrompt, taste_prompts
from commonground.errors import InputError
from commonground.randomness import generator
from commonground.training.model import Tensors, person_rows
from commonground.training.update import PrivateState, release_ready

Document = dict[str, Any]
Adapters = tuple[Tensors | None, Tensors | None]
PROMPTS = {"reward": 24, "policy": 2}  # public prompts on which styles are measured; a policy reads slowly
EXAMPLES = 3
TEMPERATURE = 0.7  # of answers that are written to be compared


def meaning(meant: Understood) -> Document:
    """What an offer means, for its page of consent; keys as in `OwnerClient.consent`."""
    claim, manifest = meant.terms.claim, meant.manifest
    return {
        "trust": claim.trust,
        "epsilon": epsilon if math.isfinite(epsilon := full_epsilon(meant)) else "inf",
        "delta": claim.delta,
        "meaningful": claim.meaningful,
        "clip": manifest.clip,
        "noise_multiplier": claim.noise_multiplier,
        "most": meant.terms.most,
        "separation": meant.terms.separation,
        "size": manifest.size,
        "leaves": [{"name": t.name, "shape": list(t.shape), "dtype": t.dtype} for t in manifest.sent],
        "words": consequences(meant),
        "claim": claim_in_full(meant),
        "charter": None if meant.charter is None else charter_shown(meant.charter),
    }


def policies(rounds: Rounds, meant: Understood) -> Adapters:
    """The shared adapter as this device uses it, and the private one; None for one that changes nothing.

    After `reset`, and before anything was learned, the private adapter is not even loaded: the policy is the
    shared one bit for bit.
    """
    newest, (life, numbers) = rounds.newest(), rounds.lives.current()
    learner = rounds.lives.learner(meant, life)
    before = 1 if newest is None else newest.round + 1
    memory = rounds.store.memory.read(meant.offer.digest, before)
    shared = learner.used(rounds.shared(meant), memory)
    if numbers is None:
        return shared, None
    return shared, release_ready(PrivateState.from_arrays(numbers), meant.plan.private)


def check_writes(meant: Understood) -> None:
    """Raise `InputError` where the study's model writes nothing."""
    if meant.table.public.kind != "policy":
        raise InputError(
            "this study's model judges answers and writes none",
            hint="compare the answers that are suggested; a study of kind `policy` writes",
        )


def write(
    meant: Understood, prompt: str, own: Adapters, tokens: int, budget: Budget | None = None
) -> Iterator[str]:
    """An answer piece by piece, drawn anew each time; nothing has passed any guard.

    The most likely answer alone would be the same from both policies until a private adapter has learned
    something, and then there would be nothing to compare.

    Args:
        meant: the offer, whose model writes.
        prompt: what is asked.
        own: the adapters that act.
        tokens: at most so many.
        budget: what the private adapter may spend against the shared policy; None is all it wants.
    """
    from commonground.bounds.policies import stream_bounded
    from commonground.training.policy import PolicyModel
    from commonground.training.writing import Request

    model = cast(PolicyModel, meant.table.public)
    shared, private = (None if t is None else {n: v[0] for n, v in t.items()} for t in own)
    seed = secrets.randbits(63)  # from the operating system; nothing depends on it but this text
    request = Request(prompt, shared, private)
    if budget is None:
        yield from model.stream(request, tokens=tokens, temperature=TEMPERATURE, seed=seed)
        return
    source = generator(seed, "bounded answer")
    yield from stream_bounded(model, request, budget, source, tokens=tokens, temperature=TEMPERATURE)


def learned(rounds: Rounds, meant: Understood) -> Document:
    """What the private adapter in use learned; keys as in `OwnerClient.learned`."""
    shared, private = policies(rounds, meant)
    life, _ = rounds.lives.current()
    taste = life.taste if private is not None else 0
    found: Document = {
        "taste": taste,
        "steps": life.steps if private is not None else 0,
        "of": meant.plan.private.steps,
        "fits": life.fit,
        "agrees": _agreement(rounds, meant, shared, private),
        "styles": [],
        "examples": [],
        "words": "Nothing yet: your device's answers are those of the shared policy.",
    }
    if private is None:
        return found
    prompts = taste_prompts()[: PROMPTS[meant.table.public.kind]]
    before, after = (_likings(meant, prompts, shared, own) for own in (None, private))
    styles = [
        {"name": name, "before": float(b), "after": float(a)}
        for name, b, a in zip(STYLES, before.mean(0), after.mean(0), strict=True)
    ]
    styles.sort(key=lambda row: -abs(cast(float, row["after"]) - cast(float, row["before"])))
    top = max(styles, key=lambda row: cast(float, row["after"]) - cast(float, row["before"]))
    if meant.table.public.kind == "reward":
        found["examples"] = [
            {"prompt": p.prompt, "before": p.answers[STYLES[b]], "after": p.answers[STYLES[a]]}
            for p, b, a in zip(prompts, before.argmax(1), after.argmax(1), strict=True)
            if a != b
        ][:EXAMPLES]
    return found | {
        "styles": styles,
        "words": f"From {taste} comparison(s) about taste it learned, most of all, that you like answers in "
        f"the style '{top['name']}' better than the shared policy does.",
    }


def _likings(
    meant: Understood, prompts: tuple[TastePrompt, ...], shared: Tensors | None, private: Tensors | None
) -> np.ndarray:
    """(prompts, styles) score of every answer over the base's, centred within each prompt."""
    table = [
        Comparison(p.prompt, p.answers[one], p.answers[other], "taste", "shipped")
        for p in prompts
        for one, other in zip(STYLES[::2], STYLES[1::2], strict=True)
    ]
    model = meant.table.beside(table)
    rows = person_rows([np.arange(len(table))])
    with torch.no_grad():
        own, base = model.scores(rows, shared, private), model.scores(rows, None, None)
    sides = [(o - b)[0].numpy().reshape(len(prompts), -1) for o, b in zip(own, base, strict=True)]
    scores = np.stack(sides, axis=2).reshape(len(prompts), len(STYLES)).astype(np.float64)
    return np.asarray(scores - scores.mean(1, keepdims=True))


def _agreement(
    rounds: Rounds, meant: Understood, shared: Tensors | None, private: Tensors | None
) -> dict[str, float] | None:
    """Share of the person's taste comparisons that each policy orders as she did; a tie counts half."""
    learner = rounds.lives.learner(meant, rounds.lives.current()[0])
    rows = person_rows([learner.rows["taste"]])
    if not len(learner.rows["taste"]) or private is None:
        return None
    found = {}
    with torch.no_grad():
        base = learner.model.scores(rows, None, None)
        for name, own in (("before", None), ("after", private)):
            chosen, rejected = learner.model.scores(rows, shared, own)
            margin = ((chosen - base[0]) - (rejected - base[1]))[0]
            found[name] = float(((margin > 0).float() + 0.5 * (margin == 0)).mean())
    return found
