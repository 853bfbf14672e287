"""Text of a stranger on a terminal, in a log and in a spreadsheet."""

from __future__ import annotations

import csv
import io
import json
import logging

import pytest

from commonground.console import Output
from commonground.terminal import (
    LineFormatter,
    Table,
    escaped,
    escaped_json,
    said,
    spreadsheet_cell,
    without_colours,
)

# What moves a cursor, colours, names a window, rings, or turns the direction of what follows.
MOVES = [
    *("\x1b[2J", "\x1b]0;owned\x07", "\x9b31m", "\x00", "\x07", "\x08\x08", "\r", "\x7f"),
    *("\u202egnp.exe", "\u2066", "\u2028", "\ufeff", "\ue000", "\ud800"),
]
STAYS = [
    "plain",
    "70\u202f%",
    "a\xa0b",
    "सुमित",
    "👩\u200d👩\u200d👧",
    "می\u200cخواهم",
    "[bold]not bold[/]",
    "one\ntwo",
]


@pytest.mark.parametrize("text", MOVES)
def test_what_moves_a_terminal_is_escaped_wherever_it_is_printed(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output, table = Output(as_json=False), Table(f"head {text}")
    table.add_column(f"late {text}")
    table.add_row(f"cell {text}", "", style="bold")
    output.say(f"say {text} end")
    output.show(f"show {text} end", table)
    found = capsys.readouterr()
    for sign in set(text):
        if not sign.isprintable():
            assert sign not in found.out + found.err
    assert "say " in found.err
    for place in ("show ", "cell ", "head ", "late "):
        assert place in found.out


@pytest.mark.parametrize("text", STAYS)
def test_what_people_write_is_shown_as_it_is(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert escaped(text) == text
    table = Table("name", box=None)
    table.add_row(text)
    Output(as_json=False).show(text, table)
    found = capsys.readouterr().out
    for line in text.split("\n"):
        assert found.count(line.rstrip()) == 2


@pytest.mark.parametrize("text", [*MOVES, *STAYS])
def test_the_envelope_reads_as_what_it_holds_and_moves_nothing(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Output(as_json=True).done({text: [text]})
    shown = capsys.readouterr().out
    assert shown[:-1].isprintable()
    assert json.loads(shown)["data"] == {text: [text]}
    assert escaped_json("सुमित") == '"सुमित"'


def record(message: str, *args: object, error: BaseException | None = None) -> logging.LogRecord:
    info = None if error is None else (type(error), error, None)
    return logging.LogRecord("name", logging.INFO, "file", 1, message, args, info)


def test_a_record_is_a_line() -> None:
    form = LineFormatter("%(levelname)s %(message)s")
    assert (
        form.format(record("node %s", "a\n2027 ERROR \x1b[31mroot"))
        == "INFO node a\\n2027 ERROR \\x1b[31mroot"
    )
    assert form.format(record("%d of %s", "x")) == "INFO %d of %s"
    assert len(form.format(record("%s", "x" * 100_000))) == len("INFO ") + 2_000 + 3
    assert said(record("%s", "abcdef"), most=3) == "abc..."
    assert LineFormatter("%(asctime)s %(message)s").format(record("x")).endswith(" x")


def test_a_traceback_forges_no_line() -> None:
    try:
        raise ValueError("first\n2027-01-01 INFO all is well\x1b[2J")
    except ValueError as error:
        kept = record("failed", error=error)
        kept.exc_info = (ValueError, error, error.__traceback__)
    lines = LineFormatter("%(asctime)s %(levelname)s %(message)s").format(kept).split("\n")
    assert lines[0].endswith("INFO failed")
    assert all(line.startswith("    | ") for line in lines[1:])
    assert any("all is well" in line for line in lines)
    assert "\x1b" not in "".join(lines)


@pytest.mark.parametrize(
    "text", ["=1+1", '=HYPERLINK("http://x")', "+cmd|' /C calc'!A0", "-2+3", "@SUM(1)", "\t=1", "\r=1"]
)
def test_no_cell_is_a_formula(text: str) -> None:
    file = io.StringIO()
    csv.writer(file).writerow(map(spreadsheet_cell, [text, "plain"]))
    [found] = csv.reader(io.StringIO(file.getvalue(), newline=""))
    assert found == [f"'{text}", "plain"]


@pytest.mark.parametrize("value", ["-0.5", "+3", "-1e-5", "-inf", "0.25", "", "fedavg", "a=b", -0.5, 3])
def test_numbers_and_names_stay(value: object) -> None:
    assert spreadsheet_cell(value) == str(value)


def test_colours_go() -> None:
    assert without_colours("\x1b[92mINFO \x1b[0m: up") == "INFO : up"
