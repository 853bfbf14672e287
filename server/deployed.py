"""The rounds of a deployed study: the same loop as a simulation's, with real people around it.

What differs is outside of the round (`Conduct`): it begins when enough devices are online or patience ends,
with a signed release; only those who are enrolled can be drawn; only those whose update came are asked for
their private phase. A round waits for its deadline and no longer, one with too few updates is void, and
everything that is counted is counted of all people together.

A round's noise and its draw of people are fixed functions of the round and of a secret number of 256 bits in
the study's folder, which came from the operating system. So a round that comes again after a kill makes the
same noise, and no sum of updates is ever released under two noises.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import cast

import numpy as np
from flwr.app import ArrayRecord
from flwr.serverapp import Grid
from sqlalchemy import func, select

from commonground.errors import InterruptedRunError, RunFolderError
from commonground.recipe import message_noise_seed
from commonground.server.audit import Audit
from commonground.server.conduct import Conduct
from commonground.server.enrolled_grid import EnrolledGrid
from commonground.server.job import Job
from commonground.server.places import refuse
from commonground.server.public_pairs import public_pairs
from commonground.server.releases import Releases
from commonground.server.rounds import Outcome, RoundEvent, run_rounds
from commonground.server.state import WAITS, Study
from commonground.server.tables import Enrolled, Round, now
from commonground.strategies.person_dp import PersonLevel
from commonground.strategies.records import from_record, to_record
from commonground.strategies.registry import rule_of
from commonground.study.public_parts import NAME as PARTS
from commonground.study.public_parts import read_parts
from commonground.training.public_pairs import PublicPairs

LOOK = 0.5  # seconds between looks at who is online
PUBLIC = "commonground.server.deployed:gate_pairs"  # where the gate finds its pairs

log = logging.getLogger("commonground.server")
_PAIRS: dict[str, PublicPairs] = {}  # of the study that this process runs


def gate_pairs() -> PublicPairs:
    """The public pairs of the study that this process runs; raises `RunFolderError` where there are none."""
    if "pairs" not in _PAIRS:
        raise RunFolderError("the safety gate has no public pairs: no study is run in this process")
    return _PAIRS["pairs"]


def study_job(study: Study) -> Job:
    """The job of a study; raises `RunFolderError` where a file of it is missing."""
    config, terms, manifest = study.config, study.terms, study.manifest
    try:
        seed = int((study.folder / "seed.key").read_text())
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{study.folder}/seed.key cannot be read: {error}") from error
    claim, people = terms.claim, config.people
    cohort = min(int(config.cohort or 2), people)
    cost = terms.charge
    gate = asdict(config.gate)
    gated = bool(gate.pop("enabled"))
    central = config.privacy.trust == "central"
    return Job(
        arm="shared",
        people=people,
        rounds=config.rounds,
        q=cohort / people,
        m=float(cohort),
        seed=seed,
        noise_seed=message_noise_seed(
            config, claim, terms.private_claim, seed, rule_of(config.strategy.name)
        ),
        manifest=manifest.to_dict(),
        # In this order, as a simulation has it: the product and the quotient are rounded.
        noise_multiplier=claim.noise_multiplier * manifest.clip / manifest.clip if central else 0.0,
        initial=str(study.folder / "initial.npz"),
        checkpoint=str(study.folder / "checkpoint"),
        trust=config.privacy.trust,
        strategy=config.strategy.name,
        options=dict(config.strategy.options),
        average=bool(config.strategy.average),
        private=config.schedule == "decoupled",
        final_private=list(range(people)),
        participations=claim.participations,
        ledger=str(study.folder / "ledger.db"),
        charge=(cost.sampling, cost.noise_multiplier),
        timeout=study.settings.deadline,
        stop_on_error=False,
        mechanism={} if claim.banded is None else {"banded": asdict(claim.banded)},
        norm_bound=config.strategy.norm_bound,
        gate=gate | {"public": PUBLIC} if gated else {},
        minimum=study.settings.minimum,
        device_noise=claim.noise_multiplier * manifest.clip if manifest.noise_on_device else 0.0,
    )


def run_study(grid: Grid, study: Study, stop: threading.Event | None = None) -> Outcome:
    """Run, or go on with, the rounds of a study.

    Args:
        grid: Flower's; its nodes are those that enrolment registered.
        study: its folder.
        stop: set it to stop between messages.

    Raises:
        InterruptedRunError: stopped, or the study is closed.
        CommonGroundError: whatever `run_rounds` raises.
    """
    job, releases = study_job(study), Releases(study)
    parts = read_parts(study.parts, study.offer.base[PARTS])
    pairs = public_pairs(study.config, parts)
    if pairs is not None:
        _PAIRS["pairs"] = pairs
    front = EnrolledGrid(
        grid,
        study.config.people,
        lambda: enrolled_nodes(study),
        releases.paper,
        study.settings.deadline,
        lambda count: study.refuse("reply came after its deadline", count),
    )
    conduct = Deployment(study, grid, releases, pairs)
    outcome = run_rounds(front, job, conduct.ended, stop, conduct)
    study.set_fact("finished", "yes")
    Audit(study.folder, study.key).add("finished", rounds=outcome.round)
    return outcome


def enrolled_nodes(study: Study) -> dict[int, int]:
    """Slot -> Flower's node id of everybody who is enrolled now and in no quarantine."""
    with study.database.reading() as session:
        here = Enrolled.revoked.is_(None), Enrolled.quarantined.is_(None), Enrolled.node.is_not(None)
        rows = session.scalars(select(Enrolled).where(*here))
        return {row.slot: int(cast(str, row.node)) for row in rows}


