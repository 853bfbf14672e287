"""Ray on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from toy_patience import LIMIT

from commonground.simulations.cluster import SOCKET

PROGRAM = """
import os, sys
from commonground.simulations.engine import environment
from commonground.simulations.cluster import ENVIRONMENT, ray_running

with environment(ENVIRONMENT), ray_running("a test", 1):
    import ray
    from ray._private.worker import _global_node
    print(_global_node.plasma_store_socket_name, os.environ.get("RAY_TMPDIR", ""))
print(os.environ.get("RAY_TMPDIR", "none"))
"""


@pytest.mark.slow
def test_ray_starts_where_the_temporary_folder_is_deep_and_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path
    while len(str(folder)) < 103:
        folder = folder / "deeper"
    folder.mkdir(parents=True)
    words = [sys.executable, "-c", PROGRAM]
    variables = {k: v for k, v in os.environ.items() if k != "RAY_TMPDIR"} | {"TMPDIR": str(folder)}
    done = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT, env=variables, check=False)
    assert done.returncode == 0, done.stderr
    first, after = done.stdout.splitlines()
    where, short = first.split()
    assert where.startswith(short)
    assert len(where) - len(short) <= len(SOCKET)  # what was made room for is what Ray asks for
    assert after == "none"
    assert not Path(short).exists()
