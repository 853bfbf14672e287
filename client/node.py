"""The node process: Flower's SuperNode under the terms of this device.

    python -m commonground.client.node --profile DIR --port P --secret FILE

It speaks to the study's front door over TLS under the study's own authority, with the node key of the
profile, and starts no code (`--isolation process`): `commonground.client.executor` answers its tasks over its
Runtime API, which is open on loopback alone and asks for the secret. What it may take of the machine's memory
is bounded, because it holds whatever a server sends before anybody can look at it.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from commonground.client.profile import Profile, read_profile
from commonground.console import stay_quiet
from commonground.errors import CommonGroundError
from commonground.manifest import Manifest
from commonground.terminal import without_colours

HOST = "127.0.0.1"
MEMORY = 4 << 30  # bytes of address space, of which Python and its threads map most and use little
DATA = 1 << 30  # bytes that node or executor write: five times what they need
ANSWER = 16 << 20  # bytes of an answer besides the tensors
COPIES = 8  # of one message: as bytes, as a protobuf, as objects, on the way in and on the way out

_RETRY = re.compile(r"Connection attempt failed, retrying in ([0-9.]+) seconds")
_CODE = re.compile(r"Exit Code: (\d+)")
_FLOWER_CODE = re.compile(r"\[code: (\d+)\]")


@dataclass
class Link:
    """What a node's own lines say about its connection.

    Attributes:
        state: starting | online | offline | refused.
        retry: when it tries again by itself, seconds since 1970, where it said so.
        took, answered: how many messages it took from the server, and how many answers it sent or gave up.
        port_taken: its Runtime API could not be opened.
        refused: how often in a row the server did not let it in.
        late: it sent an answer to a message that it had given up: each later one would come too late as well.
    """

    state: str = "starting"
    retry: float = 0.0
    took: int = 0
    answered: int = 0
    port_taken: bool = False
    refused: int = 0
    late: bool = False

    def read(self, line: str) -> None:
        """Take in one line of the node's log."""
        text = without_colours(line)
        if "SuperNode ID:" in text or "Connection successful" in text:
            self.state, self.refused = "online", 0
        elif found := _RETRY.search(text):
            self.state, self.retry = "offline", time.time() + float(found[1])
        elif _FLOWER_CODE.search(text) or "Failed to initialize the connection" in text:
            self.state, self.refused = "refused", self.refused + (self.state != "refused")
        elif "address already in use" in text:
            self.port_taken = True
        elif "Receiving:" in text:
            self.took, self.state = self.took + 1, "online"
        elif "Sent successfully" in text or "Failed to send" in text or "Ignoring reply" in text:
            self.answered += 1
        elif "Cannot get processing duration" in text:
            self.late = True
        elif "Failed to receive" in text or "Ignoring the message" in text or "Ignoring message" in text:
            self.answered = max(self.answered, self.took)

    def ended(self) -> None:
        """The process has ended: its messages with it."""
        self.took, self.answered, self.late = 0, 0, False
        if self.state == "online":
            self.state = "starting"

    @property
    def waits(self) -> bool:
        """Whether it holds a message that nobody has answered yet."""
        return self.took > self.answered


def node_words(profile: Profile, port: int, secret: Path) -> list[str]:
    """The arguments of Flower's SuperNode.

    Args:
        profile: the device's.
        port: a free one of loopback.
        secret: what executors have to know.
    """
    return [
        "flower-supernode",
        *("--superlink", profile.address, "--root-certificates", str(profile.certificate)),
        *("--auth-supernode-private-key", str(profile.key)),
        *("--host", HOST, "--port", str(port), "--isolation", "process"),
        *("--superexec-auth-secret-file", str(secret)),
    ]


def memory_bound(manifest: Manifest) -> int:
    """Bytes of address space that the node may have."""
    return MEMORY + COPIES * _size(manifest)


def bound_data(manifest: Manifest) -> None:
    """Bound what this process itself writes into memory: address space alone lets it fill gigabytes."""
    most = DATA + COPIES * _size(manifest)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def answer_bound(manifest: Manifest) -> int:
    """Bytes of one answer of the server: a message of the study, twice, and what heads and bundles take."""
    return ANSWER + 2 * _size(manifest)


def _size(manifest: Manifest) -> int:
    return sum(int(np.prod(spec.shape)) * np.dtype(spec.dtype).itemsize for spec in manifest.broadcast)


def main(words: list[str] | None = None) -> int:
    """Run until SIGTERM; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--secret", type=Path, required=True)
    asked = parser.parse_args(words)
    stay_quiet()
    try:
        from commonground.client.runtime import check_flower

        check_flower()
        profile = read_profile(asked.profile)
        manifest = profile.terms().contract
    except CommonGroundError as error:
        print(f"error: {error.message}" + (f"\nhint: {error.hint}" if error.hint else ""), file=sys.stderr)
        return error.exit_code
    os.environ["FLWR_HOME"] = str(profile.run / "flwr")  # nothing is written anywhere else
    bound = memory_bound(manifest)
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
    bound_data(manifest)
    sys.argv = node_words(profile, asked.port, asked.secret)
    from flwr.supernode.cli import flower_supernode

    from commonground.client.plain_http import take_plain
    from commonground.client.untimed import keep_times

    keep_times()
    take_plain(answer_bound(manifest))
    flower_supernode()
    return 0


if __name__ == "__main__":
    sys.exit(main())
