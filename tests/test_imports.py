"""The direction of imports: kernel <- strategies <- client, server <- simulations."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("client", "server", "strategies", "simulations")
# What each part of the house must not import, at the top of a file or inside a function.
FORBIDDEN = {
    "kernel": {*(f"commonground.{room}" for room in ROOMS), "flwr", "ray"},
    "strategies": {"commonground.client", "commonground.server", "commonground.simulations"},
    "client": {"commonground.server", "commonground.simulations"},
    "server": {"commonground.client", "commonground.simulations"},
    "simulations": set[str](),
}


def files(part: str) -> list[Path]:
    if part != "kernel":
        return sorted((ROOT / part).rglob("*.py"))
    kernel = ROOT / "src" / "commonground"
    links = [kernel / room for room in ROOMS]
    return sorted(p for p in kernel.rglob("*.py") if not any(link in p.parents for link in links))


def imported(source: str, package: str = "") -> set[str]:
    """Every module named in an import statement of `source`; `from a import b` names a and a.b."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:  # relative to the package of the file
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *([base] if base else [])])
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return names


def hits(names: set[str], forbidden: set[str]) -> set[str]:
    return {n for n in names for f in forbidden if n == f or n.startswith(f + ".")}


@pytest.mark.parametrize("part", FORBIDDEN)
def test_imports_point_the_right_way(part: str) -> None:
    assert files(part), f"no files found in {part}"
    found = {str(p.relative_to(ROOT)): hits(imported(p.read_text()), FORBIDDEN[part]) for p in files(part)}
    assert {place: names for place, names in found.items() if names} == {}


def test_only_the_adapters_touch_peft() -> None:
    users = {
        str(path.relative_to(ROOT))
        for part in FORBIDDEN
        for path in files(part)
        if hits(imported(path.read_text()), {"peft"})
    }
    assert users <= {"src/commonground/adapters.py"}


def test_imports_are_absolute() -> None:
    """A relative import would make a room depend on the name it was imported under."""
    relative = [
        str(path.relative_to(ROOT))
        for part in FORBIDDEN
        for path in files(part)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert relative == []


def test_the_reader_sees_what_it_should() -> None:
    source = "import os.path\nfrom commonground import server\ndef f():\n    from flwr.app import Message\n"
    assert hits(imported(source), {"commonground.server", "flwr"}) == {
        "commonground.server",
        "flwr.app",
        "flwr.app.Message",
    }
    assert imported("from .x import y", "commonground.client") >= {"commonground.client.x"}
