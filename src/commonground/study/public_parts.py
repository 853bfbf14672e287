"""The public parts of a study's model, as numbers that travel.

The bases of features, the public starts of adapters and the public style adapters are computed from public
texts and seeds alone, so every device could compute them by itself. But processors round differently, and
numbers whose last bits differ have another digest. So the operator computes them once; devices take them
from the front door (`GET /parts`) and hold them to the digest in the signed offer.

The file is an npz without compression and without pickle; the same numbers are always the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import math
import zipfile
from collections.abc import Mapping

import numpy as np

from commonground.errors import InputError, TrustError
from commonground.plain import shown

PATH = "/parts"
NAME = "parts"  # of the digest in `Offer.base`
FILE = "parts.npz"
LARGEST = 256 << 20  # bytes; eight style adapters on a model of 7 billion numbers have about 120 MB
DTYPES = {"<f4": "float32", "<f8": "float64"}  # a basis's scale is one float64, all else is float32
ASK = "try again; then ask the operator"
Arrays = dict[str, np.ndarray]


def write_parts(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The file of named arrays.

    Raises:
        InputError: an array has another dtype than float32 or float64, or a value that is not finite, or all
            together are larger than devices take.
    """
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, value in sorted(arrays.items()):
            if value.dtype.str not in DTYPES or not np.isfinite(value).all():
                raise InputError(f"public part {name!r} of dtype {value.dtype} has to be finite floats")
            part = io.BytesIO()
            np.lib.format.write_array(part, np.require(value, requirements="C"), (1, 0), allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy")
            info.create_system = 3  # the same bytes whatever the system
            archive.writestr(info, part.getvalue())
    data = file.getvalue()
    if len(data) > LARGEST:
        raise InputError(
            f"the model's public parts have {len(data) >> 20} MB; accepted: at most {LARGEST >> 20} MB",
            hint="set a smaller model.rank or fewer model.layers",
        )
    return data


def parts_digest(data: bytes) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(data).hexdigest()


def read_parts(data: bytes | None, digest: str) -> Arrays:
    """The arrays in a file.

    Args:
        data: the file; None where there is none.
        digest: what the signed offer says.

    Returns:
        Name -> array, finite, float32 or float64. Which names and shapes there have to be is the model's
        affair (`commonground.given`).

    Raises:
        TrustError: it is missing, too large, another file than the offer's, or not of this form.
    """
    if data is None:
        raise TrustError(
            "the study's public parts are missing", hint="join again with a new invitation from the operator"
        )
    if len(data) > LARGEST:
        raise TrustError(
            f"the study's public parts have {len(data)} bytes; accepted: at most {LARGEST}", hint=ASK
        )
    if parts_digest(data) != digest:
        raise TrustError(
            f"the study's public parts have digest {parts_digest(data)[:12]}; the signed offer says "
            f"{digest[:12]}",
            hint=ASK,
        )
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            if sum(info.file_size for info in members) > len(data):
                raise ValueError("more bytes than the file has")
            found = {info.filename.removesuffix(".npy"): _array(archive, info) for info in members}
            if len(found) != len(members):
                raise ValueError("a name twice")
    except Exception as error:  # numpy's header and zip's directory raise a dozen kinds
        raise TrustError(f"the study's public parts cannot be read: {shown(str(error))}", hint=ASK) from error
    return found


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """One member; raises `ValueError`. Nothing is made that is larger than the bytes that are there."""
    if info.compress_type != zipfile.ZIP_STORED or not info.filename.endswith(".npy"):
        raise ValueError(f"{info.filename!r} is no plain array")
    with archive.open(info) as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError(f"{info.filename!r} has another format")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        body = file.read()
    if dtype.str not in DTYPES or fortran or len(body) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{info.filename!r} has another dtype or size")
    value = np.frombuffer(body, dtype).reshape(shape).copy()
    if not np.isfinite(value).all():
        raise ValueError(f"{info.filename!r} holds a value that is not finite")
    return value
