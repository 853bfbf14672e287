"""A server's answer that is small on the wire and large in memory, or that leads elsewhere.

The class: the receiver's memory and its connections are the sender's to decide.
"""

from __future__ import annotations

import gzip
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from toy_patience import LIMIT

BOMB = 3 << 30
CALL = """
import resource, sys
import httpx
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.runtime import RuntimeHttpClient
from commonground.client.plain_http import take_plain

take_plain(1 << 20)
client = RuntimeHttpClient.from_server_address(sys.argv[1], True, None, [])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    client.AcquireTask(AcquireTaskRequest())
    print("taken")
except httpx.HTTPError as error:
    print(type(error).__name__, str(error).splitlines()[0])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


class Bomber(BaseHTTPRequestHandler):
    """Answers a POST as its server's `answer` says, and notes what was asked for."""

    def do_POST(self) -> None:
        self.server.asked.append((self.path, self.headers.get("accept-encoding")))  # type: ignore[attr-defined]
        encoding, body, location = self.server.answer  # type: ignore[attr-defined]
        self.send_response(307 if location else 200)
        if encoding:
            self.send_header("content-encoding", encoding)
        if location:
            self.send_header("location", location)
        self.end_headers()
        try:
            for piece in body:
                self.wfile.write(piece)
        except OSError:
            pass  # the other side has seen enough

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Bomber) as found:
        found.asked = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        try:
            yield found
        finally:
            found.shutdown()
            thread.join()


def asked(server: ThreadingHTTPServer) -> tuple[str, int]:
    """What a node's client says of the answer, and by how many kilobytes it grew."""
    address = f"127.0.0.1:{server.server_address[1]}"
    words = [sys.executable, "-c", CALL, address]
    done = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT, check=True)
    said, grown = done.stdout.splitlines()
    return said, int(grown)


def bomb() -> bytes:
    """3 GB of zeros, 3 MB as gzip: one block again and again, and no end, which is read last."""
    packer, zeros = zlib.compressobj(9, zlib.DEFLATED, 31), bytes(1 << 24)
    first, again = (packer.compress(zeros) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    return first + again * ((BOMB >> 24) - 1)


def test_three_megabytes_that_are_three_gigabytes_cost_nothing(server: ThreadingHTTPServer) -> None:
    data = bomb()
    assert len(data) < 4 << 20
    assert len(zlib.decompressobj(31).decompress(data, 1 << 26)) == 1 << 26
    server.answer = ("gzip", [data], "")  # type: ignore[attr-defined]
    said, grown = asked(server)
    assert said == "RemoteProtocolError the answer comes packed, which was not asked for"
    assert grown < 30_000
    assert [encoding for _, encoding in server.asked] == ["identity"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("encoding", ["deflate", "br", "zstd", "GZIP", "gzip, gzip", "identity, gzip", "x"])
def test_no_other_packing_is_taken(server: ThreadingHTTPServer, encoding: str) -> None:
    server.answer = (encoding, [gzip.compress(b"")], "")  # type: ignore[attr-defined]
    assert asked(server)[0].startswith("RemoteProtocolError the answer comes packed")


def test_an_answer_without_an_end_is_read_no_further_than_a_message(server: ThreadingHTTPServer) -> None:
    server.answer = ("", (bytes(1 << 20) for _ in range(512)), "")  # type: ignore[attr-defined]
    said, grown = asked(server)
    assert said == "RemoteProtocolError the answer is longer than any message of this study"
    assert grown < 30_000


def test_a_plain_answer_is_taken_and_nobody_is_followed(server: ThreadingHTTPServer) -> None:
    server.answer = ("", [b""], "")  # type: ignore[attr-defined]
    assert asked(server)[0] == "taken"
    port = server.server_address[1]
    server.answer = ("", [b""], f"http://127.0.0.1:{port}/elsewhere")  # type: ignore[attr-defined]
    assert "307" in asked(server)[0]
    assert not any(path == "/elsewhere" for path, _ in server.asked)  # type: ignore[attr-defined]
