"""The documents say what the program does: keys, defaults, commands, targets, exit codes, examples."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import math
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import typer
import yaml

from commonground.config import Config
from commonground.data.check import check_path
from commonground.errors import CommonGroundError
from commonground.recipe import resolve
from commonground.rules import choices, numbers, value_of
from commonground.simulations.cli import app
from commonground.simulations.compare.grid import read_grid
from commonground.simulations.folder import NEEDED
from commonground.simulations.result import ORDER
from commonground.simulations.settings import read_settings

ROOT = Path(__file__).parents[1]
NAMES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
PAGES = [*(ROOT / name for name in NAMES), *sorted(ROOT.glob("docs/**/*.md"))]
CONFIGURATION = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
CODE = re.compile(r"`([^`]*)`")
# Cells that are a formula: what they mean for `people`.
FORMULAS: dict[str, Callable[[int], float]] = {
    "max(2, people // 5)": lambda people: max(2, people // 5),
    "min(people, 2000)": lambda people: min(people, 2000),
    "min(0.1 / people, 0.001)": lambda people: min(0.1 / people, 0.001),
    "min(0.1 / people / data.pairs_per_person, 0.001)": lambda people: min(0.1 / people / 40, 0.001),
}


def table_rows(text: str) -> Iterator[list[str]]:
    """Cells of every table row whose first cell is one code word."""
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("| `") and re.fullmatch(r"`[^`]*`", cells[0]):
            yield [cells[0].strip("`"), *cells[1:]]


KEYS = {row[0]: row[1:] for row in table_rows(CONFIGURATION) if len(row) == 5}


def leaves(kind: Any, prefix: str = "") -> list[str]:
    """Every dotted key of the configuration."""
    found = []
    for field in dataclasses.fields(kind):
        value = getattr(kind(), field.name)
        key = f"{prefix}{field.name}"
        found += leaves(type(value), f"{key}.") if dataclasses.is_dataclass(value) else [key]
    return found


def changed(key: str, value: Any) -> Config:
    """The default configuration with one key set, whatever the rules say."""
    config = copy.deepcopy(Config())
    *path, last = key.split(".")
    setattr(value_of(config, ".".join(path)) if path else config, last, value)
    return config


def test_the_table_has_every_key_once_and_no_other() -> None:
    listed = [row[0] for row in table_rows(CONFIGURATION) if len(row) == 5]
    assert sorted(listed) == sorted(leaves(Config))


@pytest.mark.parametrize("people", [2, 200, 5000])
@pytest.mark.parametrize(("kind", "column"), [("reward", 1), ("policy", 2)])
def test_listed_defaults_are_what_a_run_would_use(kind: str, column: int, people: int) -> None:
    config = changed("model.kind", kind)
    config.people = people
    full = resolve(config)
    for key, cells in KEYS.items():
        text = cells[column].strip("`")
        found = value_of(full, key)
        if key == "people":
            assert Config().people == int(text)
        elif text in FORMULAS:
            assert found == pytest.approx(FORMULAS[text](people), rel=1e-12), key
        else:
            wanted = math.inf if text == "inf" else yaml.safe_load(text)
            assert found == wanted, f"{key}: {text} is listed, {found!r} is used"
            assert type(found) is type(wanted), f"{key}: {text} is listed, {found!r} is used"


def test_listed_choices_are_those_that_are_accepted() -> None:
    seen = 0
    for key, cells in KEYS.items():
        if not isinstance(value_of(resolve(Config()), key), str):
            continue
        messages = [message for name, message in choices(changed(key, "nonsense")) if name == key]
        if not messages:
            continue
        known = re.split(r"accepted: |known losses: ", messages[0])[1].split(", ")
        wanted = [name for name in known if (key, name) != ("data.safety.source", "ratings")]
        assert sorted(CODE.findall(cells[3])) == sorted(wanted), key
        seen += 1
    assert seen >= 14


def test_listed_bounds_are_those_that_are_checked() -> None:
    bounds: dict[str, str] = {}
    for key in KEYS:
        value = value_of(resolve(Config()), key)
        if isinstance(value, int | float) or value in (None, "auto"):
            bounds |= {name: text for name, text in numbers(changed(key, -1)) if name == key}
    assert len(bounds) > 25
    for key, message in bounds.items():
        accepted = message.split("accepted: ", 1)[1]
        assert KEYS[key][3].startswith(accepted), f"{key}: {KEYS[key][3]!r} is listed, not {accepted!r}"
    for key, cells in KEYS.items():
        if re.match(r"at least|above|between|0 up to", cells[3]):
            assert key in bounds, f"{key}: the bound {cells[3]!r} is listed and not checked"


def commands(page: Path) -> Iterator[str]:
    """Shell lines of code blocks, and inline code, that begin with a program of ours or make."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", text, flags=re.S | re.M)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    inline = CODE.findall(re.sub(r"^```.*?^```", "", text, flags=re.S | re.M))
    for line in (*lines, *(code.removeprefix("time ") for code in inline)):
        if re.match(r"(\.venv/bin/)?commonground( |$)|make [a-z]", line.strip()):
            yield line.strip().removeprefix(".venv/bin/")


