"""A person's own comparisons under one model: the numbers of a model made for them, and no trace on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from toy_encoder import save_encoder
from toy_models import tiny_base
from toy_world import HashEncoder, tiny_config

from commonground import embeddings, language_model
from commonground.comparisons import Comparison
from commonground.config import Config
from commonground.training import features
from commonground.training.build import build_model
from commonground.training.model import PreferenceModel, Tensors, person_rows
from commonground.training.own_table import OwnTable

TABLE = [
    Comparison("how do I boil an egg", "hot water", "moon", "taste", "owner"),
    Comparison("what is a tide", "the sea rises", "maybe", "taste", "owner"),
    Comparison("say more", "no never", "yes soon", "safety", "owner"),
]
POLICY = {"kind": "policy", "adapter": "lora", "layers": 2, "rank": 2}


@pytest.fixture(params=["reward", "policy"])
def config(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setattr(features, "Encoder", HashEncoder)
    monkeypatch.setattr(language_model, "load_base", lambda base: tiny_base())
    return tiny_config() if request.param == "reward" else tiny_config(model=POLICY)


def adapters(model: PreferenceModel) -> tuple[Tensors, Tensors]:
    """Both adapters, away from zero."""
    draws = np.random.default_rng(0)
    return tuple(  # type: ignore[return-value]
        {n: torch.from_numpy((0.1 * draws.standard_normal((1, *s))).astype("f4")) for n, s in spec.items()}
        for spec in (model.shared_spec(), model.private_spec())
    )


def scores(model: PreferenceModel, rows: list[int]) -> bytes:
    shared, private = adapters(model)
    found = model.scores(person_rows([np.array(rows)]), shared, private)
    return b"".join(side.numpy().tobytes() for side in found)


@pytest.mark.identity
def test_laid_over_a_table_it_is_the_model_made_for_it(config: Config) -> None:
    table = OwnTable(config)
    assert table.public.public_digests() == build_model(config, TABLE).public_digests()
    assert scores(table.over(TABLE), [0, 1, 2]) == scores(build_model(config, TABLE), [0, 1, 2])
    # A comparison more or less changes nothing about the others, and the model itself stays.
    assert scores(table.over(TABLE[1:]), [0, 1]) == scores(table.over(TABLE), [1, 2])
    assert scores(table.over(TABLE), [0, 1, 2]) == scores(build_model(config, TABLE), [0, 1, 2])


def test_an_empty_table_is_that_of_a_shipped_comparison(config: Config) -> None:
    table = OwnTable(config)
    assert table.over([]) is table.public


def test_beside_her_own_texts_nothing_of_them_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "Encoder", HashEncoder)
    read: list[str] = []
    whole = HashEncoder.embed

    def counted(self: HashEncoder, texts: list[str], *rest: object, **more: bool) -> np.ndarray:
        read.extend(texts if not more.get("keep", True) else ())
        return whole(self, texts, *rest, **more)

    monkeypatch.setattr(HashEncoder, "embed", counted)
    table = OwnTable(tiny_config())
    table.over(TABLE)
    first = list(read)
    assert sorted(first) == sorted({text for c in TABLE for text in (c.chosen, c.rejected)})
    table.beside([Comparison("", "shipped one", "shipped two", "taste", "shipped")])
    table.over(TABLE)
    assert [text for text in read[len(first) :] if not text.startswith("shipped")] == []
    table.over(TABLE[:1])  # two were taken back: their vectors go, and are made again if they come again
    table.over(TABLE)
    assert len(read) == len(first) + 2 + 4


def test_her_own_texts_leave_no_trace_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMMONGROUND_CACHE", str(tmp_path / "cache"))
    config = tiny_config(model__base=str(save_encoder(tmp_path / "model")))
    table = OwnTable(config)
    file = tmp_path / "cache" / "embeddings.sqlite"
    with embeddings._open_cache() as cache:
        before = cache.execute("SELECT COUNT(*) FROM embedding").fetchone()
    cache.close()
    table.over(TABLE)
    with embeddings._open_cache() as cache:
        assert cache.execute("SELECT COUNT(*) FROM embedding").fetchone() == before
    cache.close()
    vector = features.encoder_of(config).embed([TABLE[0].chosen], keep=False)[0]
    content = b"".join(path.read_bytes() for path in file.parent.iterdir())
    assert vector.tobytes() not in content
    np.testing.assert_array_equal(features.encoder_of(config).embed([TABLE[0].chosen])[0], vector)
    assert vector.tobytes() in b"".join(path.read_bytes() for path in file.parent.iterdir())
