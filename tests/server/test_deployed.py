"""Rounds of real people: the same bits as a simulation, deadlines, void rounds, kills, rollbacks."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_device
import toy_study
from flwr.app import Message
from sqlalchemy import select
from toy_patience import a_while, joined
from toy_study import PEOPLE, ROUNDS, ToyNodes, make_study, node_of

from commonground.client.app import app
from commonground.client.devices import OPENERS
from commonground.errors import InputError, InterruptedRunError, RunFolderError
from commonground.privacy.ledger import Ledger
from commonground.server import deployed
from commonground.server.audit import entries, verify
from commonground.server.deployed import run_study, study_job
from commonground.server.enrolment import revoke
from commonground.server.releases import Releases
from commonground.server.rounds import Outcome, load_outcome, run_rounds
from commonground.server.state import Study
from commonground.server.tables import Enrolled, Released, Round
from commonground.simulations.grid import InProcessGrid
from commonground.strategies.cohort import draw_cohort
from commonground.study.release import tensors_digest


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    monkeypatch.setitem(OPENERS, "toy-study", toy_study.open_device)
    monkeypatch.setenv("COMMONGROUND_DEVICE", "toy-study")
    monkeypatch.setenv("TOY_STORE", str(tmp_path / "store"))
    monkeypatch.setenv(toy_study.STUDY, str(tmp_path / "study"))
    monkeypatch.setattr(deployed, "LOOK", 0.01)


def bits(outcome: Outcome) -> bytes:
    return b"".join(value.tobytes() for value in outcome.arrays.values())


def releases(study: Study) -> list[tuple[int, int, str]]:
    with study.database.reading() as session:
        return [(r.version, r.round, r.tensors) for r in session.scalars(select(Released))]


def rounds(study: Study) -> list[Round]:
    with study.database.reading() as session:
        return list(session.scalars(select(Round)))


def test_rounds_are_those_of_a_simulation_and_each_begins_with_a_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study(tmp_path / "study", ["privacy.shared.epsilon=2"])
    job = study_job(study)
    assert job.mechanism
    assert job.noise_multiplier > 0
    assert job.seed > 2**200
    outcome = run_study(ToyNodes(), study)
    assert outcome.finished
    assert outcome.counts["errors"] == 0
    assert outcome.counts["messages"] == PEOPLE * ROUNDS

    monkeypatch.setitem(OPENERS, "toy", toy_device.open_device)
    monkeypatch.setenv("COMMONGROUND_DEVICE", "toy")
    alone = replace(job, checkpoint=str(tmp_path / "simulated"), ledger=None)
    assert bits(run_rounds(InProcessGrid(app, PEOPLE), alone)) == bits(outcome)

    found = releases(study)
    assert [(version, round) for version, round, _ in found] == [(k, k) for k in range(1, ROUNDS + 2)]
    assert len({digest for *_, digest in found}) == ROUNDS + 1
    assert found[-1][2] == tensors_digest(study.manifest, outcome.arrays)
    view = study.overview()
    assert view["finished"]
    assert view["rounds"]["done"] == ROUNDS
    assert view["rounds"]["void"] == 0
    assert [row["replies"] for row in view["rounds"]["list"]] == [PEOPLE] * ROUNDS
    assert view["budget"]["spent"] == pytest.approx(view["budget"]["epsilon"])
    assert verify(study.folder, study.signer)["lines"] == len(entries(study.folder))


@pytest.mark.slow
@pytest.mark.parametrize(
    "place", ["shared:2:3:kill", pytest.param("private:3:0:kill", marks=pytest.mark.night)]
)
def test_a_server_that_is_killed_in_a_round_goes_on_and_releases_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    study = make_study(tmp_path / "study", ["privacy.shared.epsilon=2"])
    command = [sys.executable, toy_study.__file__, str(study.folder)]
    killed = subprocess.run(command, env=os.environ | {"TOY_FAULT": place}, check=False)
    assert killed.returncode == -9
    before, done = releases(study), load_outcome(study_job(study)).round
    assert before[-1][1] == int(place.split(":")[1]) == done + 1  # its round was out and not done
    again = subprocess.run(command, check=False, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    after, outcome = releases(study), load_outcome(study_job(study))
    assert after[: len(before)] == before
    assert len(after) == ROUNDS + 1
    assert outcome.finished
    assert outcome.counts["errors"] == 0
    whole = make_study(tmp_path / "whole", ["privacy.shared.epsilon=2"])
    (whole.folder / "seed.key").write_text((study.folder / "seed.key").read_text())
    monkeypatch.setenv(toy_study.STUDY, str(whole.folder))
    for path in (tmp_path / "store").glob("release-*"):
        path.unlink()
    assert bits(run_study(ToyNodes(), whole)) == bits(outcome)


def test_a_round_with_too_few_updates_is_void_and_charged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study(tmp_path / "study", ["privacy.shared.epsilon=2"], minimum=PEOPLE)
    monkeypatch.setenv("TOY_FAULT", "shared:2:1:raise")
    outcome = run_study(ToyNodes(), study)
    assert [row.void for row in rounds(study)] == [False, True, False, False]
    digests = [digest for *_, digest in releases(study)]
    assert digests[1] == digests[2]
    assert len(set(digests)) == ROUNDS
    assert [version for version, *_ in releases(study)] == [1, 2, 3, 4, 5]
    assert outcome.counts["skipped"] == 1
    assert study.refusals() == {"device gave no update": 1}
    job = study_job(study)
    with Ledger(Path(str(job.ledger)), job.digest, "gaussian") as ledger:
        assert sum(charge.steps for charge in ledger.spent("person 0")) == ROUNDS


def test_only_the_enrolled_are_asked(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study", enrolled=3)
    grid = ToyNodes()
    gone: list[int] = []

    def leave(node: int) -> None:
        gone.append(node)

    assert revoke(study, "p1", leave)
    assert gone == [node_of(1)]
    outcome = run_study(grid, study)
    assert outcome.taken_part.tolist() == [ROUNDS, 0, ROUNDS, 0]
    assert {row.asked for row in rounds(study)} == {2}
    assert outcome.counts["errors"] == 0
    with pytest.raises(InputError, match="nobody called 'p9'"):
        revoke(study, "p9", None)


def until_round_3(study: Study) -> None:
    """Run a study and stop it in its third round."""
    stop = threading.Event()

    class Stopping(ToyNodes):
        def push_messages(self, messages: Iterable[Message]) -> Any:
            found = list(messages)
            if found and int(found[0].content["config"]["round"]) == 3:
                stop.set()
            return super().push_messages(found)

    with pytest.raises(InterruptedRunError):
        run_study(Stopping(), study, stop)


def test_momentum_does_not_outlive_what_was_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Momentum is empty in a first step, so version 2 and what follows it are those of a study without.

    Two studies that differ in a setting have no noise in common; these two are given the same.
    """
    monkeypatch.setattr("commonground.server.deployed.message_noise_seed", lambda *_: 7)
    found = []
    for name, option in (("with", "{server_momentum: 0.9}"), ("without", "{server_momentum: 0.0}")):
        study = make_study(
            tmp_path / name, ["strategy.name=fedavgm", f"strategy.options={option}", "strategy.average=false"]
        )
        (tmp_path / f"{name}-devices").mkdir()
        monkeypatch.setenv("TOY_STORE", str(tmp_path / f"{name}-devices"))
        monkeypatch.setenv(toy_study.STUDY, str(study.folder))
        (study.folder / "seed.key").chmod(0o600)
        (study.folder / "seed.key").write_text("7")
        until_round_3(study)
        Releases(study).roll_back(2)
        run_study(ToyNodes(), study)
        found.append([tensors for _, _, tensors in releases(study)])
    momentum, plain = found
    assert momentum[2] != plain[2]  # else momentum would not show
    assert [momentum[k] for k in (0, 1, 3, 4)] == [plain[k] for k in (0, 1, 3, 4)]


