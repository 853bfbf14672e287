"""A front door for tests of `join`: TLS under its own authority, a Date header, answers of the test's."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from commonground.server.certificates import make_certificates
from commonground.study.enrolment import Enrolment, read_request

Answer = Callable[["FrontDoor", Enrolment], tuple[int, Any]]


def enrolled(door: FrontDoor, request: Enrolment) -> tuple[int, Any]:
    """As a server does: one key for a token; asked again with the same key, the same answer."""
    known = door.keys.setdefault(request.token, request.public_key)
    if known != request.public_key:
        return 403, {"error": "refused"}
    return 200, {"slot": 3, "name": "Ada", "node_id": "42"}


class FrontDoor:
    """What a test sets and sees.

    Attributes:
        address: host:port. ca: PEM.
        ahead: how far the door's clock is ahead.
        answer: what POST /enrol answers; None drops the connection once the request was read.
        requests: what came, in order. keys: token -> the key that it enrolled.
        parts: what GET /parts answers; None is 404. said: bytes that it is said to have, where not its own.
    """

    def __init__(self, ca: str) -> None:
        self.address, self.ca, self.ahead = "", ca, timedelta()
        self.answer: Answer | None = enrolled
        self.requests: list[tuple[str, str]] = []
        self.keys: dict[str, str] = {}
        self.parts: bytes | None = None
        self.said: int | None = None


@contextmanager
def front_door(folder: Path) -> Iterator[FrontDoor]:
    """A door on a free loopback port."""
    made = make_certificates("toys", "127.0.0.1")
    door = FrontDoor(made.ca.decode())

    class Handler(BaseHTTPRequestHandler):
        def date_time_string(self, timestamp: float | None = None) -> str:
            return format_datetime(datetime.now(UTC) + door.ahead, usegmt=True)

        def do_HEAD(self) -> None:  # http.server's name
            door.requests.append(("HEAD", self.path))
            self.send_error(404)

        def do_GET(self) -> None:
            door.requests.append(("GET", self.path))
            if door.parts is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(door.parts) if door.said is None else door.said))
            self.end_headers()
            self.wfile.write(door.parts)

        def do_POST(self) -> None:
            door.requests.append(("POST", self.path))
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if door.answer is None:
                enrolled(door, read_request(body))
                self.connection.close()
                return
            code, values = door.answer(door, read_request(body))
            text = values if isinstance(values, bytes) else json.dumps(values).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *values: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Clients that turn away are no news."""

    (folder / "server.pem").write_bytes(made.server + made.server_key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    with Server(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        door.address = f"127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield door
        finally:
            server.shutdown()
            thread.join()
