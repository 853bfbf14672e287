"""Which parts of a device are confined, and to what: node and executor, which read what a server sends.

Neither reaches the store, the vault's owner, the passphrase, a keyring, another process or another program.
The node speaks to its server and listens for the executor; the executor speaks to the node and to the vault's
port, and to nothing else. Read by `commonground.client.child` before it imports or starts anything else.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path

from commonground.client.sandbox import Confined, Walls, code_of, confine, landlock_version

NODE, EXECUTOR = "commonground.client.node", "commonground.client.executor"
REQUIRED = "COMMONGROUND_REQUIRE_SANDBOX"
MARK = "confined: "  # how the line begins that the supervisor reads
PACKAGES = ("commonground", "commonground.client", "commonground.strategies")
NULL = Path("/dev/null")
DNS = (53, 853)  # a resolver that answers over TCP


def enter(module: str, words: list[str]) -> bool:
    """Put up the walls of a part, where it has any, and say so in one line.

    Args:
        module: of the part.
        words: its arguments.

    Returns:
        False where walls are required and cannot be put up.
    """
    if module not in (NODE, EXECUTOR):
        return True
    found = confine(walls_of(module, dict(zip(words[::2], words[1::2], strict=False))))
    print(f"{MARK}{found.words}", flush=True)
    if found.whole or not os.environ.get(REQUIRED):
        return True
    print(f"error: this device was started with --require-sandbox: {found.words}", file=sys.stderr)
    return False


def walls_of(module: str, given: dict[str, str]) -> Walls:
    """What is left to a part.

    Args:
        module: of the part.
        given: its arguments, by their names.
    """
    profile = Path(given["--profile"]).absolute()
    run = profile / "run"
    place = run / ("flwr" if module == NODE else "executor")
    (place / "tmp").mkdir(mode=0o700, parents=True, exist_ok=True)
    os.environ["TMPDIR"] = str(place / "tmp")
    read = [profile / name for name in ("profile.json", "invitation", "ca.crt")] + [Path(given["--secret"])]
    code = code_of(PACKAGES, profile)
    if module == NODE:
        return Walls(
            (*code, *read, profile / "node.key"),
            (place, NULL),
            connect=(*_ports(profile), *DNS),
            listen=(int(given["--port"]),),
            datagrams=True,
        )
    connect = [given["--runtime"], os.environ.get("COMMONGROUND_VAULT", "")]
    ports = tuple(int(where.rpartition(":")[2]) for where in connect if where.rpartition(":")[2].isdigit())
    return Walls((*code, *read), (place, profile / "log", NULL), connect=ports)


def possible() -> Confined:
    """What this system has, without putting anything up."""
    from commonground.client.sandbox import knows_seccomp

    return Confined(landlock_version(), knows_seccomp())


def _ports(profile: Path) -> tuple[int, ...]:
    """Of the server, and of a proxy that leads to it."""
    from urllib.parse import urlsplit

    found = []
    with contextlib.suppress(OSError, ValueError, KeyError, AttributeError, TypeError):  # it says so itself
        found.append(int(json.loads((profile / "profile.json").read_bytes())["address"].rpartition(":")[2]))
    for name, value in os.environ.items():
        if name.lower().endswith("_proxy") and name.lower() != "no_proxy":
            try:
                parts = urlsplit(value if "//" in value else f"http://{value}")
                found.append(parts.port or (443 if parts.scheme == "https" else 80))
            except ValueError:
                continue
    return tuple(found)
