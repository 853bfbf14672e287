"""Releases of a reward study are scored on public pairs, and the gate judges by them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import toy_study
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from toy_encoder import save_encoder

from commonground.errors import RunFolderError
from commonground.server import deployed
from commonground.server.deployed import gate_pairs, run_study
from commonground.server.public_pairs import public_pairs
from commonground.server.setup import Wanted, init_study
from commonground.server.state import Study
from commonground.server.tables import Enrolled
from commonground.strategies.records import from_record, to_record
from commonground.training.public_pairs import PublicPairs


@pytest.fixture
def study(tmp_path: Path) -> Study:
    base = save_encoder(tmp_path / "encoder")
    values = ["people=4", "rounds=3", "cohort=4", "privacy.shared.epsilon=inf", "gate.enabled=true"]
    values.append(f"model.base={base}")
    init_study(
        tmp_path / "study",
        Wanted(
            "central", "s", "127.0.0.1:1", "2099-01-01", "p", "c", overrides=[*values, f"model.base={base}"]
        ),
    )
    found = Study(tmp_path / "study")
    with found.database.writing() as session:
        for slot in range(4):
            node = str(toy_study.node_of(slot))
            session.add(Enrolled(slot=slot, name=f"p{slot}", key=f"k{slot}", since="", node=node))
    return found


def test_scores_and_gradient_of_public_pairs(study: Study) -> None:
    pairs = public_pairs(study.config)
    assert isinstance(pairs, PublicPairs)
    first = {spec.name: np.zeros(spec.shape, np.float64) for spec in study.manifest.broadcast}
    loss, accuracy = pairs.score(first)
    assert loss == pytest.approx(np.log(2), abs=1e-6)  # an adapter of zeros tells no answers apart
    assert accuracy == 0.5
    slope = pairs.gradient(first)
    step = {name: value - 1e-3 * slope[name] for name, value in first.items()}
    down = sum(float(np.square(value).sum()) for value in slope.values())
    assert pairs.score(step)[0] == pytest.approx(loss - 1e-3 * down, abs=1e-5)
    assert pairs.score({n: v - 2.0 * slope[n] for n, v in first.items()})[1] > 0.5


def test_a_harmful_round_is_undone_and_shown(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployed, "LOOK", 0.01)
    with pytest.raises(RunFolderError, match="no study is run in this process"):
        gate_pairs()
    pairs = public_pairs(study.config)
    assert pairs is not None
    app = ClientApp()

    @app.train()  # type: ignore[untyped-decorator]
    def shared(message: object, context: object) -> object:
        assert isinstance(message, Message)
        start = {n: v.astype(np.float64) for n, v in from_record(message.content["arrays"]).items()}
        step = 50.0 if int(message.content["config"]["round"]) == 2 else -2.0
        slope = pairs.gradient(start)
        update = {name: (step * value).astype(np.float32) for name, value in slope.items()}
        record: ArrayRecord = to_record(update)
        return Message(
            RecordDict({"arrays": record, "metrics": MetricRecord({"num-examples": 1})}), reply_to=message
        )

    @app.train("private")  # type: ignore[untyped-decorator]
    def private(message: object, context: object) -> object:
        assert isinstance(message, Message)
        return Message(RecordDict(), reply_to=message)

    grid = toy_study.ToyNodes()
    grid._app = app
    try:
        run_study(grid, study)
    finally:
        deployed._PAIRS.clear()
    view = study.overview()
    gates = {row["round"]: row["gate"] for row in view["rounds"]["list"]}
    assert gates[2]["action"] in ("repaired", "rolled_back")
    assert gates[2]["proposed"] > gates[2]["allowed"]
    safety = {row["round"]: row["safety"] for row in view["releases"]}
    assert safety[1] == {"loss": pytest.approx(np.log(2), abs=1e-6), "accuracy": 0.5}
    assert safety[2]["loss"] <= np.log(2) + study.config.gate.tolerance
    assert safety[3]["loss"] < gates[2]["proposed"]
    for round in (1, 2):  # what the gate decided is what the next release is shown with; the last is a mean
        assert safety[round + 1]["loss"] == pytest.approx(gates[round]["loss"], abs=1e-5)
    assert safety[4]["loss"] < np.log(2) + study.config.gate.tolerance
