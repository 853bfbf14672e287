"""Safety on the page: the worst person beside the mean, and who lost what the shared model had."""

from __future__ import annotations

from typing import Any

import pytest

from commonground.report.page import render_page
from commonground.report.safety_view import safety

RESULT: dict[str, Any] = {
    "policies": {p: {"safety": {"accuracy": a}} for p, a in (("shared", 0.9), ("personal", 0.8))},
    "per_person": {"person": ["ada", "<b>bo</b>", "cy", "di"]},
    "per_person_safety": {"shared": [1.0, 0.9, None, 0.8], "personal": [1.0, 0.25, None, 0.9]},
}


def test_the_worst_person_is_named_and_losses_are_counted() -> None:
    found = safety(RESULT)
    assert found is not None
    rows = {name: dict(cells) for name, cells in found["rows"]}
    assert list(rows) == ["Shared", "Personal"]
    assert rows["Personal"] == {
        "Over comparisons": "80.0\N{NO-BREAK SPACE}%",
        "Worst person": "25.0\N{NO-BREAK SPACE}%",
        "No better than chance": "1",
        "Less safe than shared": "1",
        "People": "3",
    }
    assert rows["Shared"]["Less safe than shared"] == ""
    assert [name for name, _ in found["worst"]] == ["<b>bo</b>", "di", "ada"]
    assert "Of 3 people, 1 have a model of their own" in found["words"]
    assert "None of these numbers is a bound" in found["words"]


def test_the_page_shows_it_escaped_and_only_where_there_is_something(result: dict[str, Any]) -> None:
    heading = "Safety, policy by policy and person by person"
    assert heading not in render_page([("", result)])
    page = render_page([("", result | {k: RESULT[k] for k in ("per_person_safety",)})])
    assert heading in page
    assert "Less safe than shared" in page
    people = {**result["per_person"], "person": RESULT["per_person"]["person"]}
    odd = result | {"per_person_safety": RESULT["per_person_safety"], "per_person": people}
    assert "&lt;b&gt;bo&lt;/b&gt;" in render_page([("", odd)])


@pytest.mark.parametrize("table", [None, {}, {"shared": []}, {"shared": [None]}, {"shared": "x"}])
def test_nothing_is_shown_of_nothing(table: object) -> None:
    assert safety({"per_person_safety": table}) is None


def test_a_policy_alone_is_compared_with_nothing() -> None:
    found = safety({"per_person_safety": {"personal": [0.5]}})
    assert found is not None
    [(name, cells)] = found["rows"]
    assert (name, dict(cells)["Less safe than shared"]) == ("Personal", "")
    assert found["words"] == ""
    assert found["worst"][0][0] == "person 0"