def test_an_earlier_release_is_taken_up_again_under_a_new_number(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study")
    until_round_3(study)
    with pytest.raises(InputError, match="no release 9; known: 1 to 3"):
        Releases(study).roll_back(9)
    Releases(study).roll_back(2)
    run_study(ToyNodes(), study)  # round 3 is out already: it is round 4 that begins anew
    found = releases(study)
    assert found[3][:2] == (4, 4)
    assert found[3][2] == found[1][2] != found[2][2]
    with study.database.reading() as session:
        assert [row.of for row in session.scalars(select(Released))] == [None, None, None, 2, None]
    assert study.fact("rollback") is None
    with pytest.raises(InputError, match="all rounds are done"):  # and not a promise that nothing keeps
        Releases(study).roll_back(2)
    assert study.fact("rollback") is None


def test_an_operator_s_second_word_while_a_round_begins_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study(tmp_path / "study")
    own, other = Releases(study), Releases(study)
    values = [
        {spec.name: np.full(spec.shape, k, np.float32) for spec in study.manifest.broadcast} for k in range(3)
    ]
    own.open(1, values[0])
    own.open(2, values[1])
    other.roll_back(1)
    keep = Releases._keep

    def meanwhile(self: Releases, digest: str, arrays: dict[str, Any]) -> None:
        other.roll_back(2)
        keep(self, digest, arrays)

    monkeypatch.setattr(Releases, "_keep", meanwhile)
    assert all(not value.any() for value in own.open(3, values[2]).values())
    assert study.fact("rollback") == "2"


def test_what_a_round_went_out_with_is_not_signed_anew(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study")
    own = Releases(study)
    first = {spec.name: np.zeros(spec.shape, np.float32) for spec in study.manifest.broadcast}
    other = {name: value + 1 for name, value in first.items()}
    own.open(1, first)
    paper = own.paper(1, first)
    again = own.open(1, other)
    assert all(np.array_equal(again[name], first[name]) for name in first)
    assert own.paper(1, again) == paper
    with pytest.raises(RunFolderError, match="round 1 was not released with these tensors"):
        own.paper(1, other)
    with pytest.raises(RunFolderError, match="round 2 was not released"):
        own.paper(2, first)
    path = next((study.folder / "releases").glob("*.npz"))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(RunFolderError, match="cannot be read"):
        own.open(1, first)


class Slow(ToyNodes):
    """One node whose replies are there only after a while."""

    def __init__(self, slow: int, seconds: float) -> None:
        super().__init__()
        self.slow, self.seconds, self.held = slow, seconds, dict[str, tuple[float, Message]]()

    def _keep(self, message: Message, reply: Message) -> None:
        super()._keep(message, reply)
        if message.metadata.dst_node_id == self.slow and message.metadata.message_type == "train":
            name = message.metadata.message_id
            self.held[name] = time.monotonic() + self.seconds, self._replies.pop(name)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        for name, (at, reply) in list(self.held.items()):
            if time.monotonic() >= at:
                self._replies[name] = reply
                del self.held[name]
        return super().pull_messages(message_ids)


def test_a_straggler_costs_one_deadline_and_its_late_update_is_dropped_and_counted(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study", ["rounds=2"], deadline=0.8)
    outcome = run_study(Slow(node_of(2), 1.2), study)
    assert outcome.finished
    assert outcome.counts["messages"] == 2 * (PEOPLE - 1)
    late = study.refusals()
    assert set(late) == {"reply came after its deadline"}
    assert late["reply came after its deadline"] in (1, 2)  # the second may come after the end
    assert not list((tmp_path / "store").glob("2-[0-9]"))  # and nobody who was late is asked further


def aside(
    grid: ToyNodes, study: Study, stop: threading.Event
) -> tuple[threading.Thread, list[BaseException]]:
    """Rounds in a thread, and what they end with."""
    failed: list[BaseException] = []

    def work() -> None:
        try:
            run_study(grid, study, stop)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    return thread, failed


def test_it_waits_for_people_and_no_longer_than_patience(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study(tmp_path / "study", ["rounds=1"], min_online=3)
    grid, stop = ToyNodes([node_of(0), 999]), threading.Event()  # 999 is known to Flower and not enrolled
    thread, failed = aside(grid, study, stop)
    a_while(0.3)
    assert thread.is_alive()
    assert not releases(study)
    grid.nodes = [node_of(slot) for slot in range(PEOPLE)]
    joined(thread)
    assert not failed
    assert study.fact("finished") == "yes"

    hurried = make_study(tmp_path / "hurried", ["rounds=1"], min_online=3, minimum=1)
    hurried.change(patience=0.1)
    monkeypatch.setenv(toy_study.STUDY, str(hurried.folder))
    with pytest.raises(ValueError, match="message to node"):  # it began with the one who is here
        run_study(ToyNodes([node_of(0)]), hurried)
    assert [round for _, round, _ in releases(hurried)] == [1]


def test_no_round_begins_that_cannot_but_be_void(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study", ["rounds=2"], minimum=3, enrolled=1)
    study.change(patience=0.0)
    grid, stop = ToyNodes([node_of(0)]), threading.Event()
    thread, failed = aside(grid, study, stop)
    a_while(0.5)
    assert releases(study) == []  # the first who enrols does not use up the study's rounds
    assert not (study.folder / "ledger.db").exists()
    stop.set()
    joined(thread)
    assert [type(error) for error in failed] == [InterruptedRunError]


def test_a_round_whose_turn_is_away_asks_nobody_and_nobody_pays(tmp_path: Path) -> None:
    banded = ["privacy.shared.mechanism=banded", "privacy.shared.band=2", "cohort=2"]
    study = make_study(tmp_path / "study", banded, minimum=2)
    study.change(patience=0.0)
    (study.folder / "seed.key").chmod(0o600)
    (study.folder / "seed.key").write_text("4")
    turns = [draw_cohort(4, round, np.arange(PEOPLE), 0.5, 2).tolist() for round in (1, 2)]
    assert [len(turn) for turn in turns] == [2, 2]
    away = turns[0][0]
    with pytest.raises(ValueError, match=f"message to node {node_of(away)}"):  # the last private phase
        run_study(ToyNodes([node_of(person) for person in range(PEOPLE) if person != away]), study)
    assert [(r.round, r.asked, r.void) for r in rounds(study)] == [
        (1, 0, True), (2, 2, False), (3, 0, True), (4, 2, False),
    ]  # fmt: skip
    with Ledger(study.folder / "ledger.db", study_job(study).digest, "gaussian") as ledger:
        paid = [bool(ledger.spent(f"person {person}")) for person in range(PEOPLE)]
    assert paid == [person in turns[1] for person in range(PEOPLE)]


def test_a_closed_study_asks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = make_study(tmp_path / "study")
    monkeypatch.setattr(type(study.offer), "is_open", lambda self: False)
    with pytest.raises(InterruptedRunError, match="the study is closed: its time is"):
        run_study(ToyNodes(), study)
    assert releases(study) == []


def test_nodes_are_kept_as_texts_of_64_bits(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study", enrolled=0)
    with study.database.writing() as session:
        session.add(Enrolled(slot=0, name="a", key="k", since="", node=str(2**64 - 1)))
    assert deployed.enrolled_nodes(study) == {0: 2**64 - 1}
