"""A child process is told what is on a list: no password, token or way to run other code is inherited.

The class: a secret, or an instruction, that travels because everything travels.
"""

from __future__ import annotations

import ast
import os
import sys
from pathlib import Path

import pytest
from toy_sinks import calls, sources

import commonground
from commonground.child_environment import KEYRING, PROXIES, child_environment

NAMES = (
    "COMMONGROUND_PASSPHRASE_FILE AWS_SECRET_ACCESS_KEY AWS_PROFILE HF_TOKEN GITHUB_TOKEN OPENAI_API_KEY "
    "SSH_AUTH_SOCK GPG_AGENT_INFO KUBECONFIG DATABASE_URL PGPASSWORD LD_PRELOAD LD_AUDIT LD_LIBRARY_PATH "
    "PYTHONSTARTUP PYTHONHOME PYTHONINSPECT PYTHONPATH PYTHONBREAKPOINT PYTHONWARNINGS BASH_ENV NODE_OPTIONS "
    "GIT_SSH_COMMAND FLWR_API_TOKEN FLWR_SECRET RAY_AUTH_TOKEN OPENBLAS_PASSWORD LC_CREDENTIALS"
)
HOSTILE = dict.fromkeys(NAMES.split(), "s3cr3t")


def test_what_is_secret_or_runs_code_is_not_passed_on() -> None:
    found = child_environment(source={**HOSTILE, "PATH": "/bin", "LC_ALL": "C", "OMP_NUM_THREADS": "1"})
    assert found == {"PATH": "/bin", "LC_ALL": "C", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def test_what_a_part_needs_is_named() -> None:
    source = {"DBUS_SESSION_BUS_ADDRESS": "unix:x", "https_proxy": "http://ada:word@proxy:1"}
    assert "https_proxy" not in child_environment(source=source, also=KEYRING)
    assert "DBUS_SESSION_BUS_ADDRESS" not in child_environment(source=source, also=PROXIES)
    assert (
        child_environment({"A": "b"}, source=source, also=PROXIES | KEYRING).items()
        >= {
            **source,
            "A": "b",
        }.items()
    )


@pytest.mark.parametrize("more", [[], ["elsewhere"]])
def test_of_the_python_path_only_the_place_of_this_program_is_left(more: list[str]) -> None:
    here = str(Path(commonground.__file__).resolve().parent.parent)
    found = child_environment(source={"PYTHONPATH": os.pathsep.join([*more, here, sys.prefix])})
    assert found["PYTHONPATH"] == here


# A researcher's own runs, on her machine, from her shell: her strategies are found by her PYTHONPATH.
HERS = {
    ("simulations/parts.py", "os.environ | {'OMP_NUM_THREADS': '1'}"),
    ("simulations/bench/deployed.py", "environment"),
    ("simulations/bench/point.py", "os.environ | quiet"),
    ("simulations/bench/study.py", None),
}


def test_every_process_that_a_device_or_a_server_starts_is_told_what_is_on_the_list() -> None:
    starts = ("Popen", "run", "check_call", "check_output", "call")
    found = set()
    for file, call in calls(sources(), *starts):
        if ast.unparse(call.func).startswith("subprocess."):
            told = [ast.unparse(word.value) for word in call.keywords if word.arg == "env"]
            found.add((file, told[0] if told else None))
    listed = {(file, told) for file, told in found if (told or "").startswith("child_environment(")}
    assert {file for file, _ in listed} == {"client/child.py", "server/commands.py", "server/processes.py"}
    assert found - listed == HERS
