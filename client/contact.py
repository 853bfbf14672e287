"""One look at the study's front door: does it answer, under its own certificate, and what time is it there?

Flower takes a node's signature for five minutes, so a clock that is off by more keeps a device out for a
reason that nobody would guess.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from commonground.errors import CommonGroundError, InputError, TrustError

SKEW = 240.0  # seconds between the clocks; Flower accepts 300 and what the network adds
TIMEOUT = 20.0


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
    """One request; raises `UnreachableError`, or `TrustError` where the certificate is not the study's."""
    try:
        return client.request(method, url, json=body)
    except (httpx.HTTPError, OSError) as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise TrustError(
                f"{client_host(url)} does not show the certificate of this study: {_reason(error)}",
                hint="look at this machine's clock; else somebody may be in between: ask the operator",
            ) from error
        raise UnreachableError(
            f"the server {client_host(url)} does not answer: {_reason(error)}",
            hint="look at the network, ask the operator whether it runs, then try again",
            sent=not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout),
        ) from error


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


def _reason(error: BaseException) -> str:
    words = str(error).split("] ")[-1].split(" (_ssl")[0].strip()
    return words or type(error).__name__
