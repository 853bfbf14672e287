"""Every planted bug of `make mutants` can still be planted: its place is there once, and its tests exist."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "mutants"))

from patches import PATCHES, Patch
from run import ROOT, planted


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.name)
def test_its_place_is_there_once_and_what_comes_of_it_is_a_program(patch: Patch) -> None:
    text = (ROOT / patch.file).read_text()
    bug = planted(patch, text)
    assert ast.dump(ast.parse(bug)) != ast.dump(ast.parse(text))
    assert patch.tests
    assert all((ROOT / "tests" / test).exists() for test in patch.tests)


def test_a_place_that_is_gone_or_there_twice_is_said() -> None:
    patch = PATCHES[0]
    for text in ("", patch.old * 2):
        with pytest.raises(ValueError, match="is there"):
            planted(patch, text)


def test_names_are_the_bugs_own() -> None:
    assert len({patch.name for patch in PATCHES}) == len(PATCHES) >= 50
