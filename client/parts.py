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
from commonground.client.confined import MARK, REQUIRED
from commonground.client.node import HOST, Link
from commonground.client.profile import Profile
from commonground.client.sockets import NODE, OWNER, socket_folder
from commonground.files import write_atomically

SECRET, EXECUTOR, PAGE = "executor.secret", "executor/executor.json", "page.url"


class Port:
    """The port of the node's Runtime API: a free one of loopback."""

    def __init__(self) -> None:
        self.number = 0
        self.change()

    def change(self) -> None:
        """Take another."""
        before = self.number
        while self.number == before:
            with socket.socket() as found:
                found.bind((HOST, 0))
                self.number = int(found.getsockname()[1])


class Sandbox:
    """What node and executor say of the walls around them.

    Args:
        required: they end where the walls cannot be put up.

    Attributes:
        words: name -> their line, e.g. "confined by Landlock 7 and seccomp".
    """

    def __init__(self, required: bool = False) -> None:
        self.required = required
        self.words: dict[str, str] = {}

    def read(self, name: str, line: str) -> None:
        """Take in one line of a part."""
        if line.startswith(MARK):
            self.words[name] = line.removeprefix(MARK)


def parts_of(
    profile: Profile,
    link: Link,
    port: Port,
    *,
    passphrase: str | None = None,
    page: int | None = 0,
    vault: Sequence[str] = (),
    sandbox: Sandbox | None = None,
) -> list[Part]:
    """The parts of a real device.

    Args:
        profile: the device's.
        link: is told the node's lines.
        port: of the node's Runtime API.
        passphrase: of the store; None where a keyring has the key.
        page: the page's port; 0 takes a free one, None leaves the page out.
        vault: more arguments for the vault.
        sandbox: is told what node and executor say of their walls; None asks for none.

    Raises:
        StorageError: the secret of node and executor cannot be written.
    """
    secret, told = profile.run / SECRET, profile.run / EXECUTOR
    write_atomically(secret, secrets.token_hex(32).encode(), private=True)
    told.unlink(missing_ok=True)
    at = ["--profile", str(profile.folder)]
    key = ["--secret", str(secret)]
    words = [] if passphrase is None else ["--passphrase-stdin"]
    # In no file and no environment: each part reads its own from its input.
    owner, executor, door = secrets.token_urlsafe(32), secrets.token_urlsafe(32), Port()
    lines = [*([] if passphrase is None else [passphrase]), owner, executor]
    told_of = Sandbox() if sandbox is None else sandbox
    must = {REQUIRED: "1"} if told_of.required else {}

    def node_line(line: str) -> None:
        told_of.read("node", line)
        link.read(line)

    def sockets() -> Path:  # known once the vault has made it
        return socket_folder(profile.folder)

    parts = [
        Part(
            "vault",
            lambda: [
                *("commonground.client.vault", *at, *words, "--tokens-stdin"),
                *("--node-port", str(door.number), *vault),
            ],
            stdin="\n".join(lines),
            needs=frozenset() if passphrase is not None else KEYRING,
            ready=lambda: _answers(sockets() / NODE) and _answers(sockets() / OWNER),
        ),
        Part(
            "node",
            lambda: ["commonground.client.node", *at, "--port", str(port.number), *key],
            lambda: must,
            line=node_line,
            needs=PROXIES,  # as they are: where one asks for a password, only with it does the node get out
            ready=lambda: link.state in ("online", "offline"),
        ),
        Part(
            "executor",
            lambda: [
                *("commonground.client.executor", *at, "--runtime", f"{HOST}:{port.number}"),
                *(*key, "--token-stdin"),
            ],
            environment=lambda: {
                "COMMONGROUND_DEVICE": "vault",
                "COMMONGROUND_VAULT": f"{HOST}:{door.number}",
                **must,
            },
            stdin=executor,
            ready=told.exists,
            line=lambda line: told_of.read("executor", line),
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
            lambda: ["commonground.client.page", *at, "--port", str(page), "--token-stdin"],
            stdin=owner,
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
