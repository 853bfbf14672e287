"""Flower records to plain arrays and back, in one place.

Nothing here decides what may leave a device; that is `commonground.manifest` and `commonground.client`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict

from commonground.errors import EgressError
from commonground.manifest import METRIC, METRIC_VALUE, Manifest

ARRAYS, CONFIG, METRICS = "arrays", "config", "metrics"
HEADER = 4096  # bytes that numpy's own header may add to a tensor


def to_record(arrays: Mapping[str, np.ndarray]) -> ArrayRecord:
    """Name -> array as a Flower record, in the same order; every dtype and shape is kept."""
    # np.require keeps shape () where np.ascontiguousarray would make it (1,).
    return ArrayRecord({name: Array(np.require(value, requirements="C")) for name, value in arrays.items()})


def from_record(record: ArrayRecord) -> dict[str, np.ndarray]:
    """Name -> array of a Flower record, in its order; never unpickles."""
    return {name: array.numpy() for name, array in record.items()}


def read_update(message: Message, manifest: Manifest) -> dict[str, np.ndarray]:
    """The tensors of one reply, checked against the manifest as the device should have done.

    Args:
        message: a reply with content.
        manifest: what may leave a device.

    Returns:
        Name -> array in the manifest's order.

    Raises:
        EgressError: other records than one of arrays and one of the constant metric, or more bytes than
            the manifest's tensors have. Names, shapes and values are left to `manifest.verify`.
    """
    content = message.content
    if set(content) != {ARRAYS, METRICS}:
        raise EgressError(f"reply has records {sorted(content)}; accepted: {ARRAYS} and {METRICS}")
    arrays, metrics = content[ARRAYS], content[METRICS]
    if not isinstance(arrays, ArrayRecord) or not isinstance(metrics, MetricRecord):
        raise EgressError(f"reply has a {type(arrays).__name__} and a {type(metrics).__name__}")
    if dict(metrics) != {METRIC: METRIC_VALUE}:
        raise EgressError(f"reply has metrics {sorted(metrics)}; accepted: {METRIC}={METRIC_VALUE} alone")
    names = [spec.name for spec in manifest.sent]
    if set(arrays) != set(names):
        raise EgressError(f"reply has tensors {sorted(arrays)}; the manifest allows exactly {names}")
    for spec in manifest.sent:
        allowed = int(np.prod(spec.shape)) * np.dtype(spec.dtype).itemsize + HEADER
        if len(arrays[spec.name].data) > allowed:
            raise EgressError(f"tensor {spec.name!r} has more than the {allowed} bytes of its shape")
    try:
        return {name: arrays[name].numpy() for name in names}
    except (ValueError, TypeError, OSError, EOFError) as error:
        raise EgressError("reply holds a tensor that cannot be decoded") from error


def train_content(arrays: Mapping[str, np.ndarray]) -> RecordDict:
    """The content of a reply as Flower's strategies expect it: one record of arrays, weight 1."""
    return RecordDict({ARRAYS: to_record(arrays), METRICS: MetricRecord({METRIC: METRIC_VALUE})})
