"""compare.json -> what the template shows: every number in words, with what its column is sorted by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from commonground.report import compare_figures as figures
from commonground.report.compare_conclusion import WORDS, setting_words
from commonground.report.devices_view import rows as pairs
from commonground.report.words import (
    MISSING,
    SPACE,
    count,
    decimal,
    duration,
    mapping,
    number,
    percent,
    plural,
    points,
    size,
    span,
)

Document = Mapping[str, Any]
View = dict[str, Any]
SHARES = {
    "personal_taste": "Personal taste",
    "personal_worst_decile": "Worst-off 10 %",
    "personal_minority": "Minority",
    "shared_taste": "Shared taste",
    "shared_minority": "Minority, shared",
    "personal_safety": "Safety, personal",
    "shared_safety": "Safety, shared",
}
WELFARE = {
    "utilitarian": "Utilitarian (mean)",
    "nash": "Nash",
    "minimum": "Minimum",
    "gini": "Gini",
}
ERASED = {"erased_nats": "Erased, nats", "erased_at_least": "At least, nats"}
ATTACK = {"attack_success": "Attack succeeds", "attack_baseline": "Without attackers"}
PLANES = {
    "shared_safety": "Utility and safety.",
    "personal_worst_decile": "Utility and the worst person.",
    "epsilon": "Utility and privacy.",
    "bytes": "Utility and bytes.",
}


def compare_view(found: Document) -> View:
    """Everything the page shows.

    Args:
        found: a compare.json.
    """
    done = [row for row in found["rows"] if row["seeds"]]
    return {
        "conclusion": found["conclusion"],
        "tiles": _tiles(found),
        "axes": [key.rsplit(".", 1)[-1] for key in found["axes"]],
        "table": [_row(found, row) for row in found["rows"]],
        "heads": list(SHARES.values()),
        "differences": _differences(found),
        "minority": _minority(found),
        "planted": found["minority_planted"],
        "welfare": [_welfare(found, row) for row in done],
        "groups": _groups(found, done),
        "reasons": _reasons(found),
        "fronts": [
            (setting_words(found, place), ", ".join(names))
            for place, names in enumerate(found["fronts"])
            if names
        ],
        "figures": _figures(found),
        "asked": asked(found),
        "attacked": [setting["attacked"] for setting in found["settings"]],
        "reproduce": found.get("reproduce"),
        "versions": pairs(found.get("versions")),
        "config": found.get("config"),
    }


def _tiles(found: Document) -> list[tuple[str, str, str]]:
    """(number, what it is, note)."""
    cells = found["cells"]
    by_status = {
        name: sum(cell["status"] == name for cell in cells) for name in ("done", "refused", "failed")
    }
    seconds = sum(number(cell["seconds"]) or 0 for cell in cells)
    seeds = ", ".join(map(str, found["seeds"]))
    return [
        (count(by_status["done"]), f"of {plural(len(cells), 'cell')} done", f"{duration(seconds)} in all"),
        (count(by_status["refused"]), "refused", "rules that do not go with the privacy"),
        (count(by_status["failed"]), "failed", "each with its reason below"),
        (count(len(found["seeds"])), "seeds", f"{seeds}: common people, cohorts and data"),
        (count(found["people"]), "people evaluated", "per seed"),
    ]


def _where(found: Document, row: Mapping[str, Any]) -> list[str]:
    return list(mapping(found["settings"][row["setting"]], "values").values())


def _row(found: Document, row: Mapping[str, Any]) -> View:
    numbers = row["numbers"]
    up, down = number(numbers.get("bytes_up")), number(numbers.get("bytes_down"))
    epsilon = numbers.get("epsilon")
    cells = [
        (head, percent(numbers.get(key)).removesuffix(f"{SPACE}%"), _sort(numbers.get(key)))
        for key, head in (SHARES | (ATTACK if asked(found) else {})).items()
    ]
    none = not row["seeds"]
    cells += [
        (
            "ε spent",
            "∞"
            if epsilon == "inf"
            else MISSING
            if none
            else "not claimed"
            if epsilon is None
            else decimal(epsilon, 2),
            "1e99" if epsilon == "inf" else _sort(epsilon),
        ),
        ("Bytes up", size(up), _sort(up)),
        ("Bytes down", size(down), _sort(down)),
        ("Seconds", decimal(numbers.get("seconds"), 1), _sort(numbers.get("seconds"))),
    ]
    return {
        "strategy": row["strategy"],
        "status": row["status"],
        "where": _where(found, row),
        "front": row["strategy"] in found["fronts"][row["setting"]] and row["status"] == "done",
        "reference": row["strategy"] == found["strategies"][0],
        "cells": cells,
    }


def asked(found: Document) -> bool:
    """Whether any cell was asked how often an attack succeeds."""
    return any(number(row["numbers"].get(key)) is not None for row in found["rows"] for key in ATTACK)


def _sort(value: Any) -> str:
    """What a column is sorted by; '' comes last in either direction."""
    found = number(value)
    return "" if found is None else repr(found)


def _differences(found: Document) -> list[View]:
    """One table a setting."""
    tables = []
    for place in range(len(found["settings"])):
        here = [one for one in found["differences"] if one["setting"] == place]
        rows = []
        for strategy in dict.fromkeys(one["strategy"] for one in here):
            mine = {one["measure"]: one for one in here if one["strategy"] == strategy}
            rows.append((strategy, [(_head(name), *_difference(mine[name])) for name in mine]))
        if rows:
            tables.append(
                {"where": setting_words(found, place), "reference": here[0]["reference"], "rows": rows}
            )
    return tables


def _head(measure: str) -> str:
    who, _, what = measure.partition("_")
    return f"{what.capitalize()}, {who}"


def _difference(one: Mapping[str, Any]) -> tuple[str, str, bool]:
    """(points, interval and corrected p, beyond noise)."""
    if number(one["mean"]) is None:
        return MISSING, "", False
    if one["mean"] == one["low"] == one["high"] == 0:
        return "0", "a tie", False
    inside = span(one["low"], one["high"])
    return (
        points(one["mean"]),
        f"{inside}; p{SPACE}{_p(one['p_holm'])}" if inside else "",
        one["beyond_noise"],
    )


def _p(value: Any) -> str:
    found = number(value)
    return (
        MISSING
        if found is None
        else f"<{SPACE}0.001"
        if found < 0.001
        else f"{found:.3f}"
        if found < 0.1
        else f"{found:.2f}"
    )


def _minority(found: Document) -> list[tuple[str, list[tuple[str, str, str, bool]]]]:
    """Strategies where nobody attacks: the shared model on everybody and on the minority."""
    rows = []
    for row in found["rows"]:
        if found["settings"][row["setting"]]["attacked"] or not row["seeds"]:
            continue
        numbers = row["numbers"]
        against = next(
            (
                one
                for one in found["differences"]
                if (one["strategy"], one["setting"]) == (row["strategy"], row["setting"])
                and one["measure"] == "shared_minority"
            ),
            None,
        )
        kind = "one by one" if row["strategy"] in found["individual"] else "the mean"
        cells = [
            ("Works on", kind, "", True),
            ("Everybody", percent(numbers.get("shared_taste")), "", True),
            ("Minority", percent(numbers.get("shared_minority")), "", True),
            ("Minority, personal", percent(numbers.get("personal_minority")), "", True),
            (
                "Minority against the reference",
                *(("reference", "", True) if against is None else _difference(against)),
            ),
        ]
        rows.append((_name(found, row), cells))
    return rows


def _name(found: Document, row: Mapping[str, Any]) -> str:
    where = setting_words(found, row["setting"])
    return f"{row['strategy']}, {where}" if where else str(row["strategy"])


def _welfare(found: Document, row: Mapping[str, Any]) -> tuple[str, list[tuple[str, str]]]:
    numbers = row["numbers"]
    cells = [
        (f"{head}, {policy}", decimal(numbers.get(f"{policy}_{key}")))
        for policy in ("personal", "shared")
        for key, head in WELFARE.items()
    ]
    return _name(found, row), cells + [(head, decimal(numbers.get(key))) for key, head in ERASED.items()]


def _groups(found: Document, done: list[Mapping[str, Any]]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Taste by public group; none where nobody has one."""
    names = sorted({name for row in done for name in mapping(row, "groups", "shared")})
    if not names:
        return []
    return [
        (
            _name(found, row),
            [
                (f"{name}, {policy}", percent(mapping(row, "groups", policy).get(name)))
                for name in names
                for policy in ("personal", "shared")
            ],
        )
        for row in done
    ]


def _reasons(found: Document) -> list[tuple[str, str, str]]:
    return [(_name(found, row), row["status"], row["reason"]) for row in found["rows"] if row["reason"]]


def _figures(found: Document) -> View:
    drawn = {f"plane_{name}": figures.plane(found, name) for name in figures.PLANES}
    drawn |= {f"forest_{name}": figures.forest(found, name) for name in found["measures"]}
    return {
        name: {"id": name.replace("_", "-"), "figure": one, "title": _title(name)}
        for name, one in drawn.items()
        if one
    }


def _title(name: str) -> str:
    kind, _, what = name.partition("_")
    if kind == "plane":
        return PLANES[what]
    words = WORDS[what]
    return f"{words[:1].upper()}{words[1:]}."
