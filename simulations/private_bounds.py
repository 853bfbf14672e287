"""The bounds on private parts in a run: the cap on finished adapters, the bounded reward, what came of both.

`bounds.constraint` acts inside the private phase (`training.constrained`). What is here comes after it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from commonground.bounds.mechanisms import mechanism
from commonground.simulations.measure import Policy, margins
from commonground.simulations.store import PrivateStore
from commonground.simulations.world import World
from commonground.training.kl_cap import Held, held_back, scaled
from commonground.training.model import PreferenceModel, Rows, Tensors
from commonground.training.people import take
from commonground.training.public_models import PublicModels

Tick = Callable[[str, int, int], None]
HELD = "held"  # stream of the factors that finished adapters are scaled by
CHUNK = {"reward": 64, "policy": 1}  # people at a time
Found = dict[str, Any]


def public_of(world: World) -> PublicModels:
    """The model over public pairs; the world has one wherever a bound is on."""
    public = world.models["shared"].public
    if public is None:
        raise ValueError("the configuration has a bound on private parts, and the world no public pairs")
    return public


def hold_back(
    world: World, store: PrivateStore, used: Tensors, private: Tensors, round: int, tick: Tick
) -> None:
    """Find the factor of every evaluated person's finished adapter, and keep it in the private store.

    Args:
        world: the run's world; nothing is done without `bounds.kl` or `bounds.kl_worst`.
        store: the private side.
        used: the shared adapter as devices use it, leading axis P or 1.
        private: finished private adapters of the evaluated people, not scaled.
        round: the round to keep it under.
        tick: progress.
    """
    plan, people = world.plans["shared"].private.kl, world.evaluated.tolist()
    if plan is None or store.has_many(HELD, people, round).all():
        return
    public, size = public_of(world), CHUNK[world.models["shared"].kind]
    for first in range(0, len(people), size):
        at = slice(first, first + size)
        if store.has_many(HELD, people[at], round).all():  # done before the run was stopped
            continue
        shared = {k: v if len(v) == 1 else v[at] for k, v in used.items()}
        own = {k: v[at] for k, v in private.items()}
        held = held_back(public, shared, own, plan, seed=world.config.seed, people=people[at])
        arrays = {"factor": held.factor.numpy(), "mean": held.mean.numpy(), "worst": held.worst.numpy()}
        store.write_many(HELD, people[at], round, arrays)
        tick("holding private adapters back", first + size, len(people))


def held(world: World, store: PrivateStore, round: int) -> Held | None:
    """What `hold_back` found up to a round; None where no cap is on, or nothing was held back yet."""
    if world.plans["shared"].private.kl is None:
        return None
    there, arrays = store.read_many(HELD, world.evaluated.tolist(), round + 1)
    if not there.all():
        return None
    return Held(*(torch.from_numpy(arrays[name].copy()) for name in ("factor", "mean", "worst")))


def as_held(model: PreferenceModel, private: Tensors, found: Held | None) -> Tensors:
    """Adapters scaled by what was found for them."""
    return private if found is None else scaled(model, private, found.factor)


def reward_limit(world: World, shared: Tensors) -> tuple[float, float] | None:
    """(c, median shared margin on public safety pairs) of the bounded reward; None where it is off.

    Args:
        world: the run's world.
        shared: the released shared adapter, no person axis: c is public, and the same for everybody.
    """
    multiple = world.config.bounds.reward
    if not math.isfinite(multiple):
        return None
    public = public_of(world)
    chosen, rejected = public.probes.scores(public.rows(public.probes, 1), take(shared, 1), None)
    median = float(torch.quantile((chosen - rejected).abs(), 0.5))
    return multiple * median, median


def outcome(world: World, policies: dict[str, Policy], median: float | None, found: Held | None) -> Found:
    """What the bounds of a run guarantee, and what came of them; empty where none is on."""
    result: Found = {}
    personal = policies["personal"]
    if personal.limit is not None:
        result["reward"] = _reward(world, policies["shared"], personal, personal.limit, median)
    if world.plans["shared"].private.constraint is not None:
        result["constraint"] = _constraint(world, personal)
    if found is not None:
        result["kl"] = _said("kl") | {
            "factor": found.factor.tolist(),
            "mean": [_plain(v) for v in found.mean.tolist()],
            "worst": [_plain(v) for v in found.worst.tolist()],
        }
    return result


def _reward(world: World, shared: Policy, personal: Policy, limit: float, median: float | None) -> Found:
    """The large-margin guarantee, and the held-out safety pairs that it speaks of."""
    tags = np.array([world.table[row].tag for row in world.test_rows.tolist()])
    rows = world.test_rows[tags == "safety"]
    before, after = margins(world, shared, rows), margins(world, personal, rows)
    above = np.abs(before) > 2 * limit
    return _said("reward") | {
        "c": limit,
        "median": median,
        "pairs": len(rows),
        "above": int(above.sum()),
        "turned": int((np.sign(before) != np.sign(after))[above].sum()),
    }


def _constraint(world: World, personal: Policy) -> Found:
    """What people lose of the mean probability of the safe answer, where it was trained and on probes."""
    plan, public = world.plans["shared"].private.constraint, public_of(world)
    shared, private = personal.of(slice(0, len(world.evaluated)))
    if plan is None or shared is None or private is None:
        return {}
    found: Found = {"tolerance": plan.tolerance}
    for name, model in (("trained", public.trains), ("probes", public.probes)):
        rows = public.rows(model, len(world.evaluated))
        before, after = (_chance(model, rows, shared, own, plan.beta) for own in (None, private))
        lost = before - after
        found[name] = {"mean_lost": float(lost.mean()), "worst_lost": float(lost.max())}
    return _said("penalty") | found


def _chance(
    model: PreferenceModel, rows: Rows, shared: Tensors, private: Tensors | None, beta: float
) -> torch.Tensor:
    """(P,) mean probability of the safe answer, with the reference that training has."""
    sides = [model.scores(rows, shared, private)]
    if model.kind == "policy":
        sides.append(model.scores(rows, shared, None))
    margin = sum((-1) ** k * (chosen - rejected).double() for k, (chosen, rejected) in enumerate(sides))
    return torch.sigmoid(beta * torch.as_tensor(margin)).expand(rows.people, -1).mean(1)


def _said(name: str) -> Found:
    """What is guaranteed, in a word and a sentence."""
    one = mechanism(name)
    return {"guarantee": one.guarantee, "says": one.says}


def _plain(value: float) -> float | str:
    return value if math.isfinite(value) else "inf"
