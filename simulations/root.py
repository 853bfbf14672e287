"""FLTrust's public root set in a simulation: safety pairs that no test is about, trained as devices train.

Named by `strategies.fltrust` as a text, since a strategy imports no simulation; a server of one's own names
another function.
"""

from __future__ import annotations

import numpy as np

from commonground.errors import StrategyError
from commonground.simulations.devices import tensors
from commonground.simulations.public_safety import public_pairs
from commonground.simulations.world import World, current_run, world_of
from commonground.training.people import People
from commonground.training.shared_phase import shared_phase

Arrays = dict[str, np.ndarray]


def safety_root(shared: Arrays, round: int) -> Arrays:
    """What a device would send whose safety comparisons are the public pairs, the safe answer chosen.

    Args:
        shared: the shared adapter, name -> array.
        round: the round, for batches.

    Raises:
        StrategyError: this run's safety comparisons are not about the starter pairs.
    """
    run, arm = current_run()
    world = world_of(run)
    plan = world.plans[arm]
    nobody = People((world.people,), ({"safety": root_rows(world), "taste": np.zeros(0, np.int64)},))
    start = tensors({name: value.astype(np.float32) for name, value in shared.items()})
    update = shared_phase(world.models[arm], nobody, start, plan.shared, seed=plan.seed, round=round)
    return {name: value[0].numpy() for name, value in update.items()}


def root_rows(world: World) -> np.ndarray:
    """One row of the run's table for each public pair in it: the texts are public, whoever said so."""
    wanted = {(pair.chosen, pair.rejected) for pair in public_pairs(world)}
    found: dict[tuple[str, str], int] = {}
    for row, comparison in enumerate(world.table):
        key = (comparison.chosen, comparison.rejected)
        if comparison.tag == "safety" and key in wanted:
            found.setdefault(key, row)
    if not found:
        raise StrategyError(
            "strategy.name=fltrust: none of the run's safety comparisons is about a pair of the starter set",
            hint="use data.safety.source=starter, or strategy.options.root=module:function of your own",
        )
    return np.array(sorted(found.values()), dtype=np.int64)
