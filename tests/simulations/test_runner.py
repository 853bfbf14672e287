"""The main job as a function: the shape of its result, every kind of run, and what stops one."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dp_accounting
import numpy as np
import pytest
import toy_world
from dp_accounting.pld import PLDAccountant
from toy_charter import signed_charter
from toy_models import tiny_llama, tiny_tokenizer
from toy_runs import Kit

from commonground.bounds.charter import load_charter
from commonground.errors import CommonGroundError, ConfigError, DataError, InterruptedRunError, StorageError
from commonground.server.job import Job
from commonground.simulations.devices import SimulatedDevice
from commonground.simulations.folder import CONFIG, EVENTS, LOG, NEEDED, REPORT, RESULT, read_events
from commonground.simulations.runner import simulate
from commonground.simulations.settings import read_settings
from commonground.simulations.store import Store
from commonground.training import features

POLICIES = {"base", "pooled", "pooled_central", "local", "shared", "personal"}
SAME = ("policies", "paired", "privacy", "egress", "erased", "format_probe")

Plain = tuple[Path, dict[str, Any]]


class Stopping:
    """Progress that is interrupted where it is told `name` for the `after`-th time."""

    def __init__(self, name: str, after: int = 1) -> None:
        self.name, self.left = name, after

    def stage(self, name: str, done: int, total: int) -> None:
        self._count(name)

    def notice(self, words: str) -> None:
        pass

    def round(self, event: dict[str, Any], total: int) -> None:
        self._count(f"{event['arm']} rounds")

    def _count(self, name: str) -> None:
        self.left -= name == self.name
        if name == self.name and self.left == 0:
            raise KeyboardInterrupt


def leaves(value: Any) -> Iterator[Any]:
    """Every value that is no container."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    if inner is None:
        yield value
    else:
        for one in inner:
            yield from leaves(one)


def test_result_has_every_key_of_the_schema(plain: Plain) -> None:
    folder, result = plain
    assert set(NEEDED) <= set(result)
    assert result["schema"] == 1
    assert {"policies", "per_person", "data", "seconds"} <= set(result["simulation_only"])
    assert result["seconds"] > 0
    assert result["peak_memory_mb"] > 50
    assert {"python", "commonground", "flwr", "torch"} <= set(result["versions"])
    assert set(result["policies"]) == POLICIES
    for table in result["policies"].values():
        assert {"accuracy", "low", "high", "worst_decile", "minority", "people"} <= set(table["taste"])
        assert {"accuracy", "low", "high", "comparisons"} <= set(table["safety"])
    assert {"mean", "low", "high"} <= set(result["paired"]["personal_minus_pooled"])
    assert {"nats", "low", "high", "null"} <= set(result["erased"])
    assert {"taste", "safety"} <= set(result["format_probe"])
    assert {"unit", "epsilon", "delta"} <= set(result["privacy"]["shared"]) & set(
        result["privacy"]["private"]
    )
    assert result["privacy"]["shared"]["unit"] == "person"
    assert result["privacy"]["private"]["unit"] == "comparison"
    assert "unit of privacy is one person" in result["privacy"]["statement"]
    assert {"messages", "bytes", "tensors", "private_tensors", "refused"} <= set(result["egress"])
    assert (folder / CONFIG).is_file()
    assert (folder / REPORT).stat().st_size > 10_000


def test_the_job_s_noise_costs_what_is_printed(kit: Kit, tmp_path: Path) -> None:
    """By Google's accountant, from the job's own numbers: what is added is what is charged."""
    folder = tmp_path / "run"
    result = kit(folder, "privacy.shared.epsilon=4")
    job = Job.load(folder / "state" / "job-shared.json")
    said = result["privacy"]["shared"]
    accountant = PLDAccountant(dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE, 1e-3)
    step = dp_accounting.PoissonSampledDpEvent(job.q, dp_accounting.GaussianDpEvent(job.noise_multiplier))
    accountant.compose(dp_accounting.SelfComposedDpEvent(step, job.rounds))
    found = float(accountant.get_epsilon(said["delta"]))
    charged = said["epsilon_if_many"]  # delta means little over twelve people
    assert 0.9 * charged < found <= charged * 1.01


def test_result_is_clean_json_on_disk(plain: Plain) -> None:
    folder, result = plain
    text = (folder / RESULT).read_text()
    assert json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON")) == result
    for value in leaves(result):
        assert value is None or type(value) in (bool, int, float, str)


