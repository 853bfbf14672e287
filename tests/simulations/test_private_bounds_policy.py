"""A constraint and a cap in a whole run of a (tiny) language model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toy_models import tiny_llama, tiny_tokenizer
from toy_world import HashEncoder

from commonground.simulations.certify.loading import _prompts
from commonground.simulations.private_bounds import held, public_of
from commonground.simulations.runner import simulate
from commonground.simulations.settings import read_settings
from commonground.simulations.stages import personal_adapters
from commonground.simulations.stores import open_store
from commonground.simulations.world import world_of
from commonground.training import features


def test_a_policy_run_with_a_constraint_and_a_cap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody is held back, the factor is kept beside the adapters, and public pairs are burned."""
    monkeypatch.setattr(features, "Encoder", HashEncoder)
    base = tmp_path / "base"
    tiny_tokenizer().save_pretrained(base)
    tiny_llama().save_pretrained(base)
    config = read_settings(
        None,
        [
            "people=3", "rounds=1", "cohort=3", "data.pairs_per_person=4", "data.test_pairs=2",
            "model.layers=1", "model.rank=2", "model.adapter=lora", "shared.steps=1",
            "privacy.private.steps=2", "privacy.private.rate=0.3", "privacy.shared.epsilon=inf",
            "evaluation.resamples=100", "evaluation.prompts=1", "evaluation.tokens=2", "bounds.answers=false",
            "model.kind=policy", f"model.base={base}",
            "bounds.constraint=0", "bounds.constraint_rate=10", "bounds.kl=1e-4",
        ],
    )  # fmt: skip
    run = tmp_path / "run"
    found = simulate(config, run)["private_bounds"]
    assert found["constraint"]["guarantee"] == found["kl"]["guarantee"] == "average"
    assert all(factor < 1 for factor in found["kl"]["factor"])
    assert all(value <= 1e-4 for value in found["kl"]["mean"])
    world = world_of(str(run.resolve()))
    store = open_store(world.config, run / "state", world.people)
    try:
        kept = held(world, store, 2)
        personal = personal_adapters(world, store, 2)
    finally:
        store.close()
    assert kept is not None
    assert kept.factor.tolist() == found["kl"]["factor"]
    start = world.models["shared"].initial_private()
    moved = [name for name, value in start.items() if not value.any()]
    for place, factor in enumerate(kept.factor.tolist()):
        changed = any(bool(personal[name][place].any()) for name in moved)
        assert changed == (factor > 0)
        if factor == 0:
            assert all(torch.equal(personal[name][place], value) for name, value in start.items())
    assert set(public_of(world).prompts) <= _prompts(world)
