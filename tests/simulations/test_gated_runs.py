"""The safety gate and the norm bound in whole small runs: logged, counted, resumable, at no privacy cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_world
from toy_runs import Kit

from commonground.errors import ConfigError, InterruptedRunError
from commonground.server.checkpoint import load_state
from commonground.server.job import Job
from commonground.simulations import public_safety as publics
from commonground.simulations.engine import environment
from commonground.simulations.folder import EVENTS
from commonground.simulations.public_safety import pairs_under, public_pairs
from commonground.simulations.runner import Silent, simulate
from commonground.simulations.settings import read_settings
from commonground.training.reward import RewardModel

GATE = ("gate.enabled=true", "gate.tolerance=0", "strategy.norm_bound=0.5")
Found = tuple[Path, dict[str, Any]]


class StopsAt(Silent):
    """Presses Ctrl-C when a round is done."""

    def __init__(self, arm: str, round: int) -> None:
        self.at = arm, round

    def round(self, event: dict[str, Any], total: int) -> None:
        """A round is done and not yet saved."""
        if (event["arm"], event["round"]) == self.at:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def gated(kit: Kit, tmp_path_factory: pytest.TempPathFactory) -> Found:
    folder = tmp_path_factory.mktemp("gated") / "run"
    return folder, kit(folder, *GATE)


def events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / EVENTS).read_text().splitlines()]


def test_every_decision_is_logged_in_numbers_and_counted(gated: Found) -> None:
    folder, result = gated
    lines = events(folder)
    assert all(line["gate"]["reason"] for line in lines)
    for arm in ("shared", "pooled"):
        own = [line["gate"] for line in lines if line["arm"] == arm]
        found = dict(result["gate"][arm])
        assert found.pop("last") == {"round": 3, **own[-1]}
        assert found == {
            a: sum(d["action"] == a for d in own) for a in ("accepted", "repaired", "rolled_back")
        }
        assert sum(found.values()) == 3
        assert found["accepted"] < 3  # the public pairs alone lead further than twelve noisy people
        kept = load_state(Job.load(folder / "state" / f"job-{arm}.json").checkpoint_file)
        assert kept is not None
        assert kept["wrapper"]["inner"]["counts"] == found


def test_what_is_promised_is_what_is_promised_without_it(gated: Found, plain: Found) -> None:
    """Post-processing: the same statement, word for word, the same epsilon, the same bytes out of devices."""
    assert gated[1]["privacy"] == plain[1]["privacy"]
    for key in ("messages", "bytes", "tensors", "manifest", "refused"):
        assert gated[1]["egress"][key] == plain[1]["egress"][key]
    assert [line["epsilon"] for line in events(gated[0])] == [line["epsilon"] for line in events(plain[0])]


def test_a_run_without_it_does_not_know_of_it(plain: Found) -> None:
    assert "gate" not in plain[1]
    assert all("gate" not in line for line in events(plain[0]))
    job = Job.load(plain[0] / "state" / "job-shared.json")
    assert (job.gate, job.norm_bound) == ({}, float("inf"))
    assert type(job.wrapper().inner).__name__ == "FedAvg"


@pytest.mark.parametrize("at", [("shared", 2), ("pooled", 1)])
def test_a_run_that_is_stopped_goes_on_to_the_same_bytes(
    kit: Kit, gated: Found, tmp_path: Path, at: tuple[str, int]
) -> None:
    folder = tmp_path / "run"
    with environment(kit.variables):
        config = read_settings(None, [*kit.overrides, *GATE])
        with pytest.raises(InterruptedRunError):
            simulate(config, folder, StopsAt(*at))
        result = simulate(config, folder)
    for key in ("gate", "policies", "privacy", "egress", "per_person", "per_person_safety"):
        assert result[key] == gated[1][key], key
    assert [line["gate"] for line in events(folder)] == [line["gate"] for line in events(gated[0])]


def test_a_fleet_decides_the_same(kit: Kit, gated: Found, tmp_path: Path) -> None:
    result = kit(tmp_path / "run", *GATE, "runtime=fleet")
    for arm in ("shared", "pooled"):
        one, many = dict(gated[1]["gate"][arm]), dict(result["gate"][arm])
        assert one.pop("last")["loss"] == pytest.approx(many.pop("last")["loss"], abs=1e-4)
        assert one == many


def test_a_language_model_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError) as refused:
        read_settings(None, ["gate.enabled=true", "model.kind=policy"])
    (fault,) = refused.value.faults
    assert "gate.enabled: found true with model.kind=policy; accepted: false, or model.kind=reward" in fault


@pytest.mark.parametrize("runtime", ["inprocess", "fleet"])
def test_no_public_pair_is_in_anybodys_test(monkeypatch: pytest.MonkeyPatch, runtime: str) -> None:
    world = toy_world.tiny_world(monkeypatch, runtime=runtime, people=30, evaluation__people=2)
    pairs = public_pairs(world)
    tests = [c for c in world.population.test if c.tag == "safety"]
    assert {c.prompt for c in tests}.isdisjoint(pair.prompt for pair in pairs)
    everybody = toy_world.tiny_world(monkeypatch, people=30, data__test_pairs=600)
    assert {c.prompt for c in everybody.population.test if c.tag == "safety"}.isdisjoint(
        p.prompt for p in pairs
    )
    assert public_pairs(everybody) == pairs  # whoever is evaluated, and whatever is at hand
    assert len(pairs) == 63


def test_loss_and_gradient_are_those_of_the_public_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """ln 2 at the base policy; the gradient is the slope of the loss along every direction."""
    monkeypatch.setattr(publics, "Encoder", toy_world.HashEncoder)
    world = toy_world.tiny_world(monkeypatch)
    model = world.models["shared"]
    assert isinstance(model, RewardModel)
    public = pairs_under(world, model, public_pairs(world))
    (name,) = model.shared_spec()
    zero = {name: np.zeros(model.shared_spec()[name])}
    assert public.score(zero)[0] == pytest.approx(np.log(2), abs=1e-12)
    assert public.score(zero)[1] == 0.5
    point = {
        name: np.random.default_rng(1).standard_normal(zero[name].shape).astype(np.float32).astype(float)
    }
    slope = public.gradient(point)[name]
    way = slope / np.linalg.norm(slope)
    ahead, behind = (public.score({name: point[name] + s * 1e-2 * way})[0] for s in (1, -1))
    assert (ahead - behind) / 2e-2 == pytest.approx(float(np.linalg.norm(slope)), rel=1e-2)
