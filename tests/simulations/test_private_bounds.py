"""Bounds on private parts in whole runs: what they change, what they must not, and what is said of them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toy_world
from toy_runs import Kit, receipts

from commonground.errors import ConfigError
from commonground.privacy.statement import statement
from commonground.recipe import claims, make_plan
from commonground.settings import config_from
from commonground.simulations.measure import Policy, margins
from commonground.simulations.private_bounds import public_of, reward_limit
from commonground.study.offer import terms_of
from commonground.training.people import take
from commonground.training.public_models import needed

Result = dict[str, Any]


def accuracy(result: Result, policy: str, tag: str) -> float:
    return float(result["policies"][policy][tag]["accuracy"])


def test_a_bounded_reward_costs_no_taste_where_shared_has_none(
    kit: Kit, plain: tuple[Path, Result], tmp_path: Path
) -> None:
    """With shared.tags=[safety] the shared margin of a taste pair is 0: the person's order stays hers."""
    free = plain[1]
    bound = kit(tmp_path / "bound", "bounds.reward=0.25")
    said = bound["private_bounds"]["reward"]
    assert said["guarantee"] == "per-output"
    assert said["c"] == pytest.approx(0.25 * said["median"])
    assert 0 < said["above"] <= said["pairs"]
    assert said["turned"] == 0
    assert accuracy(bound, "personal", "taste") == accuracy(free, "personal", "taste")
    for policy in ("shared", "local", "pooled"):
        assert bound["policies"][policy] == free["policies"][policy]
    assert "private_bounds" not in free
    assert bound["privacy"] == free["privacy"]


def test_the_large_margin_guarantee_holds_for_any_private_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Saturated against shared, infinite, or no number at all: above 2c the order is shared's."""
    world = toy_world.tiny_world(monkeypatch, bounds__reward=0.3)
    model, people = world.models["shared"], len(world.evaluated)
    shared = {k: torch.ones(s) + 0.1 * torch.arange(s[0]) for k, s in model.shared_spec().items()}
    limit = reward_limit(world, shared)
    assert limit is not None
    c, median = limit
    assert c == pytest.approx(0.3 * median)
    public = public_of(world)
    chosen, rejected = public.probes.scores(public.rows(public.probes, 1), take(shared, 1), None)
    assert median == pytest.approx(float(np.median(np.abs((chosen - rejected).numpy()))))
    rows = np.array([r for r in world.test_rows.tolist() if world.table[r].tag == "safety"])
    before = margins(world, Policy(model, shared), rows)
    turned_without = 0
    for size in (1.0, -1e3, 1e30, float("inf"), float("nan")):
        own = {"private.v": torch.full((people, world.config.model.dims), size)}
        after = margins(world, Policy(model, shared, own, limit=c), rows)
        above = np.abs(before) > 2 * c
        assert above.any()
        assert (np.sign(after) == np.sign(before))[above].all()
        assert (np.abs(after - before) <= 2 * c * (1 + 1e-6)).all()
        free = margins(world, Policy(model, shared, own), rows)
        turned_without += int((np.sign(free) != np.sign(before))[above].sum())
    assert turned_without > 0
    none = margins(world, Policy(model, shared, own, limit=0.0), rows)
    assert np.array_equal(none, before)


def test_constraint_and_cap_are_said_to_be_averages_and_change_nothing_that_leaves(
    kit: Kit, plain: tuple[Path, Result], tmp_path: Path
) -> None:
    free = plain[1]
    bound = kit(tmp_path / "bound", "bounds.constraint=0", "bounds.constraint_rate=20", "bounds.kl=0.001")
    found = bound["private_bounds"]
    assert found["constraint"]["guarantee"] == found["kl"]["guarantee"] == "average"
    assert "single answers are free" in found["constraint"]["says"]
    assert {"trained", "probes"} <= set(found["constraint"])
    assert set(found["kl"]["factor"]) <= {1.0, 0.8, 0.6, 0.4, 0.2, 0.0}
    assert min(found["kl"]["factor"]) < 1
    assert max(found["kl"]["mean"]) <= 0.001
    assert bound["privacy"] == free["privacy"]  # not a bit more is claimed or spent
    for key in ("tensors", "bytes", "messages", "private_tensors"):
        assert bound["egress"][key] == free["egress"][key]
    assert receipts(tmp_path / "bound") == receipts(plain[0])
    assert bound["policies"]["shared"] == free["policies"]["shared"]
    assert bound["policies"]["local"] == free["policies"]["local"]
    assert bound["policies"]["personal"] != free["policies"]["personal"]