def test_accuracies_are_fractions_and_intervals_hold_them(plain: Plain) -> None:
    for table in plain[1]["policies"].values():
        for cell in table.values():
            assert 0 <= cell["low"] <= cell["accuracy"] <= cell["high"] <= 1
    for policy in ("shared", "personal"):
        values = [v for v in plain[1]["per_person"][policy] if v is not None]
        assert all(0 <= v <= 1 for v in values)
        taste = plain[1]["policies"][policy]["taste"]
        assert taste["accuracy"] == pytest.approx(np.mean(values))
        assert taste["people"] == len(values) == 12


def test_what_left_is_what_the_events_say(plain: Plain) -> None:
    folder, result = plain
    events = read_events(folder / EVENTS)
    assert [(e["arm"], e["round"]) for e in events] == [
        (a, r) for a in ("shared", "pooled") for r in (1, 2, 3)
    ]
    assert all({"seconds", "people", "epsilon"} <= set(event) for event in events)
    shared = [event for event in events if event["arm"] == "shared"]
    egress = result["egress"]
    assert egress["messages"] == sum(event["replies"] for event in shared)
    assert egress["bytes"] == sum(event["bytes"] for event in shared) == egress["messages"] * 16 * 4
    assert (egress["tensors"], egress["private_tensors"], egress["refused"]) == (["shared.safety.u"], 0, 0)
    assert result["curves"]["shared"] == shared


def test_few_people_get_no_pretty_epsilon(plain: Plain) -> None:
    shared = plain[1]["privacy"]["shared"]
    assert (shared["epsilon"], shared["meaningful"]) == (None, False)
    assert "no number is claimed" in plain[1]["privacy"]["statement"]
    assert {event["epsilon"] for event in read_events(plain[0] / EVENTS)} == {None}
    assert {line["epsilon"] for arm in plain[1]["curves"].values() for line in arm} == {None}
    assert {receipt["epsilon"] for receipt in plain[1]["egress"]["receipts"]} == {"not claimed"}


def test_same_seed_same_result_other_seed_another(kit: Kit, plain: Plain, tmp_path: Path) -> None:
    again = kit(tmp_path / "again")
    assert {key: again[key] for key in SAME} == {key: plain[1][key] for key in SAME}
    assert kit(tmp_path / "other", "seed=2")["policies"] != again["policies"]


def test_a_finished_run_is_not_touched(kit: Kit, plain: Plain) -> None:
    folder, result = plain
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}
    assert kit(folder) == result
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()} == before


def test_sharing_both_tags_makes_pooled_the_same_as_shared(kit: Kit, tmp_path: Path) -> None:
    result = kit(tmp_path / "run", "shared.tags=[safety,taste]")
    assert result["policies"]["pooled"] == result["policies"]["shared"]
    assert result["paired"]["shared_minus_pooled"]["mean"] == 0
    assert result["egress"]["tensors"] == ["shared.safety.u", "shared.taste.u"]
    assert {event["arm"] for event in read_events(tmp_path / "run" / EVENTS)} == {"shared"}


@pytest.mark.parametrize("schedule", ["alternating", "joint"])
def test_schedules_in_which_private_and_shared_meet(
    kit: Kit, plain: Plain, tmp_path: Path, schedule: str
) -> None:
    result = kit(tmp_path / "run", f"schedule={schedule}")
    assert result["privacy"]["shared"]["schedule"] == schedule
    assert result["egress"]["private_tensors"] == 0
    assert result["policies"]["personal"] != plain[1]["policies"]["personal"]
    assert "cannot influence" not in result["privacy"]["statement"]


def test_devices_add_the_noise_where_nobody_is_trusted(kit: Kit, plain: Plain, tmp_path: Path) -> None:
    result = kit(tmp_path / "run", "privacy.trust=local")
    shared = result["privacy"]["shared"]
    assert (shared["trust"], shared["participations"]) == ("local", 3)
    assert result["egress"]["manifest"]["noise_on_device"] is True
    assert shared["noise_multiplier"] > plain[1]["privacy"]["shared"]["noise_multiplier"]


def test_a_claim_for_one_comparison(kit: Kit, tmp_path: Path) -> None:
    shared = kit(tmp_path / "run", "privacy.unit=comparison")["privacy"]["shared"]
    assert (shared["unit"], shared["sampling"]) == ("comparison", 0.25)


