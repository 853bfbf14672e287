"""Named arrays as one blob, bit for bit, without pickle."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping

import numpy as np

from commonground.errors import InputError, StorageError


def to_blob(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The arrays as bytes of an npz file; raises `InputError` for an array of Python objects."""
    for name, value in arrays.items():
        if value.dtype.hasobject:
            raise InputError(f"array {name!r} has dtype {value.dtype}; numbers are needed")
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:  # np.savez would take no array of the name `file`
        for name, value in arrays.items():
            part = io.BytesIO()
            np.save(part, np.asarray(value), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), part.getvalue())
    return file.getvalue()


def from_blob(blob: bytes, what: str = "the arrays") -> dict[str, np.ndarray]:
    """The arrays that `to_blob` wrote, in their order; raises `StorageError` where they are damaged."""
    try:
        with np.load(io.BytesIO(blob), allow_pickle=False) as found:
            return {name: found[name] for name in found.files}
    except Exception as error:  # numpy's header and zip's directory raise a dozen kinds
        raise StorageError(f"{what} cannot be read: {error}", hint="roll back to another version") from error
