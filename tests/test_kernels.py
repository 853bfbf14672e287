"""`make kernels`: each setting has its own variables and no other; a kernel not asked for is refused."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import kernels  # type: ignore[import-not-found]


def test_there_are_enough_settings_for_a_processor_of_ten_years_ago() -> None:
    old = frozenset({"sse2", "pni", "avx", "avx2", "fma"})
    names = [setting.name for setting in kernels.usable(old)]
    assert len(names) >= kernels.ENOUGH
    assert "OPENBLAS_CORETYPE=SkylakeX" not in names
    assert any(setting.whole for setting in kernels.usable(old))
    assert len(kernels.usable(frozenset())) < kernels.ENOUGH  # and a machine that cannot tell is no success


def test_a_setting_s_variables_are_set_for_its_process_alone() -> None:
    start = {"OPENBLAS_CORETYPE": "Zen", "OPENBLAS_L2_SIZE": "512", "MKL_CBWR": "AVX", "HOME": "/h"}
    before = dict(start)
    for setting in kernels.SETTINGS:
        found = kernels.environment(setting, start)
        mine = {name: found[name] for name in kernels.VARIABLES if name in found}
        assert mine == (dict(setting.variables) or {k: v for k, v in start.items() if k in kernels.VARIABLES})
        assert found["HOME"] == "/h"
    assert start == before


def test_another_kernel_than_was_asked_for_is_refused(tmp_path: Path) -> None:
    """In a process of its own: OpenBLAS looks at its variable once."""
    if "avx2" not in kernels.processor_flags():
        pytest.skip("this processor has one kernel")
    words = ["--inside", "OPENBLAS_CORETYPE=Haswell", "--result", str(tmp_path / "result.json")]
    done = subprocess.run(
        [sys.executable, kernels.__file__, *words, "--collect-only"],
        env={**os.environ, "OPENBLAS_CORETYPE": "Prescott"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert re.search(r"openblas says '\w+'; asked for Haswell", (tmp_path / "result.json").read_text())


def test_no_test_of_the_gate_and_no_recipe_of_make_sets_one_of_them() -> None:
    """The gate leaves the variables as it finds them."""
    root = Path(__file__).parents[1]
    files = [root / "Makefile", root / ".ci" / "run", *sorted((root / "tests").rglob("*.py"))]
    allowed = {Path(kernels.__file__), Path(__file__)}
    found = [
        f"{file}: {name}"
        for file in files
        if file not in allowed
        for name in kernels.VARIABLES
        if re.search(rf"{name}\s*=|[\"']{name}[\"']", file.read_text())
    ]
    assert found == []


def test_the_files_with_marked_tests_are_found() -> None:
    names = {file.name for file in kernels.marked()}
    assert {"test_exact.py", "test_basis.py", "test_vault_identity.py", "test_study.py"} <= names


def test_a_setting_in_which_nothing_ran_has_not_passed() -> None:
    assert not kernels.good({"code": 5, "passed": 0})
    assert not kernels.good({"code": 0, "passed": 0, "failed": 0})
    assert not kernels.good({"code": 0, "passed": 3, "failed": 1})
    assert kernels.good({"code": 0, "passed": 3, "failed": 0})
