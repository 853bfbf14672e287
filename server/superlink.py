"""A study's SuperLink: on loopback alone, with TLS, for known nodes, with a secret for executors."""

from __future__ import annotations

import secrets
import socket
import sys
from pathlib import Path

from commonground.files import write_atomically
from commonground.server.state import Study

HOST = "127.0.0.1"
SECRET = "executor.secret"


def superlink_command(study: Study, port: int) -> list[str]:
    """The command line of the SuperLink.

    Args:
        study: its folder.
        port: a free one; it is bound on loopback and nowhere else.
    """
    at = study.folder
    return [
        sys.executable,
        *("-m", "commonground.server.superlink_process", str(at)),
        *("--host", HOST, "--port", str(port)),
        *("--ssl-ca-certfile", str(at / "ca.crt"), "--ssl-certfile", str(at / "server.crt")),
        *("--ssl-keyfile", str(at / "server.key"), "--enable-supernode-auth"),
        *("--database", str(at / "superlink.db"), "--isolation", "process"),
        *(
            "--superexec-auth-secret-file",
            str(study.run / SECRET),
            "--disable-runtime-dependency-installation",
        ),
    ]


def new_secret(study: Study) -> None:
    """A new secret for executors; both sides read it from the file."""
    write_atomically(study.run / SECRET, secrets.token_hex(32).encode(), private=True)


def free_port() -> int:
    """A port of loopback that nobody listens on at this instant."""
    with socket.socket() as found:
        found.bind((HOST, 0))
        return int(found.getsockname()[1])


def listens(port: int, host: str = HOST) -> bool:
    """Whether somebody listens there."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as found:
        found.settimeout(0.5)
        return found.connect_ex((host, port)) == 0


def root_certificates(folder: Path) -> bytes:
    """The study's authority, PEM."""
    return (folder / "ca.crt").read_bytes()
