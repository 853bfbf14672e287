"""Kill a process that writes to a fleet store at random instants, and look at what is left each time.

`python toy_fleet_kills.py FOLDER KILLS` prints one JSON object. The writer is forked, so that a kill costs
milliseconds; through a pipe it tells that it has begun, and of every round `write_many` has returned from.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import sys
from pathlib import Path
from typing import NoReturn

import numpy as np
from toy_patience import a_while

from commonground.simulations.fleet_store import FleetStore
from commonground.simulations.slots import Layout

PEOPLE, NUMBERS = 24, 1 << 15  # 256 KiB a slot: many pages, so that a kill can fall inside one write
ALL = list(range(PEOPLE))
FAR = 1 << 40


def arrays(round: int) -> dict[str, np.ndarray]:
    """Every number of a person's version says whose and of which round it is."""
    codes = round * PEOPLE + np.arange(PEOPLE)
    return {"v": np.repeat(codes[:, None], NUMBERS, axis=1), "steps": codes}


def write_for_ever(folder: Path, round: int, told: int) -> NoReturn:
    store = FleetStore(folder, PEOPLE, "run")
    os.write(told, struct.pack("<q", round - 1))
    while True:
        store.write_many("private", ALL, round, arrays(round))
        os.write(told, struct.pack("<q", round))
        round += 1


def rounds_of(store: FleetStore, before: int) -> np.ndarray:
    """The round of each person's newest version; -1 for none, and an error for one that is not whole."""
    found, kept = store.read_many("private", ALL, before)
    if not kept:
        return np.full(PEOPLE, -1)
    codes = kept["steps"]
    if (kept["v"][found] != codes[found, None]).any() or (
        codes[found] % PEOPLE != np.array(ALL)[found]
    ).any():
        raise SystemExit("a version that is not whole was read")
    return np.where(found, codes // PEOPLE, -1)


def torn(folder: Path, store: FleetStore) -> int:
    """How many records have a slot that is neither empty nor whole."""
    slots = np.fromfile(folder / "private.slots", Layout.of(arrays(0)).slot).reshape(PEOPLE, 2)
    whole = np.zeros(slots.shape, dtype=bool)
    for person in range(PEOPLE):
        for place in (0, 1):
            round = int(slots["round"][person, place]) - 1
            whole[person, place] = round >= 0 and bool(store.has_many("private", [person], round)[0])
    return int(((slots["round"] != 0) & ~whole).sum())


def main(folder: Path, kills: int) -> dict[str, int]:
    draws, done = np.random.default_rng(7), 0
    told = {"kills": 0, "rounds": 0, "cut_between_people": 0, "cut_inside_a_write": 0}
    for kill in range(kills):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            write_for_ever(folder, done + 1, writing)
        os.close(writing)
        if kill % 4:  # every fourth may fall while the store is being opened or made
            os.read(reading, 8)
        a_while(draws.uniform(0, 0.06))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with os.fdopen(reading, "rb") as pipe:
            acknowledged = [value for (value,) in struct.iter_unpack("<q", pipe.read())]
        done = acknowledged[-1] if acknowledged else done
        store = FleetStore(folder, PEOPLE, "run")
        newest = rounds_of(store, FAR)
        if not (set(newest.tolist()) <= {done or -1, done + 1}):
            raise SystemExit(f"versions of rounds {newest.tolist()} after round {done} was done")
        if done and set(rounds_of(store, done + 1).tolist()) != {done}:
            raise SystemExit(f"a version of round {done} is gone")
        told["kills"] += 1
        told["cut_between_people"] += len(set(newest.tolist())) > 1
        if (folder / "private.json").is_file():
            told["cut_inside_a_write"] += torn(folder, store)
        store.close()
    return told | {"rounds": done}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]))))
