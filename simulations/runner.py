"""The main job: from a configuration to `result.json` and `report.html`, resumable at any instant."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from commonground.cache import cache_folder
from commonground.config import Config
from commonground.data.feedback import loud_notes
from commonground.errors import CommonGroundError, RunFolderError, StorageError
from commonground.files import write_atomically
from commonground.hub import environment_of_downloads
from commonground.marking import marked
from commonground.mishaps import storage_errors
from commonground.own_code import environment_of_code
from commonground.randomness import generator
from commonground.recipe import resolve
from commonground.report.page import build_page
from commonground.report.public import PUBLIC, write_public_result
from commonground.server.job import Job
from commonground.server.rounds import Outcome, RoundEvent, load_outcome
from commonground.simulations import world as worlds
from commonground.simulations.attacked_grid import attacked_grid
from commonground.simulations.bounded import at_work, charter_part, meant_charter, show, with_charter
from commonground.simulations.devices import STREAM, adapter, as_used, close_stores
from commonground.simulations.engine import Runtime, environment, run_job
from commonground.simulations.folder import CONFIG, LOG, REPORT, Events, RunFolder
from commonground.simulations.inputs import hold, refuse_other_data
from commonground.simulations.measure import Policy, margins
from commonground.simulations.mishaps import device_log, resumable
from commonground.simulations.noise_root import make_noise_root
from commonground.simulations.private_bounds import held, hold_back, outcome, reward_limit
from commonground.simulations.public_safety import begun_with
from commonground.simulations.result import SEEN, assemble
from commonground.simulations.settings import anchored, refuse_unfit_strategy, with_implied
from commonground.simulations.shards import refuse_unready
from commonground.simulations.stages import (
    expect_cohorts,
    local_adapters,
    personal_adapters,
    pooled_central,
    settle,
)
from commonground.simulations.store import PrivateStore
from commonground.simulations.stores import open_store, store_file
from commonground.simulations.world import Arm, World, build_world
from commonground.training.model import PreferenceModel
from commonground.training.people import take

LEDGER = "ledger.sqlite"
CURVE_PEOPLE = 200  # people on whom learning curves are drawn


class Progress(Protocol):
    """Who is told how far a run is."""

    def stage(self, name: str, done: int, total: int) -> None:
        """A long step: what, how much of it is done."""
        ...

    def round(self, event: dict[str, Any], total: int) -> None:
        """A round is done; `event` is its line of events.jsonl."""
        ...

    def notice(self, words: str) -> None:
        """Something about the data that has to be known before the result is read."""
        ...


@dataclass
class Silent:
    """Tells nobody."""

    def stage(self, name: str, done: int, total: int) -> None:
        """Nothing."""

    def round(self, event: dict[str, Any], total: int) -> None:
        """Nothing."""

    def notice(self, words: str) -> None:
        """Nothing."""


@dataclass
class Trained:
    """What the stages of a run have made: adapters of every policy, how the rounds ended, what bounds did."""

    policies: dict[str, Policy]
    outcomes: dict[Arm, Outcome]
    events: list[dict[str, Any]] = field(default_factory=list)
    bounds: dict[str, Any] = field(default_factory=dict)


def simulate(config: Config, out: Path, progress: Progress | None = None) -> dict[str, Any]:
    """Run, or go on with, the main job.

    Args:
        config: checked; nulls are filled in here.
        out: the run's folder: new, empty, or holding the same configuration.
        progress: who is told.

    Returns:
        The content of `result.json`.

    Raises:
        InputError: configuration, data, model or folder cannot be used; nothing was written then.
        InterruptedRunError: Ctrl-C; the run can be resumed.
        StorageError: the disk refused.
    """
    progress = progress or Silent()
    config = with_charter(anchored(with_implied(resolve(config))))
    refuse_unfit_strategy(config)
    folder = RunFolder(out)
    folder.check(config)
    refuse_other_data(folder.state, config)
    if (done := folder.result()) is not None:
        if not (out / REPORT).is_file():
            build_page([("", done)], out / REPORT)
        return done
    refuse_unready(config)
    charter = meant_charter(config)
    began = time.monotonic()
    with resumable(out, CONFIG), storage_errors(folder.state), folder.claim(config), device_log(out / LOG):
        # The cache of embeddings is another folder, hence another hint.
        with storage_errors(cache_folder(), "delete it, or set COMMONGROUND_CACHE to another folder"):
            world = build_world(config, progress.stage, make_noise_root(config, folder.state))
            for words in loud_notes(world.population.notes):
                progress.notice(words)
            stack = None if charter is None else at_work(charter, world)
        worlds.adopt(str(out.resolve()), world)
        typed = {**environment_of_code(), **environment_of_downloads()}
        with environment({"COMMONGROUND_RUN": str(out.resolve()), **typed}):
            trained = _train(world, folder, progress)
        shown = None if stack is None else show(world, trained.policies["personal"], stack, progress.stage)
        progress.stage("measuring", 0, 1)
        result = assemble(world, trained, folder, began, None if shown is None else shown.everyday)
        if stack is not None and shown is not None:
            result["charter"] = charter_part(world, shown, stack, result["writing"])
            result = marked(result, SEEN)
        # The page first: where there is a result.json, everything is there.
        build_page([("", result)], out / REPORT)
        try:
            write_public_result(result, out)
            folder.write_result(result)
        except BaseException:
            for name in (REPORT, PUBLIC):
                (out / name).unlink(missing_ok=True)
            raise
        progress.stage("measuring", 1, 1)
    return result


def _train(world: World, folder: RunFolder, progress: Progress) -> Trained:
    """Every stage that makes adapters; each is skipped where its outcome is already kept."""
    config = world.config
    hold(folder.state, begun_with(world), config)
    arms: list[Arm] = ["shared"] if _same_arms(world) else ["shared", "pooled"]
    jobs = {arm: _job(world, folder, arm) for arm in arms}
    done = {arm: load_outcome(Job.load(path)).round for arm, path in jobs.items()}
    kept = store_file(config, folder.state)
    if any(done.values()) and not kept.exists():
        raise RunFolderError(
            f"{kept} is missing: the private states of a run with rounds done are gone",
            hint=f"delete {folder.state} to start over",
        )
    events = Events(folder, {str(arm): round for arm, round in done.items()})
    outcomes: dict[Arm, Outcome] = {}
    store = open_store(config, folder.state, world.people)
    try:
        if config.fleet.shards == 1:  # a shard has a world of its own, and draws whom it visits
            q, first = Job.load(jobs["shared"]).q, min(done.values()) + 1
            expect_cohorts(world, q, first, progress.stage)
        curve = _Curve(world, store, jobs, events, progress)
        for arm in arms:
            with environment({"COMMONGROUND_ARM": arm}), _explained(store, folder):
                outcomes[arm] = run_job(
                    jobs[arm],
                    cast(Runtime, config.runtime),
                    world.people,
                    on_round=curve.add,
                    device="simulation",
                    around=attacked_grid(world, arm, Job.load(jobs[arm]).m),
                )
                curve.finished(arm)
        if world.models["shared"].kind == "reward":
            settle(world, store, _released(world.models["shared"], outcomes["shared"]), progress.stage)
        used: dict[Arm, Any] = {
            arm: as_used(
                world,
                store,
                arm,
                world.evaluated.tolist(),
                _released(world.models[arm], outcomes[arm]),
                config.rounds,
            )
            for arm in arms
        }
        learned = _released(world.models["shared"], outcomes["shared"])
        last = config.rounds + 1
        if world.plans["shared"].private.kl is not None:
            stood_on = take(learned, 1) if used["shared"] is None else used["shared"]
            hold_back(world, store, stood_on, personal_adapters(world, store, last), last, progress.stage)
        personal = personal_adapters(world, store, last)
        factors = held(world, store, last)
        local = local_adapters(world, store, progress.stage)
        sft = (
            local_adapters(world, store, progress.stage, loss="sft")
            if world.models["shared"].kind == "policy"
            else None
        )
    finally:
        store.close()
        close_stores()
    shared, pooled = world.models["shared"], world.models["pooled"]
    averaged = _released(pooled, outcomes.get("pooled", outcomes["shared"]))
    limit = reward_limit(world, learned)
    policies = {
        "base": Policy(shared),
        "pooled": Policy(pooled, averaged, used=used.get("pooled", used["shared"])),
        "pooled_central": Policy(pooled, pooled_central(world, folder.state, progress.stage)),
        "local": Policy(shared, None, local),
        "shared": Policy(shared, learned, used=used["shared"]),
        "personal": Policy(shared, learned, personal, used["shared"], None if limit is None else limit[0]),
    }
    if sft is not None:
        policies["sft"] = Policy(shared, None, sft)
    outcomes.setdefault("pooled", outcomes["shared"])
    bounds = outcome(world, policies, None if limit is None else limit[1], factors)
    return Trained(policies, outcomes, events.lines, bounds)


def _same_arms(world: World) -> bool:
    """Whether shared and pooled are the same training: same tags, and nothing private in between."""
    return (
        world.plans["shared"].shared == world.plans["pooled"].shared and world.config.schedule == "decoupled"
    )


def _released(model: PreferenceModel, outcome: Outcome) -> dict[str, Any]:
    return adapter(model, outcome.averaged if outcome.averaged is not None else outcome.arrays)


def _job(world: World, folder: RunFolder, arm: Arm) -> Path:
    """Write the job of an arm (the same bytes each time) and return its path."""
    config, manifest = world.config, world.manifests[arm]
    initial = folder.state / f"initial-{arm}.npz"
    if not initial.is_file():
        from io import BytesIO

        buffer = BytesIO()
        np.savez(buffer, **world.first_arrays(arm))  # type: ignore[arg-type]
        write_atomically(initial, buffer.getvalue())
    cohort = min(int(config.cohort or 2), len(world.eligible))
    central, cost = config.privacy.trust == "central", world.claim.charge(1)
    private = arm == "shared" and config.schedule == "decoupled"
    batched = world.models[arm].kind == "reward"  # many people at a time; see stages.settle
    job = Job(
        arm=arm,
        people=world.people,
        rounds=config.rounds,
        q=cohort / len(world.eligible),
        m=float(cohort),
        seed=world.coin_seed,
        noise_seed=world.noise_seed(arm),
        manifest=manifest.to_dict(),
        noise_multiplier=world.noise_std / manifest.clip if central else 0.0,
        initial=str(initial.resolve()),
        checkpoint=str((folder.state / arm).resolve()),
        trust=config.privacy.trust,
        strategy=config.strategy.name,
        options=dict(config.strategy.options),
        average=bool(config.strategy.average),
        private=private,
        final_private=world.evaluated.tolist() if arm == "shared" and not batched else [],
        participations=world.claim.participations,
        eligible=None if len(world.eligible) == world.people else world.eligible.tolist(),
        # The pooled arm is a baseline that exists only here: nothing of it is ever released.
        ledger=str((folder.state / LEDGER).resolve()) if arm == "shared" else None,
        charge=(cost.sampling, cost.noise_multiplier),
        unit=config.privacy.unit,
        mechanism=_mechanism(world, manifest.clip),
        norm_bound=config.strategy.norm_bound,
        gate=_gate(config),
        device_noise=world.noise_std if manifest.noise_on_device else 0.0,
    )
    path = folder.state / f"job-{arm}.json"
    job.save(path)
    return path


def _gate(config: Config) -> dict[str, Any]:
    """The safety gate of a job; empty where it is off."""
    gate = asdict(config.gate)
    return gate if gate.pop("enabled") else {}


def _mechanism(world: World, clip: float) -> dict[str, Any]:
    """The central noise of an arm's job where it is not the plain one."""
    public, banded = world.claim.adaptive, world.claim.banded
    if banded is not None:
        return {"banded": asdict(banded)}
    if public is None:
        return {}
    return {"adaptive_clip": asdict(replace(public, start=min(public.start, clip), most=clip))}


