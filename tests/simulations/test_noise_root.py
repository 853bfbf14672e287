"""Whose seed noise is: another one for every setting that shows in it, and a secret one where that is wanted.

Class of fault: one noise over two different sums, or noise that whoever reads a result can make again.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_world
from toy_runs import make_kit

from commonground.errors import RunFolderError
from commonground.keystream import secret_normals
from commonground.privacy.statement import SECRET, SEEDED
from commonground.randomness import key
from commonground.simulations.devices import device_normals
from commonground.simulations.noise_root import NAME, make_noise_root, noise_root
from commonground.simulations.world import build_world


def shared_noise(world: Any) -> np.ndarray:
    """The draws of the central noise of a first round."""
    return secret_normals((50,), key(world.noise_seed("shared"), "noise", 1))


@pytest.mark.parametrize(
    "change",
    [
        {"privacy__shared__epsilon": 2.0},
        {"privacy__shared__clip": 1.0},
        {"privacy__private__epsilon": 3.0},
        {"shared__rate": 0.5},
        {"strategy__name": "fedavgm"},
        {"rounds": 4},
        {"seed": 2},
        {"data": {"pairs_per_person": 7, "test_pairs": 6}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_runs_that_differ_in_what_is_noised_have_no_noise_in_common(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    """Two releases under one noise, scaled by two z, solve to the sum itself (privacy.md A6)."""
    one, other = (toy_world.tiny_world(monkeypatch, **c) for c in ({}, change))
    assert one.noise_seed("shared") != other.noise_seed("shared")
    assert abs(np.corrcoef(shared_noise(one), shared_noise(other))[0, 1]) < 0.7


@pytest.mark.parametrize(
    "change",
    [{"runtime": "fleet"}, {"fleet__chunk": 3}, {"evaluation__people": 3}],
    ids=lambda change: next(iter(change)),
)
def test_the_same_release_has_the_same_noise(monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]) -> None:
    one, other = (toy_world.tiny_world(monkeypatch, **c) for c in ({}, change))
    assert one.noise_seed("shared") == other.noise_seed("shared")
    assert one.coin_seed == other.coin_seed


def test_the_baseline_of_a_run_has_noise_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    world = toy_world.tiny_world(monkeypatch, privacy__trust="local")
    shared, pooled = (device_normals(world, arm, [0, 1], 1) for arm in ("shared", "pooled"))
    for name in shared.keys() & pooled.keys():
        assert not np.any(shared[name] == pooled[name])


def test_a_secret_root_is_kept_once_and_moves_noise_and_coins(tmp_path: Path) -> None:
    seeded, secret = (toy_world.tiny_config(privacy__noise=which) for which in ("seeded", "os"))
    assert make_noise_root(seeded, tmp_path) is None
    with pytest.raises(RunFolderError, match="cannot be read"):
        noise_root(secret, tmp_path)
    found = make_noise_root(secret, tmp_path)
    assert found is not None
    assert found >= 2**64
    assert found == make_noise_root(secret, tmp_path) == noise_root(secret, tmp_path)
    assert stat.S_IMODE((tmp_path / NAME).stat().st_mode) == 0o600
    assert found != make_noise_root(secret, tmp_path / "another run")


def test_with_a_secret_root_the_seed_decides_neither_noise_nor_coins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("commonground.training.features.Encoder", toy_world.HashEncoder)
    config = toy_world.tiny_config(privacy__noise="os")
    worlds = [build_world(config, secret=secret) for secret in (5, 6)]
    for name in ("coin_seed", "local_seed"):
        assert len({getattr(world, name) for world in worlds} | {config.seed}) == 3
    assert len({world.noise_seed("shared") for world in worlds}) == 2
    assert {world.plans["shared"].seed for world in worlds} == {world.coin_seed for world in worlds}
    assert worlds[0].table == worlds[1].table  # people and comparisons are the seed's


def test_a_run_with_secret_noise_shows_it_nowhere_and_repeats_it(tmp_path: Path) -> None:
    kit = make_kit(tmp_path / "kit")
    runs = [
        kit(tmp_path / name, "rounds=1", f"privacy.noise={noise}")
        for name, noise in (("a", "os"), ("b", "os"), ("c", "seeded"))
    ]
    secret = (tmp_path / "a" / "state" / NAME).read_text().strip()
    for name in ("result.json", "report.html", "events.jsonl", "config.yaml"):
        assert secret not in (tmp_path / "a" / name).read_text()
    assert runs[0]["policies"]["shared"] != runs[1]["policies"]["shared"]
    for run, words in zip(runs, (SECRET, SECRET, SEEDED), strict=True):
        assert run["privacy"]["statement"].startswith(words)
