"""Signed releases of the shared adapter: what a device takes from a server, and nothing else.

A release names the offer it belongs to, a version that only grows, its round, and the digest of its tensors.
A device takes a version once: a later one, or the very same tensors again (a repeated message). Everything
else is a replay.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from commonground.errors import Reason, TrustError
from commonground.manifest import Manifest
from commonground.study.signing import Paper, sign

KIND = "release"


@dataclass(frozen=True)
class Release:
    """One version of the shared adapter.

    Attributes:
        offer: digest of the offer.
        version: from 1, growing with every new content.
        round: the round that it opens, from 1.
        tensors: `tensors_digest` of what is sent.
        final: it is the one after the last round, on which private adapters take the rest of their steps.
    """

    offer: str
    version: int
    round: int
    tensors: str
    final: bool = False


def tensors_digest(manifest: Manifest, arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over names, shapes and little-endian bytes of what a server broadcasts, in order."""
    found = hashlib.sha256(manifest.digest.encode())
    for spec in manifest.broadcast:
        value = np.asarray(arrays[spec.name]).astype(np.dtype(spec.dtype).newbyteorder("<"), copy=False)
        found.update(
            f"{spec.name}\0{spec.dtype}{value.shape}".encode() + np.ascontiguousarray(value).tobytes()
        )
    return found.hexdigest()


def sign_release(key: Ed25519PrivateKey, release: Release) -> str:
    """The release as text, as it travels in a message."""
    return sign(key, KIND, asdict(release)).to_text()


def check_release(
    text: str,
    arrays: Mapping[str, np.ndarray],
    manifest: Manifest,
    *,
    signer: str,
    offer: str,
    last: Release | None,
) -> Release:
    """What a device checks of every adapter that it is sent, before anything is computed with it.

    Args:
        text: the signed release.
        arrays: what came with it.
        manifest: the device's own.
        signer: the operator's key that the participant accepted.
        offer: digest of the offer that the participant accepted.
        last: the newest release that this device took, or None.

    Returns:
        The release.

    Raises:
        TrustError: signer, offer, version, names, shapes, dtypes, finiteness or digest do not hold. The
            message is for this device's own log; it never travels.
    """
    content = Paper.from_text(text, "the release").opened(KIND, signer, "the release")
    release = _release(content)
    if release.offer != offer:
        raise TrustError(
            f"the release belongs to offer {release.offer[:12]}; accepted: {offer[:12]}",
            reason=Reason.OTHER_OFFER,
        )
    if last is not None and (release.version, release.tensors) != (last.version, last.tensors):
        if release.version <= last.version:
            raise TrustError(
                f"the release has version {release.version}; {last.version} has been taken",
                reason=Reason.OLD_VERSION,
            )
        if release.round < last.round:
            raise TrustError(
                f"the release opens round {release.round}; this device has seen {last.round}",
                reason=Reason.OLD_VERSION,
            )
    elif last is not None and release.round != last.round:
        raise TrustError(
            f"version {release.version} opened round {last.round}; now it says {release.round}",
            reason=Reason.OLD_VERSION,
        )
    check_arrays(manifest, arrays)
    if tensors_digest(manifest, arrays) != release.tensors:
        raise TrustError(
            "the tensors are not those of the release: their digest differs", reason=Reason.OTHER_DIGEST
        )
    return release


def check_arrays(manifest: Manifest, arrays: Mapping[str, np.ndarray]) -> None:
    """Names, shapes, dtypes and finiteness of what a server broadcasts; raises `TrustError`."""
    wanted = [spec.name for spec in manifest.broadcast]
    if sorted(arrays) != sorted(wanted):
        raise TrustError(
            f"the adapter has tensors {sorted(arrays)}; the manifest says {wanted}",
            reason=Reason.OTHER_TENSORS,
        )
    for spec in manifest.broadcast:
        value = arrays[spec.name]
        if tuple(value.shape) != spec.shape or value.dtype.name != spec.dtype:
            raise TrustError(
                f"tensor {spec.name!r} is {value.dtype} {tuple(value.shape)}; the manifest says "
                f"{spec.dtype} {spec.shape}",
                reason=Reason.OTHER_SHAPES,
            )
        if not np.isfinite(value).all():
            raise TrustError(
                f"tensor {spec.name!r} of the adapter holds a non-finite value", reason=Reason.NOT_FINITE
            )


def _release(content: Mapping[str, Any]) -> Release:
    kinds = {"offer": str, "version": int, "round": int, "tensors": str, "final": bool}
    if set(content) != set(kinds) or any(type(content[name]) is not kind for name, kind in kinds.items()):
        raise TrustError(
            f"the release has fields {sorted(content)}; accepted: {sorted(kinds)}", reason=Reason.UNREADABLE
        )
    return Release(**content)
