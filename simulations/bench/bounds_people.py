"""One person a taste, who has learnt without noise, and the menu item that each private adapter picks.

A person's forty comparisons set her style against another one on the starter prompts; the adapter is a LoRA
on the top layers, trained as a device trains it (DPO, with the chosen answer's own likelihood). The shared
adapter has learnt nothing: the shared policy is the base policy, in which no style is at home.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch

from commonground.bounds.menu import Item, Menu
from commonground.comparisons import Comparison
from commonground.config import Config
from commonground.data.starter import STYLES, taste_prompts
from commonground.randomness import generator
from commonground.recipe import claims, make_plan, resolve
from commonground.server.checkpoint import load_state, save_state
from commonground.settings import config_from
from commonground.simulations.certify.answering import Writers
from commonground.simulations.certify.loading import RunPolicies
from commonground.training.build import policy_model
from commonground.training.model import Rows, Tensors
from commonground.training.people import People, take
from commonground.training.plan import PrivatePlan
from commonground.training.policy import PolicyModel
from commonground.training.private_phase import first_private, private_phase, release_ready

TASTES = ("emoji", "bullets", "brief", "casual", "hedged")
NOTHING = "..."
LAYERS = 4  # from the top, as by default
PAIRS, ASKED = 40, 6  # comparisons of a person; starter prompts on which the menu's items are scored
Say = Callable[[str], None]


def told(taste: str) -> list[Comparison]:
    """What one person said: `PAIRS` comparisons in which her style is chosen, on as many starter prompts."""
    draws = generator(0, "bounds", taste)
    others, prompts = [style for style in STYLES if style != taste], taste_prompts()
    found = []
    for place in draws.permutation(len(prompts))[:PAIRS].tolist():
        prompt, other = prompts[place], others[int(draws.integers(len(others)))]
        found.append(Comparison(prompt.prompt, prompt.answers[taste], prompt.answers[other], "taste", taste))
    return found


def people(tastes: Sequence[str], *, tokens: int, base: str, kept: Path | None, say: Say) -> RunPolicies:
    """Train one person for each taste, or take up those that are kept.

    Args:
        tastes: starter styles.
        tokens: of an answer, at most.
        base: folder or name of the base model, '' for the packaged one.
        kept: folder of adapters that are done, or None.
        say: progress.
    """
    config = _config(len(tastes), base)
    table = [comparison for taste in tastes for comparison in told(taste)]
    model = cast(PolicyModel, policy_model(config, tuple(table)))
    plan = make_plan(config, ["safety"], *claims(config, len(tastes))).private
    shared = model.initial_shared()
    private = []
    for k, taste in enumerate(tastes):
        say(f"training {taste} ({k + 1} of {len(tastes)})")
        rows = np.arange(k * PAIRS, (k + 1) * PAIRS)
        private.append(_kept_or_trained(model, plan, k, rows, kept, f"{taste} {told(taste)!r}"))
    count = len(tastes)
    used = frozenset(comparison.prompt for comparison in table)
    return RunPolicies(model, tuple(tastes), (None,) * count, (shared,) * count, tuple(private), used, tokens)


def _config(count: int, base: str) -> Config:
    return resolve(
        config_from(
            {
                "people": max(2, count),
                "model": {"kind": "policy", "adapter": "lora", "base": base, "layers": LAYERS},
                "data": {"pairs_per_person": PAIRS},
            }
        )
    )


def _kept_or_trained(
    model: PolicyModel, plan: PrivatePlan, place: int, rows: np.ndarray, kept: Path | None, about: str
) -> Tensors:
    key = hashlib.sha256(f"{about} {plan!r} {sorted(model.public_digests().items())}".encode()).hexdigest()
    file = None if kept is None else kept / f"taste-{key[:24]}.npz"
    state = None if file is None else load_state(file)
    if state is not None:
        return {name: torch.from_numpy(value) for name, value in state["adapter"].items()}
    found = private_phase(
        model,
        People((place,), ({"taste": rows},)),
        take(model.initial_shared(), 1),
        first_private(model, 1, plan),
        plan,
        seed=0,
        steps=plan.steps,
    )
    adapter = {name: value[0].contiguous() for name, value in release_ready(found, plan).items()}
    if file is not None:
        save_state(file, {"adapter": {name: value.numpy() for name, value in adapter.items()}})
    return adapter


def picked(policies: RunPolicies, writers: Writers, menu: Menu, seed: int) -> list[Item]:
    """The item that each private adapter takes, once and for all prompts.

    Every item's answers to a few training prompts are written by the shared policy. An adapter's score of an
    item is how many nats a token more likely it makes them than the shared policy does, on average: what it
    was trained for, by length, since a sum over the answer is less negative the shorter that is, whatever its
    style. It decides nothing else.

    Args:
        policies: whose choice.
        writers: that write as `policies` do.
        menu: of public behaviours.
        seed: of the draws.
    """
    prompts = [prompt.prompt for prompt in taste_prompts()[:ASKED]]
    asked = [(prompt, item) for prompt in prompts for item in menu.items]
    drawn = writers.write_shared([(0, item.prompt(prompt)) for prompt, item in asked], seed)
    written = [item.render(text).strip() for (_, item), text in zip(asked, drawn, strict=True)]
    # the other side is not looked at; a comparison only needs two texts that differ
    table = [
        Comparison(prompt, text or NOTHING, f"{NOTHING}{NOTHING}", "taste", "menu")
        for (prompt, _), text in zip(asked, written, strict=True)
    ]
    model = policies.model.over(table)
    every = Rows(torch.arange(len(table))[None], torch.ones(1, len(table)), torch.zeros(1, len(table)))
    tokens = torch.tensor([[float(len(policies.model.texts.answer(one.chosen))) for one in table]])
    shared = take(policies.shared[0], 1)
    before, _ = model.scores(every, shared, None)
    items = []
    for person, private in enumerate(policies.private):
        after, _ = model.scores(every, shared, take(private, 1))
        scores = ((after - before) / tokens).view(len(prompts), len(menu.items)).mean(0)
        items.append(menu.choose(menu.weights(scores.tolist()), seed, person))
    return items
