"""The policies of a finished run, out of its folder: base, shared and everybody's private adapter."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

from commonground.bounds.budget import Budget
from commonground.bounds.policies import write_bounded
from commonground.config import Config
from commonground.errors import InputError, RunFolderError
from commonground.server.job import Job
from commonground.server.rounds import load_outcome
from commonground.simulations.devices import adapter, as_used
from commonground.simulations.folder import CONFIG, RESULT, RunFolder
from commonground.simulations.inputs import refuse_other_data
from commonground.simulations.stages import personal_adapters
from commonground.simulations.stores import open_store, store_file
from commonground.simulations.world import World, build_world
from commonground.training.model import Tensors
from commonground.training.policy import PolicyModel
from commonground.training.writing import Request

Tick = Callable[[str, int, int], None]
TEMPERATURE = 0.7


@dataclass(frozen=True)
class RunPolicies:
    """Writes the answers of a run's people, many at a time.

    Attributes:
        model: base model with both adapters.
        people: ids of the evaluated people.
        groups: their public groups.
        shared: the shared adapter as each of them uses it.
        private: their private adapters.
        used: prompts that the run learnt from.
        tokens: of an answer, at most.
        temperature: of every draw.
    """

    model: PolicyModel
    people: tuple[str, ...]
    groups: tuple[str | None, ...]
    shared: tuple[Tensors, ...]
    private: tuple[Tensors, ...]
    used: frozenset[str]
    tokens: int
    temperature: float = TEMPERATURE

    @property
    def base(self) -> str:
        """Digest of the base model."""
        return self.model.public_digests()["base"]

    @property
    def digest(self) -> str:
        """SHA-256 over base model, public bases and every adapter: what a certificate is about."""
        found = hashlib.sha256(repr(sorted(self.model.public_digests().items())).encode())
        for person, shared, private in zip(self.people, self.shared, self.private, strict=True):
            found.update(b"\0" + person.encode())
            for part in (shared, private):
                for name, value in sorted(part.items()):
                    found.update(name.encode() + value.detach().contiguous().numpy().tobytes())
        return found.hexdigest()

    def write_shared(self, asked: Sequence[tuple[int, str]], seed: int) -> list[str]:
        """An answer of the shared policy to each (person, prompt)."""
        requests = [Request(prompt, self.shared[person]) for person, prompt in asked]
        return self._write(requests, seed)

    def write_personal(self, asked: Sequence[tuple[int, str]], budget: Budget | None, seed: int) -> list[str]:
        """An answer of the personal policy to each (person, prompt), within a budget or without one."""
        requests = [Request(prompt, self.shared[p], self.private[p]) for p, prompt in asked]
        if budget is None:
            return self._write(requests, seed)
        found = write_bounded(
            self.model, requests, budget, tokens=self.tokens, temperature=self.temperature, seed=seed
        )
        return [self.model.texts.decode(list(one.tokens)) for one in found]

    def _write(self, requests: Sequence[Request], seed: int) -> list[str]:
        return self.model.generate_each(requests, tokens=self.tokens, temperature=self.temperature, seed=seed)


def finished_config(folder: RunFolder, *, allow_code: bool = False) -> Config:
    """The configuration of a run that can be certified.

    Args:
        folder: of the run.
        allow_code: whether names of code in its configuration may be imported.

    Raises:
        RunFolderError: there is no finished run.
        InputError: it is no run of policies.
    """
    config = folder.config(allow_code=allow_code)
    if folder.result() is None:
        raise RunFolderError(
            f"{folder.path} holds no finished run: there is no {RESULT}",
            hint=f"commonground simulate --resume {folder.path} finishes it",
        )
    if config.model.kind != "policy":
        raise InputError(
            f"{folder.path / CONFIG}: model.kind is {config.model.kind!r}; a certificate is about answers, "
            "so a run of model.kind=policy is needed"
        )
    return config


def load_policies(folder: RunFolder, config: Config, tokens: int, tick: Tick) -> RunPolicies:
    """Rebuild what a finished run's devices hold.

    Args:
        folder: of the run.
        config: of the run.
        tokens: of an answer, at most.
        tick: progress.

    Raises:
        RunFolderError: the adapters are gone.
    """
    job_file = folder.state / "job-shared.json"
    for file in (job_file, store_file(config, folder.state)):
        if not file.is_file():
            raise RunFolderError(
                f"{file} is missing: the adapters of the run are gone", hint="run it again in a new folder"
            )
    refuse_other_data(folder.state, config)
    world = build_world(config, tick)
    model = cast(PolicyModel, world.models["shared"])
    here = folder.state.resolve()  # the folder may have been moved since
    initial = str(here / "initial-shared.npz")
    job = replace(Job.load(job_file), checkpoint=str(here / "shared"), initial=initial)
    outcome = load_outcome(job)
    learned = adapter(model, outcome.averaged if outcome.averaged is not None else outcome.arrays)
    people = world.evaluated.tolist()
    store = open_store(config, folder.state, world.people)
    try:
        personal = personal_adapters(world, store, config.rounds + 1)
        used = as_used(world, store, "shared", people, learned, config.rounds)
    finally:
        store.close()
    return policies_of(world, learned, used, personal, tokens)


def policies_of(
    world: World, learned: Tensors, used: Tensors | None, personal: Tensors, tokens: int
) -> RunPolicies:
    """The policies of a run's evaluated people, as their devices use them.

    Args:
        world: of the run.
        learned: the released shared adapter.
        used: as each device uses it, leading axis the evaluated people; None is as it was released.
        personal: private adapters, leading axis likewise.
        tokens: of an answer, at most.
    """
    people = world.evaluated.tolist()
    return RunPolicies(
        cast(PolicyModel, world.models["shared"]),
        tuple(world.population.people[p].id for p in people),
        tuple(world.population.people[p].group for p in people),
        tuple(learned if used is None else _of(used, place) for place in range(len(people))),
        tuple(_of(personal, place) for place in range(len(people))),
        _prompts(world),
        tokens,
    )


def _of(tensors: Tensors, place: int) -> Tensors:
    return {name: value[place] for name, value in tensors.items()}


def _prompts(world: World) -> frozenset[str]:
    """What the run learnt from; test comparisons too, since options may have been chosen by them."""
    public = world.models["shared"].public
    asked = [*(c.prompt for c in world.table), *(() if public is None else public.prompts)]
    return frozenset(prompt for prompt in asked if prompt)
