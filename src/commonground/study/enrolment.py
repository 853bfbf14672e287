"""What a device sends once to be enrolled: the invitation's token, its node key, a proof that it has the key.

    POST /enrol   {"token", "public_key", "proof"}   ->   {"slot", "name", "node_id"}

The proof is the node key's signature (ECDSA, SHA-256, hexadecimal DER) of the token, so that nobody can enrol
a key of somebody else's. Both halves are here, since neither side may import the other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    SECP384R1,
    SECP521R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)

from commonground.errors import TrustError

PATH = "/enrol"
MOST = 8192  # bytes of a request; a real one has about 600
_DOMAIN = b"commonground enrolment\0"
_CURVES = (SECP256R1, SECP384R1, SECP521R1)
_KINDS = {"token": r"[A-Za-z0-9_-]{16,128}", "public_key": r"[ -~]{16,1024}", "proof": r"[0-9a-f]{16,512}"}


@dataclass(frozen=True)
class Enrolment:
    """A request that holds in itself; whether the token is one of the study's is the server's to say.

    Attributes:
        token: of the invitation.
        public_key: OpenSSH, without a comment.
        key: the same.
    """

    token: str
    public_key: str
    key: EllipticCurvePublicKey


def enrolment_request(token: str, key: EllipticCurvePrivateKey) -> dict[str, str]:
    """What the device with the node key `key` sends, as JSON values."""
    proof = key.sign(_DOMAIN + token.encode(), ECDSA(hashes.SHA256())).hex()
    return {"token": token, "public_key": openssh(key.public_key()), "proof": proof}


def read_request(values: object) -> Enrolment:
    """Read and check a request.

    Args:
        values: what came, as JSON values.

    Raises:
        TrustError: its form, its key or its proof is not right; the message holds nothing that came.
    """
    if not isinstance(values, Mapping) or set(values) != set(_KINDS):
        raise TrustError(f"an enrolment has exactly {', '.join(_KINDS)}")
    for name, form in _KINDS.items():
        if not isinstance(values[name], str) or not re.fullmatch(form, values[name]):
            raise TrustError(f"the {name} of the enrolment has a wrong form")
    token = str(values["token"])
    try:
        key = serialization.load_ssh_public_key(str(values["public_key"]).encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise TrustError("the public_key of the enrolment is no OpenSSH public key") from error
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, _CURVES):
        raise TrustError("the public_key of the enrolment is on no NIST curve of 256 bits or more")
    try:
        key.verify(bytes.fromhex(str(values["proof"])), _DOMAIN + token.encode(), ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError) as error:
        raise TrustError("the proof of the enrolment does not hold for its public_key") from error
    return Enrolment(token, openssh(key), key)


def openssh(key: EllipticCurvePublicKey) -> str:
    """A public key as one line, OpenSSH, without a comment."""
    form = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    return key.public_bytes(*form).decode()