def test_labels_alone_can_be_private(kit: Kit, tmp_path: Path) -> None:
    result = kit(tmp_path / "run", "privacy.private.mechanism=label", "privacy.private.epsilon=2")
    private = result["privacy"]["private"]
    assert (private["mechanism"], private["unit"], private["delta"]) == ("label", "choice", 0.0)
    assert private["flip_probability"] == pytest.approx(1 / (1 + math.e**2))
    assert result["config"]["loss"]["name"] == "rdpo"
    assert "not the text" in result["privacy"]["statement"]


def test_a_reward_that_is_no_line(kit: Kit, plain: Plain, tmp_path: Path) -> None:
    result = kit(tmp_path / "run", "model.form=tanh")
    assert result["egress"]["tensors"] == ["shared.safety.A", "shared.safety.u"]
    assert result["privacy"]["shared"]["numbers"] > plain[1]["privacy"]["shared"]["numbers"]


def test_unseen_people_are_those_who_are_evaluated(kit: Kit, tmp_path: Path) -> None:
    result = kit(tmp_path / "run", "data.split=unseen_people")
    data = result["data"]
    assert (data["people"], data["taking_part"], data["evaluated"]) == (12, 9, 3)
    assert result["privacy"]["shared"]["people"] == 9
    assert result["policies"]["personal"]["taste"]["people"] == 3


def test_a_cold_split_asks_other_questions(kit: Kit, plain: Plain, tmp_path: Path) -> None:
    result = kit(tmp_path / "run", "data.split=cold")
    assert result["config"]["data"]["split"] == "cold"
    assert result["policies"]["base"]["taste"]["accuracy"] == 0.5
    assert result["policies"]["personal"] != plain[1]["policies"]["personal"]


@pytest.mark.parametrize("name", ["fedavgm", "fedadam"])
def test_other_strategies_train_something_else(kit: Kit, plain: Plain, tmp_path: Path, name: str) -> None:
    result = kit(tmp_path / "run", f"strategy.name={name}")
    assert result["config"]["strategy"]["name"] == name
    assert result["policies"]["shared"] != plain[1]["policies"]["shared"]
    assert result["privacy"]["shared"] == plain[1]["privacy"]["shared"]  # post-processing costs nothing


def test_krum_runs_only_where_nothing_is_promised(kit: Kit, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"strategy\.name: krum compares people's updates one by one"
    ) as caught:
        kit(tmp_path / "refused", "strategy.name=krum")
    assert caught.value.exit_code == 2
    assert "fedavg" in caught.value.message
    assert not (tmp_path / "refused").exists()
    result = kit(tmp_path / "run", "strategy.name=krum", "privacy.shared.epsilon=inf")
    assert result["privacy"]["shared"]["epsilon"] == "inf"