ALL_COMMANDS = sorted({(page.name, line) for page in PAGES for line in commands(page)})


def test_there_are_commands_to_check() -> None:
    assert {line for _, line in ALL_COMMANDS} >= {
        "make demo",
        "make install",
        "commonground report runs/first",
    }
    assert sum(line.startswith("commonground simulate") for _, line in ALL_COMMANDS) >= 10


@pytest.mark.parametrize(("page", "line"), ALL_COMMANDS)
def test_every_command_exists(page: str, line: str) -> None:
    words = shlex.split(line, comments=True)
    if words[0] == "make":
        targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M))
        assert set(words[1:]) <= targets
        return
    command: click.Command = typer.main.get_command(app)
    words = words[1:]
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        assert words[0] in command.commands, f"{line}: no command {words[0]!r}"
        command = command.commands[words.pop(0)]
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    assert {word for word in words if word.startswith("-")} <= known
    settings = [word for word in words if "=" in word and not word.startswith("-")]
    # Raises with every unknown key and refused value.
    if line.split()[1] == "compare" and settings:
        read_grid(None, settings)
    else:
        read_settings(None, settings)


def test_every_exit_code_and_error_code_is_listed() -> None:
    for part in ("client.contact", "server.control"):  # with errors of their own
        importlib.import_module(f"commonground.{part}")
    text = (ROOT / "docs/exit-codes.md").read_text(encoding="utf-8")
    rows = {row[0]: row[1] for row in table_rows(text)}
    tree, queue = {CommonGroundError}, [CommonGroundError]
    while queue:
        below = queue.pop().__subclasses__()
        ours = [kind for kind in below if kind.__module__.startswith("commonground.")]
        tree |= set(ours)
        queue += ours
    assert {kind.error_code: str(kind.exit_code) for kind in tree} == rows
    listed = set(re.findall(r"^\| (\d+) \|", text, flags=re.M))
    assert listed == {"0", *(str(kind.exit_code) for kind in tree)}


def test_every_needed_field_and_policy_of_a_result_is_described() -> None:
    described = {row[0] for row in table_rows((ROOT / "docs/results.md").read_text(encoding="utf-8"))}
    assert {"schema", *NEEDED, *ORDER} <= described


def test_the_examples_of_sources_are_read_without_a_bad_row(tmp_path: Path) -> None:
    text = (ROOT / "docs/data.md").read_text(encoding="utf-8")
    examples = re.findall(r"^`(\w+/[\w.]+)`:\n\n```\w+\n(.*?)^```", text, flags=re.S | re.M)
    assert len(examples) == 4
    for name, content in examples:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    assert check_path(tmp_path / "ratings")["people_with_pairs"] == 2
    assert check_path(tmp_path / "pairs" / "pairs.jsonl")["usable"] == 4
    for folder in ("ratings", "pairs/pairs.jsonl"):
        assert check_path(tmp_path / folder)["bad_rows"]["count"] == 0
    from commonground.data.hub import read_source
    from commonground.data.request import SourceSpec

    columns = {"prompt": "question", "chosen": "better", "rejected": "worse"}
    read, bad, _ = read_source(SourceSpec("hub", str(tmp_path / "hub"), columns), "safety")
    assert (len(read.rows), bad.count) == (2, 0)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        if not target.startswith("https://"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_file_named_exists() -> None:
    """Documents and docstrings name files; none of them may name one that is gone."""
    rooms = ("src", "client", "server", "strategies", "simulations")
    sources = [file for room in rooms for file in (ROOT / room).rglob("*.py")]
    named = re.compile(rf"\b(?:docs|tests|{'|'.join(rooms)})/[\w/-]+\.(?:md|py)\b")
    missing = {
        f"{file.relative_to(ROOT)}: {name}"
        for file in [*PAGES, *sources]
        for name in named.findall(file.read_text(encoding="utf-8"))
        if not (ROOT / name).exists()
    }
    assert missing == set()
