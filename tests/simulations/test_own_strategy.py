"""docs/strategies.md: from one file of somebody else's to a tournament, outside the repository."""

from __future__ import annotations

import csv
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from toy_runs import Kit

PAGE = Path(__file__).parents[2] / "docs" / "strategies.md"
SMALL = {"seeds=3": "seeds=1", "people=200": "people=12", "rounds=10": "rounds=2"}


@pytest.mark.slow
def test_the_documented_example_competes(kit: Kit, tmp_path: Path) -> None:
    text = PAGE.read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", text, flags=re.S | re.M)
    (line,) = re.findall(r"^```sh\n(.*?)^```", text, flags=re.S | re.M)
    assert len(code.splitlines()) + len(line.splitlines()) < 60
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "patient.py").write_text(code, encoding="utf-8")
    path, program, *words = shlex.split(line.replace("\\\n", " "))
    assert (path, program, words[0]) == ("PYTHONPATH=mine", "commonground", "compare")
    # A second round, where its step differs from FedAvg's; taste shared, so that the table can show it.
    words = [SMALL.get(word, word) for word in words if word != "runtime=fleet"]
    done = subprocess.run(
        [
            str(Path(sys.executable).parent / program),
            *words,
            *kit.overrides[3:],
            "shared.tags=[safety,taste]",
        ],
        cwd=tmp_path,
        env={**os.environ, **kit.variables, "PYTHONPATH": "mine", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "runs/patient/table.csv").read_text().splitlines()))
    assert [(row["strategy"], row["status"]) for row in rows] == [
        ("fedavg", "done"),
        ("patient:Patient", "done"),
        ("patient:Patient(eta=2)", "done"),
    ]
    assert len({row["erased_nats"] for row in rows}) == 3
    assert (tmp_path / "runs/patient/report.html").is_file()
