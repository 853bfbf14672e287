"""A proxy in the middle of TLS: it ends the device's connection under its own authority, and records it all.

The device is given this authority in place of the study's, so everything it says is seen in clear; what it
says goes on to the front door over TLS checked against the study's own authority.
"""

from __future__ import annotations

import ipaddress
import select
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

BLOCK = 65536
POLL = 0.2  # seconds between looks at whether to stop


class Recording:
    """What both sides said, connection by connection.

    Attributes:
        sent: of the device, one a connection.
        received: of the front door.
    """

    def __init__(self) -> None:
        self.sent: list[bytearray] = []
        self.received: list[bytearray] = []
        self._lock = threading.Lock()

    def connection(self) -> tuple[bytearray, bytearray]:
        """Where to write one more connection down."""
        with self._lock:
            self.sent.append(bytearray())
            self.received.append(bytearray())
            return self.sent[-1], self.received[-1]

    def device(self) -> dict[str, bytes]:
        """Everything that the device sent, name -> bytes."""
        with self._lock:
            return {f"connection {k}": bytes(raw) for k, raw in enumerate(self.sent) if raw}

    @property
    def bytes(self) -> int:
        """That the device sent."""
        return sum(len(raw) for raw in self.device().values())


class RecordingProxy:
    """See the module's text.

    Args:
        folder: for its certificates.
        upstream: host:port of the front door.
        ca: the authority that the front door is checked by, PEM.
    """

    def __init__(self, folder: Path, upstream: str, ca: str) -> None:
        self.recording = Recording()
        self._folder, self._stop = folder, threading.Event()
        host, _, port = upstream.rpartition(":")
        self._upstream = host, int(port)
        self.ca, chain = _authority(folder)
        self._server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._server.load_cert_chain(chain)
        self._client = ssl.create_default_context(cadata=ca)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.settimeout(POLL)
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, daemon=True, name="recording proxy")
        self._thread.start()

    def close(self) -> None:
        """Stop taking connections; those that are open end with their next silence."""
        self._stop.set()
        self._thread.join()
        self._socket.close()

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                taken, _ = self._socket.accept()
            except TimeoutError:
                continue
            threading.Thread(target=self._serve, args=(taken,), daemon=True).start()

    def _serve(self, taken: socket.socket) -> None:
        sent, received = self.recording.connection()
        try:
            with (
                taken,
                self._server.wrap_socket(taken, server_side=True) as device,
                socket.create_connection(self._upstream, 10) as plain,
                self._client.wrap_socket(plain, server_hostname=self._upstream[0]) as door,
            ):
                self._pass_on(_Way(device, door, sent), _Way(door, device, received))
        except OSError:  # a side that went away, or that did not take the other's certificate
            return

    def _pass_on(self, *ways: _Way) -> None:
        """Both ways in this one thread: a TLS connection must not be read and written at the same time."""
        for way in ways:
            way.source.setblocking(False)
        while not self._stop.is_set():
            waiting = [way.sink for way in ways if way.left]
            readable, writable, _ = select.select([way.source for way in ways], waiting, [], POLL)
            for way in ways:
                if way.source in readable and not way.read():
                    return
                if way.left and (way.sink in writable or way.source in readable):
                    way.write()


@dataclass
class _Way:
    """One direction of a connection.

    Attributes:
        source, sink: the two ends.
        record: where everything is written down.
        left: what is still to be passed on.
    """

    source: ssl.SSLSocket
    sink: ssl.SSLSocket
    record: bytearray
    left: bytearray = field(default_factory=bytearray)

    def read(self) -> bool:
        """Take what is there; False at the end."""
        while True:
            try:
                block = self.source.recv(BLOCK)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return True
            if not block:
                return False
            self.record += block
            self.left += block

    def write(self) -> None:
        """Pass on what the other end takes."""
        try:
            while self.left:
                del self.left[: self.sink.send(self.left)]
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return


@contextmanager
def recording_proxy(folder: Path, upstream: str, ca: str) -> Iterator[RecordingProxy]:
    """A proxy that is closed at the end."""
    proxy = RecordingProxy(folder, upstream, ca)
    try:
        yield proxy
    finally:
        proxy.close()


def _authority(folder: Path) -> tuple[str, Path]:
    """(the proxy's own authority as PEM, file with its server certificate and key)."""
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, n)]) for n in ("recorder", "127.0.0.1")]
    begin = datetime.now(UTC) - timedelta(hours=1)
    found = []
    for k, (key, name) in enumerate(zip(keys, names, strict=True)):
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(names[0])
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(begin + timedelta(days=2))
            .add_extension(x509.BasicConstraints(ca=k == 0, path_length=None), critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(keys[0].public_key()), critical=False
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        if k:
            places = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            builder = builder.add_extension(x509.SubjectAlternativeName(places), critical=False)
        else:
            usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
            builder = builder.add_extension(usage, critical=True)
        found.append(builder.sign(keys[0], hashes.SHA256()))
    pem = [one.public_bytes(serialization.Encoding.PEM) for one in found]
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    chain = folder / "recorder.pem"
    chain.write_bytes(pem[1] + keys[1].private_bytes(serialization.Encoding.PEM, *form))
    return pem[0].decode(), chain
