"""One look at the study's front door: does it answer, under its own certificate, and what time is it there?

Flower takes a node's signature for five minutes, so a clock that is off by more keeps a device out for a
reason that nobody would guess.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from commonground.errors import CommonGroundError, InputError, TrustError
from commonground.study.public_parts import PATH as PARTS

SKEW = 240.0  # seconds between the clocks; Flower accepts 300 and what the network adds
TIMEOUT = 20.0
ANSWER = 1 << 16  # bytes of an answer that is no file
LATER = (429, 502, 503, 504)  # the server's parts are not up, or too much was asked at once


class UnreachableError(CommonGroundError):
    """The server does not answer.

    Args:
        message: as ever.
        hint: as ever.
        sent: what was asked may have reached it.
    """

    error_code = "unreachable"

    def __init__(self, message: str, *, hint: str | None = None, sent: bool = True) -> None:
        super().__init__(message, hint=hint)
        self.sent = sent


def open_client(ca: str, timeout: float = TIMEOUT) -> httpx.Client:
    """A client that believes one certificate authority and no other.

    Args:
        ca: PEM.
        timeout: seconds.

    Raises:
        TrustError: it is no certificate.
    """
    try:
        context = ssl.create_default_context(cadata=ca)
    except (ssl.SSLError, ValueError) as error:
        raise TrustError(
            "the invitation's certificate authority cannot be read", hint="ask the operator for a new one"
        ) from error
    return httpx.Client(verify=context, timeout=timeout, follow_redirects=False)


def ask(client: httpx.Client, method: str, url: str, body: Mapping[str, Any] | None = None) -> httpx.Response:
    """One request with a short answer.

    Returns:
        Its code, its date and its content as it came; nothing else that the server wrote.

    Raises:
        TrustError: the answer is long, or the certificate is not the study's.
        UnreachableError: the server does not answer.
    """
    content = bytearray()
    with _told(url), client.stream(method, url, json=body) as reply:
        for piece in reply.iter_raw():  # as it came: what is small packed may be large
            content += piece
            if len(content) > ANSWER:
                raise TrustError(
                    f"{client_host(url)} answers with more than {ANSWER} bytes", hint="ask the operator"
                )
        date = {name: reply.headers[name] for name in ("Date",) if name in reply.headers}
        return httpx.Response(reply.status_code, headers=date, content=bytes(content))


def look(client: httpx.Client, address: str) -> None:
    """Ask the front door what time it is.

    Raises:
        InputError: the clocks are too far apart.
        TrustError, UnreachableError: as in `ask`.
    """
    check_clock(ask(client, "HEAD", f"https://{address}{PARTS}"))


@contextmanager
def _told(url: str) -> Iterator[None]:
    """What goes wrong on the way to a server, as one of our errors."""
    try:
        yield
    except (httpx.HTTPError, OSError) as error:
        if _is_about_the_certificate(error):
            raise TrustError(
                f"{client_host(url)} does not show the certificate of this study: {_reason(error)}",
                hint="look at this machine's clock; else somebody may be in between: ask the operator",
            ) from error
        raise UnreachableError(
            f"the server {client_host(url)} does not answer: {_reason(error)}",
            hint="look at the network, ask the operator whether it runs, then try again",
            sent=not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout),
        ) from error


def fetch(client: httpx.Client, url: str, most: int, what: str) -> bytes:
    """A file, wholly.

    Args:
        client: of `open_client`.
        url: whose.
        most: bytes that are read; a larger file is refused unread.
        what: it is, in words.

    Raises:
        TrustError: the server does not give it, it is too large, or the certificate is not the study's.
        UnreachableError: the server does not answer, or the file broke off.
    """
    found = bytearray()
    with _told(url), client.stream("GET", url) as reply:
        if reply.status_code in LATER:
            raise UnreachableError(f"{client_host(url)} is not up yet", hint="try again in a minute")
        if reply.status_code != 200:
            raise TrustError(
                f"{client_host(url)} does not give {what}: code {reply.status_code}", hint="ask the operator"
            )
        for piece in reply.iter_raw():
            found += piece
            if len(found) > most:
                raise TrustError(f"{what} are larger than {most} bytes", hint="ask the operator")
    return bytes(found)


def client_host(url: str) -> str:
    """host:port of a URL."""
    found = httpx.URL(url)
    return f"{found.host}:{found.port or 443}"


def clock_offset(response: httpx.Response, now: datetime | None = None) -> float | None:
    """Seconds that this machine's clock is ahead of the server's; None where the server does not say."""
    try:
        there = parsedate_to_datetime(response.headers["Date"])
    except (KeyError, ValueError, TypeError):
        return None
    if there.tzinfo is None:
        there = there.replace(tzinfo=UTC)
    return ((now or datetime.now(UTC)) - there).total_seconds()


def check_clock(response: httpx.Response, now: datetime | None = None) -> None:
    """Raise `InputError` where the clocks are too far apart for Flower to let the node in."""
    offset = clock_offset(response, now)
    if offset is None or abs(offset) <= SKEW:
        return
    side = "ahead of" if offset > 0 else "behind"
    raise InputError(
        f"the clock of this machine is {abs(offset) / 60:.0f} minutes {side} the server's; "
        f"at most {SKEW / 60:.0f} are accepted",
        hint="set the clock (timedatectl set-ntp true), then try again",
    )


def _is_about_the_certificate(error: BaseException) -> bool:
    """Whether TLS refused the server's certificate, however deep httpx has wrapped that."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, ssl.SSLCertVerificationError):
            return True
        inner = inner.__cause__ or inner.__context__
    return False


def _reason(error: BaseException) -> str:
    words = str(error).split("] ")[-1].split(" (_ssl")[0].strip()
    return words or type(error).__name__
