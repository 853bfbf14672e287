"""A file from outside does nothing: no leaf and no key of any document is run, fetched, or written to.

The class of fault: a text of another party's becomes a module, a command, an address or a path; or ends a
command with a traceback, or fills a terminal. Every place of every document is tried with every kind of such
text, in a process of its own with a trap around it (tests/toys/toy_leaves.py).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from toy_leaves import RENAMED, VALUES, changed, places

from commonground.bounds.charter_files import default_charter
from commonground.errors import LONGEST, CommonGroundError, ConfigError

PROGRAM = Path(__file__).parent / "toys" / "toy_leaves.py"
NEVER = {"model's adapter_config.json"}  # documents of which not even an honest one is taken


def _tried(folder: Path, *words: str) -> dict[str, Any]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", "OMP_NUM_THREADS": "1"}  # a look at the hub is seen
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(folder), *words],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _hold(found: dict[str, Any]) -> None:
    assert found["wrong"] == []
    assert set(found["honest"]) == NEVER
    assert min(found["cases"].values()) >= len(VALUES)
    assert found["outcomes"]["refused"] > 1000
    assert found["outcomes"]["accepted"] > 1000
    assert set(found["outcomes"]) == {"refused", "accepted"}


@pytest.mark.slow
def test_no_leaf_and_no_key_of_a_document_from_outside_does_anything(tmp_path: Path) -> None:
    found = _tried(tmp_path)
    _hold(found)
    caught = "\n".join(found["planted"]["wrong"])  # the guards: what a reader must not do is seen
    for effect in (
        "imports: code = 'leaf_stranger:Thing': import_module leaf_stranger",
        "asks: a = 'leaf_stranger:Thing': import leaf_stranger",
        "imports: code = 'subprocess:Popen': import_module subprocess",
        "writes: place = '/nowhere/leaf/x': open /nowhere/leaf/x to write",
        "writes: place = '../../x': open ../../x to write",
        "canary.txt to write",
        "starts: a = 'os:system': subprocess.Popen",
        "connects: a = 'os:system': socket.connect",
        "leaves: a = 'os:system': \"KeyError",
    ):
        assert effect in caught


@pytest.mark.night
def test_every_place_takes_every_value(tmp_path: Path) -> None:
    _hold(_tried(tmp_path, "EVERY"))


def test_every_place_is_walked() -> None:
    values = {"a": ["x", {"b": 1}], "c": {}}
    at = list(places(values))
    assert at == [("a", RENAMED), ("a", 0), ("a", 1, "b", RENAMED), ("a", 1, "b"), ("c", RENAMED), ("c",)]
    assert changed(values, at[3], "new") == {"a": ["x", {"b": "new"}], "c": {}}
    assert changed(values, at[2], "new")["a"][1] == {"new": 1}
    assert changed(values, at[3], "new", alone=True) == {"a": ["x", {"b": "new"}]}
    assert values == {"a": ["x", {"b": 1}], "c": {}}


@pytest.mark.parametrize("text", ["x" * 10_000, "\x1b" * 10_000, "a\n" * 5_000])
def test_a_line_of_an_error_is_bounded_and_keeps_what_is_accepted(text: str) -> None:
    error = CommonGroundError(f"key: found {text}; accepted: a number")
    assert len(str(error)) <= LONGEST
    assert str(error).endswith("accepted: a number")
    assert str(error).isprintable()
    faults = ConfigError([f"key: found {text}; accepted: a number"] * 2).faults
    assert all(len(fault) <= LONGEST and fault.endswith("a number") for fault in faults)


@pytest.mark.parametrize("place", ["/etc/passwd", "../x.json", "a/../../x"])
def test_a_charter_names_no_file_outside_its_folder(place: str, tmp_path: Path) -> None:
    from dataclasses import replace

    from commonground.bounds.charter_files import charter_detector, charter_probes

    charter = default_charter()
    name, rule = next((name, one) for name, one in charter.detectors.items() if one.kind == "head")
    moved = replace(charter, detectors={name: replace(rule, place=place)})
    with pytest.raises(CommonGroundError, match="in the charter's folder or below"):
        charter_detector(moved, name, tmp_path, lambda _: pytest.fail("read"), "")
    name, probes = next(iter(charter.probes.items()))
    moved = replace(charter, probes={name: replace(probes, file=place)})
    with pytest.raises(CommonGroundError, match="in the charter's folder or below"):
        charter_probes(moved, name, tmp_path)
