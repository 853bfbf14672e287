"""What the supervisor does when something around it does not work: a full disk, a proxy, a deaf SuperLink."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from toy_study import make_study

from commonground.errors import StorageError
from commonground.server import control
from commonground.server.audit import entries
from commonground.server.control import Control, SuperLinkError
from commonground.server.superlink import root_certificates
from commonground.server.supervisor import Supervisor


def test_a_full_disk_ends_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = make_study(tmp_path / "study")
    supervisor, ticks = Supervisor(study), list[int]()

    def tick(self: Supervisor) -> None:
        ticks.append(len(ticks))
        if len(ticks) == 1:
            raise StorageError("cannot use state.db: database or disk is full")
        if len(ticks) == 2:
            raise OSError(28, "No space left on device")
        self.stop()

    monkeypatch.setattr(Supervisor, "_tick", tick)
    supervisor.run()
    assert ticks == [0, 1, 2]
    assert [entry["event"] for entry in entries(study.folder)][-2:] == ["up", "down"]


def test_a_superlink_that_says_nothing_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "TIMEOUT", 0.5)
    study = make_study(tmp_path / "study")
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        found = Control(f"127.0.0.1:{deaf.getsockname()[1]}", root_certificates(study.folder))
        with pytest.raises(SuperLinkError, match="the SuperLink does not answer"):
            found.register(ec.generate_private_key(ec.SECP384R1()).public_key())
        found.close()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "127.0.0.1,localhost"),
        ({"NO_PROXY": "example.org"}, "example.org,127.0.0.1,localhost"),
        ({"no_proxy": "localhost"}, "localhost,127.0.0.1"),
        ({"no_proxy": "*"}, "*"),
    ],
)
def test_no_proxy_is_asked_for_this_machine(given: dict[str, str], expected: str) -> None:
    code = (
        "import os; from commonground.console import stay_quiet; stay_quiet(); stay_quiet(); "
        "print(os.environ['NO_PROXY'], os.environ['no_proxy'])"
    )
    clean = {name: value for name, value in os.environ.items() if name.lower() != "no_proxy"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean | given, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [expected, expected]
