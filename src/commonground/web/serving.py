"""One page process: a loopback socket, NiceGUI behind the gate, and a file with the link.

NiceGUI keeps its routes and clients in globals of the process, so a process serves one page and no more.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from commonground.errors import InputError
from commonground.files import write_atomically
from commonground.web.gate import Door, Gate

LINK = "page.url"
LARGEST = 1 << 20  # bytes of one WebSocket message; a text of 20,000 characters fits many times


@dataclass(frozen=True)
class Place:
    """Where a page is served.

    Attributes:
        folder: a private folder for the link file and the library's scratch.
        port: 0 takes a free one.
        host: an address of this machine.
        certificate, key: PEM files; both or none, which is plain HTTP.
        where: how a person gets a new link, in words.
        link: name of the link file.
        lock: how the link lies in it, for a folder that others of the same user read.
    """

    folder: Path
    port: int = 0
    host: str = "127.0.0.1"
    certificate: Path | None = None
    key: Path | None = None
    where: str = ""
    link: str = LINK
    lock: Callable[[bytes], bytes] = lambda link: link


def serve(place: Place, title: str, build: Callable[[], None]) -> None:
    """Serve until SIGINT or SIGTERM.

    The current link is in `place.folder / place.link` (mode 0600) at any time, and the first one is a line on
    stdout; once a link is used, the file holds a new one.

    Args:
        place: where.
        title: of the browser's tab.
        build: registers the pages; called once, before the first request.

    Raises:
        InputError: the port is in use.
        StorageError: the folder cannot be written.
    """
    place.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.environ["NICEGUI_STORAGE_PATH"] = str(
        place.folder / "nicegui"
    )  # read on import; nothing is kept there
    import uvicorn
    from fastapi import FastAPI
    from nicegui import app, ui

    listener = _listen(place)
    port = listener.getsockname()[1]
    scheme = "https" if place.certificate else "http"
    path = place.folder / place.link
    door = Door(
        f"{scheme}://{place.host}:{port}",
        place.where,
        lambda link: write_atomically(path, place.lock(link.encode() + b"\n"), private=True),
    )
    outer = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.config.socket_io_js_transports = ["websocket"]  # long polling would be a second way in
    app.config.quasar_config["loadingBar"] = {"skipHijack": True}
    build()
    ui.run_with(
        outer,
        title=title,
        mount_path=door.path,
        dark=None,
        language="en-US",
        tailwind=False,
        gzip_middleware_factory=None,
        show_welcome_message=False,
        reconnect_timeout=30,
    )

    class Server(uvicorn.Server):
        """Stops on a signal and comes back; uvicorn's own would kill the process with the same signal."""

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            loop = asyncio.get_running_loop()
            for name in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(name, self.handle_exit, name, None)
            yield

    server = Server(
        uvicorn.Config(
            Gate(outer, door),
            log_level="warning",
            access_log=False,  # links hold tokens
            server_header=False,
            proxy_headers=False,
            ws_max_size=LARGEST,
            timeout_graceful_shutdown=1,
            ssl_certfile=place.certificate,
            ssl_keyfile=place.key,
        )
    )
    # NiceGUI looks at every object of the process for its server; one of torch's warns of being looked at.
    warnings.filterwarnings("ignore", ".*reduce_op", FutureWarning)
    sys.stdout.write(f"{door.link}\n")
    sys.stdout.flush()
    try:
        asyncio.run(server.serve(sockets=[listener]))
    finally:
        path.unlink(missing_ok=True)


def _listen(place: Place) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((place.host, place.port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise InputError(
            f"{place.host}:{place.port} cannot be opened: {error.strerror}",
            hint="another program may use it; --port 0 takes a free one",
        ) from error
    return listener
