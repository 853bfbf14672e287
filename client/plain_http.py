"""What a node takes of a server's answer over HTTP: bytes as they came, so many at most, from that server.

Flower's client unpacks whatever it is sent, in one piece, and follows a server that points elsewhere: 3 MB of
gzip are 3 GB in memory, and a redirection leads to whatever listens on this machine. The node process, which
is ours, asks for no packing, refuses an answer that is packed all the same, stops reading one that is longer
than the study's messages, and follows nobody. Flower's files stay as they are.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import httpx
from flwr.supercore.protobuf.client import ProtobufClient

log = logging.getLogger("commonground.client.node")

PLAIN = ("", "identity")
_opened = ProtobufClient.__init__


class _Limited(httpx.SyncByteStream):
    """A body of at most so many bytes.

    Args:
        body: the body.
        most: bytes; one more ends it with an error.
    """

    def __init__(self, body: Any, most: int) -> None:
        self._body, self._left = body, most

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._body:
            self._left -= len(piece)
            if self._left < 0:
                raise _refused("is longer than any message of this study")
            yield piece

    def close(self) -> None:
        """Close the connection."""
        self._body.close()


def take_plain(most: int) -> None:
    """From now on every client of Flower in this process takes plain answers of at most `most` bytes."""

    def asks(request: httpx.Request) -> None:
        request.headers["accept-encoding"] = "identity"

    def looks(response: httpx.Response) -> None:
        packed = response.headers.get("content-encoding", "").strip().lower()
        if packed not in PLAIN:
            response.close()
            raise _refused("comes packed, which was not asked for")
        response.stream = _Limited(response.stream, most)

    def opened(self: ProtobufClient, *given: Any, **named: Any) -> None:
        _opened(self, *given, **named)
        self._client.follow_redirects = False
        self._client.event_hooks = {"request": [asks], "response": [looks]}

    ProtobufClient.__init__ = opened


def _refused(why: str) -> httpx.HTTPError:
    # A constant: nothing of what the server wrote gets into a log by this.
    log.warning("an answer of the server %s: refused", why)
    return httpx.RemoteProtocolError(f"the answer {why}")
