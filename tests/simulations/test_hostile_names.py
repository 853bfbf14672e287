"""People, groups and texts of a data file who are named to be a path, a command, a format, a page or a cell.

They go through everything that a researcher does with a file: check it, run it, look at the page, publish it,
compare with it. Two names that look alike are two people, unless they are one text in two Unicode
forms, and nothing beside the run's folder changes.
"""

from __future__ import annotations

import csv
import json
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from click.testing import Result
from toy_runs import Kit
from typer.testing import CliRunner

from commonground.simulations.cli import app
from commonground.simulations.engine import environment

PAGE = "<img src=x onerror=alert(1)>"
NAMES = [
    "../../outside", "/etc/passwd", "..", ".", "~", "~root", "C:\\x", "con", "a/b", "a\\b", "-rf", "--out",
    "a\0b", "\0", "x" * 10_000, " ", "  ", "\t", "\ud800", "a\nb", "a\r\nSet-Cookie: x", "\x1b[2J\x1b[31mred",
    "\x9b31m",
    "\u202egnp", "=1+1", "@SUM(A1)", "+1", "-1", "1e400", "nan", "NaN", "null", "true", "[]", "{}",
    "{person}", "{0.__class__}", "%s%n", "%(asctime)s", "${oc.env:HOME}", "$HOME", "`id`", "$(id)",
    "; rm -rf /",
    "'; DROP TABLE receipt; --", '" or 1=1', PAGE, "<script>alert(1)</script>", "</script>",
    "javascript:alert(1)",
    "{{7*7}}", "{% raw %}", "[bold]x[/bold]", "[/]", ":smile:", "#", "Ada", "ada", "ADA", "ada ", " ada",
    unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é"), "ｅ", "е", "e", "ß", "SS", "ss",
    "config.yaml", "result.json", "state", "private", "receipts.sqlite", "__proto__", "constructor",
]  # fmt: skip
# Spaces around a name are no part of it, spaces alone are no name, and half of a sign is no text.
REFUSED = [" ", "  ", "\t", "\ud800"]
# One name in two Unicode forms is one person, who would else be clipped twice.
PEOPLE = sorted({unicodedata.normalize("NFC", name).strip() for name in NAMES if name not in REFUSED})
GROUPS = [NAMES[0], "\x1b[2J", PAGE, "=1+1", "a\nb", "a\0b", "{person}", "plain"]
MOVES = ("\x1b", "\x9b", "\0", "\u202e", "\r")


@dataclass
class Ran:
    """What a researcher did with the file."""

    data: Path
    out: Path
    results: dict[str, Result] = field(default_factory=dict)


@pytest.fixture(scope="module")
def ran(kit: Kit, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "in").mkdir()
    found = Ran(folder / "in" / "people.jsonl", folder / "out")
    found.data.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    sources = [
        word for tag in ("taste", "safety")
        for word in (f"data.{tag}.source=pairs", f"data.{tag}.path={found.data}")
    ]  # fmt: skip
    overrides = [*kit.overrides, f"people={len(PEOPLE)}", "cohort=8", "privacy.private.steps=2", *sources]
    before = sorted(folder.rglob("*"))

    def call(name: str, *words: object) -> None:
        found.results[name] = CliRunner().invoke(app, [str(word) for word in words])

    with environment(kit.variables):
        for form in ("text", "json"):
            call(f"check {form}", "data", "check", found.data, "--format", form)
        call("simulate", "simulate", *overrides, "--out", found.out / "run")
        call("report", "report", found.out / "run")
        call("publish", "report", found.out / "run", "--publish")
        axes = ["strategies=[fedavg,fedadam]", "seeds=1"]
        call("compare", "compare", *axes, *overrides, "--out", found.out / "tournament")
    left = [path for path in sorted(folder.rglob("*")) if found.out not in (path, *path.parents)]
    assert left == before
    return found


def rows() -> list[dict[str, str]]:
    return [
        {
            "prompt": f"question {k} {name[:40]}",
            "chosen": f"yes {place} {k} {name[:40]}",
            "rejected": f"no {place} {k} {PAGE}",
            "person": name,
            "group": GROUPS[place % len(GROUPS)],
        }
        for place, name in enumerate(NAMES)
        for k in range(6)
    ]


def test_everything_is_taken(ran: Ran) -> None:
    for name, result in ran.results.items():
        assert result.exit_code == 0, (name, result.output[-2000:])
        assert result.exception is None or isinstance(result.exception, SystemExit)


def test_names_that_look_alike_are_people_of_their_own(ran: Ran) -> None:
    assert len(set(NAMES)) == len(NAMES)
    found = json.loads(ran.results["check json"].stdout)["data"]
    assert found["people"] == len(PEOPLE)
    assert found["bad_rows"]["reasons"] == {"person is empty": 18, "prompt is not valid Unicode": 6}
    assert len(PEOPLE) == len(NAMES) - len(REFUSED) - 3
    result = json.loads((ran.out / "run" / "result.json").read_text())
    assert result["config"]["people"] == len(PEOPLE)
    assert sorted(result["per_person"]["person"]) == PEOPLE


def test_nothing_moves_the_terminal(ran: Ran) -> None:
    for name, result in ran.results.items():
        for sign in MOVES:
            assert sign not in result.output, name


def test_no_file_is_named_by_a_person(ran: Ran) -> None:
    made = [path.relative_to(ran.out) for path in ran.out.rglob("*")]
    assert len(made) > 20
    words = {part for path in made for part in path.parts}
    assert words.isdisjoint(set(NAMES) - {"config.yaml", "result.json", "state", "private"})
    assert all(part.isascii() and part.isprintable() for part in words)


def test_no_page_runs_a_name(ran: Ran) -> None:
    pages = list(ran.out.rglob("*.html"))
    assert len(pages) >= 3
    for page in pages:
        text = page.read_text()
        assert PAGE not in text
        assert "<script>alert(1)" not in text
        assert all(sign not in text for sign in MOVES)


def test_no_cell_is_a_formula(ran: Ran) -> None:
    tables = list(ran.out.rglob("*.csv"))
    assert tables
    for file in tables:
        for row in csv.reader(file.read_text().splitlines()):
            assert not any(cell.startswith(("=", "@", "+", "\t")) for cell in row)


def test_nothing_looked_a_name_up(ran: Ran) -> None:
    import os

    home = os.environ["HOME"]
    for path in ran.out.rglob("*"):
        if path.is_file() and path.suffix in (".json", ".jsonl", ".html", ".csv"):
            text = path.read_text(errors="replace")
            assert text != "49"
            if str(ran.data) not in text:
                assert f'"{home}"' not in text
