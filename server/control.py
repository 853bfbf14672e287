"""Flower's Control API, as the supervisor and enrolment use it: on loopback, behind the front door.

It has no authentication of its own (flwr 1.42), so nothing but loopback may ever reach it: see `front_door`.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import httpx
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from flwr.common.serde import fab_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

from commonground.errors import CommonGroundError

FINISHED, ONLINE = "finished", "online"
TIMEOUT = 20.0  # seconds; enrolment holds the study's database meanwhile, for which others wait 30
T = TypeVar("T")


class SuperLinkError(CommonGroundError):
    """The SuperLink does not answer, or refuses."""

    error_code = "superlink_failed"


class Control:
    """A client of a running SuperLink.

    Args:
        address: host:port on loopback.
        ca: the authority that signed its certificate, PEM.
    """

    def __init__(self, address: str, ca: bytes) -> None:
        version = RuntimeVersionHttpInterceptor(component_name="flwr CLI")
        trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        trust.load_verify_locations(cadata=ca.decode())
        self._client = ControlHttpClient(
            f"https://{address}", interceptors=[version], verify=trust, timeout=TIMEOUT
        )

    def register(self, key: EllipticCurvePublicKey) -> int:
        """Let a node in; its id. A key that is registered already keeps its id."""
        pem = _pem(key)
        known = self._known(pem)
        if known is not None:
            return known
        return int(
            self._asked(lambda: self._client.RegisterNode(RegisterNodeRequest(public_key=pem)).node_id)
        )

    def unregister(self, node: int) -> None:
        """Shut a node out for good; one that is unknown is out already."""
        with suppress(SuperLinkError):
            self._asked(lambda: self._client.UnregisterNode(UnregisterNodeRequest(node_id=node)))
        if any(info.node_id == node and info.status != "unregistered" for info in self._nodes()):
            raise SuperLinkError(f"node {node} could not be unregistered", hint="try again")

    def online(self) -> set[int]:
        """Ids of the nodes that are online."""
        return {int(info.node_id) for info in self._nodes() if info.status == ONLINE}

    def start(self, bundle: bytes, digest: str) -> int:
        """Submit a run of a bundle; its id."""
        request = StartRunRequest(fab=fab_to_proto(Fab(digest, bundle, {})))
        found = self._asked(lambda: self._client.StartRun(request))
        if not found.HasField("run_id"):
            raise SuperLinkError("the SuperLink did not start the run")
        return int(found.run_id)

    def status(self, run: int) -> tuple[str, str, str]:
        """(status, what it ended with, details) of a run."""
        found = self._asked(lambda: self._client.ListRuns(ListRunsRequest(run_id=run))).run_dict[run].status
        return str(found.status), str(found.sub_status), str(found.details)

    def stop(self, run: int) -> None:
        """End a run; one that has ended stays as it is."""
        with suppress(SuperLinkError):
            self._asked(lambda: self._client.StopRun(StopRunRequest(run_id=run)))

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _nodes(self) -> list[Any]:
        return list(self._asked(lambda: self._client.ListNodes(ListNodesRequest())).nodes_info)

    def _known(self, pem: bytes) -> int | None:
        for info in self._nodes():
            if info.public_key == pem and info.status != "unregistered":
                return int(info.node_id)
        return None

    def _asked(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except httpx.HTTPStatusError as error:
            raise SuperLinkError(f"the SuperLink refuses: {error.response.status_code}") from error
        except (httpx.HTTPError, OSError) as error:
            raise SuperLinkError(f"the SuperLink does not answer: {type(error).__name__}") from error


def _pem(key: EllipticCurvePublicKey) -> bytes:
    """A public key as Flower keeps it."""
    form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_bytes(*form)
