"""FLTrust's public root set in a simulation: the starter safety pairs, trained as a device trains.

Named by `strategies.fltrust` as a text, since a strategy imports no simulation; a server of one's own names
another function.
"""

from __future__ import annotations

import numpy as np

from commonground.data.starter import safety_pairs
from commonground.errors import StrategyError
from commonground.simulations.devices import tensors
from commonground.simulations.world import World, current_run, world_of
from commonground.training.people import People
from commonground.training.shared_phase import shared_phase

Arrays = dict[str, np.ndarray]


def safety_root(shared: Arrays, round: int) -> Arrays:
    """What a device would send whose safety comparisons are the starter pairs, the safe answer chosen.

    Args:
        shared: the shared adapter, name -> array.
        round: the round, for batches.

    Raises:
        StrategyError: this run's safety comparisons are not about the starter pairs.
    """
    run, arm = current_run()
    world = world_of(run)
    plan = world.plans[arm]
    nobody = People((world.people,), ({"safety": _rows(world), "taste": np.zeros(0, np.int64)},))
    start = tensors({name: value.astype(np.float32) for name, value in shared.items()})
    update = shared_phase(world.models[arm], nobody, start, plan.shared, seed=plan.seed, round=round)
    return {name: value[0].numpy() for name, value in update.items()}


def _rows(world: World) -> np.ndarray:
    """One row of the run's table for each starter pair in it: the texts are public, whoever said so."""
    wanted = {(pair.safe, pair.unsafe) for pair in safety_pairs()}
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
