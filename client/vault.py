"""The vault: the process that owns everything private of one profile.

    python -m commonground.client.vault --profile DIR [--passphrase-stdin]

It opens the store, answers on two sockets of mode 0600 in a folder of mode 0700, and ends by SIGTERM, or by
itself once its person has erased everything. One vault runs on a profile at a time. Only tests use
`--insecure-seed` and `--insecure-person`, which make its draws those of a simulation: it refuses them unless
the study is on this machine.
"""

from __future__ import annotations

import argparse
import contextlib
import hmac
import ipaddress
import logging
import os
import secrets
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import grpc
import numpy as np
import torch
from filelock import FileLock, Timeout

from commonground.client.belongings import Belongings
from commonground.client.keys import lock_token, open_key
from commonground.client.learner import Insecure
from commonground.client.own_memory import keep_out_debuggers
from commonground.client.profile import Profile, read_profile
from commonground.client.rounds import Rounds
from commonground.client.services import NodeService, OwnerService, excuse
from commonground.client.sockets import NODE, NODE_KEY, OWNER, TOKEN, make_socket_folder
from commonground.client.store import NAME as STORE
from commonground.client.store import Store
from commonground.client.takeout import forget_exports
from commonground.client.vault_pb2_grpc import add_NodeServicer_to_server, add_OwnerServicer_to_server
from commonground.client.wire import LEAST, SLACK
from commonground.console import Output, stay_quiet
from commonground.errors import CommonGroundError, InputError
from commonground.files import write_atomically
from commonground.manifest import Manifest
from commonground.mishaps import storage_errors
from commonground.terminal import log_to_stderr

log = logging.getLogger("commonground.vault")

LOCK = "vault.lock"
THREADS = 8
GRACE = 5.0  # seconds that calls get to end


class VaultServer:
    """The two services of one profile.

    Args:
        profile: whose.
        store: the open store.
        insecure: a simulation's draws; tests only.
        doors: tokens that whoever started it has handed out; None makes one for the owner.

    Raises:
        InputError: `insecure` where the study is not on this machine.
        StorageError: sockets or token cannot be made.
    """

    def __init__(
        self,
        profile: Profile,
        store: Store,
        insecure: Insecure | None = None,
        doors: Doors | None = None,
    ) -> None:
        if insecure is not None and not is_loopback(profile.address):
            raise InputError(
                f"--insecure-seed makes noise that can be predicted, and the study is at {profile.address}; "
                "accepted: an address of this machine",
                hint="leave it out: a real device draws its noise from the operating system",
            )
        self.rounds = Rounds(profile, store, insecure)
        self.mine = Belongings(self.rounds)
        self._wake, self._stopped = threading.Event(), threading.Event()
        self._learner = threading.Thread(target=self._catch_up, name="catch up", daemon=True)
        doors = doors or Doors(secrets.token_urlsafe(32))
        with storage_errors(profile.run):
            forget_exports(profile.run, waiting=False)  # of a command that was killed
        folder = make_socket_folder(profile.folder)
        # Never as it is: the node runs as the same user, and would be the owner.
        write_atomically(profile.run / TOKEN, lock_token(store.door, doors.owner), private=True)
        most = message_limit(profile.terms().contract)
        self._node = _server(most)
        add_NodeServicer_to_server(NodeService(self.rounds), self._node)
        self._owner = _server(4 * LEAST)
        add_OwnerServicer_to_server(OwnerService(self.mine, doors.owner, self._wake.set), self._owner)
        for server, name in ((self._node, NODE), (self._owner, OWNER)):
            _bind(server, folder / name)
        self._port = None if not doors.node else _server(most, TokenGuard(NODE_KEY, doors.node))
        if self._port is not None:
            add_NodeServicer_to_server(NodeService(self.rounds), self._port)
            _bind_port(self._port, doors.port)

    def start(self) -> None:
        """Answer."""
        for server in self._servers:
            server.start()
        self._learner.start()
        self._wake.set()

    def stop(self) -> None:
        """End both services; calls that run get `GRACE` seconds."""
        self._stopped.set()
        self._wake.set()
        for ended in [server.stop(GRACE) for server in self._servers]:
            ended.wait()
        self._learner.join(GRACE)

    @property
    def _servers(self) -> list[grpc.Server]:
        return [server for server in (self._node, self._owner, self._port) if server is not None]

    def _catch_up(self) -> None:
        while self._wake.wait() and not self._stopped.is_set():
            self._wake.clear()
            try:
                self.rounds.catch_up()
            except Exception as error:  # the private adapter stays as it was, and says that it is due
                log.warning("not fitted anew: %s", excuse(error))


@dataclass(frozen=True)
class Doors:
    """Who gets in, by tokens that are in no file.

    Attributes:
        owner: of the owner's socket.
        node: of the node's port; empty where there is only the socket.
        port: of loopback, for an executor that may open no Unix socket.
    """

    owner: str
    node: str = ""
    port: int = 0


class TokenGuard(grpc.ServerInterceptor):  # type: ignore[misc]  # grpc is not typed
    """Answers whoever knows a token, and nobody else.

    Args:
        name: of the metadata that holds it.
        token: which.
    """

    def __init__(self, name: str, token: str) -> None:
        self._name, self._token = name, token.encode()

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        """Let the call through, or end it."""
        given = dict(details.invocation_metadata).get(self._name, "")
        if hmac.compare_digest(given.encode() if isinstance(given, str) else given, self._token):
            return continuation(details)
        return grpc.unary_unary_rpc_method_handler(_no_token)


