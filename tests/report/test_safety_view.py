"""Safety on the page: the worst person beside the mean, and who lost what the shared model had."""

from __future__ import annotations

from typing import Any

import pytest

from commonground.report.page import render_page
from commonground.report.private_bounds_view import private_bounds
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


BOUNDS: dict[str, Any] = {
    "reward": {"guarantee": "per-output", "says": "S.", "c": 0.25, "pairs": 100, "above": 60, "turned": 0},
    "constraint": {
        "guarantee": "average", "says": "Means.", "tolerance": 0.02,
        "trained": {"mean_lost": 0.01, "worst_lost": 0.03}, "probes": {"mean_lost": 0.02, "worst_lost": 0.08},
    },
    "kl": {"guarantee": "average", "says": "<i>cap</i>", "factor": [1.0, 0.6, 0.0, 0.2]},
}  # fmt: skip


def test_each_bound_is_said_with_its_kind_of_guarantee(result: dict[str, Any]) -> None:
    said = private_bounds({"private_bounds": BOUNDS})
    assert [text.split(")")[0] for text in said] == ["Bound (per-output", "Bound (average", "Bound (average"]
    assert "100 held-out safety comparisons 60 have a larger shared margin than 2c" in said[0]
    assert "personal rewards turned 0" in said[0]
    assert "at most 3.0\N{NO-BREAK SPACE}% on the public pairs that were trained on" in said[1]
    assert "Of 4 private adapters, 3 were scaled back, 1 of them to nothing." in said[2]
    assert private_bounds(result) == []
    page = render_page(
        [("", result | RESULT | {"private_bounds": BOUNDS} | {"policies": result["policies"]})]
    )
    assert "Bound (average). &lt;i&gt;cap&lt;/i&gt;" in page
    assert "Bound (" not in render_page([("", result)])
