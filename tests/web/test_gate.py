"""Who may ask: the gate alone, over a small application, with raw ASGI messages."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from commonground.web.gate import IDLE, Door, Gate

ORIGIN = "http://127.0.0.1:8790"
HOST = "127.0.0.1:8790"
Headers = dict[str, str]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def behind(scope: Scope, receive: Receive, send: Send) -> None:
    """What a person must not see uninvited; it tells which headers came through."""
    if scope["type"] == "websocket":
        socket = WebSocket(scope, receive, send)
        await socket.accept()
        await socket.close()
        return
    request = Request(scope)
    if scope["path"].endswith("/script.js"):
        response: Response = PlainTextResponse("<script> in a script", media_type="text/javascript")
    else:
        names = ",".join(request.headers)
        response = HTMLResponse(f"<style>a</style><script>1</script>private {names}", headers={"x-a": "b"})
    response.headers["cache-control"] = "public, max-age=9"
    await response(scope, receive, send)


class Browser:
    """Asks a gate and keeps the cookie, as a browser would; every header can be replaced or left out."""

    def __init__(self, door: Door) -> None:
        self.door, self.gate = door, Gate(behind, door)
        self.cookie = ""

    def ask(self, path: str, method: str = "GET", **headers: str | None) -> tuple[int, Headers, str]:
        sent = self._send("http", path, method, headers)
        start = next(m for m in sent if m["type"] == "http.response.start")
        body = b"".join(m.get("body", b"") for m in sent if m["type"] == "http.response.body")
        found = {name.decode(): value.decode() for name, value in start["headers"]}
        if "set-cookie" in found:
            self.cookie = found["set-cookie"].split(";")[0]
        return start["status"], found, body.decode()

    def connect(self, path: str, **headers: str | None) -> bool:
        """Whether a WebSocket handshake is accepted."""
        return any(m["type"] == "websocket.accept" for m in self._send("websocket", path, "GET", headers))

    def enter(self) -> str:
        """Use the link; returns the path of the page."""
        status, _, body = self.ask("/?" + self.door.link.split("?")[1])
        assert status == 200
        return re.search(r"url=(/[^\"]+)", body)[1]  # type: ignore[index]

    def _send(self, kind: str, path: str, method: str, headers: dict[str, str | None]) -> list[Message]:
        path, _, query = path.partition("?")
        given: dict[str, str | None] = {"host": HOST, "cookie": self.cookie or None}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        raw = [(n.encode(), v.encode("latin-1")) for n, v in given.items() if v is not None]
        scope: dict[str, Any] = {
            "type": kind,
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "scheme": "http" if kind == "http" else "ws",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": query.encode(),
            "headers": raw,
            "subprotocols": [],
        }
        if kind == "http":
            scope["method"] = method
        sent: list[Message] = []

        async def receive() -> Message:
            if kind == "websocket":
                return {"type": "websocket.connect"}
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            sent.append(message)

        asyncio.run(self.gate(scope, receive, send))
        return sent


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def links() -> list[str]:
    return []


@pytest.fixture
def browser(clock: Clock, links: list[str]) -> Browser:
    return Browser(Door(ORIGIN, "Ask for one.", links.append, clock))


def test_the_link_lets_one_browser_in_and_is_spent(browser: Browser, links: list[str]) -> None:
    link = "/?" + browser.door.link.split("?")[1]
    status, headers, _ = browser.ask(link)
    assert status == 200
    cookie = headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert f"Path={browser.door.path}/" in cookie
    assert "Secure" not in cookie  # plain HTTP on loopback
    assert browser.ask(browser.door.path + "/")[0] == 200
    other = Browser(browser.door)
    other.gate = browser.gate
    assert other.ask(link)[0] == 403
    assert other.ask(browser.door.path + "/")[0] == 403
    assert links == [links[0], browser.door.link]  # the first, and the one that replaced it
    assert len(set(links)) == 2


@pytest.mark.parametrize("token", ["", "x", "é" * 43, "a&token=b", "%00"])
def test_a_wrong_token_says_nothing_and_spends_nothing(browser: Browser, token: str) -> None:
    before = browser.door.link
    status, headers, body = browser.ask(f"/?token={token}")
    assert (status, "set-cookie" in headers) == (403, False)
    assert "private" not in body
    assert browser.door.link == before


@pytest.mark.parametrize("host", ["evil.example:8790", "localhost:8790", "127.0.0.1", "127.0.0.1:8791", None])
def test_another_host_is_refused_even_with_the_cookie(browser: Browser, host: str | None) -> None:
    path = browser.enter()
    assert browser.ask(path, host=host)[0] == 421
    assert not browser.connect(path + "ws", host=host, origin=ORIGIN)
    assert browser.ask("/?" + browser.door.link.split("?")[1], host=host)[0] == 421


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "https://127.0.0.1:8790", "http://127.0.0.1:8791", None]
)
def test_another_origin_changes_nothing_and_opens_no_socket(browser: Browser, origin: str | None) -> None:
    path = browser.enter()
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        assert browser.ask(path, method, origin=origin)[0] == 403
    assert not browser.connect(path + "ws", origin=origin)
    assert browser.ask(path, origin=origin)[0] == (200 if origin is None else 403)


def test_its_own_origin_may(browser: Browser) -> None:
    path = browser.enter()
    assert browser.ask(path, "POST", origin=ORIGIN)[0] == 200
    assert browser.connect(path + "ws", origin=ORIGIN)
    assert not Browser(browser.door).connect(path + "ws", origin=ORIGIN)


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_read_that_another_site_makes_is_refused(browser: Browser, site: str) -> None:
    path = browser.enter()
    assert browser.ask(path, sec_fetch_site=site)[0] == 403
    assert browser.ask(path, sec_fetch_site="same-origin")[0] == 200
    # But a link that was clicked in another site's page (a terminal in the browser) still lets in.
    assert Browser(browser.door).enter() == path


def test_without_the_cookie_or_the_path_nothing_is_served(browser: Browser) -> None:
    path = browser.enter()
    assert browser.ask(path, cookie=None)[0] == 403
    assert browser.ask(path, cookie=f"{browser.door.cookie}=wrong")[0] == 403
    assert browser.ask(path, cookie=f"{browser.door.cookie}=é; broken")[0] == 403
    assert browser.ask("/_nicegui/static/nicegui.js")[0] == 403
    assert browser.ask(path.rstrip("/") + "x/")[0] == 403
    assert browser.ask("/", "POST", origin=ORIGIN)[0] == 405


def test_a_browser_that_did_not_ask_for_long_is_let_in_anew(browser: Browser, clock: Clock) -> None:
    path = browser.enter()
    clock.now = IDLE - 1
    assert browser.ask(path)[0] == 200  # and the time begins again
    clock.now = 2 * IDLE - 2
    assert browser.ask(path)[0] == 200
    clock.now = 3 * IDLE
    assert browser.ask(path)[0] == 403
    assert browser.door.sessions == {}


def test_an_answer_may_run_its_own_scripts_only(browser: Browser) -> None:
    path = browser.enter()
    nonces = set()
    for _ in range(2):
        status, headers, body = browser.ask(path, accept="*/*", x_forwarded_prefix="/evil")
        policy = headers["content-security-policy"]
        nonce = re.search(r"script-src 'self' 'nonce-([\w-]+)'", policy)[1]  # type: ignore[index]
        nonces.add(nonce)
        assert status == 200
        assert body.startswith(f'<style nonce="{nonce}">a</style><script nonce="{nonce}">1</script>')
        assert "unsafe-eval" not in policy
        assert "unsafe-inline" not in policy
        assert re.findall(r"https?:|\*", policy) == []
        assert headers["cache-control"] == "no-store"
        assert int(headers["content-length"]) == len(body)
        assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
        assert headers["x-a"] == "b"
        assert "x-forwarded-prefix" not in body
    assert len(nonces) == 2
    _, headers, body = browser.ask(path + "script.js")
    assert body == "<script> in a script"
    assert headers["cache-control"] == "private, max-age=9"


def test_a_refusal_is_hardened_too_and_repeats_nothing(browser: Browser) -> None:
    status, headers, body = browser.ask("/<script>alert(1)</script>")
    assert status == 403
    assert "alert" not in body
    assert "script-src 'self' 'nonce-" in headers["content-security-policy"]
    assert "Ask for one." in body


def test_over_tls_the_cookie_is_for_tls_alone() -> None:
    door = Door("https://127.0.0.1:8790")
    _, headers, _ = Browser(door).ask("/?" + door.link.split("?")[1])
    assert headers["set-cookie"].endswith("; Secure")
