"""Signed papers: what one party says and another can check, whoever carried it.

A paper is a JSON object under an Ed25519 signature (RFC 8032). The signature covers the paper's kind, so that
one kind can never be taken for another, and the canonical JSON text of its content. The signer is named by
their public key; whether that is the right one is the reader's decision, never the paper's.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from commonground.errors import InputError, Reason, StorageError, TrustError
from commonground.plain import plain_faults, shown

_DOMAIN = b"commonground paper\0"


def canonical(values: Mapping[str, Any]) -> bytes:
    """The one byte text of a JSON object: sorted keys, no spaces, no NaN; raises `InputError` otherwise."""
    try:
        text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"this cannot be signed: {error}; JSON values are needed, infinity as 'inf'"
        ) from error


def digest(values: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical text, hexadecimal."""
    return hashlib.sha256(canonical(values)).hexdigest()


@dataclass(frozen=True)
class Paper:
    """A signed paper as it travels.

    Attributes:
        kind: offer | invitation | release | ...
        content: a JSON object.
        signer: the public key, 64 hexadecimal digits.
        signature: 128 hexadecimal digits.
    """

    kind: str
    content: dict[str, Any]
    signer: str
    signature: str

    def to_text(self) -> str:
        """JSON text; `from_text` takes it back."""
        values = {"kind": self.kind, "content": self.content, "signer": self.signer}
        return json.dumps(
            {**values, "signature": self.signature}, ensure_ascii=False, indent=1, sort_keys=True
        )

    @classmethod
    def from_text(cls, text: str | bytes, what: str = "the paper") -> Paper:
        """Read a paper; nothing is checked yet but its form.

        Raises:
            TrustError: it is no JSON object of these four fields.
        """
        try:
            values = json.loads(text)
            paper = cls(**values)
            wrong = [k for k in ("kind", "signer", "signature") if not isinstance(getattr(paper, k), str)]
        except (ValueError, TypeError, RecursionError) as error:
            raise TrustError(
                f"{what} is damaged: it is no signed paper",
                hint="ask for a new one",
                reason=Reason.UNREADABLE,
            ) from error
        if wrong or not isinstance(paper.content, dict):
            raise TrustError(
                f"{what} is damaged: {(wrong or ['content'])[0]} is no text",
                hint="ask for a new one",
                reason=Reason.UNREADABLE,
            )
        for key, fault in plain_faults(values, texts=False):
            raise TrustError(
                f"{what} is damaged: {key}: {fault}", hint="ask for a new one", reason=Reason.UNREADABLE
            )
        return paper

    def opened(self, kind: str, signer: str, what: str = "the paper") -> dict[str, Any]:
        """The content, once kind, signer and signature hold.

        Args:
            kind: what the reader asked for.
            signer: whose word the reader takes.
            what: how to call it in an error.

        Raises:
            TrustError: one of the three does not hold.
        """
        if self.kind != kind:
            raise TrustError(
                f"{what} is a paper of kind {shown(self.kind)}; {kind!r} is needed", reason=Reason.UNREADABLE
            )
        if self.signer != signer:
            raise TrustError(
                f"{what} is signed by {fingerprint(self.signer)}; accepted: {fingerprint(signer)}",
                hint="somebody else may be answering for the operator: ask them, over another channel",
                reason=Reason.OTHER_SIGNER,
            )
        try:
            key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.signer))
            key.verify(bytes.fromhex(self.signature), _signed(self.kind, self.content))
        except (InvalidSignature, ValueError, InputError) as error:
            raise TrustError(
                f"{what} was changed after it was signed: the signature does not hold",
                hint="ask for a new one",
                reason=Reason.EDITED,
            ) from error
        return self.content


def sign(key: Ed25519PrivateKey, kind: str, content: Mapping[str, Any]) -> Paper:
    """Sign a JSON object; raises `InputError` where it holds anything that JSON cannot."""
    plain = json.loads(canonical(content))
    return Paper(kind, plain, public_hex(key), key.sign(_signed(kind, plain)).hex())


def fingerprint(signer: str) -> str:
    """A public key as people compare it aloud: 8 groups of 4 digits of its SHA-256."""
    found = hashlib.sha256(signer.encode()).hexdigest()[:32]
    return " ".join(found[k : k + 4] for k in range(0, 32, 4))


def public_hex(key: Ed25519PrivateKey) -> str:
    """The public half of a key, hexadecimal."""
    raw = serialization.Encoding.Raw, serialization.PublicFormat.Raw
    return key.public_key().public_bytes(*raw).hex()


def new_key(path: Path) -> Ed25519PrivateKey:
    """Make a signing key and keep it in `path` (PEM, mode 0600); raises `StorageError`, never overwrites."""
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StorageError(f"cannot write the key {path}: {error.strerror or error}") from error
    return key


def load_key(path: Path) -> Ed25519PrivateKey:
    """The signing key in `path`; raises `InputError` where there is none."""
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        reason = getattr(error, "strerror", None) or "it is no private key in PEM form"
        raise InputError(f"signing key {path} cannot be read: {reason}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(f"signing key {path} is of another kind; an Ed25519 key is needed")
    return key


def _signed(kind: str, content: Mapping[str, Any]) -> bytes:
    return _DOMAIN + kind.encode() + b"\0" + canonical(content)
