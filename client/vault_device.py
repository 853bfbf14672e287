"""A person's device, behind the vault's socket: what the Flower node's process opens; entry point `vault`.

COMMONGROUND_DEVICE=vault chooses it and COMMONGROUND_VAULT names the socket. A message that comes from the
vault is checked once more against the manifest before this process holds a `Sealed`. A vault that is being
started again is waited for, and is asked again what it was asked when it ended: it makes a message once, so
the question can be repeated.
"""

from __future__ import annotations

import functools
import json
import os
import time
from typing import Any

import grpc
import numpy as np

from commonground.client import vault_pb2 as pb
from commonground.client.sockets import NODE_KEY
from commonground.client.vault_pb2_grpc import NodeStub
from commonground.client.wire import from_tensors, to_tensors
from commonground.errors import CommonGroundError, EgressError, InputError
from commonground.manifest import Manifest, Receipt, Sealed, reopen

VARIABLE = "COMMONGROUND_VAULT"
TOKEN = "COMMONGROUND_VAULT_TOKEN"  # set by the process itself, from its input
DESCRIBE, TRAIN = 120.0, 3600.0  # seconds: the first description loads the model
RESTART = 120.0  # seconds that a vault may take to be there again
AGAIN = 0.1  # seconds before it is asked again


class VaultDevice:
    """See `commonground.client.devices.Device`.

    Args:
        socket: path of the vault's node socket, or host:port of loopback.
        token: what the vault's port asks for.
    """

    def __init__(self, socket: str, token: str = "") -> None:
        self._socket = socket
        self._metadata = ((NODE_KEY, token),) if token else ()
        self._stub = NodeStub(_channel(socket))
        self._manifest: Manifest | None = None

    @property
    def manifest(self) -> Manifest:
        """What this person agreed may leave; asked of the vault once a message."""
        if self._manifest is None:
            found = self._call(self._stub.Describe, pb.Nothing(), DESCRIBE)
            manifest = Manifest.from_dict(json.loads(found.manifest))
            if manifest.digest != found.digest:
                raise EgressError("the vault's manifest and its digest do not fit together")
            self._manifest = manifest
        return self._manifest

    def shared_update(
        self,
        round: int,
        shared: dict[str, np.ndarray],
        clip: float | None = None,
        release: str | None = None,
    ) -> Sealed:
        """The vault's sealed message, checked again."""
        asked = self._question(round, shared, release)
        if clip is not None:
            asked.clip = clip
        found = self._call(self._stub.SharedUpdate, asked, TRAIN)
        tensors = from_tensors(found.tensors)
        size = sum(value.nbytes for value in tensors.values())
        names = tuple(spec.name for spec in self.manifest.sent)
        receipt = Receipt(round, found.digest, size, names, self.manifest.digest)
        return reopen(self.manifest, tensors, receipt, clip)

    def private_update(
        self, round: int, shared: dict[str, np.ndarray], final: bool, release: str | None = None
    ) -> None:
        """The vault's private phase; it answers a constant. Whether it is the last stands in the release."""
        self._call(self._stub.PrivateUpdate, self._question(round, shared, release), TRAIN)

    def _question(self, round: int, shared: dict[str, np.ndarray], release: str | None) -> pb.Question:
        if release is None:
            raise EgressError("the server sends no signed release with its adapter; refused")
        return pb.Question(round=round, shared=to_tensors(shared), release=release)

    def _call(self, call: Any, asked: Any, timeout: float) -> Any:
        try:
            return self._patiently(call, asked, timeout)
        except grpc.RpcError as error:
            code = _code(error)
            if code is grpc.StatusCode.PERMISSION_DENIED:
                raise EgressError("the vault refused; its own record says why") from error
            name = "unknown" if code is None else code.name.lower()
            raise CommonGroundError(f"the vault did not answer: {name}") from error

    def _patiently(self, call: Any, asked: Any, timeout: float) -> Any:
        until = time.monotonic() + RESTART
        while True:
            try:
                return call(asked, timeout=timeout, metadata=self._metadata)
            except grpc.RpcError as error:
                if _code(error) is not grpc.StatusCode.UNAVAILABLE or not self._back(until):
                    raise

    def _back(self, until: float) -> bool:
        """Whether there is a vault to ask again before `until`."""
        time.sleep(AGAIN)  # a connection that has just broken counts as one for a moment
        try:
            grpc.channel_ready_future(_channel(self._socket)).result(max(0.0, until - time.monotonic()))
        except grpc.FutureTimeoutError:
            return False
        return time.monotonic() < until


def _code(error: grpc.RpcError) -> grpc.StatusCode | None:
    return error.code() if isinstance(error, grpc.Call) else None


def open_device(person: int) -> VaultDevice:
    """The device of this machine's one person; raises `InputError` where COMMONGROUND_VAULT is not set."""
    socket = os.environ.get(VARIABLE, "")
    if not socket:
        raise InputError(
            f"{VARIABLE} is not set; the path of the vault's node socket is needed",
            hint="`commonground device up` sets it for the parts that it starts",
        )
    return VaultDevice(socket, os.environ.get(TOKEN, ""))


@functools.lru_cache(maxsize=4)  # a device is opened for every message
def _channel(socket: str) -> grpc.Channel:
    limits = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    # A vault that is started again is found within a second, not after gRPC's usual wait of two minutes.
    waits = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 1000)]
    place = [("grpc.enable_http_proxy", 0)]
    return grpc.insecure_channel(
        f"unix:{socket}" if "/" in socket else socket, options=limits + waits + place
    )
