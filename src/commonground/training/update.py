"""The local update, written once over a leading person axis.

A device calls it with P = 1, the fleet with many. The two phases are separate functions with separate
random streams: in the decoupled schedule nothing of the private phase can reach the shared one, because
the shared phase is given no private adapter.
"""

from __future__ import annotations

from commonground.training import optimiser
from commonground.training.model import PreferenceModel, Tensors
from commonground.training.people import People, take
from commonground.training.plan import Plan
from commonground.training.private_phase import PrivateState, first_private, private_phase, release_ready
from commonground.training.shared_phase import SharedGradient, local_step, shared_phase
from commonground.training.steering import Steering, begin

__all__ = [
    "People",
    "PrivateState",
    "first_private",
    "private_phase",
    "release_ready",
    "shared_phase",
    "take",
    "visit",
]


def visit(
    model: PreferenceModel,
    people: People,
    shared: Tensors,
    state: PrivateState | None,
    plan: Plan,
    round: int,
    steering: Steering | None = None,
) -> tuple[Tensors, PrivateState | None]:
    """One visit in the plan's schedule: the update to seal, and the private state it already changed.

    `decoupled` looks at no state and returns None: the private phase comes after the message has left.
    `alternating` (FedAlt, arXiv 2204.03809) trains the private part first and the shared part through it.
    `joint` (FedSim, same paper) takes both gradients at the same point, step by step. A `steering` is an
    algorithm's own addition to the steps on the shared part.
    """
    if plan.schedule == "decoupled":
        only = shared_phase(
            model, people, shared, plan.shared, seed=plan.seed, round=round, steering=steering
        )
        return only, None
    if state is None:
        raise ValueError(f"schedule {plan.schedule} trains through the private state; None was given")
    if plan.schedule == "alternating":
        steps_now = plan.private.steps_per_visit
        started = steering is not None and steering.start is not None
        frozen = begin(shared, len(people.index), steering) if started else take(shared, 1)
        after = private_phase(model, people, frozen, state, plan.private, seed=plan.seed, steps=steps_now)
        update = shared_phase(
            model,
            people,
            shared,
            plan.shared,
            seed=plan.seed,
            round=round,
            private=after.adapter,
            steering=steering,
        )
        return update, after
    start = begin(shared, len(people.index), steering)
    current, moments = start, optimiser.init(plan.shared.optimiser, start)
    gradient = SharedGradient(model, people, plan.shared, seed=plan.seed, round=round)
    for step in range(plan.shared.steps):
        mean = gradient.at(current, state.adapter, step)
        if step < plan.private.steps_per_visit:
            state = private_phase(model, people, current, state, plan.private, seed=plan.seed, steps=1)
        current, moments = local_step(plan.shared, current, mean, moments, start, step, steering)
    return {name: value - start[name] for name, value in current.items()}, state
