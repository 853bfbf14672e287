"""The certificates of a study: its own authority, and one for the front door and the parts behind it."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_DAYS, SERVER_DAYS = 3650, 825  # at least: neither ends before its study, since nothing renews them
EARLIEST, LAST = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)
EARLIER = timedelta(hours=1)  # devices whose clock is a little late


@dataclass(frozen=True)
class Certificates:
    """PEM texts: the authority's certificate and key, the server's certificate and key."""

    ca: bytes
    ca_key: bytes
    server: bytes
    server_key: bytes


def make_certificates(study: str, host: str, closes: datetime = EARLIEST) -> Certificates:
    """New ones, EC P-256.

    Args:
        study: the study's name.
        host: name or IP address that devices reach the front door at; localhost and 127.0.0.1 are added for
            the parts behind it.
        closes: when the study ends.
    """
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"commonground study {study}")])
    names: list[x509.GeneralName] = [
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    ]
    try:
        own: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        own = x509.DNSName(host)
    if own not in names:
        names.append(own)
    # Whoever trusts this authority, in a browser for the console say, trusts it for these names and no other.
    only = x509.NameConstraints(permitted_subtrees=[_subtree(name) for name in names], excluded_subtrees=None)
    ca = (
        _builder(ca_name, ca_name, ca_key.public_key(), AUTHORITY_DAYS, closes)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(only, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"commonground front door {study}")])
    server = (
        _builder(subject, ca_name, key.public_key(), SERVER_DAYS, closes)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    return Certificates(ca.public_bytes(pem), _key_pem(ca_key), server.public_bytes(pem), _key_pem(key))


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int, closes: datetime
) -> x509.CertificateBuilder:
    start = datetime.now(UTC) - EARLIER
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(min(LAST, max(start + timedelta(days=days), closes)))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _subtree(name: x509.GeneralName) -> x509.GeneralName:
    """The name as a constraint: an address is a network of one."""
    return x509.IPAddress(ipaddress.ip_network(name.value)) if isinstance(name, x509.IPAddress) else name
