"""The node's side of the socket: what it gets is checked again, and nothing else comes through."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import toy_device
from toy_patience import LIMIT, a_while

from commonground.client import devices, vault_device
from commonground.client import vault_pb2 as pb
from commonground.client.vault_device import VaultDevice
from commonground.client.vault_pb2_grpc import NodeServicer, add_NodeServicer_to_server
from commonground.client.wire import to_tensors
from commonground.clipping import clip_update
from commonground.errors import CommonGroundError, EgressError, InputError
from commonground.manifest import Manifest, TensorSpec, reopen, seal

MANIFEST = toy_device.manifest()
ARRAYS = {spec.name: np.full(spec.shape, 0.25, np.float32) for spec in toy_device.SPECS}
SEALED = seal(MANIFEST, clip_update(ARRAYS, MANIFEST.clip), round=2)


class FalseVault(NodeServicer):  # type: ignore[misc]
    """Says what a test wants it to say."""

    def __init__(self) -> None:
        self.manifest, self.digest = MANIFEST, MANIFEST.digest
        self.sealed = pb.Sealed(tensors=to_tensors(SEALED.tensors), digest=SEALED.receipt.digest)
        self.asked: list[Any] = []
        self.abort: grpc.StatusCode | None = None

    def Describe(self, asked: Any, context: Any) -> Any:  # noqa: N802
        return pb.Contract(manifest=json.dumps(self.manifest.to_dict()), digest=self.digest)

    def SharedUpdate(self, asked: Any, context: Any) -> Any:  # noqa: N802
        self.asked.append(asked)
        if self.abort is not None:
            context.abort(self.abort, "a text that must go no further")
        return self.sealed

    def PrivateUpdate(self, asked: Any, context: Any) -> Any:  # noqa: N802
        self.asked.append(asked)
        return pb.Nothing()


def serving(socket: Path) -> tuple[grpc.Server, FalseVault]:
    server, found = grpc.server(ThreadPoolExecutor(2)), FalseVault()
    add_NodeServicer_to_server(found, server)
    server.add_insecure_port(f"unix:{socket}")
    server.start()
    return server, found


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[tuple[FalseVault, VaultDevice]]:
    socket = tmp_path / "node.sock"
    server, found = serving(socket)
    yield found, VaultDevice(str(socket))
    server.stop(None).wait()


def test_a_sealed_message_arrives_as_it_was_sealed(vault: tuple[FalseVault, VaultDevice]) -> None:
    served, device = vault
    assert device.manifest == MANIFEST
    got = device.shared_update(2, ARRAYS, release="paper")
    assert got.receipt == SEALED.receipt
    assert {n: v.tobytes() for n, v in got.tensors.items()} == {
        n: v.tobytes() for n, v in SEALED.tensors.items()
    }
    asked = served.asked[-1]
    assert (asked.round, asked.release, asked.HasField("clip")) == (2, "paper", False)
    device.private_update(3, ARRAYS, True, release="paper")
    assert served.asked[-1].round == 3


def other(change: Callable[[dict[str, np.ndarray]], None]) -> pb.Sealed:
    """A message that differs, with the digest of the right one."""
    arrays = {name: value.copy() for name, value in SEALED.tensors.items()}
    change(arrays)
    return pb.Sealed(tensors=to_tensors(arrays), digest=SEALED.receipt.digest)


def more(arrays: dict[str, np.ndarray]) -> None:
    arrays["private.v"] = np.ones(3, np.float32)


def less(arrays: dict[str, np.ndarray]) -> None:
    del arrays["head.a"]


def large(arrays: dict[str, np.ndarray]) -> None:
    arrays["head.a"] *= 100


def broken(arrays: dict[str, np.ndarray]) -> None:
    arrays["head.a"][0] = np.nan


def wide(arrays: dict[str, np.ndarray]) -> None:
    arrays["head.a"] = arrays["head.a"].astype(np.float64)


def changed(arrays: dict[str, np.ndarray]) -> None:
    arrays["head.a"][0] += np.float32(2.0**-10)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (more, "allows exactly"),
        (less, "allows exactly"),
        (large, "L2 norm"),
        (broken, "non-finite"),
        (wide, "dtype float64"),
        (changed, "its receipt says"),
    ],
)
def test_whatever_the_manifest_does_not_allow_is_refused_here_too(
    vault: tuple[FalseVault, VaultDevice], change: Any, words: str
) -> None:
    served, device = vault
    served.sealed = other(change)
    with pytest.raises(EgressError, match=words):
        device.shared_update(2, ARRAYS, release="paper")


def test_a_manifest_and_its_digest_must_fit(vault: tuple[FalseVault, VaultDevice]) -> None:
    served, device = vault
    served.manifest = Manifest((*toy_device.SPECS, TensorSpec("private.v", (3,))), 1.0)
    with pytest.raises(EgressError, match="digest do not fit"):
        _ = device.manifest


def test_no_release_is_no_question(vault: tuple[FalseVault, VaultDevice]) -> None:
    served, device = vault
    with pytest.raises(EgressError, match="no signed release"):
        device.shared_update(1, ARRAYS)
    with pytest.raises(EgressError, match="no signed release"):
        device.private_update(1, ARRAYS, False)
    assert served.asked == []


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.PERMISSION_DENIED, EgressError),
        (grpc.StatusCode.INTERNAL, CommonGroundError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, CommonGroundError),
    ],
)
def test_what_the_vault_says_of_an_error_goes_no_further(
    vault: tuple[FalseVault, VaultDevice], code: grpc.StatusCode, kind: type[CommonGroundError]
) -> None:
    served, device = vault
    served.abort = code
    with pytest.raises(kind) as caught:
        device.shared_update(1, ARRAYS, release="paper")
    assert "must go no further" not in caught.value.message


def test_the_entry_point_needs_to_know_the_socket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "vault" in devices.known_devices()
    monkeypatch.setenv(devices.VARIABLE, "vault")
    monkeypatch.delenv(vault_device.VARIABLE, raising=False)
    with pytest.raises(InputError, match="COMMONGROUND_VAULT is not set"):
        devices.open_device(0)
    monkeypatch.setenv(vault_device.VARIABLE, str(tmp_path / "nothing.sock"))
    monkeypatch.setattr(vault_device, "RESTART", 0.1)
    device = devices.open_device(0)
    with pytest.raises(CommonGroundError, match="did not answer: unavailable"):
        _ = device.manifest


def test_a_vault_that_is_being_started_again_is_waited_for(tmp_path: Path) -> None:
    socket = tmp_path / "node.sock"
    device = VaultDevice(str(socket))
    with ThreadPoolExecutor(1) as asking:
        answer = asking.submit(device.shared_update, 2, ARRAYS, release="paper")
        a_while(0.3)
        assert not answer.done()
        server, _ = serving(socket)
        assert answer.result(LIMIT).receipt == SEALED.receipt
    server.stop(None).wait()


def test_reopen_holds_bytes_names_and_round_to_the_receipt() -> None:
    again = reopen(MANIFEST, SEALED.tensors, SEALED.receipt)
    assert again.receipt == SEALED.receipt
    with pytest.raises(EgressError, match="receipt"):
        reopen(MANIFEST, {n: v * np.float32(0.5) for n, v in SEALED.tensors.items()}, SEALED.receipt)
    noisy = toy_device.manifest()
    local = Manifest(noisy.tensors, noisy.clip, True, noisy.versions)
    noise = {t.name: np.full(t.shape, 9.0) for t in noisy.tensors}
    loud = seal(local, clip_update(ARRAYS, 1.0), round=1, noise=noise)
    assert reopen(local, loud.tensors, loud.receipt).receipt == loud.receipt
    with pytest.raises(EgressError, match="L2 norm"):
        reopen(MANIFEST, loud.tensors, loud.receipt)
