"""Who is let in to the page of a person: one browser with the link, and no other site, window or program."""

from __future__ import annotations

import json
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import toy_owner
from toy_pages import WAIT, Served, Watched, serving, violations

pytestmark = pytest.mark.slow
EVIL = """<!doctype html><title>evil</title><script>
window.tries = (origin, path) => Promise.all([
  new Promise((done) => {
    const address = origin.replace("http", "ws") + path + "_nicegui_ws/socket.io/?EIO=4&transport=websocket";
    const socket = new WebSocket(address);
    socket.onopen = () => done("open"); socket.onerror = () => done("refused");
  }),
  fetch(origin + path, { credentials: "include", mode: "cors" }).then(() => "read", () => "refused"),
  fetch(origin + path, { method: "POST", credentials: "include", mode: "no-cors" })
    .then((answer) => answer.type, () => "refused"),
  new Promise((done) => {
    const frame = document.createElement("iframe");
    frame.onload = () => done(frame.contentDocument ? "blank" : "refused");
    frame.src = origin + path; document.body.append(frame);
  }),
]);
</script><body></body>"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("door")
    with serving(toy_owner.__file__, folder, "--kind", "reward", "--state", "used") as page:
        yield page


@pytest.fixture(scope="module")
def window(browser: Any, served: Served) -> Iterator[Watched]:
    opened = Watched(browser)
    opened.enter(served.link)
    yield opened
    opened.close()


def calls(served: Served) -> list[str]:
    path = served.file.parent / "said.jsonl"
    return [json.loads(line)["what"] for line in path.read_text().splitlines()] if path.exists() else []


def test_a_link_works_once_and_a_window_without_it_sees_nothing(
    browser: Any, served: Served, window: Watched
) -> None:
    assert stat.S_IMODE(served.file.stat().st_mode) == 0o600
    assert served.first != served.link  # the first was spent, and the file holds another
    other = Watched(browser)
    for address in (served.first, window.home, window.home + "messages", served.origin + "/"):
        other.page.goto(address)
        text = other.page.inner_text("body")
        assert "This page belongs to one person" in text
        assert "kind-answers" not in text
        assert violations(other.page) == []
    other.enter(served.link)  # a second browser of hers
    assert other.page.locator("h1").inner_text() == "Which answer is better?"
    cookie = next(c for c in window.context.cookies() if c["name"].startswith("commonground"))
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    assert cookie["path"] == window.home.removeprefix(served.origin)
    other.close()


def test_another_site_in_the_same_browser_gets_nothing(window: Watched, served: Served) -> None:
    page = window.context.new_page()
    page.route("http://evil.example/**", lambda route: route.fulfill(body=EVIL, content_type="text/html"))
    page.goto("http://evil.example/")
    before = len(calls(served))
    found = page.evaluate(
        "([origin, path]) => tries(origin, path)", [served.origin, window.home.removeprefix(served.origin)]
    )
    assert found == ["refused"] * 4
    assert len(calls(served)) == before
    page.close()


def test_with_another_host_or_no_origin_even_the_cookie_is_not_enough(
    window: Watched, served: Served
) -> None:
    jar = {c["name"]: c["value"] for c in window.context.cookies()}
    with httpx.Client(cookies=jar) as client:
        assert client.get(window.home).status_code == 200
        assert client.get(window.home, headers={"host": "rebound.example"}).status_code == 421
        assert client.post(window.home).status_code == 403
        assert client.get(window.home, headers={"origin": "http://evil.example"}).status_code == 403
        handshake = {"upgrade": "websocket", "connection": "Upgrade", "sec-websocket-version": "13"}
        handshake |= {"sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ=="}
        address = window.home + "_nicegui_ws/socket.io/?EIO=4&transport=websocket"
        assert client.get(address, headers=handshake).status_code == 403
    assert client_without(window.home) == 403


def client_without(address: str) -> int:
    return httpx.get(address).status_code


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=WAIT, check=False)


def test_a_port_in_use_and_a_missing_profile_are_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "commonground.client.page", "--profile"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run([*command, str(tmp_path), "--port", str(port)])
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"error: 127.0.0.1:{port} cannot be opened: Address already in use",
        "hint: another program may use it; --port 0 takes a free one",
    ]
    assert done.stdout == ""
    done = run([*command, str(tmp_path / "no")])
    assert (done.returncode, done.stdout) == (2, "")
    assert "is no profile folder" in done.stderr.splitlines()[0]
