"""The stages of a run after (or beside) the federated rounds, each resumable on its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from commonground.comparisons import TAGS
from commonground.evaluation.logistic import curvature_bound, fit
from commonground.losses import get_loss
from commonground.randomness import generator
from commonground.recipe import loss_settings
from commonground.server.checkpoint import load_state, save_state
from commonground.simulations.devices import STREAM, as_used, tensors
from commonground.simulations.fleet import states_before
from commonground.simulations.private_bounds import as_held, held
from commonground.simulations.store import PrivateStore
from commonground.simulations.world import World
from commonground.strategies.cohort import draw_cohort
from commonground.training import optimiser
from commonground.training.model import PreferenceModel, Tensors, person_rows
from commonground.training.plan import PrivatePlan
from commonground.training.reward import RewardModel
from commonground.training.update import (
    People,
    first_private,
    private_phase,
    release_ready,
    take,
)

Tick = Callable[[str, int, int], None]
CENTRAL_PEOPLE = 2000  # whose comparisons the pooled central model is made of, where there are more
RIDGE = 3.0  # prior precision of the pooled central reward model, whose features have RMS length about 1
CHUNK = {"reward": 64, "policy": 1}


def expect_cohorts(world: World, q: float, first: int, tick: Tick) -> None:
    """Draw the planted people of the rounds from `first` on before they begin.

    Whoever brings real data has it before the first round too; a round's seconds are then those of a round.

    Args:
        world: the run's world.
        q: probability that a person is drawn.
        first: the first round that is not done.
        tick: who is told.
    """
    config = world.config
    band = 1 if world.claim.banded is None else world.claim.banded.band
    rounds = range(first, config.rounds + 1)
    cohorts = [draw_cohort(world.coin_seed, r, world.eligible, q, band) for r in rounds]
    people = np.unique(np.concatenate([np.zeros(0, np.int64), *cohorts])).tolist()
    for done in world.crowd.expect(people):
        tick("comparisons", done, len(people))


def settle(world: World, store: PrivateStore, shared: Tensors, tick: Tick) -> None:
    """The last private phase of the evaluated people, many at a time: the steps that are left of a lifetime.

    A policy model is not batched: its devices are asked one by one, on whatever runtime the run has.
    """
    plan, model = world.plans["shared"].private, world.models["shared"]
    last = world.config.rounds + 1
    for first in range(0, len(world.evaluated), CHUNK[model.kind]):
        people = world.evaluated[first : first + CHUNK[model.kind]].tolist()
        if _unfinished(store, STREAM, people, last):
            crowd = People(tuple(people), tuple(world.train_rows[p] for p in people))
            used = as_used(world, store, "shared", people, shared, last)
            state = private_phase(
                model,
                crowd,
                take(shared, len(people)) if used is None else used,
                states_before(store, world, STREAM, people, last),
                plan,
                seed=world.coin_seed,
                noise_seed=world.plans["shared"].noise_seed,
                steps=plan.steps,
            )
            store.write_many(STREAM, people, last, state.to_arrays())
        tick("private adapters", first + CHUNK[model.kind], len(world.evaluated))


def _unfinished(store: PrivateStore, stream: str, people: list[int], round: int) -> bool:
    """Whether anybody's state is missing; all of the chunk are then trained (again).

    How many people are in one call decides the last bits of a float, so a chunk that was cut off by a kill
    is repeated whole: what is kept does not depend on where the run was stopped.
    """
    return not store.has_many(stream, people, round).all()


def personal_adapters(world: World, store: PrivateStore, round: int) -> Tensors:
    """The private adapters of the evaluated people as their devices would use them after `round`."""
    states = states_before(store, world, STREAM, world.evaluated.tolist(), round + 1)
    finished = release_ready(states, world.plans["shared"].private)
    return as_held(world.models["shared"], finished, held(world, store, round))


def local_adapters(world: World, store: PrivateStore, tick: Tick, *, loss: str | None = None) -> Tensors:
    """Local-only models: the same private adapter and budget, on everything a person said, without others.

    Args:
        world: the run's world.
        store: keeps what is done, person by person.
        tick: progress.
        loss: another loss than the configured one (`sft`, the control of a policy run), on taste alone.
    """
    plan = _local_plan(world, loss)
    if world.models["shared"].kind != "reward":
        return _local(world, store, tick, plan, loss)
    # In a reward nothing of the shared model is in it, whatever strategy, noise or tags trained that.
    what = f"local {world.config.model.form} {world.config.seed} {world.local_seed} {plan}"
    return world.common.once(what, lambda: _local(world, store, tick, plan, loss))


def _local(world: World, store: PrivateStore, tick: Tick, plan: PrivatePlan, loss: str | None) -> Tensors:
    model, stream = world.models["shared"], "local" if loss is None else f"local-{loss}"
    size = CHUNK[model.kind]
    for first in range(0, len(world.evaluated), size):
        people = world.evaluated[first : first + size].tolist()
        if _unfinished(store, stream, people, 1):
            crowd = People(tuple(people), tuple(world.train_rows[p] for p in people))
            start = first_private(model, len(people), plan)
            state = private_phase(
                model,
                crowd,
                None,
                start,
                plan,
                seed=world.coin_seed,
                noise_seed=world.local_seed,
                steps=plan.steps,
                stream=stream,
            )
            store.write_many(stream, people, 1, state.to_arrays())
        tick("local models" if loss is None else f"{loss} control", first + size, len(world.evaluated))
    return release_ready(states_before(store, world, stream, world.evaluated.tolist(), 2, plan), plan)


def _local_plan(world: World, loss: str | None) -> PrivatePlan:
    from dataclasses import replace

    # Bounds are on the way from the shared policy, and these models stand on none.
    plan = replace(world.plans["shared"].private, constraint=None, kl=None)
    if loss is None:
        return replace(plan, tags=TAGS)
    return replace(plan, loss=loss)


def pooled_central(world: World, folder: Path, tick: Tick) -> Tensors:
    """One model of everybody's comparisons in one place, without noise: what trust would buy.

    A linear reward is fitted to its optimum; everything else takes as many steps as people took together.
    """
    file = folder / "pooled_central.npz"
    kept = load_state(file)
    if kept is not None:
        return tensors(kept["arrays"])
    model = world.models["pooled"]
    linear = isinstance(model, RewardModel) and model.form == "linear"
    if linear:
        found = world.common.once("central fit", lambda: _central_fit(world))
    else:
        found = _central_steps(world, model, tick)
    save_state(file, {"arrays": {name: value.numpy() for name, value in found.items()}})
    return found


def central_people(world: World) -> np.ndarray:
    """Who is in the pooled central model: everybody who takes part, or a seeded sample of them."""
    if len(world.eligible) <= CENTRAL_PEOPLE:
        return world.eligible
    draws = generator(world.config.seed, "central people")
    return np.sort(draws.choice(world.eligible, CENTRAL_PEOPLE, replace=False))


def _central_fit(world: World) -> Tensors:
    people, found = central_people(world).tolist(), Tensors()
    for tag in TAGS:
        chosen, rejected = world.crowd.sides(people, tag)
        block = world.features.block[tag]
        x = (block[chosen] - block[rejected]).double().numpy()[None]
        weights = fit(x, ridge=RIDGE, bound=curvature_bound(x))[0]
        found[f"shared.{tag}.u"] = torch.from_numpy(weights.astype(np.float32))
    return found


def _central_steps(world: World, model: PreferenceModel, tick: Tick) -> Tensors:
    plan, seed = world.plans["pooled"].shared, world.config.seed
    steps = min(200, world.config.rounds * plan.steps)
    batch = (plan.batch or 16) * 2
    current = take(model.initial_shared(), 1)
    state = optimiser.init(plan.optimiser, current)
    model, crowd = world.crowd.visit(model, central_people(world).tolist(), TAGS)
    everybody = {tag: np.concatenate([rows[tag] for rows in crowd.rows]) for tag in TAGS}
    loss, settings = get_loss(plan.loss), loss_settings(world.config)
    for step in range(steps):
        total = {name: torch.zeros_like(value) for name, value in current.items()}
        for tag in TAGS:
            rows = everybody[tag]
            if len(rows) == 0:
                continue
            draws = generator(seed, "central", step, tag)
            mine = draws.choice(rows, min(batch, len(rows)), replace=False)
            table = person_rows([mine])
            _, gradients = model.pair_gradients(table, current, None, "shared", loss, settings)
            total = {name: value + gradients[name].mean(1) for name, value in total.items()}
        current, state = optimiser.update(
            plan.optimiser, current, total, state, torch.tensor([step]), plan.rate, 0.0
        )
        tick("pooled central model", step + 1, steps)
    return {name: value[0] for name, value in current.items()}
