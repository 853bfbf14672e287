"""The parts of a real device, as its supervisor starts them."""

from __future__ import annotations

import json
import secrets
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from commonground.child_environment import KEYRING, PROXIES
from commonground.client.child import Part
from commonground.client.node import HOST, Link
from commonground.client.profile import Profile
from commonground.client.sockets import NODE, OWNER, socket_folder
from commonground.files import write_atomically

SECRET, EXECUTOR, PAGE = "executor.secret", "executor.json", "page.url"


class Port:
    """The port of the node's Runtime API: a free one of loopback."""

    def __init__(self) -> None:
        self.number = 0
        self.change()

    def change(self) -> None:
        """Take another."""
        with socket.socket() as found:
            found.bind((HOST, 0))
            self.number = int(found.getsockname()[1])


def parts_of(
    profile: Profile,
    link: Link,
    port: Port,
    *,
    passphrase: str | None = None,
    page: int | None = 0,
    vault: Sequence[str] = (),
) -> list[Part]:
    """The parts of a real device.

    Args:
        profile: the device's.
        link: is told the node's lines.
        port: of the node's Runtime API.
        passphrase: of the store; None where a keyring has the key.
        page: the page's port; 0 takes a free one, None leaves the page out.
        vault: more arguments for the vault.

    Raises:
        StorageError: the secret of node and executor cannot be written.
    """
    secret, told = profile.run / SECRET, profile.run / EXECUTOR
    write_atomically(secret, secrets.token_hex(32).encode(), private=True)
    told.unlink(missing_ok=True)
    at = ["--profile", str(profile.folder)]
    key = ["--secret", str(secret)]
    words = [] if passphrase is None else ["--passphrase-stdin"]

    def sockets() -> Path:  # known once the vault has made it
        return socket_folder(profile.folder)

    parts = [
        Part(
            "vault",
            lambda: ["commonground.client.vault", *at, *words, *vault],
            stdin=passphrase,
            needs=frozenset() if passphrase is not None else KEYRING,
            ready=lambda: _answers(sockets() / NODE) and _answers(sockets() / OWNER),
        ),
        Part(
            "node",
            lambda: ["commonground.client.node", *at, "--port", str(port.number), *key],
            line=link.read,
            needs=PROXIES,  # as they are: where one asks for a password, only with it does the node get out
            ready=lambda: link.state in ("online", "offline"),
        ),
        Part(
            "executor",
            lambda: ["commonground.client.executor", *at, "--runtime", f"{HOST}:{port.number}", *key],
            environment=lambda: {"COMMONGROUND_DEVICE": "vault", "COMMONGROUND_VAULT": str(sockets() / NODE)},
            ready=told.exists,
        ),
    ]
    if page is None:
        return parts
    shown = profile.run / PAGE
    shown.unlink(missing_ok=True)
    return [
        *parts,
        Part(
            "page",
            lambda: ["commonground.client.page", *at, "--port", str(page)],
            ready=shown.exists,
            kept=lambda line: not line.startswith("http"),  # a link holds a token
        ),
    ]


def read_json(path: Path) -> dict[str, Any]:
    """A state file; empty where there is none, or no whole one."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as found, suppress(OSError):
        found.connect(str(path))
        return True
    return False