@contextmanager
def _explained(store: PrivateStore, folder: RunFolder) -> Iterator[None]:
    """Devices never say why they failed; where it was the disk, say so, else where it is written.

    Raises:
        StorageError: a device failed, and the store of all devices cannot be written.
    """
    try:
        yield
    except CommonGroundError as error:
        if type(error) is not CommonGroundError:
            raise
        try:
            store.write_many(f"trial-{time.monotonic_ns()}", [0], 0, {"room": np.zeros((1, 16384))})
        except StorageError as refused:
            raise refused from error
        if (folder.path / LOG).is_file():
            error.hint = f"{folder.path / LOG} says why"
        raise


class _Curve:
    """Turns round events into lines of events.jsonl, with the accuracies of the shared adapter so far.

    A policy run draws no curve: scoring a language model each round would cost more than training it.
    """

    def __init__(
        self, world: World, store: PrivateStore, jobs: dict[Arm, Path], events: Events, progress: Progress
    ) -> None:
        self.world, self.store, self.events, self.progress = world, store, events, progress
        self.jobs = {arm: Job.load(path) for arm, path in jobs.items()}
        few = world.evaluated
        if len(few) > CURVE_PEOPLE:
            draws = generator(world.config.seed, "curve").choice(few, CURVE_PEOPLE, replace=False)
            few = np.sort(draws)
        rows = world.test_rows[np.isin(world.owner[world.test_rows], few)]
        self.rows = rows if world.models["shared"].kind == "reward" else rows[:0]

    def add(self, event: RoundEvent) -> None:
        """One round of one arm."""
        arm: Arm = "pooled" if event.arm == "pooled" else "shared"
        if self.jobs[arm].private:
            self._learned(event.people, event.round)
        line: dict[str, Any] = {
            "arm": event.arm,
            "round": event.round,
            "seconds": round(event.seconds, 4),
            "people": len(event.people),
            "replies": event.replies,
            "refused": event.refused,
            "bytes": event.bytes,
            "epsilon": finite(self.world.claim.epsilon_after(event.round))
            if self.world.claim.meaningful
            else None,
        }
        if event.clip is not None:
            line["clip"] = event.clip
        if event.gate is not None:
            line["gate"] = event.gate
        if len(self.rows):
            arrays = event.averaged if event.averaged is not None else event.arrays
            line |= self._accuracies(arm, arrays, event.round)
        # The gate and the clip of a round are computed from what is released; the pooled arm never is.
        kept = {"arm", "round", "epsilon"}
        if arm == "shared" and np.isfinite(self.world.claim.epsilon):
            kept |= {"clip", "gate"}
        line = marked(line, line.keys() - kept)
        self.events.add(line)
        self.progress.round(line, self.world.config.rounds)

    def finished(self, arm: Arm) -> None:
        """The last private phase of an arm is done."""
        self._learned(self.jobs[arm].final_private, self.world.config.rounds + 1)

    def _learned(self, people: Sequence[int], round: int) -> None:
        """A private phase answers the same whether it worked or not; in a simulation we may look."""
        missing = int((~self.store.has_many(STREAM, people, round)).sum())
        if missing:
            raise CommonGroundError(
                f"round {round}: the private phase of {missing} of {len(people)} devices failed"
            )

    def _accuracies(self, arm: Arm, arrays: dict[str, np.ndarray], round: int) -> dict[str, float]:
        model = self.world.models[arm]
        shared = adapter(model, arrays)
        used = as_used(self.world, self.store, arm, self.world.evaluated.tolist(), shared, round)
        found = margins(self.world, Policy(model, shared, used=used), self.rows)
        right = np.where(found == 0, 0.5, found > 0)
        is_safety = np.array([self.world.table[row].tag == "safety" for row in self.rows])
        return {
            tag: float(right[mask].mean())
            for tag, mask in (("taste", ~is_safety), ("safety", is_safety))
            if mask.any()
        }


def finite(value: float) -> float | str:
    """A number JSON can hold: infinity is the text `inf`."""
    return value if np.isfinite(value) else "inf"
