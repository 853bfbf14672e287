"""Whole attacked runs: nobody attacks at fraction 0, runtimes agree, an undefended attack succeeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_runs import Kit

from commonground.report.page import render_page
from commonground.server.job import Job
from commonground.server.rounds import load_outcome
from commonground.settings import load_config
from commonground.simulations.devices import adapter
from commonground.simulations.engine import environment
from commonground.simulations.measure import Policy, margins
from commonground.simulations.world import build_world

SAME = ("policies", "paired", "erased", "privacy", "egress", "per_person", "welfare", "data")
LOUD = (
    "people=20",
    "cohort=12",
    "rounds=6",
    "data.pairs_per_person=40",
    "privacy.shared.epsilon=inf",
    "runtime=fleet",
)


def learned(folder: Path) -> dict[str, np.ndarray]:
    return {
        f"{arm}.{name}": value
        for arm in ("shared", "pooled")
        for name, value in load_outcome(Job.load(folder / "state" / f"job-{arm}.json")).arrays.items()
    }


def agreed(kit: Kit, clean: Path, folder: Path) -> float:
    """Share of what everybody says about safety in a clean run that a run's shared adapter gets right."""
    with environment(kit.variables):
        world = build_world(load_config(clean / "config.yaml"))
    rows = np.concatenate([own["safety"] for own in world.train_rows.values()])
    arrays = load_outcome(Job.load(folder / "state" / "job-shared.json")).arrays
    policy = Policy(world.models["shared"], adapter(world.models["shared"], arrays))
    return float((margins(world, policy, rows) > 0).mean())


def test_fraction_zero_is_no_attack_bit_for_bit(
    kit: Kit, tmp_path: Path, plain: tuple[Path, dict[str, Any]]
) -> None:
    found = kit(tmp_path / "zero", "attack.name=min_max", "attack.fraction=0")
    assert "attack" not in found
    assert {key: found[key] for key in SAME} == {key: plain[1][key] for key in SAME}
    for name, value in learned(tmp_path / "zero").items():
        assert value.tobytes() == learned(plain[0])[name].tobytes()


@pytest.mark.parametrize("name", ["min_max", pytest.param("unaligned", marks=pytest.mark.night)])
def test_an_attacked_run_is_the_same_in_process_and_as_a_fleet(kit: Kit, tmp_path: Path, name: str) -> None:
    attack = (f"attack.name={name}", "attack.fraction=0.3", "privacy.shared.epsilon=inf")
    found = kit(tmp_path / "one", *attack)
    other = kit(tmp_path / "many", *attack, "runtime=fleet")
    theirs = learned(tmp_path / "many")
    for key, value in learned(tmp_path / "one").items():
        assert value == pytest.approx(theirs[key], abs=1e-5)
    for key in ("attackers", "of", "in_a_round", "warnings", "tolerates"):
        assert found["attack"][key] == other["attack"][key]
    assert found["attack"]["attackers"] == 4
    assert "Only a simulation knows who attacks" in found["attack"]["simulation_only"]


@pytest.mark.night
def test_an_attacked_and_gated_run_on_ray_is_that_in_this_process(kit: Kit, tmp_path: Path) -> None:
    """One run for the main job, attackers, gate and norm bound: every start of Ray costs a minute."""
    attack = ("attack.name=alie", "attack.options.z=1.5", "attack.fraction=0.3")
    around = ("gate.enabled=true", "gate.tolerance=0", "strategy.norm_bound=0.5")
    one, ray = (kit(tmp_path / r, *attack, *around, f"runtime={r}") for r in ("inprocess", "ray"))
    assert ray["config"]["runtime"] == "ray"
    for key in (*SAME, "gate", "attack"):
        assert one[key] == ray[key]
    theirs = learned(tmp_path / "ray")
    for key, value in learned(tmp_path / "inprocess").items():
        assert value.tobytes() == theirs[key].tobytes()


@pytest.mark.parametrize(
    "name",
    [
        *("label_flip", "adaptive_under_clip"),
        *(pytest.param(name, marks=pytest.mark.night) for name in ("unaligned", "sign_flip")),
    ],
)
def test_an_undefended_attack_succeeds(kit: Kit, tmp_path: Path, name: str) -> None:
    """Of what people would say about safety, the shared adapter learns most, or less than half.

    The toy's texts mean nothing, so what is learned of them shows in what was trained on.
    """
    clean, attacked = tmp_path / "clean", tmp_path / "attacked"
    kit(clean, *LOUD)
    kit(attacked, *LOUD, f"attack.name={name}", "attack.fraction=0.8")
    assert agreed(kit, clean, clean) > 0.55
    assert agreed(kit, clean, attacked) < 0.465


def test_a_backdoor_is_looked_for_where_it_is_and_beside_a_run_without(kit: Kit, tmp_path: Path) -> None:
    attack = (*LOUD, "attack.name=backdoor")
    found = kit(tmp_path / "run", *attack, "attack.fraction=0.5")["attack"]
    assert set(found["success"]) == set(found["success_everybody"]) == set(found["honest"])
    assert found["success"]["base"] == 0.0  # a reward of 0 prefers nothing
    assert all(0 <= share <= 1 for share in found["success"].values())
    assert "success_by_topic" not in found
    zero, plain = kit(tmp_path / "zero", *attack, "attack.fraction=0"), kit(tmp_path / "plain", *LOUD)
    clean = zero["attack"]
    assert {key: zero[key] for key in SAME} == {key: plain[key] for key in SAME}
    assert clean["success"] == clean["success_everybody"]
    assert clean["probes"] > found["probes"] > 0
    assert "no doing of the attack" in render_page([("", zero)])
    assert found["success_everybody"]["shared"] != clean["success"]["shared"]


def test_a_targeted_flip_is_told_by_topic(kit: Kit, tmp_path: Path) -> None:
    topic = ("attack.name=targeted_flip", "attack.options.topic=medical", "attack.fraction=0")
    run = kit(tmp_path / "run", *LOUD, *topic)
    found, told = run["attack"], run["attack"]["success_by_topic"]
    assert len(told) > 2
    assert told["medical"] == {
        "probes": found["probes"],
        **{name: found["success"][name] for name in ("shared", "personal")},
    }
    # a comparison that is turned round is one that is wrong, whatever it is about
    turned = sum(one["probes"] * one["shared"] for one in told.values())
    right = run["policies"]["shared"]["safety"]
    assert turned / sum(one["probes"] for one in told.values()) == pytest.approx(1 - right["accuracy"])


def test_a_void_guarantee_is_said_on_the_page_and_a_lie_that_nobody_asked_for(
    kit: Kit, tmp_path: Path
) -> None:
    options = ("strategy.name=krum", "strategy.options.num_malicious_nodes=1", "attack.name=loss_liar")
    found = kit(tmp_path / "run", *LOUD, *options, "attack.fraction=0.5")
    void, lie = found["attack"]["warnings"]
    assert "its guarantee is void" in void
    assert "does not ask for" in lie
    page = render_page([("", found)])
    assert void.split(":")[0] in page
    assert "Only a simulation knows who attacks" in page
