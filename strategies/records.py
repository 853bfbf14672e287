"""Flower records to plain arrays and back, in one place.

Nothing here decides what may leave a device; that is `commonground.manifest` and `commonground.client`.

Two ways to read. `from_record` decodes what this process made itself: what strategies hand each other. What
another party sent goes through `from_outside`, which believes nothing of it: name, dtype and shape are the
manifest's, and the numbers are its last bytes. Flower's serialisation puts numpy's header before them, a text
that numpy evaluates and that raises whatever a stranger wants (an open bracket, a shape of 10^13, a thousand
minus signs). There is one right header for a dtype and a shape; ours is compared with it byte by byte, and
nobody's is ever parsed.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Mapping, Sequence

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict

from commonground.errors import EgressError
from commonground.manifest import METRIC, METRIC_VALUE, Manifest, TensorSpec

ARRAYS, CONFIG, METRICS = "arrays", "config", "metrics"
STYPE = "numpy.ndarray"  # Flower's name of the serialisation


def to_record(arrays: Mapping[str, np.ndarray]) -> ArrayRecord:
    """Name -> array as a Flower record, in the same order; every dtype and shape is kept."""
    # np.require keeps shape () where np.ascontiguousarray would make it (1,).
    return ArrayRecord({name: Array(np.require(value, requirements="C")) for name, value in arrays.items()})


def from_record(record: ArrayRecord) -> dict[str, np.ndarray]:
    """Name -> array of a record that this process made, in its order; never unpickles."""
    return {name: array.numpy() for name, array in record.items()}


def from_outside(record: object, specs: Sequence[TensorSpec], what: str = "message") -> dict[str, np.ndarray]:
    """Name -> array of a record that another party sent, by the specs and no word of its own.

    Args:
        record: whatever came.
        specs: which tensors are accepted, with dtype and shape.
        what: how errors call it.

    Returns:
        Arrays of their own memory, in the order of the specs; their values are not looked at.

    Raises:
        EgressError: another type, other names, another dtype, shape or length.
    """
    if not isinstance(record, ArrayRecord):
        raise EgressError(f"{what} has a {type(record).__name__} of arrays; accepted: an ArrayRecord")
    names = [spec.name for spec in specs]
    if set(record) != set(names):
        raise EgressError(f"{what} has {len(record)} tensors; the manifest allows exactly {names}")
    return {spec.name: _decoded(record[spec.name], spec, what) for spec in specs}


def _decoded(array: Array, spec: TensorSpec, what: str) -> np.ndarray:
    head, size = npy_header(spec.dtype, spec.shape), math.prod(spec.shape) * np.dtype(spec.dtype).itemsize
    names = (spec.dtype, np.dtype(spec.dtype).str)  # numpy's two names of it
    fits = array.dtype in names and tuple(array.shape) == spec.shape and array.stype == STYPE
    if not fits or type(array.data) is not bytes:
        raise EgressError(f"{what}: tensor {spec.name!r} is not of dtype {spec.dtype} and shape {spec.shape}")
    if len(array.data) != len(head) + size or not array.data.startswith(head):
        raise EgressError(
            f"{what}: tensor {spec.name!r} has other bytes than its {spec.dtype} {spec.shape} has"
        )
    numbers = np.frombuffer(array.data, np.dtype(spec.dtype).newbyteorder("<"), offset=len(head))
    return numbers.astype(spec.dtype).reshape(spec.shape)


@functools.lru_cache(maxsize=4096)
def npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """What numpy's format 1.0 puts before an array of this dtype and shape, little-endian, in C order."""
    found = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        found,
        {"descr": np.dtype(dtype).newbyteorder("<").str, "fortran_order": False, "shape": tuple(shape)},
    )
    return found.getvalue()


def read_update(message: Message, manifest: Manifest) -> dict[str, np.ndarray]:
    """The tensors of one reply, checked against the manifest as the device should have done.

    Args:
        message: a reply with content.
        manifest: what may leave a device.

    Returns:
        Name -> array in the manifest's order.

    Raises:
        EgressError: other records than one of arrays and one of the constant metric, or other names, dtypes
            or shapes of tensors. Values are left to `manifest.verify`.
    """
    content = message.content
    if set(content) != {ARRAYS, METRICS}:
        raise EgressError(f"reply has {len(content)} records; accepted: {ARRAYS} and {METRICS}")
    metrics = content[METRICS]
    if not isinstance(metrics, MetricRecord):
        raise EgressError(f"reply has a {type(metrics).__name__} of metrics; accepted: a MetricRecord")
    if dict(metrics) != {METRIC: METRIC_VALUE} or type(metrics[METRIC]) is not int:
        raise EgressError(f"reply has other metrics than {METRIC}={METRIC_VALUE} alone")
    return from_outside(content[ARRAYS], manifest.sent, "reply")


def train_content(arrays: Mapping[str, np.ndarray]) -> RecordDict:
    """The content of a reply as Flower's strategies expect it: one record of arrays, weight 1."""
    return RecordDict({ARRAYS: to_record(arrays), METRICS: MetricRecord({METRIC: METRIC_VALUE})})
