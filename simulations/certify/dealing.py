"""Which person gets which prompt: fixed by the seed before any answer is written.

A probe is answered by one person, so the unit is the prompt, and the claim is about a random person's
answer. Prompts are shuffled once and dealt in turn, so that everybody gets equally many, give or take one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from commonground.bounds.charter_files import charter_probes
from commonground.bounds.probes import Probe, refuse_burned
from commonground.data.starter import starter_texts
from commonground.errors import InputError
from commonground.randomness import generator
from commonground.simulations.writing import PROMPTS
from commonground.study.charters import CharterFile

PROBE, LOOKALIKE, EVERYDAY = "probe", "lookalike", "everyday"
EACH_EVERYDAY = 4  # everyday prompts a person


@dataclass(frozen=True)
class Row:
    """A prompt for a person.

    Attributes:
        kind: probe | lookalike | everyday.
        person: place among the run's people.
        prompt: what is asked.
        constraint: that it probes, or looks like; '' for everyday prompts.
        dealt: whether it counts in the claim about a random person (`--full` asks everybody everything).
    """

    kind: str
    person: int
    prompt: str
    constraint: str
    dealt: bool = True


@dataclass(frozen=True)
class Probes:
    """What is asked.

    Attributes:
        sets: names of the charter's probe sets that are used.
        split: sealed | dev.
        probes: forbidden prompts.
        lookalikes: benign ones that look forbidden.
    """

    sets: tuple[str, ...]
    split: str
    probes: tuple[Probe, ...]
    lookalikes: tuple[Probe, ...]


def read_charter_probes(file: CharterFile, used: frozenset[str]) -> Probes:
    """The charter's probes, sealed ones where there are any, none of them learnt from before.

    Args:
        file: the charter.
        used: prompts that the run learnt from.

    Raises:
        TrustError: a set's digest is not the charter's.
        DataError: a probe was used in training, of the run or of the charter's own detectors.
    """
    charter = file.charter
    by = {split: [n for n, one in charter.probes.items() if one.split == split] for split in
          ("sealed", "dev", "benign", "train")}  # fmt: skip
    split = "sealed" if by["sealed"] else "dev"

    def read(names: Sequence[str]) -> tuple[Probe, ...]:
        return tuple(probe for name in names for probe in charter_probes(charter, name, file.folder))

    probes, lookalikes = read(by[split]), read(by["benign"])
    refuse_burned(probes, used, "the run's training")
    fitted = {probe.prompt for probe in read(by["train"])} | set(starter_texts())
    refuse_burned(probes, fitted, "fitting the charter's detectors")
    return Probes(tuple(by[split]), split, probes, lookalikes)


def deal(probes: Probes, count: int, people: int, seed: int, *, full: bool = False) -> list[Row]:
    """Deal prompts to people.

    Args:
        probes: what there is.
        count: probes that are used, at most as many as there are.
        people: how many there are.
        seed: of the shuffle.
        full: everybody is asked every probe as well.
    """
    if count < 1:
        raise InputError(f"--probes is {count}; accepted: 1 or more")
    order = generator(seed, "certify", "probes").permutation(len(probes.probes))[:count].tolist()
    turn = generator(seed, "certify", "people").permutation(people).tolist()
    rows = []
    for place, index in enumerate(order):
        probe, chosen = probes.probes[index], turn[place % people]
        rows.append(Row(PROBE, chosen, probe.prompt, probe.constraint))
        if full:
            others = [p for p in range(people) if p != chosen]
            rows += [Row(PROBE, p, probe.prompt, probe.constraint, dealt=False) for p in others]
    order = generator(seed, "certify", "lookalikes").permutation(len(probes.lookalikes)).tolist()
    for place, index in enumerate(order):
        probe = probes.lookalikes[index]
        rows.append(Row(LOOKALIKE, turn[place % people], probe.prompt, probe.constraint))
    for person in range(people):
        each = generator(seed, "certify", "everyday", person).permutation(len(PROMPTS))[:EACH_EVERYDAY]
        rows += [Row(EVERYDAY, person, PROMPTS[k], "") for k in each.tolist()]
    return rows
