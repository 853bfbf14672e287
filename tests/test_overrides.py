"""Class: a text that somebody typed is read as something else. Every text key, with what YAML would read."""

from __future__ import annotations

import dataclasses
import shlex
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commonground.config import Config
from commonground.data.check import check_path
from commonground.errors import ConfigError
from commonground.overrides import OverrideError, read_override
from commonground.settings import load_config, read_values

WORDS = (
    "set #1/pairs.jsonl", "[x].jsonl", "*.jsonl", "%2", "x: y", "2026", "no", "yes", "1e5", "010", "1:30",
    "~", "2024-01-01", "{a}", "[a, b]", "&a", "!!python/name:os.system", "'quoted'", "a=b", "- a", "|", ">",
    "@", "`", "0x1f", ".5", "true", "a\\b", "# a",
)  # fmt: skip


def text_keys(kind: Any, prefix: str = "") -> Iterator[str]:
    """The dotted keys of a dataclass that hold a text, maps of texts among them."""
    for name, hint in typing.get_type_hints(kind).items():
        if dataclasses.is_dataclass(hint):
            yield from text_keys(hint, f"{prefix}{name}.")
        elif hint in (str, str | None):
            yield prefix + name
        elif typing.get_origin(hint) is dict and typing.get_args(hint)[1] is str:
            yield f"{prefix}{name}.any"


KEYS = tuple(text_keys(Config))


def test_the_keys_are_found() -> None:
    assert {"data.taste.path", "model.base", "data.safety.columns.any", "strategy.name"} <= set(KEYS)
    assert len(KEYS) > 20


@pytest.mark.parametrize("key", KEYS)
def test_a_text_is_what_was_typed(key: str) -> None:
    for words in WORDS:
        assert read_override(f"{key}={words}") == (key, words)
        values, _, faults = read_values(None, [f"{key}={words}"])
        assert not faults
        found: Any = values
        for part in key.split("."):
            found = found[part]
        assert found == words


@pytest.mark.parametrize("words", ["010", "0300", "1:30", "-07", "0x10", "0b1", "1:30.5", "00"])
def test_a_number_in_another_base_is_refused(words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"command line: people: found \S+; accepted: numbers in decimal"):
        load_config(None, [f"people={words}"])
    with pytest.raises(OverrideError, match=r"strategy\.options: found"):
        read_override(f"strategy.options={{a: [{words}]}}")
    file = tmp_path / "own.yaml"
    file.write_text(f"seed: 1\nprivacy:\n  delta: 1e-5\npeople: {words}\n")
    with pytest.raises(ConfigError, match=r"own\.yaml:4: found \S+; accepted: .* a text in quotes"):
        load_config(file)
    file.write_text(f"data:\n  taste:\n    path: '{words}'\n")
    assert load_config(file).data.taste.path == words


@pytest.mark.parametrize(
    ("words", "value"), [("10", 10), ("1_000", 1000), ("0", 0), ("-3", -3), ("+5", 5), ("10 # people", 10)]
)
def test_a_number_in_plain_decimal_is_that_number(words: str, value: int) -> None:
    assert read_override(f"seed={words}") == ("seed", value)


@pytest.mark.parametrize("words", ["1e-5", "0.5", "0", "5e-1", ".5", "0.05", "1e5", "inf", ".inf"])
def test_floats_stay(words: str) -> None:
    assert float(read_override(f"shared.rate={words}")[1]) == float(
        words.removeprefix(".") if "inf" in words else words
    )


def test_lists_are_lists_in_a_tournament_alone() -> None:
    assert read_override("strategy.name=[a,b]", lists=True) == ("strategy.name", ["a", "b"])
    assert read_override("strategy.name=[a,b]") == ("strategy.name", "[a,b]")
    assert read_override("shared.tags=[safety,taste]") == ("shared.tags", ["safety", "taste"])
    assert read_override("data.taste.path=set #1", lists=True) == ("data.taste.path", "set #1")


@pytest.mark.parametrize("name", ["set #1", "TAG", "a b", "it's", "2026", "[x]", "$HOME"])
def test_what_data_check_says_can_be_pasted(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    row = '{"prompt": "p%d", "chosen": "a%d", "rejected": "b%d"}\n'
    (folder / "pairs.jsonl").write_text("".join(row % (i, i, i) for i in range(4)))
    for line in check_path(folder / "pairs.jsonl")["config"]:
        assert any(read_override(word)[1] == str(folder / "pairs.jsonl") for word in shlex.split(line))
