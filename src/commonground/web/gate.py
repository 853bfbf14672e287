"""Who may ask a page that holds a person's data, and what their browser may do with the answer.

A page on this machine has three enemies that TLS does not stop: another web site that the same browser has
open (it can send requests here, and with DNS rebinding even under another name), another user of the machine,
and text that the page itself shows. Hence, before anything of NiceGUI runs:

    Host     must be the very address that the page was opened on: rebinding ends here
    link     a token that works once; it is exchanged for a cookie and a secret path, and a new one is made
    cookie   HttpOnly, SameSite=Strict, and only for the secret path (cookies do not know ports)
    Origin   must be the page's own for every WebSocket and for every request that is no plain read
    CSP      no script but the library's own files and those of this very answer (a nonce), no eval,
             no other host for anything

NiceGUI needs of the policy: a nonce for its inline scripts and styles, the hash of the one style attribute in
its template, and `connect-src 'self'` for its WebSocket. It does not need 'unsafe-eval' as long as no element
uses a Vue template, a JavaScript handler, or `run_javascript`; parts, inputs, measures and frame are made of
such elements alone.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

IDLE = 12 * 3600.0  # seconds after which a browser that did not ask must be let in anew
BYTES = 32  # of a token
SAFE = frozenset({"GET", "HEAD"})
# The one style attribute of NiceGUI's template, `display: none` of a cache that is not used here.
ATTRIBUTE = "'sha256-ZdHxw9eWtnxUb3mk6tBS+gIiVUPE3pGM470keHPDFlE='"
POLICY = (
    "default-src 'none'; script-src 'self' 'nonce-{nonce}'; style-src 'self' 'nonce-{nonce}'; "
    "style-src-attr 'unsafe-hashes' {attribute}; img-src 'self' data:; font-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
)
HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
}
CLOSED = (
    "This page belongs to one person, and this browser was not let in. Its link works once, and only on this "
    "machine. {where}"
)


def policy(nonce: str) -> str:
    """The content security policy of one answer."""
    return POLICY.format(nonce=nonce, attribute=ATTRIBUTE)


@dataclass
class Door:
    """The secrets of one running page.

    Args:
        origin: scheme, host and port that the page is opened on, e.g. `http://127.0.0.1:8790`.
        where: how a person gets a link, in words.
        renewed: told of the new link whenever one was made.
        clock: seconds; replaced in tests.
    """

    origin: str
    where: str = ""
    renewed: Callable[[str], None] = lambda link: None
    clock: Callable[[], float] = time.monotonic
    path: str = field(default_factory=lambda: "/" + secrets.token_urlsafe(16))
    token: str = ""
    sessions: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make the first link."""
        self.renew()

    @property
    def host(self) -> str:
        """What the Host header must be."""
        return self.origin.split("://", 1)[1]

    @property
    def cookie(self) -> str:
        """The cookie's name; two pages of one machine share all but the port."""
        return f"commonground-{self.host.rpartition(':')[2]}"

    @property
    def link(self) -> str:
        """The link that lets one browser in, once."""
        return f"{self.origin}/?token={self.token}"

    def renew(self) -> None:
        """Replace the link."""
        self.token = secrets.token_urlsafe(BYTES)
        self.renewed(self.link)

    def exchange(self, token: str) -> str | None:
        """A new session for the token of the link, which is spent by it; None for any other text."""
        if not hmac.compare_digest(token.encode(), self.token.encode()):
            return None
        session = secrets.token_urlsafe(BYTES)
        self.sessions[session] = self.clock()
        self.renew()
        return session

    def knows(self, header: str | None) -> bool:
        """Whether a Cookie header holds a session that is still open; using it keeps it open."""
        try:
            morsel = SimpleCookie(header or "").get(self.cookie)
        except CookieError:
            return False
        if morsel is None:
            return False
        now, found = self.clock(), None
        for session, used in list(self.sessions.items()):
            if now - used > IDLE:
                del self.sessions[session]
            elif hmac.compare_digest(session.encode(), morsel.value.encode()):
                found = session
        if found is not None:
            self.sessions[found] = now
        return found is not None


