"""A model that is given its public parts: the same bits as the one that computed them, on any processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy_models import tiny_base
from toy_world import SIZE, HashEncoder, tiny_config

from commonground import language_model
from commonground.comparisons import Comparison
from commonground.config import Config
from commonground.data.starter import STYLES
from commonground.errors import ModelError
from commonground.training import features, styles
from commonground.training.build import build_model
from commonground.training.model import PreferenceModel, Tensors, person_rows
from commonground.training.own_table import OwnTable
from commonground.training.policy import PolicyModel

TABLE = [
    Comparison("how do I boil an egg", "hot water", "moon", "taste", "owner"),
    Comparison("say more", "no never", "yes soon", "safety", "owner"),
]
SMALL: dict[str, Any] = {"kind": "policy", "layers": 2, "rank": 2}
MODELS: dict[str, dict[str, Any]] = {
    "linear": {},
    "tanh": {"model__form": "tanh"},
    "basis": {"model__form": "basis", "schedule": "alternating", "shared__tags": ["safety", "taste"]},
    "lora": {"model": {**SMALL, "adapter": "lora"}},
    "core": {"model": {**SMALL, "adapter": "core"}},
    "both factors": {"model": {**SMALL, "adapter": "lora", "shared_factors": "both"}},
    "styles": {"model": {**SMALL, "adapter": "styles"}},
}


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COMMONGROUND_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(features, "Encoder", HashEncoder)
    monkeypatch.setattr(language_model, "load_base", lambda base: tiny_base())
    monkeypatch.setattr(styles, "train_style", quickly)


def quickly(model: PolicyModel, name: str, recipe: styles.StyleRecipe) -> Tensors:
    """Some adapter for each style, without training."""
    draws = torch.Generator().manual_seed(STYLES.index(name))
    return {n: torch.randn(value.shape, generator=draws) for n, value in model.initial_private().items()}


@pytest.fixture(params=MODELS)
def config(request: pytest.FixtureRequest) -> Config:
    return tiny_config(**MODELS[request.param])


def moved(parts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What another processor would compute: the last bit of every number otherwise."""
    return {name: np.nextafter(value, np.array(9, value.dtype)) for name, value in parts.items()}


def scores(model: PreferenceModel) -> bytes:
    draws = np.random.default_rng(0)
    shared, private = (
        {n: torch.from_numpy((0.1 * draws.standard_normal((1, *s))).astype("f4")) for n, s in spec.items()}
        for spec in (model.shared_spec(), model.private_spec())
    )
    found = model.scores(person_rows([np.array([0, 1])]), shared, private)
    return b"".join(side.numpy().tobytes() for side in found)


def test_a_model_of_given_parts_is_the_one_that_computed_them(config: Config) -> None:
    own = build_model(config, TABLE)
    given = build_model(config, TABLE, parts=own.public_parts())
    assert given.public_digests() == own.public_digests()
    assert scores(given) == scores(own)
    assert scores(OwnTable(config, parts=own.public_parts()).over(TABLE)) == scores(own)
    for name, value in own.initial_shared().items():
        assert torch.equal(given.initial_shared()[name], value)


def test_what_another_processor_computed_is_taken_as_it_is(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = build_model(config, TABLE)
    parts = moved(own.public_parts())
    monkeypatch.setattr(styles, "train_style", lambda *_: pytest.fail("trained a style that is given"))
    monkeypatch.setattr(features, "starter_bases", lambda *_: pytest.fail("computed a basis that is given"))
    given = build_model(config, TABLE, parts=parts)
    assert given.public_parts().keys() == parts.keys()
    for name, value in parts.items():
        assert given.public_parts()[name].tobytes() == value.tobytes()
    differ = {n for n, digest in own.public_digests().items() if given.public_digests()[n] != digest}
    assert differ >= {"basis.taste", "basis.safety"} or differ >= {"adapter_bases"}


def test_parts_that_do_not_fit_are_one_line(config: Config) -> None:
    parts = build_model(config, TABLE).public_parts()
    name = sorted(parts)[-1] if "basis.taste.matrix" not in parts else "basis.taste.matrix"
    wrong: list[tuple[dict[str, np.ndarray], str]] = [
        ({n: v for n, v in parts.items() if n != name}, f"lack '{name}'"),
        (parts | {name: parts[name][..., :-1]}, f"'{name}' is float32 .* is needed"),
        (parts | {name: parts[name].astype(np.float64)}, f"'{name}' is float64 .* is needed"),
        (parts | {"more": parts[name]}, "differ in 'more'"),
    ]
    for given, words in wrong:
        with pytest.raises(ModelError, match=words) as caught:
            build_model(config, TABLE, parts=given)
        assert "\n" not in caught.value.message
        assert "ask the operator" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("model", "name"),
    [("tanh", "start.shared.safety.A"), ("lora", "bases."), ("core", "bases.")],
)
def test_what_is_quick_to_compute_is_held_to_it(model: str, name: str) -> None:
    config = tiny_config(**MODELS[model])
    parts = build_model(config, TABLE).public_parts()
    for one in (n for n in parts if n.startswith(name)):
        with pytest.raises(ModelError, match=f"'{one}' is .* away from what this machine computes"):
            build_model(config, TABLE, parts=parts | {one: parts[one][::-1].copy()})


@pytest.mark.parametrize("tag", ["taste", "safety"])
def test_a_basis_is_a_rotation_with_a_scale(tag: str) -> None:
    config = tiny_config()
    parts = build_model(config, TABLE).public_parts()
    matrix, scale = f"basis.{tag}.matrix", f"basis.{tag}.scale"
    twice = parts[matrix].copy()
    twice[:, 1] = twice[:, 0]
    for bad in (2 * parts[matrix], twice, np.zeros((SIZE, SIZE), np.float32)):
        with pytest.raises(ModelError, match="is no rotation"):
            build_model(config, TABLE, parts=parts | {matrix: bad})
    for size in (0.0, -1.0):
        with pytest.raises(ModelError, match=f"basis of {tag} has scale .*; accepted: above 0"):
            build_model(config, TABLE, parts=parts | {scale: np.array(size)})
