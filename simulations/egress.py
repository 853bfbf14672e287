"""What left the devices of a run, for its result: nothing of a single message, which carries no noise yet.

A digest of a message is a function of one person's data: whoever can list her possible answers computes the
message of each and compares. So no digest of one, nobody's place and no count of messages is told as covered;
receipts with digests stay in `state/`, which stands for the devices.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from commonground.manifest import Manifest
from commonground.marking import marked
from commonground.server.job import Job
from commonground.simulations.devices import epsilon_words
from commonground.simulations.stores import open_store
from commonground.simulations.world import World

if TYPE_CHECKING:
    from commonground.simulations.runner import Trained

RECEIPTS = 10  # rounds whose receipt is shown
COUNTED = frozenset({"messages", "bytes", "refused"})  # of messages without noise; they tell the cohorts


def released(world: World, trained: Trained, state: Path) -> set[str]:
    """What left the devices, by the receipts in the run's store, and what of the adapter was learned.

    Of what the run wrote, not of what it meant to: a guard that is told what was planned sees nothing.

    Args:
        world: the run's world.
        trained: how its rounds ended.
        state: the run's folder of states.
    """
    with closing(open_store(world.config, state, world.people)) as store:
        left = store.names("shared")
    ended = trained.outcomes["shared"]
    first = world.first_arrays("shared")
    learned = {
        name
        for arrays in (ended.arrays, ended.averaged or {})
        for name, value in arrays.items()
        if name not in first or not np.array_equal(value, first[name])
    }
    return left | learned


def accounted(job: Job) -> set[str]:
    """What the account of a job stands for: the tensors that its noise was put on, and what is made of them.

    A strategy's own numbers, which devices only receive, are made by the server of what it was sent.
    """
    manifest = Manifest.from_dict(job.manifest)
    noised = {spec.name for spec in manifest.tensors if job.noise_multiplier > 0 or job.device_noise > 0}
    bit = (
        {manifest.bit.name} if manifest.bit is not None and "clip" in job.wrapper().mechanism.asked else set()
    )
    return noised | bit | ({spec.name for spec in manifest.received} if noised else set())


def egress(world: World, trained: Trained, state: Path) -> dict[str, Any]:
    """Return what left in the shared arm.

    Args:
        world: the run's world.
        trained: how its rounds ended.
        state: the run's folder of states.

    Returns:
        `tensors`, `private_tensors`, `manifest` and `receipts`: what the receipt of every message of a round
        says alike, whoever sent it. Marked as visible in a simulation only: `messages`, `bytes`, `refused`.
    """
    with closing(open_store(world.config, state, world.people)) as store:
        messages, size = store.totals("shared")
    manifest = world.manifests["shared"]
    private = set(world.models["shared"].private_spec())
    names = [spec.name for spec in manifest.sent]
    one = sum(int(np.prod(spec.shape)) * np.dtype(spec.dtype).itemsize for spec in manifest.sent)
    return marked(
        {
            "messages": messages,
            "bytes": size,
            "tensors": names,
            "private_tensors": sum(name in private for name in names),
            "refused": trained.outcomes["shared"].counts["refused"],
            "manifest": manifest.to_dict() | {"digest": manifest.digest},
            "receipts": [
                {
                    "round": round,
                    "bytes": one,
                    "names": names,
                    "epsilon": epsilon_words(world.claim, round),
                    "manifest": manifest.digest,
                }
                for round in range(1, min(world.config.rounds, RECEIPTS) + 1)
            ],
        },
        COUNTED,
    )
