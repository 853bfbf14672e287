"""The proxy passes on every byte unchanged and has each of them in its record."""

from __future__ import annotations

import hashlib
import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from capture_views import http_messages
from recording_proxy import RecordingProxy, _authority, recording_proxy
from toy_patience import LIMIT


class Echo(BaseHTTPRequestHandler):
    """Answers with the digest of what came, and as many bytes back."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        answer = hashlib.sha256(body).digest() + body[::-1]
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@contextmanager
def echo(folder: Path) -> Iterator[tuple[str, str]]:
    """(address, authority) of a TLS server."""
    folder.mkdir()
    ca, chain = _authority(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"127.0.0.1:{server.server_address[1]}", ca
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[RecordingProxy]:
    with echo(tmp_path / "door") as (address, ca), recording_proxy(tmp_path, address, ca) as found:
        yield found


def test_large_bodies_both_ways_at_once_arrive_whole_and_are_recorded(proxy: RecordingProxy) -> None:
    context = ssl.create_default_context(cadata=proxy.ca)
    bodies = [bytes([k]) * (400_000 + k) for k in range(6)]

    def ask(body: bytes) -> None:
        with httpx.Client(verify=context) as client:
            for _ in range(3):  # one connection, kept
                answer = client.post(f"https://{proxy.address}/echo", content=body, timeout=LIMIT).content
                assert answer == hashlib.sha256(body).digest() + body[::-1]

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(ask, bodies))
    sent = [m.body for raw in proxy.recording.device().values() for m in http_messages(raw)]
    assert sorted(sent) == sorted(bodies * 3)
    back = [m.body for raw in proxy.recording.received for m in http_messages(bytes(raw))]
    assert sorted(body[32:] for body in back) == sorted(body[::-1] for body in bodies * 3)


def test_a_device_that_knows_the_study_alone_does_not_take_it(proxy: RecordingProxy, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    context = ssl.create_default_context(cadata=_authority(tmp_path / "other")[0])
    with (
        httpx.Client(verify=context) as client,
        pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY"),
    ):
        client.post(f"https://{proxy.address}/echo", content=b"secret")
    assert proxy.recording.bytes == 0


def test_a_front_door_of_another_authority_gets_nothing(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = _authority(tmp_path / "other")[0]
    with echo(tmp_path / "door") as (address, _), recording_proxy(tmp_path, address, other) as proxy:
        context = ssl.create_default_context(cadata=proxy.ca)
        with httpx.Client(verify=context) as client, pytest.raises(httpx.HTTPError):
            client.post(f"https://{proxy.address}/echo", content=b"secret", timeout=LIMIT)
        assert proxy.recording.bytes == 0


def test_a_front_door_that_is_away_ends_the_connection(tmp_path: Path) -> None:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{found.getsockname()[1]}"
    (tmp_path / "other").mkdir()
    with recording_proxy(tmp_path, nobody, _authority(tmp_path / "other")[0]) as proxy:
        context = ssl.create_default_context(cadata=proxy.ca)
        with httpx.Client(verify=context) as client, pytest.raises(httpx.HTTPError):
            client.post(f"https://{proxy.address}/echo", content=b"secret", timeout=LIMIT)
