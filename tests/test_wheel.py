"""The wheel, built from the sdist, is whole, holds nothing twice, and works away from the repository."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("client", "server", "strategies", "simulations")
LAUNCH = """
import pathlib, sys
sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in getattr(f, "__module__", "")]
here = str(pathlib.Path(__file__).parent)
sys.path.insert(0, here)
import commonground
assert commonground.__file__.startswith(here), commonground.__file__
exec(sys.argv.pop(1))
"""


def tree() -> dict[str, Path]:
    """What the wheel must hold: its path there -> the file here. The links are not followed."""
    kernel = ROOT / "src" / "commonground"
    found: dict[str, Path] = {}
    for folder, inside in [(kernel, ""), *((ROOT / room, f"{room}/") for room in ROOMS)]:
        for at, folders, files in os.walk(folder):
            folders[:] = [name for name in folders if name != "__pycache__"]
            for name in files:
                file = Path(at, name)
                found[f"commonground/{inside}{file.relative_to(folder)}"] = file
    return found


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, env=os.environ | variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build sdist, then wheel from the sdist, out of a copy: a build must not touch a working tree."""
    work = tmp_path_factory.mktemp("wheel")
    copy = work / "repository"
    copy.mkdir()
    unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for folder in ("src", *ROOMS):
        shutil.copytree(ROOT / folder, copy / folder, symlinks=True, ignore=unwanted)
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, copy)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", work / "dist", cwd=copy)
    assert [file.suffix for file in sorted((work / "dist").iterdir())] == [".whl", ".gz"]
    return next((work / "dist").glob("*.whl"))


@pytest.fixture(scope="module")
def away(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Sequence[str | Path]:
    """How to run a line of Python outside the repository, with the wheel in place of the tree.

    The dependencies are those of this environment; its editable commonground is taken out of the way.
    """
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    run(*pip, "--no-deps", "--no-index", "--target", target, wheel, cwd=target)
    launcher = target / "launch.py"
    launcher.write_text(LAUNCH)
    return [sys.executable, "-I", launcher]  # -I: neither the current folder nor PYTHONPATH is looked at


def test_the_wheel_holds_the_tree_and_nothing_else(wheel: Path) -> None:
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    assert len(names) == len(set(names))
    assert set(names) == set(tree())


def test_no_link_was_walked(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {
        "commonground",
        wheel.name.split("-py3")[0] + ".dist-info",
    }
    for room in ROOMS:
        assert names.count(f"commonground/{room}/__init__.py") == 1


def test_the_files_are_those_of_the_tree_byte_for_byte(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        assert [name for name, file in tree().items() if packed.read(name) != file.read_bytes()] == []


def test_every_data_file_opens_through_its_package(away: Sequence[str | Path], tmp_path: Path) -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    wanted = [name for name in tree() if not name.endswith(".py")]
    assert len(wanted) > 8
    opened = (
        "import importlib.resources; print(len(importlib.resources.files({!r}).joinpath({!r}).read_bytes()))"
    )
    lines = []
    for name in wanted:
        package = max((p for p in listed if name.startswith(p.replace(".", "/") + "/")), key=len)
        lines.append(opened.format(package, name[len(package) + 1 :]))
    sizes = [int(line) for line in run(*away, "\n".join(lines), cwd=tmp_path).split()]
    assert sizes == [tree()[name].stat().st_size for name in wanted]


def test_the_licence_travels_along(wheel: Path) -> None:
    packed = [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith("licenses/LICENSE")]
    assert len(packed) == 1
    assert zipfile.ZipFile(wheel).read(packed[0]) == (ROOT / "LICENSE").read_bytes()


def test_the_device_is_found_through_the_wheels_own_entry_point(
    away: Sequence[str | Path], tmp_path: Path
) -> None:
    script = """
import importlib.metadata, inspect
[entry] = importlib.metadata.entry_points(group="commonground.devices", name="simulation")
assert pathlib.Path(entry.dist.locate_file("")).samefile(here), entry.dist.locate_file("")
assert inspect.getfile(entry.load()).startswith(here), inspect.getfile(entry.load())
print(entry.value)
"""
    assert run(*away, script, cwd=tmp_path).strip() == "commonground.simulations.devices:open_device"


@pytest.mark.slow
@pytest.mark.model
def test_the_wheel_runs_the_main_job(away: Sequence[str | Path], tmp_path: Path) -> None:
    # the console script itself; started by its own first line it would find the editable install
    script = "import runpy; runpy.run_path(here + '/bin/commonground', run_name='__main__')"
    run(*away, script, "simulate", "people=20", "rounds=2", "--out", "X", cwd=tmp_path, OMP_NUM_THREADS="1")
    result = json.loads((tmp_path / "X" / "result.json").read_text())
    assert result["config"]["people"] == 20
    assert result["egress"]["private_tensors"] == 0
    page = (tmp_path / "X" / "report.html").read_text()
    assert "epsilon" in page.lower()
