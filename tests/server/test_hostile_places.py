"""Hostile participants, each of a kind of its own, all at once in one study, under both trusts.

The class: what one participant sends may cost nobody but them. The study must reach its end, take every
honest message, name the place of every hostile one, and stop asking it. An earlier test ran under central
trust alone, where a norm is promised, and so never saw that local trust checked none.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import toy_device
import toy_study
from flwr.app import Array, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from typer.testing import CliRunner

from commonground.client.handlers import REFUSED, REFUSED_REASON
from commonground.errors import InputError
from commonground.privacy.tail import honest_reach
from commonground.server import deployed
from commonground.server.audit import entries
from commonground.server.commands import server_app
from commonground.server.deployed import enrolled_nodes, run_study, study_job
from commonground.server.enrolment import revoke
from commonground.server.places import pardon, refuse, refuse_node
from commonground.server.state import Study
from commonground.simulations.grid import InProcessGrid
from commonground.strategies.arrivals import NOT_ALLOWED, TOO_LONG
from commonground.strategies.records import train_content

HONEST, ROUNDS, MOST = 3, 6, 2
GRID = toy_device.manifest().grid
MARK = "stranger's words %s {0} \x1b[31m"
Arrays = dict[str, np.ndarray]
Answer = Callable[[Study, Arrays], RecordDict | Error]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployed, "LOOK", 0.01)


def good(value: float = 0.1) -> Arrays:
    """An update on the grid."""
    value = round(value / GRID) * GRID
    return {spec.name: np.full(spec.shape, value, np.float32) for spec in toy_device.SPECS}


def with_data(data: bytes) -> Answer:
    def answer(study: Study, right: Arrays) -> RecordDict:
        content = train_content(right)
        content["arrays"]["head.a"] = Array("float32", (3,), "numpy.ndarray", data)
        return content

    return answer


def npy(text: str) -> bytes:
    data = text.encode("latin1").ljust(118) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(data).to_bytes(2, "little") + data + bytes(12)


def first(value: object) -> Answer:
    return lambda study, right: train_content(right | {"head.a": np.asarray(value)})


def over(study: Study, right: Arrays) -> RecordDict:
    """Just over what an honest message can be."""
    wrapper = study_job(study).wrapper()
    most = honest_reach(wrapper.manifest, wrapper.device_noise).joint
    return train_content(good(1.01 * most / np.sqrt(wrapper.manifest.size)))


def record(name: str, value: MetricRecord | ConfigRecord) -> Answer:
    def answer(study: Study, right: Arrays) -> RecordDict:
        content = train_content(right)
        content[name] = value
        return content

    return answer


KINDS: dict[str, Answer] = {
    "a huge norm": first(np.full(3, 1e30, np.float32)),
    "aimed at the end of float32": first(np.full(3, 3e38, np.float32)),
    "just over the bound": over,
    "NaN": first(np.full(3, np.nan, np.float32)),
    "infinite": first(np.full(3, -np.inf, np.float32)),
    "off the grid": first(np.array([GRID, 1.5 * GRID, 0.0], np.float32)),
    "another shape": first(np.zeros((9, 9), np.float32)),
    "another dtype": first(np.zeros(3, np.float64)),
    "another name": lambda study, right: train_content(right | {MARK: np.zeros(3, np.float32)}),
    "a tensor less": lambda study, right: train_content({"head.a": right["head.a"]}),
    "an open bracket": with_data(npy("{'descr': '<f4', 'fortran_order': False, 'shape': (3,")),
    "a giant shape": with_data(npy("{'descr': '<f4', 'fortran_order': False, 'shape': (10000000000000,), }")),
    "a recursion": with_data(npy("{'descr': '<f4', 'fortran_order': False, 'shape': " + "-" * 3000 + "1}")),
    "a pickle": with_data(b"\x80\x04cos\nsystem\n(S'touch /tmp/x'\ntR."),
    "a weight": record("metrics", MetricRecord({"num-examples": 10**12})),
    "a record more": record("more", ConfigRecord({"text": MARK})),
    "an error of a page": lambda study, right: Error(1001, MARK * 100),
    "nothing": lambda study, right: RecordDict(),
}
PLACES = HONEST + len(KINDS)
LONG = {"just over the bound"}  # what is larger still is off the grid


class Nodes(InProcessGrid):
    """Honest people at the first places, one of each kind at the others."""

    def __init__(self, study: Study) -> None:
        app, self.study, self.honest = ClientApp(), study, 0
        self.asked: dict[int, list[int]] = {}

        @app.train()  # type: ignore[untyped-decorator]
        def answer(message: Message, context: Context) -> Message:
            config = message.content["config"]
            person, round = int(config["person"]), int(config["round"])
            self.asked.setdefault(person, []).append(round)
            if person < HONEST:
                self.honest += 1
                return Message(train_content(good(0.01 * (person + 1))), reply_to=message)
            return Message(list(KINDS.values())[person - HONEST](self.study, good()), reply_to=message)

        @app.train("private")  # type: ignore[untyped-decorator]
        def private(message: Message, context: Context) -> Message:
            return Message(RecordDict(), reply_to=message)

        super().__init__(app, 0)
        self.nodes = [toy_study.node_of(slot) for slot in range(PLACES)]

    def get_node_ids(self) -> list[int]:
        return self.nodes


def made(folder: Path, trust: str) -> Study:
    values = [f"people={PLACES}", f"cohort={PLACES}", f"rounds={ROUNDS}", "privacy.shared.epsilon=8"]
    study = toy_study.make_study(folder, values, enrolled=PLACES, trust=trust, minimum=1)
    study.change(quarantine=MOST, min_online=PLACES)  # nobody waits for those in quarantine
    return study


@pytest.mark.parametrize("trust", ["local", "central"])
def test_every_kind_is_refused_named_and_asked_no_more_and_the_study_goes_on(
    tmp_path: Path, trust: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    study = made(tmp_path / "study", trust)
    grid = Nodes(study)
    outcome = run_study(grid, study, threading.Event())
    assert (outcome.round, outcome.finished) == (ROUNDS, True)
    assert grid.honest == outcome.counts["messages"] == HONEST * ROUNDS
    view = study.overview()
    assert view["trouble"] is None
    assert [row["replies"] for row in view["rounds"]["list"]] == [HONEST] * ROUNDS
    named = {row["slot"]: row for row in view["places"]}
    assert set(named) == set(range(HONEST, PLACES))  # every hostile place, and no honest one
    for slot, kind in enumerate(KINDS, HONEST):
        reason = TOO_LONG if trust == "local" and kind in LONG else NOT_ALLOWED
        assert {name: one["count"] for name, one in named[slot]["reasons"].items()} == {reason: MOST}, kind
        assert named[slot]["quarantined"], kind
        assert grid.asked[slot] == list(range(1, MOST + 1)), kind
    assert sorted(enrolled_nodes(study)) == list(range(HONEST))
    events = [e["values"]["slot"] for e in entries(study.folder) if e["event"] == "quarantined"]
    assert sorted(events) == list(range(HONEST, PLACES))
    everything = json.dumps(view, default=str) + json.dumps(entries(study.folder)) + caplog.text
    assert "stranger's words" not in everything
    assert "\x1b[31m" not in everything


def test_a_place_is_counted_on_the_disk_pardoned_and_shown_with_what_can_be_done(tmp_path: Path) -> None:
    study = made(tmp_path / "study", "central")
    refuse_node(study, NOT_ALLOWED, toy_study.node_of(4))
    assert study.overview()["places"][0]["quarantined"] is None
    study.close()
    again = Study(study.folder)  # another process counts on
    refuse(again, TOO_LONG, slot=4)
    (place,) = again.overview()["places"]
    assert (place["name"], place["refused"]) == ("p4", 2)
    assert place["quarantined"]
    assert 4 not in enrolled_nodes(again)
    said = CliRunner().invoke(server_app, ["status", str(study.folder)]).output
    flat = " ".join(said.split())
    assert "p4 (place 5): 2 refused" in flat
    assert "in quarantine since" in flat
    assert f"server pardon {study.folder} p4" in said.replace("\n", "").replace("  ", " ") or "pardon" in flat
    assert CliRunner().invoke(server_app, ["pardon", str(study.folder), "p4"]).exit_code == 0
    assert 4 in enrolled_nodes(again)
    for name, words in (("p4", "is not in quarantine"), ("nobody", "nobody called 'nobody'")):
        with pytest.raises(InputError, match=words):
            pardon(again, name)
    refuse(again, TOO_LONG, slot=4)  # counts anew; what was refused before is still shown
    (place,) = again.overview()["places"]
    assert (place["refused"], place["since_pardon"], place["quarantined"]) == (3, 1, None)
    revoke(again, "p4", None)
    with pytest.raises(InputError, match="revoked, which is for good"):
        pardon(again, "p4")
    again.change(quarantine=0)
    refuse(again, TOO_LONG, slot=5, count=1000)
    assert 5 in enrolled_nodes(again)
    refuse_node(again, NOT_ALLOWED, 10**12)  # of no place: counted all the same
    assert again.refusals()[NOT_ALLOWED] == 2


def test_an_honest_refusal_is_nobodys_fault(tmp_path: Path) -> None:
    """A device that is paused, spent or busy answers a constant: that is no refusal of the server's."""
    study = made(tmp_path / "study", "central")
    grid = Nodes(study)
    app = ClientApp()

    @app.train()  # type: ignore[untyped-decorator]
    def answer(message: Message, context: Context) -> Message:
        if int(message.content["config"]["person"]) == 0:
            return Message(Error(REFUSED, REFUSED_REASON), reply_to=message)
        return Message(train_content(good()), reply_to=message)

    @app.train("private")  # type: ignore[untyped-decorator]
    def private(message: Message, context: Context) -> Message:
        return Message(RecordDict(), reply_to=message)

    calm = InProcessGrid(app, 0)
    calm.get_node_ids = grid.get_node_ids  # type: ignore[method-assign]
    assert run_study(calm, study, threading.Event()).finished
    assert study.overview()["places"] == []
    assert study.refusals() == {"device gave no update": ROUNDS}
