"""The charter in a simulation: which one is meant, who is asked what, and what is counted."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy_charter import save_charter, signed_charter

from commonground.bounds.charter import load_charter
from commonground.bounds.charter_files import default_charter
from commonground.config import Config
from commonground.errors import CommonGroundError, ConfigError, TrustError
from commonground.settings import config_from
from commonground.simulations.bounded import _dealt, meant_charter, tally, with_charter
from commonground.simulations.certify.answering import Answer
from commonground.simulations.folder import RunFolder
from commonground.simulations.runner import simulate


def asked(**bounds: object) -> Config:
    return config_from({"model": {"kind": "policy"}, "bounds": bounds})


def test_the_shipped_charter_is_meant_where_none_is_named() -> None:
    found = meant_charter(with_charter(asked()))
    assert found is not None
    assert found.charter.digest == default_charter().digest
    assert with_charter(asked()).bounds.charter == ""


def test_a_signed_file_is_meant_and_named_by_its_digest(tmp_path: Path) -> None:
    file = signed_charter(tmp_path)
    config = with_charter(asked(charter_file=str(file)))
    assert config.bounds.charter == load_charter(tmp_path / "charter.yaml").digest
    found = meant_charter(config)
    assert found is not None
    assert found.folder == tmp_path


def test_nobody_is_asked_where_no_answers_are_written() -> None:
    assert meant_charter(asked(answers=False)) is None
    assert meant_charter(config_from({})) is None


def test_what_cannot_be_meant_is_refused_in_one_line_before_anything_is_written(tmp_path: Path) -> None:
    plain = save_charter(tmp_path / "plain")
    changed = signed_charter(tmp_path / "changed")
    (changed.parent / "asked.jsonl").write_bytes(b"")
    cases: list[tuple[dict[str, object], type[CommonGroundError], str]] = [
        ({"charter_file": str(tmp_path / "none.json")}, CommonGroundError, "none.json cannot be read"),
        ({"charter_file": str(plain)}, TrustError, "charter.yaml is not signed"),
        ({"charter_file": str(changed)}, TrustError, "probe set asked.jsonl has the digest"),
        ({"charter": "ab" * 32}, ConfigError, f"bounds.charter: found {'ab' * 8}; shipped with"),
    ]
    for bounds, kind, said in cases:
        with pytest.raises(kind) as caught:
            simulate(asked(**bounds), tmp_path / "run")
        assert said in caught.value.message
        assert "\n" not in caught.value.message
        assert not (tmp_path / "run").exists()


def test_a_charter_for_a_reward_model_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"bounds.charter_file: found 'x.json' with model.kind=reward"):
        config_from({"bounds": {"charter_file": "x.json"}})


def test_a_stored_configuration_keeps_the_charter_whatever_becomes_of_the_file(tmp_path: Path) -> None:
    """A finished run is shown again without its charter's file."""
    file = signed_charter(tmp_path)
    config = with_charter(asked(charter_file=str(file)))
    file.unlink()
    assert with_charter(config) == config
    with pytest.raises(CommonGroundError, match="cannot be read"):
        meant_charter(config)
    assert RunFolder(tmp_path / "none").result() is None


def test_forbidden_prompts_are_dealt_so_that_everybody_has_her_own() -> None:
    probes = [f"p{k}" for k in range(12)]
    dealt = _dealt(probes, 3, 4, seed=1)
    assert sorted(one for own in dealt for one in own) == sorted(probes)
    assert dealt == _dealt(probes, 3, 4, seed=1) != _dealt(probes, 3, 4, seed=2)
    # more turns than prompts: turns begin again, and nobody is asked the same twice
    again = _dealt(probes[:5], 3, 4, seed=1)
    assert [len(set(own)) for own in again] == [3] * 4
    assert [len(own) for own in _dealt(probes[:2], 3, 2, seed=1)] == [2, 2]
    assert _dealt((), 3, 2, seed=1) == [[], []]


def test_a_tally_counts_tiers_writers_and_what_was_held_back() -> None:
    shown = [
        Answer("free", "personal", "a", (), None, False),
        Answer("sensitive", "shared", "b", ("unsafe",), "b", True),
        Answer("closed", "refusal", "c", ("unsafe",), "d", False),
    ]
    assert tally(shown) == {
        "answers": 3, "free": 1, "sensitive": 1, "closed": 1, "personal": 1, "shared": 1, "refusal": 1,
        "held_back": 2,
    }  # fmt: skip
