"""kill -9 in the middle of a certificate: what was written is kept, and the numbers are the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import toy_certify
import toy_world
from toy_charter import signed_charter
from toy_patience import ended, until

from commonground.simulations.certify import two_policies
from commonground.simulations.certify.run import CERTIFICATE, PAGE

TIMES = ("made", "procedure")  # when, and how long it took


def start(charter: Path, out: Path, seconds: float) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, toy_certify.__file__, str(charter), str(out), str(seconds)])


def numbers(out: Path) -> dict[str, Any]:
    content = json.loads((out / CERTIFICATE).read_text())["content"]
    return {key: value for key, value in content.items() if key not in TIMES}


@pytest.mark.slow
@pytest.mark.night
def test_a_killed_certificate_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(two_policies, "Encoder", toy_world.HashEncoder)  # and put back afterwards
    charter = signed_charter(tmp_path / "charter")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    killed = start(charter, cut, 0.5)
    kept = until(lambda: [f for f in (cut / "certify").glob("*.jsonl") if f.read_bytes()], alive=killed)
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    toy_certify.main(str(charter), str(whole), "0")
    before = kept[0].read_bytes()
    [entire] = (whole / "certify").glob("*.jsonl")
    assert 0 < len(before) < len(entire.read_bytes())
    assert not (cut / CERTIFICATE).exists()
    assert not (cut / PAGE).exists()
    assert ended(start(charter, cut, 0)) == 0
    assert kept[0].read_bytes() == entire.read_bytes()
    assert kept[0].read_bytes().startswith(before)
    assert numbers(cut) == numbers(whole)