def _no_token(asked: Any, context: Any) -> NoReturn:
    context.abort(grpc.StatusCode.UNAUTHENTICATED, "no token, or another")
    raise AssertionError("abort raises")


def message_limit(manifest: Manifest) -> int:
    """Bytes of the largest message that the node's socket takes: what the manifest needs and a tenth more."""
    specs = (*manifest.broadcast, *manifest.sent)
    size = sum(int(np.prod(spec.shape)) * np.dtype(spec.dtype).itemsize for spec in specs)
    return int(SLACK * size) + LEAST


def is_loopback(address: str) -> bool:
    """Whether host:port is on this machine by its number; a name may be resolved otherwise tomorrow."""
    host = address.rsplit(":", 1)[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextlib.contextmanager
def opened(profile: Profile, passphrase: str | None = None) -> Iterator[Store]:
    """The store of a profile, as `join` made it, behind a lock that one process holds.

    One that is missing is not made anew: its account of privacy would begin at nothing.

    Args:
        profile: whose.
        passphrase: of the store; None asks the keyring.

    Raises:
        InputError: another vault runs on it, the store is missing, or the key cannot be had.
        StorageError: the disk refused.
    """
    lock = FileLock(profile.run / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(
            f"another vault runs on the profile {profile.folder}",
            hint="one device runs on a profile at a time: commonground device down ends it",
        ) from error
    try:
        folder = profile.folder
        if not (folder / STORE).exists():
            raise InputError(
                f"the store {folder / STORE} is missing: what you said and what was spent were in it",
                hint="restore the profile folder from a backup; without one, leave and join anew",
            )
        store = Store(folder / STORE, open_key(folder, passphrase))
        try:
            yield store
        finally:
            with contextlib.suppress(CommonGroundError):
                store.close()
    finally:
        lock.release()


def main(words: Sequence[str] | None = None) -> int:
    """Run a vault until it is told to end; returns the exit code."""
    stay_quiet()
    keep_out_debuggers()
    # `join` found the base model on this machine. An offer may name one of a hub, and that would be asked
    # at every start.
    os.environ["HF_HUB_OFFLINE"] = "1"
    parser = argparse.ArgumentParser(prog="python -m commonground.client.vault")
    parser.add_argument("--profile", type=Path, required=True, help="the profile's folder")
    parser.add_argument("--passphrase-stdin", action="store_true", help="read the passphrase, one line")
    parser.add_argument("--insecure-seed", type=int, help="tests only: draw as a simulation with this seed")
    parser.add_argument("--insecure-person", type=int, default=0, help="tests only: as this person of it")
    parser.add_argument("--tokens-stdin", action="store_true", help="then the owner's and the node's tokens")
    parser.add_argument("--node-port", type=int, default=0, help="the node's port on loopback")
    given = parser.parse_args(words)
    log_to_stderr("%(levelname)s %(message)s")
    insecure = None if given.insecure_seed is None else Insecure(given.insecure_seed, given.insecure_person)
    passphrase = sys.stdin.readline().rstrip("\r\n") if given.passphrase_stdin else None
    doors = None
    if given.tokens_stdin:
        doors = Doors(sys.stdin.readline().strip(), sys.stdin.readline().strip(), given.node_port)
    torch.set_num_threads(1)  # several add in another order, and one core is enough for one person
    stop = threading.Event()
    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, lambda *_: stop.set())
    try:
        profile = read_profile(given.profile.absolute())
        with storage_errors("the profile"), opened(profile, passphrase) as store:
            serve(VaultServer(profile, store, insecure, doors), stop)
    except CommonGroundError as error:
        Output(False).failed(error)
        return error.exit_code
    return 0


def serve(server: VaultServer, stop: threading.Event) -> None:
    """Answer until `stop` is set or everything is erased."""
    server.start()
    log.info("ready")
    while not stop.wait(0.1) and not server.mine.erased.is_set():
        pass
    server.stop()


def _server(most: int, *guards: TokenGuard) -> grpc.Server:
    options = [("grpc.max_receive_message_length", most), ("grpc.max_send_message_length", -1)]
    options += [("grpc.so_reuseport", 0)]
    return grpc.server(ThreadPoolExecutor(THREADS), options=options, interceptors=guards)


def _bind_port(server: grpc.Server, port: int) -> None:
    try:
        bound = server.add_insecure_port(f"127.0.0.1:{port}")
    except RuntimeError as error:
        raise InputError(f"the port {port} of 127.0.0.1 cannot be opened", hint="try again") from error
    if not bound:
        raise InputError(f"the port {port} of 127.0.0.1 cannot be opened", hint="try again")


def _bind(server: grpc.Server, path: Path) -> None:
    """A socket of mode 0600 from its first moment."""
    path.unlink(missing_ok=True)  # of a vault that was killed: the lock is ours
    before = os.umask(0o177)
    try:
        bound = server.add_insecure_port(f"unix:{path}")
    except RuntimeError as error:
        raise InputError(f"the socket {path} cannot be made") from error
    finally:
        os.umask(before)
    if not bound:
        raise InputError(f"the socket {path} cannot be made")
    path.chmod(0o600)


if __name__ == "__main__":
    sys.exit(main())