@pytest.mark.slow
def test_a_policy_run_has_its_control_and_its_writing_and_resumes(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tiny random language model: everything that a policy run adds is there, and it resumes."""
    charter = signed_charter(tmp_path / "charter")
    base = tmp_path / "base"
    tiny_tokenizer().save_pretrained(base)
    tiny_llama().save_pretrained(base)
    monkeypatch.setattr(features, "Encoder", toy_world.HashEncoder)
    monkeypatch.setenv("COMMONGROUND_CACHE", str(tmp_path / "cache"))
    words = [
        "people=3", "rounds=2", "cohort=2", "data.pairs_per_person=4", "data.test_pairs=2", "model.layers=1",
        "model.rank=2", "shared.steps=1", "privacy.private.steps=4", "evaluation.resamples=100",
        "evaluation.prompts=1", "evaluation.tokens=4", "model.kind=policy", f"model.base={base}",
        f"bounds.charter_file={charter}", "bounds.probes=2",
    ]  # fmt: skip
    config = read_settings(None, words)
    result = simulate(config, tmp_path / "a")
    assert set(result["policies"]) == POLICIES | {"sft"}
    assert {one["shown"][0]["tier"] for one in result["writing"]["people"]} <= {"free", "sensitive", "closed"}
    bounded, digest = result["charter"], load_charter(tmp_path / "charter" / "charter.yaml").digest
    assert bounded["digest"] == result["egress"]["manifest"]["versions"]["charter"] == digest
    assert [one["forbidden"]["answers"] for one in bounded["people"]] == [2, 2, 2]
    assert bounded["policies"]["bounded"]["forbidden"]["held_back"] == 0
    assert set(bounded["policies"]) == set(result["policies"]) | {"bounded"}
    with pytest.raises(InterruptedRunError):
        simulate(config, tmp_path / "b", Stopping("pooled rounds", 2))
    again = simulate(config, tmp_path / "b")
    same = (*SAME, "writing", "charter")
    assert {key: again[key] for key in same} == {key: result[key] for key in same}


def test_bad_data_leaves_no_folder(kit: Kit, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        kit(
            tmp_path / "deep" / "run",
            "data.taste.source=ratings",
            f"data.taste.path={tmp_path / 'nowhere'}",
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("place", "after"),
    [
        ("embedding texts", 1),
        ("shared rounds", 2),
        ("pooled rounds", 1),
        ("local models", 1),
        ("measuring", 1),
    ],
)
def test_an_interrupted_run_says_how_to_go_on_and_does(
    kit: Kit, plain: Plain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, after: int
) -> None:
    folder = tmp_path / "a run"
    config = read_settings(None, kit.overrides)
    if place == "embedding texts":
        monkeypatch.setenv("COMMONGROUND_CACHE", str(tmp_path / "cache"))
    else:
        monkeypatch.setenv("COMMONGROUND_CACHE", kit.variables["COMMONGROUND_CACHE"])
    with pytest.raises(InterruptedRunError, match="what is done is kept") as caught:
        simulate(config, folder, Stopping(place, after))
    assert caught.value.exit_code == 130
    assert caught.value.hint == f"go on with: commonground simulate --resume '{folder}'"
    assert not (folder / RESULT).exists()
    result = simulate(config, folder)
    assert {key: result[key] for key in SAME} == {key: plain[1][key] for key in SAME}
    events = read_events(folder / EVENTS)
    assert len({(event["arm"], event["round"]) for event in events}) == len(events) == 6


def test_a_private_phase_that_fails_is_not_passed_over(
    kit: Kit, plain: Plain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device answers the same constant whether it worked or not; the simulation looks."""

    def crash(self: SimulatedDevice, round: int, shared: Any, final: bool) -> None:
        raise RuntimeError("what a person wrote")

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(SimulatedDevice, "private_update", crash)
        with pytest.raises(
            CommonGroundError, match=r"round 1: the private phase of \d of \d devices"
        ) as caught:
            kit(folder)
    assert caught.value.exit_code == 1
    assert "what a person wrote" not in f"{caught.value} {caught.value.hint}"
    assert caught.value.hint == f"{folder / LOG} says why"
    assert "what a person wrote" in (folder / LOG).read_text()
    result = kit(folder)  # mended, it goes on
    assert {key: result[key] for key in SAME} == {key: plain[1][key] for key in SAME}


def test_a_disk_that_is_full_on_the_devices_is_said_to_be_full(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Store, *args: Any) -> None:
        raise StorageError("cannot write private.sqlite: database or disk is full")

    with monkeypatch.context() as patch:
        for write in ("write", "write_many", "keep_receipt"):
            patch.setattr(Store, write, full)
        with pytest.raises(StorageError, match="disk is full") as caught:
            kit(tmp_path / "run")
    assert caught.value.exit_code == 2


def test_a_page_that_cannot_be_written_leaves_no_result(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from commonground.simulations import runner

    def full(*_: Any) -> None:
        raise StorageError("the report cannot be written")

    with monkeypatch.context() as patch:
        patch.setattr(runner, "build_page", full)
        with pytest.raises(StorageError, match="report"):
            kit(tmp_path / "run")
    assert not (tmp_path / "run" / RESULT).exists()
    assert kit(tmp_path / "run")["schema"] == 1


def test_private_states_that_are_gone_are_not_made_up(kit: Kit, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    kit(folder)
    (folder / RESULT).unlink()
    (folder / "state" / "private.sqlite").unlink()
    with pytest.raises(CommonGroundError, match=r"private\.sqlite is missing") as caught:
        kit(folder)
    assert caught.value.exit_code == 2


def test_one_folder_name_twice_in_a_process_is_two_runs(kit: Kit, plain: Plain, tmp_path: Path) -> None:
    """No open store and no world of the first run is used by the second."""
    kit(tmp_path / "run", "seed=2")
    shutil.rmtree(tmp_path / "run")
    result = kit(tmp_path / "run")
    assert {key: result[key] for key in SAME} == {key: plain[1][key] for key in SAME}
