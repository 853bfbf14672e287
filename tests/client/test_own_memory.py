"""A crash of a process that holds texts or keys leaves no core file, and no debugger gets into the vault."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from commonground.client import vault
from commonground.errors import InputError

ASK = "import ctypes, resource; print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), *resource.getrlimit(4))"
OURS = "from commonground.client.own_memory import keep_out_debuggers; keep_out_debuggers(); "


def test_no_debugger_reads_it_and_no_crash_writes_it() -> None:
    found = [subprocess.check_output([sys.executable, "-c", text], text=True) for text in (ASK, OURS + ASK)]
    assert resource.RLIMIT_CORE == 4
    assert [text.split()[0] for text in found] == ["1", "0"]  # PR_GET_DUMPABLE
    assert found[1].split()[1:] == ["0", "0"]


def test_a_vault_does_so_before_anything_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(vault, "keep_out_debuggers", lambda: done.append("closed"))

    def read(folder: Path) -> None:
        done.append("read")
        raise InputError("no profile")

    monkeypatch.setattr(vault, "read_profile", read)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert vault.main(["--profile", str(tmp_path)]) == 2
    assert done == ["closed", "read"]
    assert os.environ["HF_HUB_OFFLINE"] == "1"  # whatever base model an offer names, no hub is asked