def test_a_fleet_holds_back_whom_devices_one_by_one_hold_back(kit: Kit, tmp_path: Path) -> None:
    words = ("bounds.constraint=0", "bounds.constraint_rate=20", "bounds.kl=0.003", "bounds.kl_worst=0.05")
    one = kit(tmp_path / "one", *words)["private_bounds"]
    many = kit(tmp_path / "many", *words, "runtime=fleet", "fleet.chunk=5")["private_bounds"]
    assert many["kl"]["factor"] == one["kl"]["factor"]
    assert len(set(one["kl"]["factor"])) > 1
    assert many["kl"]["worst"] == pytest.approx(one["kl"]["worst"], abs=1e-5)
    for side in ("trained", "probes"):
        assert many["constraint"][side] == pytest.approx(one["constraint"][side], abs=1e-5)


def test_a_cap_of_zero_is_the_shared_policy(kit: Kit, tmp_path: Path) -> None:
    result = kit(tmp_path / "run", "bounds.kl=0")
    assert set(result["private_bounds"]["kl"]["factor"]) == {0.0}
    assert result["policies"]["personal"]["safety"] == result["policies"]["shared"]["safety"]


def test_the_accounting_is_that_of_a_run_without_them() -> None:
    """Public pairs and the adapter so far: post-processing of what was paid for already (methods F2, F3)."""
    plain = toy_world.tiny_config()
    bound = toy_world.tiny_config(bounds__constraint=0.01, bounds__kl=0.1, bounds__reward=0.5)
    assert claims(plain, 6) == claims(bound, 6)
    texts = [statement(*claims(c, 6), people=6, released=["u"], unit_words=[]) for c in (plain, bound)]
    assert texts[0] == texts[1]
    plans = [make_plan(c, ["safety"], *claims(c, 6)).private for c in (plain, bound)]
    assert plans[1].constraint is not None
    assert plans[1].kl is not None
    for name in ("steps", "sampling", "cap", "clip", "noise_multiplier", "rate", "tags"):
        assert getattr(plans[0], name) == getattr(plans[1], name), name


def test_public_pairs_share_no_prompt_between_training_probes_and_tests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = toy_world.tiny_world(monkeypatch, bounds__constraint=0.1)
    public = public_of(world)
    assert min(public.sizes) >= 8
    trained = set(public.prompts) - set(public.probe_prompts)
    assert len(trained) + len(set(public.probe_prompts)) == len(public.prompts)
    tests = {world.table[row].prompt for row in world.test_rows.tolist() if world.table[row].tag == "safety"}
    assert tests.isdisjoint(public.prompts)
    free = toy_world.tiny_world(monkeypatch)
    assert free.models["shared"].public is None
    with pytest.raises(ValueError, match="no public pairs"):
        public_of(free)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bounds": {"reward": -1}}, "bounds.reward: found -1.0; accepted: at least 0"),
        (
            {"bounds": {"reward": 1}, "model": {"kind": "policy"}},
            "bounds.reward: found 1 with model.kind=policy",
        ),
        ({"bounds": {"kl": "small"}}, "bounds.kl: found 'small'; accepted: a number (inf is one)"),
        ({"bounds": {"constraint": -0.1}}, "bounds.constraint: found -0.1; accepted: at least 0"),
        ({"bounds": {"constraint_rate": 0}}, "bounds.constraint_rate: found 0; accepted: above 0"),
        (
            {"bounds": {"constraint_rate": "inf"}},
            "bounds.constraint_rate: found inf; accepted: a finite number",
        ),
        ({"bounds": {"kl_wurst": 1}}, "bounds.kl_wurst: unknown key; did you mean bounds.kl_worst?"),
    ],
)
def test_what_cannot_be_is_one_line(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_from(changes)
    assert len(caught.value.faults) == 1
    assert caught.value.faults[0].startswith(said)


@pytest.mark.parametrize("name", ["reward", "kl", "kl_worst"])
def test_a_deployed_study_refuses_what_no_device_does(name: str) -> None:
    config = toy_world.tiny_config(privacy__trust="local")
    terms_of(config)
    bound = copy.deepcopy(config)
    setattr(bound.bounds, name, 0.5)
    assert needed(bound)
    assert not needed(config)
    with pytest.raises(ConfigError, match=rf"bounds.{name} is 0.5; accepted in a deployed study: inf"):
        terms_of(bound)
