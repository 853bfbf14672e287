"""The list of packages in pyproject.toml is the tree, and each room has one name."""

from __future__ import annotations

import importlib
import importlib.util
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("client", "server", "strategies", "simulations")


def tree() -> set[str]:
    """Packages on disk: folders with an __init__.py, the four links not followed."""
    kernel = ROOT / "src" / "commonground"
    found = {"commonground"}
    links = {kernel / room for room in ROOMS}
    for init in kernel.rglob("__init__.py"):
        if init.parent != kernel and not links & {init.parent, *init.parent.parents}:
            found.add("commonground." + ".".join(init.parent.relative_to(kernel).parts))
    for room in ROOMS:
        for init in (ROOT / room).rglob("__init__.py"):
            found.add("commonground." + ".".join(init.parent.relative_to(ROOT).parts))
    return found


def setuptools() -> dict[str, dict[str, object]]:
    project: dict[str, dict[str, dict[str, dict[str, object]]]] = tomllib.loads(
        (ROOT / "pyproject.toml").read_text()
    )
    return project["tool"]["setuptools"]


def test_every_package_is_listed_and_nothing_else() -> None:
    listed = setuptools()["packages"]
    assert isinstance(listed, list)
    assert set(listed) == tree()
    assert len(listed) == len(set(listed))


def test_every_folder_with_code_is_a_package() -> None:
    folders = {path.parent for room in ROOMS for path in (ROOT / room).rglob("*.py")}
    folders |= {path.parent for path in (ROOT / "src").rglob("*.py")}
    assert [str(folder) for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_is_mapped_linked_and_refuses_its_bare_name(room: str) -> None:
    assert setuptools()["package-dir"][f"commonground.{room}"] == room
    link = ROOT / "src" / "commonground" / room
    assert link.is_symlink()
    assert link.resolve() == ROOT / room
    spec = importlib.util.spec_from_file_location(room, ROOT / room / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    with pytest.raises(ImportError, match=rf"commonground\.{room} and was imported as '{room}'"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert importlib.import_module(f"commonground.{room}").__name__ == f"commonground.{room}"
