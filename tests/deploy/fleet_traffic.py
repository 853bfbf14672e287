"""What a device said, read as Flower's Fleet API: every record, every error, every path.

The scanner looks for what must not be there; this lists what is, so that a test can hold it to what may be.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from capture_views import Exchange, http_messages
from flwr.common.serde import message_from_proto
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import PushObjectRequest
from flwr.supercore.inflatable.inflatable_object import (
    get_object_head_values_from_object_content,
    get_object_id,
)
from flwr.supercore.inflatable.inflatable_utils import inflatable_class_registry

from commonground.manifest import Manifest

PUSH, OBJECT = "/v1/fleet/push-messages", "/v1/fleet/push-object"
# What Flower's own client and httpx put on a request; anything more is a channel.
HEADERS = frozenset(
    {
        *("host", "accept", "accept-encoding", "connection", "user-agent", "content-type", "content-length"),
        *("flwr-timestamp", "flwr-public-key", "flwr-signature"),
        *("flwr-package-name", "flwr-package-version", "flwr-component-name"),
    }
)


@dataclass
class Said:
    """See the module's text.

    Attributes:
        paths: path -> requests.
        kinds: types of messages that were answered.
        errors: (code, reason) of error replies.
        metrics, configs: (name, value) of everything in such records.
        tensors: (shape, dtype) of every array.
        names: of tensors and records.
        headers: of all requests.
        runtimes: seconds that Flower's client says a task took.
        odd: what could not be read.
    """

    paths: dict[str, int] = field(default_factory=dict)
    kinds: set[str] = field(default_factory=set)
    errors: set[tuple[int, str]] = field(default_factory=set)
    metrics: set[tuple[str, Any]] = field(default_factory=set)
    configs: set[tuple[str, Any]] = field(default_factory=set)
    tensors: set[tuple[tuple[int, ...], str]] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    headers: set[str] = field(default_factory=set)
    runtimes: list[float] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)


def said(captured: Mapping[str, bytes]) -> Said:
    """Everything that is in the requests of these connections."""
    found = Said()
    for raw in captured.values():
        for message in http_messages(raw):
            _request(message, found)
    return found


def _request(message: Exchange, found: Said) -> None:
    found.paths[message.path] = found.paths.get(message.path, 0) + 1
    found.headers |= set(message.headers)
    if message.path == PUSH:
        pushed = PushMessagesRequest.FromString(message.body)
        found.runtimes += list(pushed.clientapp_runtime_list)
        for one in pushed.messages_list:
            reply = message_from_proto(one)
            found.kinds.add(reply.metadata.message_type)
            if reply.has_error():
                found.errors.add((reply.error.code, reply.error.reason))
    elif message.path == OBJECT:
        _object(PushObjectRequest.FromString(message.body).object_content, found)


def _object(content: bytes, found: Said) -> None:
    kind, _, _ = get_object_head_values_from_object_content(content)
    body = _body(content)
    if kind in {"MetricRecord", "ConfigRecord"}:
        record = inflatable_class_registry[kind].inflate(content)
        target = found.metrics if kind == "MetricRecord" else found.configs
        for name, value in record.items():
            target.add((name, tuple(value) if isinstance(value, list) else value))
    elif kind in {"RecordDict", "ArrayRecord"}:
        found.names |= set(json.loads(body))
    elif kind == "Array":
        about = json.loads(body)
        found.tensors.add((tuple(about["shape"]), str(about["dtype"])))
    elif kind not in {"ArrayChunk", "Message"}:
        found.odd.append(kind)


def _body(content: bytes) -> bytes:
    return content[content.index(b"\x00") + 1 :]


def sealed_digests(captured: Mapping[str, bytes], manifest: Manifest) -> set[str]:
    """Digest of every update that was sent whole, as its receipt has it.

    A message travels as parts that are named by what is in them, so the same update sent twice is one here.
    """
    parts: dict[str, bytes] = {}
    for raw in captured.values():
        for message in http_messages(raw):
            if message.path == OBJECT:
                content = PushObjectRequest.FromString(message.body).object_content
                parts[get_object_id(content)] = content
    found = set[str]()
    for content in parts.values():
        kind, _, _ = get_object_head_values_from_object_content(content)
        named = json.loads(_body(content)) if kind == "ArrayRecord" else {}
        if list(named) != [spec.name for spec in manifest.sent] or not set(named.values()) <= set(parts):
            continue
        digest = hashlib.sha256(manifest.digest.encode())
        for name, part in named.items():
            digest.update(name.encode() + b"\0" + _numbers(parts[part], parts).tobytes())
        found.add(digest.hexdigest())
    return found


def _numbers(content: bytes, parts: Mapping[str, bytes]) -> np.ndarray:
    _, chunks, _ = get_object_head_values_from_object_content(content)
    order = json.loads(_body(content))["arraychunk_ids"]
    data = b"".join(_body(parts[chunks[k]]) for k in order)
    found: np.ndarray = np.load(io.BytesIO(data), allow_pickle=False)
    return found
