"""The table in the terminal."""

import io
from typing import Any

from rich.console import Console

from commonground.report.table import headline_table


def shown(result: dict[str, Any], width: int = 80) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(headline_table(result))
    return console.export_text()


def test_it_fits_80_columns_with_every_number(result: dict[str, Any]) -> None:
    text = shown(result)
    assert "…" not in text
    for name in ("Base", "Pooled", "Pooled, no noise", "Local only", "Shared", "Personal", "minority"):
        assert name in text
    taste = result["policies"]["personal"]["taste"]
    assert f"{100 * taste['accuracy']:.1f} ({100 * taste['low']:.1f}–{100 * taste['high']:.1f})" in text


def test_missing_numbers_are_dashes_and_markup_is_text() -> None:
    text = shown({"policies": {"[red]odd[/red]": {"taste": {"accuracy": None}, "safety": None}}})
    assert "[red]odd[/red]" in text
    assert "–" in text
    assert "minority" not in text
