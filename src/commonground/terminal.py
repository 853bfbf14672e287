"""Text of other people where signs are commands: a terminal, a log, a page's source, a spreadsheet.

What stands in a data file, an invitation or a request is shown as it is, and never moves a cursor, colours a
line, begins a log line of its own, or is a formula.
"""

from __future__ import annotations

import json
import logging
import re
import unicodedata
from typing import Any

from rich import table
from rich.text import Text

from commonground.errors import one_line

MOST = 2_000  # characters of a log line
FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n")  # what a cell that a spreadsheet would compute begins with
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def escaped(text: str) -> str:
    """A text of any number of lines in which what moves a cursor or turns the direction is escaped.

    Spaces of every width and the joiners that Persian and emoji need stay.
    """
    return (
        text if text.isprintable() else "".join(sign if _stays(sign) else ascii(sign)[1:-1] for sign in text)
    )


def _stays(sign: str) -> bool:
    return sign.isprintable() or sign in "\n\t\u200c\u200d" or unicodedata.category(sign) == "Zs"


def escaped_json(value: object) -> str:
    """JSON on one line that reads as `value`; what is not shown as it is stands as its number."""
    text = json.dumps(value, ensure_ascii=False)
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else json.dumps(sign)[1:-1] for sign in text)


def spreadsheet_cell(value: object) -> str:
    """A cell of a CSV file that no spreadsheet takes for a formula: such a text gets an apostrophe before it.

    Numbers stay numbers, also negative ones.
    """
    text = str(value)
    if not text.startswith(FORMULAS):
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text


class Table(table.Table):
    """rich's table, whose titles and cells of type str are shown as they are: no markup, no escapes."""

    def add_column(self, header: Any = "", *args: Any, **fields: Any) -> None:
        """As rich's."""
        super().add_column(_shown(header), *args, **fields)

    def add_row(self, *cells: Any, **fields: Any) -> None:
        """As rich's."""
        super().add_row(*map(_shown, cells), **fields)


def _shown(value: Any) -> Any:
    return Text(escaped(value)) if isinstance(value, str) else value


class LineFormatter(logging.Formatter):
    """One line for each record, of at most `MOST` characters and what the format adds.

    Nothing in a record is a line, a colour or a format of its own, and the lines of a traceback, which quote
    texts too, are marked.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The record as text; the record stays as it was."""
        record.message = said(record)
        if self.usesTime():
            record.asctime = self.formatTime(record, self.datefmt)
        text = self.formatMessage(record)
        if record.exc_info:
            trace = self.formatException(record.exc_info)
            text += "".join(f"\n    | {one_line(line)}" for line in trace.split("\n"))
        return text


def said(record: logging.LogRecord, most: int = MOST) -> str:
    """What a record says, on one line of at most `most` characters and three dots."""
    try:
        text = record.getMessage()
    except Exception:  # a text of a stranger that is no format
        text = str(record.msg)
    return one_line(text[:most]) + ("..." if len(text) > most else "")


def without_colours(text: str) -> str:
    """A line of a program that colours what it says, as it would be without."""
    return _COLOURS.sub("", text)


def log_to_stderr(form: str, level: int = logging.INFO) -> None:
    """Let this process log plain lines of this format to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter(form))
    logging.basicConfig(level=level, handlers=[handler])