class Gate:
    """The outermost ASGI application: lets in whom `Door` knows and hardens every answer.

    Args:
        app: what is behind it; it is reached under `door.path` alone.
        door: the secrets.
    """

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self.app, self.door = app, door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        status = self._refusal(scope, headers)
        if scope["type"] == "websocket":
            if status:
                await send({"type": "websocket.close", "code": 1008})
            else:
                await self.app(_plain(scope), receive, send)
            return
        if status == 0 and scope["path"] == "/":
            await self._enter(scope, send)
        elif status:
            await self._say(send, status, CLOSED.format(where=self.door.where))
        else:
            await self.app(_plain(scope), receive, Hardened(send, scope["scheme"] == "https"))

    def _refusal(self, scope: Scope, headers: Headers) -> int:
        """The HTTP status of a refusal, or 0."""
        if headers.getlist("host") != [self.door.host]:
            return 421
        socket = scope["type"] == "websocket"
        own = headers.getlist("origin") == [self.door.origin]
        if not own and (socket or scope["method"] not in SAFE or "origin" in headers):
            return 403
        if scope["path"] == "/" and not socket:
            return 0 if scope["method"] == "GET" else 405
        if not scope["path"].startswith(self.door.path + "/") or not self.door.knows(headers.get("cookie")):
            return 403
        return 403 if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") else 0

    async def _enter(self, scope: Scope, send: Send) -> None:
        """Exchange the token of a link for a cookie.

        The way on is a page, not a redirect: after a click in another site's page, a browser would not send
        a strict cookie along with the redirect.
        """
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])
        session = self.door.exchange(given[0]) if len(given) == 1 else None
        if session is None:
            await self._say(send, 403, CLOSED.format(where=self.door.where))
            return
        secure = "; Secure" if self.door.origin.startswith("https:") else ""
        cookie = f"{self.door.cookie}={session}; Path={self.door.path}/; HttpOnly; SameSite=Strict{secure}"
        refresh = f'<meta http-equiv="refresh" content="0; url={self.door.path}/">'
        await self._say(send, 200, "Opening the page.", head=refresh, extra=[("set-cookie", cookie)])

    async def _say(
        self, send: Send, status: int, text: str, head: str = "", extra: list[tuple[str, str]] | None = None
    ) -> None:
        """Answer with one sentence, which is ours and holds nothing of the request."""
        nonce = secrets.token_urlsafe(16)
        style = "html{color-scheme:light dark;font:1.1rem/1.6 system-ui;padding:12vh 8vw;max-width:34em}"
        body = (
            f'<!doctype html><html lang="en"><head><title>commonground</title>'
            f'<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">{head}'
            f'<style nonce="{nonce}">{style}</style>'
            f"</head><body><main><p>{text}</p></main></body></html>"
        ).encode()
        fields = HEADERS | {
            "content-type": "text/html; charset=utf-8",
            "content-length": str(len(body)),
            "cache-control": "no-store",
            "content-security-policy": policy(nonce),
        }
        raw = [(name.encode(), value.encode()) for name, value in [*fields.items(), *(extra or [])]]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": body})


class Hardened:
    """Sends an answer on with the security headers; an HTML answer gets a nonce of its own.

    NiceGUI escapes what pages hold (`<` becomes `&lt;` in the element tree), so every `<script` and `<style`
    of its template is one of the library's or of our own head.
    """

    def __init__(self, send: Send, tls: bool) -> None:
        self.send, self.tls = send, tls
        self.nonce = secrets.token_urlsafe(16)
        self.start: Message | None = None
        self.parts: list[bytes] = []

    async def __call__(self, message: Message) -> None:
        """Take one ASGI message of the application."""
        if message["type"] == "http.response.start":
            headers = self._headers(message)
            if b"text/html" in dict(headers).get(b"content-type", b""):
                self.start = {**message, "headers": headers}
            else:
                await self.send({**message, "headers": headers})
        elif self.start is None:
            await self.send(message)
        else:
            self.parts.append(message.get("body", b""))
            if not message.get("more_body", False):
                await self._finish(self.start)

    def _headers(self, message: Message) -> list[tuple[bytes, bytes]]:
        added = HEADERS | {"content-security-policy": policy(self.nonce)}
        if self.tls:
            added["strict-transport-security"] = "max-age=31536000"
        raw = {name.encode(): value.encode() for name, value in added.items()}
        kept = [(name.lower(), value) for name, value in message["headers"] if name.lower() not in raw]
        kept = [(n, v.replace(b"public", b"private") if n == b"cache-control" else v) for n, v in kept]
        return kept + list(raw.items())

    async def _finish(self, start: Message) -> None:
        body, mark = b"".join(self.parts), b' nonce="' + self.nonce.encode() + b'"'
        for tag in (b"<script", b"<style"):
            body = body.replace(tag, tag + mark)
        headers = [(n, v) for n, v in start["headers"] if n not in (b"content-length", b"cache-control")]
        headers += [(b"content-length", str(len(body)).encode()), (b"cache-control", b"no-store")]
        await self.send({**start, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})


def _plain(scope: Scope) -> Scope:
    """The scope without what proxies add: there is none before this page, so whoever sends it pretends."""
    kept = [(n, v) for n, v in scope["headers"] if not n.startswith((b"x-forwarded", b"forwarded"))]
    return {**scope, "headers": kept}