def quarantined(study: Study) -> int:
    """How many places are in quarantine."""
    with study.database.reading() as session:
        here = Enrolled.revoked.is_(None), Enrolled.quarantined.is_not(None)
        return session.scalar(select(func.count()).select_from(Enrolled).where(*here)) or 0


def waiting(round: int, here: int, wanted: int, able: int, least: int) -> str:
    """What a round waits for, in words.

    Args:
        round: which.
        here: enrolled devices that are online.
        wanted: how many must be.
        able: how many of them are of the people whose turn it is.
        least: how many of those must be.
    """
    if here < wanted:
        return f"round {round} waits: {here} of the {wanted} devices that it needs are online"
    return (
        f"round {round} waits: {here} devices are online, but {able} of the people whose turn it is, and "
        f"{least} are needed"
    )


class Deployment(Conduct):
    """See the module's text.

    Args:
        study: its folder.
        grid: Flower's, to see who is online.
        releases: its releases.
        pairs: public pairs that releases are scored on, or None.
    """

    def __init__(self, study: Study, grid: Grid, releases: Releases, pairs: PublicPairs | None) -> None:
        self._study, self._grid, self._releases, self._pairs = study, grid, releases, pairs
        self._audit = Audit(study.folder, study.key)

    def opening(
        self, round: int, arrays: ArrayRecord, wrapper: PersonLevel, stop: threading.Event
    ) -> ArrayRecord:
        """Wait for people, note the round, and give what it begins with."""
        self._wait(round, wrapper, stop)
        content = self._releases.open(round, from_record(arrays))
        self._releases.score(round, self._safety(content))
        if round <= wrapper.rounds:
            with self._study.database.writing() as session:
                if session.get(Round, round) is None:
                    session.add(Round(round=round, began=now()))
        return to_record(content)

    def asked_privately(self, wrapper: PersonLevel) -> Sequence[int]:
        """Those whose update came: somebody who is away would cost a second deadline."""
        return wrapper.answered

    def ended(self, event: RoundEvent) -> None:
        """Note what became of a round; told twice, it notes the same."""
        minimum = self._study.settings.minimum
        values = {
            "asked": len(event.people),
            "replies": event.replies,
            "refused": event.refused,
            "errors": event.errors,
            "void": event.replies < minimum,
        }
        with self._study.database.writing() as session:
            row = session.get_one(Round, event.round)
            fresh = row.ended is None
            for name, value in values.items():
                setattr(row, name, value)
            row.ended, row.seconds, row.gate = now(), event.seconds, event.gate
        for person, reason in event.blamed.items() if fresh else ():
            refuse(self._study, reason, slot=person)
        if fresh and event.refused > len(event.blamed):
            self._study.refuse("reply of nobody who was asked", event.refused - len(event.blamed))
        if fresh and event.errors:
            self._study.refuse("device gave no update", event.errors)
        self._audit.add("round", round=event.round, **values)
        if values["void"]:
            log.warning(
                "round %d is void: %d of %d updates came, %d are needed; who was asked is charged",
                event.round, event.replies, len(event.people), minimum,
            )  # fmt: skip

    def _wait(self, round: int, wrapper: PersonLevel, stop: threading.Event) -> None:
        """Until enough devices are online, or patience ends with as many as an update of each would do.

        With fewer than `minimum` the round could not but be void, and people would be charged for nothing:
        the first who enrols would use up all rounds of a study. Where enough are online, but not of those
        whose turn it is, the round asks nobody, and nobody pays for it.
        """
        settings, began, said = self._study.settings, time.monotonic(), ""
        least = max(1, settings.minimum)
        while True:
            offer = self._study.offer
            if not offer.is_open():
                raise InterruptedRunError(f"the study is closed: its time is {offer.opens} to {offer.closes}")
            enrolled, online = enrolled_nodes(self._study), set(self._grid.get_node_ids())
            # Nobody waits for those in quarantine: one participant would halt the study by getting there.
            wanted = max(least, settings.min_online - quarantined(self._study))
            wrapper.eligible = np.array(sorted(enrolled), np.int64)
            here = sum(node in online for node in enrolled.values())
            able = sum(enrolled[person] in online for person in wrapper.turn(round).tolist())
            late = time.monotonic() - began >= settings.patience
            if here >= wanted and (able >= least or round > wrapper.rounds):
                return self._tell(None)
            if here >= least and late:
                if able < least and round <= wrapper.rounds:
                    log.warning(
                        "round %d asks nobody: %d of its turn are online, %d are needed", round, able, least
                    )
                    wrapper.eligible = np.array([], np.int64)
                return self._tell(None)
            words = waiting(round, here, wanted, able, least)
            if words != said:
                said = words
                self._tell(words)
                log.info("%s", words)
            if stop.wait(LOOK):
                raise InterruptedRunError("the run was stopped")

    def _tell(self, words: str | None) -> None:
        """Let `server status` say what the next round waits for."""
        if self._study.fact(WAITS) != words:
            self._study.set_fact(WAITS, words)

    def _safety(self, arrays: Mapping[str, np.ndarray]) -> dict[str, float] | None:
        if self._pairs is None:
            return None
        loss, accuracy = self._pairs.score(dict(arrays))
        return {"loss": loss, "accuracy": accuracy}
