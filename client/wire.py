"""Tensors and errors on the vault's sockets."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import grpc
import numpy as np

from commonground.client import vault_pb2 as pb
from commonground.errors import CommonGroundError, ConfigError, InputError, Reason

SLACK = 1.1  # a sealed message and a tenth more
LEAST = 1 << 20  # bytes: what a small contract's messages are allowed all the same
DTYPES = frozenset({"float32", "float64", "int64", "int32", "uint8", "bool"})


def to_tensors(arrays: Mapping[str, np.ndarray]) -> list[pb.Tensor]:
    """Name -> array as messages, little-endian, in the same order."""
    return [
        pb.Tensor(
            name=name,
            dtype=value.dtype.name,
            shape=value.shape,
            data=value.astype(value.dtype.newbyteorder("<"), copy=False).tobytes(),
        )
        for name, value in arrays.items()
    ]


def from_tensors(tensors: Iterable[pb.Tensor]) -> dict[str, np.ndarray]:
    """Name -> array of messages; raises `InputError` where they do not fit together or a name repeats."""
    found: dict[str, np.ndarray] = {}
    for tensor in tensors:
        if tensor.dtype not in DTYPES or tensor.name in found:
            raise InputError(f"tensor {tensor.name!r} of dtype {tensor.dtype!r} is repeated or not accepted")
        dtype, shape = np.dtype(tensor.dtype), tuple(tensor.shape)
        if any(size < 0 for size in shape) or math.prod(shape) * dtype.itemsize != len(tensor.data):
            raise InputError(f"tensor {tensor.name!r} has {len(tensor.data)} bytes; its shape is {shape}")
        array = np.frombuffer(tensor.data, dtype.newbyteorder("<")).astype(dtype).reshape(shape)
        found[tensor.name] = array
    return found


def fault_text(error: BaseException) -> str:
    """What the owner is told of an error, as JSON; a fault of the program itself has no text in it."""
    if isinstance(error, CommonGroundError):
        values: dict[str, Any] = {"error_code": error.error_code, "message": error.message}
        values |= {"hint": error.hint, "reason": error.reason.name if error.reason else None}
        if isinstance(error, ConfigError):
            values["faults"] = list(error.faults)
    else:
        values = {"error_code": "failed", "message": f"the vault failed ({type(error).__name__})"}
        values["hint"] = "the vault's own log says more"
    return json.dumps(values)


def raised(error: grpc.RpcError, what: str) -> CommonGroundError:
    """The error that a call of the owner met, as this process raises it."""
    details = error.details() if isinstance(error, grpc.Call) else None
    try:
        values: dict[str, Any] = json.loads(details or "")
        kind = next(k for k in _kinds(CommonGroundError) if k.error_code == values["error_code"])
        found = kind.__new__(kind)
        reason = values.get("reason")
        CommonGroundError.__init__(
            found,
            str(values["message"]),
            hint=values.get("hint"),
            reason=None if reason is None else Reason[reason],
        )
        if isinstance(found, ConfigError):
            found.faults = tuple(str(fault) for fault in values["faults"])
        return found
    except (ValueError, KeyError, TypeError, StopIteration):
        code = error.code() if isinstance(error, grpc.Call) else None
        if code is grpc.StatusCode.UNAVAILABLE:
            return InputError(
                f"{what}: the vault does not answer", hint="start the device: commonground device up"
            )
        name = code.name.lower().replace("_", " ") if code is not None else "unknown"
        return CommonGroundError(f"{what}: the vault refused the call ({name})")


def _kinds(kind: type[CommonGroundError]) -> Iterator[type[CommonGroundError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _kinds(below)
