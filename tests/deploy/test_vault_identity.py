"""A vault under a simulation's seed says, bit for bit, what that simulation's device says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_vault
import toy_world
from toy_models import tiny_base
from toy_vault import Operator, bytes_of, running

from commonground import language_model
from commonground.client.learner import Insecure
from commonground.simulations.devices import STREAM, SimulatedDevice
from commonground.simulations.store import Store
from commonground.simulations.world import World, build_world
from commonground.study.public_parts import parts_digest, write_parts

PEOPLE = 3
TRUSTS: dict[str, dict[str, Any]] = {
    "local": {"privacy__trust": "local"},
    "central": {"privacy__trust": "central", "privacy__shared__mechanism": "banded"},
}


def own_comparisons(world: World, person: int) -> list[Any]:
    """A person's training comparisons as the table has them."""
    rows = world.train_rows[person]
    return [world.table[row] for tag in ("taste", "safety") for row in rows[tag]]


@pytest.mark.identity
@pytest.mark.parametrize(
    ("trust", "changes"),
    [
        ("local", {}),
        ("central", {}),
        ("local", {"model__form": "tanh", "shared__batch": 2, "schedule": "alternating"}),
        ("central", {"strategy__name": "scaffold"}),
        ("local", {"privacy__private__mechanism": "label"}),
    ],
    ids=["local", "central", "tanh, batches, alternating", "scaffold", "label"],
)
def test_every_message_and_every_private_adapter_are_the_simulations(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, trust: str, changes: dict[str, Any]
) -> None:
    same(
        toy_world.tiny_world(monkeypatch, people=PEOPLE, cohort=PEOPLE, **TRUSTS[trust], **changes), tmp_path
    )


@pytest.mark.identity
@pytest.mark.slow
def test_a_language_model_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(language_model, "load_base", lambda base: tiny_base())
    own = {"kind": "policy", "adapter": "lora", "layers": 2, "rank": 2}
    world = toy_world.tiny_world(
        monkeypatch, people=PEOPLE, cohort=PEOPLE, rounds=2, model=own, **TRUSTS["local"]
    )
    same(world, tmp_path)


@pytest.mark.identity
@pytest.mark.model
@pytest.mark.slow
def test_real_embeddings_too(tmp_path: Path) -> None:
    """MiniLM, 384 dimensions: features of one person's texts and of everybody's in one table."""
    same(build_world(toy_world.tiny_config(people=PEOPLE, cohort=PEOPLE, **TRUSTS["local"])), tmp_path)


def same(world: World, tmp_path: Path) -> None:
    """Every person of a world, through the sockets and simulated, message by message."""
    parts = write_parts(world.models["shared"].public_parts())  # a device is given what a simulation computes
    base = {"parts": parts_digest(parts)}
    offer = toy_vault.offer_of(world.config, world.manifests["shared"], base=base)
    simulated, sent = Store(tmp_path / "state"), 0
    for person in range(PEOPLE):
        twin = SimulatedDevice(world, simulated, "shared", person)
        insecure = Insecure(world.config.seed, person)
        with running(tmp_path / f"p{person}", offer, insecure, parts=parts) as vault:
            for c in own_comparisons(world, person):
                vault.owner.add(c.prompt, c.chosen, c.rejected, c.tag)
            vault.consent()
            draws = np.random.default_rng(5)
            arrays = world.first_arrays("shared")
            for round in range(1, world.config.rounds + 1):
                release = vault.operator.release(round, arrays)
                own = vault.device.shared_update(round, arrays, release=release)
                theirs = twin.shared_update(round, arrays)
                assert own.receipt == theirs.receipt
                assert bytes_of(own.tensors) == bytes_of(theirs.tensors)
                sent += any(value.any() for value in own.tensors.values())
                if world.config.schedule == "decoupled":
                    vault.device.private_update(round, arrays, False, release=release)
                    twin.private_update(round, arrays, False)
                same_private(vault, simulated, person, round)
                arrays = {
                    n: (v + 0.05 * draws.standard_normal(v.shape)).astype("f4") for n, v in arrays.items()
                }
            last = world.config.rounds + 1
            vault.device.private_update(last, arrays, True, release=vault.operator.release(last, arrays))
            twin.private_update(last, arrays, True)
            same_private(vault, simulated, person, last)
    assert sent == PEOPLE * world.config.rounds
    simulated.close()


def same_private(vault: toy_vault.Vault, simulated: Store, person: int, round: int) -> None:
    """The private state after a round, bit for bit."""
    theirs, own = simulated.read(STREAM, person, round + 1), vault.store.adapters.state()
    assert theirs is not None
    assert own is not None
    assert {n: v.tobytes() for n, v in own.items()} == {n: v.tobytes() for n, v in theirs.items()}
    assert int(own["steps"][0]) > 0


def test_without_the_simulations_seed_noise_and_private_adapter_are_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What the test above compares does not agree by itself."""
    world = toy_world.tiny_world(monkeypatch, people=PEOPLE, cohort=PEOPLE, **TRUSTS["local"])
    offer = toy_vault.offer_of(world.config, world.manifests["shared"])
    arrays, release = world.first_arrays("shared"), ""
    found = []
    for k in range(2):
        with running(tmp_path / f"p{k}", offer) as vault:
            for c in own_comparisons(world, 0):
                vault.owner.add(c.prompt, c.chosen, c.rejected, c.tag)
            vault.consent()
            release = Operator(offer).release(1, arrays)
            message = vault.device.shared_update(1, arrays, release=release).tensors
            vault.device.private_update(1, arrays, False, release=release)
            state = vault.store.adapters.state()
            assert state is not None
            found.append((bytes_of(message), state["adapter/private.v"].tobytes()))
    assert found[0][0] != found[1][0]
    assert found[0][1] != found[1][1]
