"""What left the devices, under which promise, from which data, at which cost: in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from commonground.report.words import (
    MISSING,
    count,
    dig,
    duration,
    epsilon,
    mapping,
    number,
    plain,
    plural,
    scientific,
    size,
)

View = dict[str, Any]
SHOWN_RECEIPTS = 10


def rows(values: Any) -> list[tuple[str, Any]]:
    """A mapping as (name, text or nested rows) for the template; [] for anything else."""
    if not isinstance(values, Mapping):
        return []
    known = {str(k): v for k, v in values.items() if v is not None or k == "epsilon"}
    return [(k.replace("_", " "), _cell(k, v)) for k, v in known.items()]


def _cell(key: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return rows(value) or "none"
    if isinstance(value, (list, tuple)):
        return [("", _cell("", v)) for v in value] if value else "none"
    if key == "delta":
        return scientific(value)
    return epsilon(value) if key in {"epsilon", "epsilon_rdp", "epsilon_prv"} else plain(value)


def data_rows(values: Any) -> list[tuple[str, Any]]:
    """A mapping, e.g. of how much feedback there was, as (name, text or lines); nesting is told in words."""
    shown = []
    for name, value in mapping(values).items():
        lines = _bad_rows(value) if name == "bad_rows" else _lines(value)
        named = name.replace("_", " ")
        shown.append((named, lines[0] if len(lines) == 1 else [("", line) for line in lines]))
    return shown


def _lines(value: Any) -> list[str]:
    """A value as lines; nested names are joined: 'taste, all ratings equal: 3'."""
    if isinstance(value, Mapping):
        joined = [
            f"{str(k).replace('_', ' ')}{', ' if isinstance(v, Mapping) and v else ': '}{line}"
            for k, v in value.items()
            for line in _lines(v)
        ]
        return joined or ["none"]
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value] or ["none"]
    return [count(value) if isinstance(value, int) and not isinstance(value, bool) else plain(value)]


def _bad_rows(value: Any) -> list[str]:
    """Bad rows of one source, or of one source a tag."""
    if not isinstance(value, Mapping):
        return _lines(value)
    if "count" not in value:
        found = [(str(tag), line) for tag, rows_ in value.items() for line in _bad_rows(rows_)]
        return [f"{tag}: {line}" for tag, line in found] or ["none"]
    if not number(value.get("count")):
        return ["none"]
    reasons = [f"{reason} ({count(n)})" for reason, n in mapping(value, "reasons").items()]
    first = [str(place) for place in value.get("first") or ()]
    return [plural(value.get("count"), "bad row") + (", " + ", ".join(reasons) if reasons else ""), *first]


def egress(result: Mapping[str, Any]) -> View | None:
    """What left the devices."""
    found = mapping(result, "egress")
    if not found:
        return None
    manifest = mapping(found, "manifest")
    shapes = {
        dig(t, "name"): dig(t, "shape") for t in manifest.get("tensors") or () if isinstance(t, Mapping)
    }
    names = [str(n) for n in found.get("tensors") or ()]
    clip = number(manifest.get("clip"))
    meaningful = dig(result, "privacy", "shared", "meaningful") is not False
    return {
        "messages": count(found.get("messages")),
        "bytes": size(found.get("bytes")),
        "tensors": [(n, " × ".join(str(v) for v in shapes.get(n) or ())) for n in names],
        "private": count(found.get("private_tensors")),
        "refused": count(found.get("refused")),
        "acknowledgements": found.get("acknowledgements"),
        "clip": plain(clip) if clip is not None else None,
        "noise": "on each device" if manifest.get("noise_on_device") else "by the server, on the sum",
        "versions": rows(manifest.get("versions")),
        "receipts": [
            (
                plain(dig(r, "round")),
                size(dig(r, "bytes")),
                _spent(dig(r, "epsilon"), meaningful),
                ", ".join(str(n) for n in dig(r, "names") or ()),
                str(dig(r, "manifest") or MISSING),
            )
            for r in (found.get("receipts") or ())[:SHOWN_RECEIPTS]
        ],
    }


def _spent(value: Any, meaningful: bool) -> str:
    """Epsilon of a receipt: only a number needs a claim, that there is no noise may always be said."""
    return epsilon(value) if meaningful or value == "inf" else epsilon(None)


def statement(result: Mapping[str, Any]) -> list[str]:
    """The privacy statement, line by line."""
    text = dig(result, "privacy", "statement")
    lines = text if isinstance(text, list) else str(text or "").splitlines()
    return [str(line).strip() for line in lines if str(line).strip()]


def cost(result: Mapping[str, Any]) -> str:
    """Time and memory of the run."""
    parts = []
    if number(result.get("seconds")) is not None:
        parts.append(duration(result.get("seconds")))
    memory = number(result.get("peak_memory_mb"))
    if memory is not None:
        parts.append(f"{size(memory * 1e6)} of memory at most")
    return ", ".join(parts)
