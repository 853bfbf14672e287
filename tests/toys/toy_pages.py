"""A page process and a browser that is watched: what it asked for, what it complained about."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from toy_browser import FLAGS, chromium
from toy_patience import LIMIT

from commonground.client.keys import unlock_link

WAIT = LIMIT  # seconds for a process to say its link, or to end, and for a page to show something
PHONE = {"width": 375, "height": 812}
DESK = {"width": 1200, "height": 900}


class Served:
    """A page process.

    Args:
        command: what starts it, after the interpreter; its first line on stdout is its link.
        folder: where its link file is.
        link: name of that file.
        token: of the vault, which the page reads first and locks its link with; empty for none.
    """

    def __init__(self, command: Sequence[str], folder: Path, link: str = "page.url", token: str = "") -> None:
        self.file, self._token = folder / link, token
        with (folder / "errors.txt").open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=os.environ | {"COLUMNS": "200"},
            )
        assert self.process.stdout is not None
        assert self.process.stdin is not None
        with self.process.stdin as given:
            given.write(f"{token}\n" if token else "")
        self.first = self.process.stdout.readline().strip()
        assert self.first, (folder / "errors.txt").read_text()
        self.errors = folder / "errors.txt"

    @property
    def link(self) -> str:
        """The link that has not been used yet."""
        data = self.file.read_bytes()
        return unlock_link(self._token, data) if self._token else data.decode().strip()

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        parts = urlsplit(self.first)
        return f"{parts.scheme}://{parts.netloc}"

    def stop(self) -> int:
        """End it by its pid; returns its exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        code = self.process.wait(WAIT)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


@contextmanager
def serving(program: str, folder: Path, *words: str) -> Iterator[Served]:
    """A page of a program in `folder`; at the end it must stop by itself, quietly, and take its link away."""
    page = Served([program, "--folder", str(folder), *words], folder)
    yield page
    assert page.stop() == 0
    assert page.errors.read_text() == ""
    assert not page.file.exists()


@contextmanager
def chromium_opened() -> Iterator[Any]:
    """Debian's browser."""
    from playwright.sync_api import sync_playwright

    path = chromium()
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield opened
        opened.close()


class Watched:
    """A browser window of its own: own cookies, own colours, own size.

    Args:
        browser: Playwright's.
        options: of the context.
    """

    def __init__(
        self, browser: Any, scheme: str = "light", size: dict[str, int] = DESK, **options: Any
    ) -> None:
        self.context = browser.new_context(color_scheme=scheme, viewport=size, **options)
        self.requests: list[str] = []
        self.troubles: list[str] = []
        self.context.on("request", lambda request: self.requests.append(request.url))
        self.context.set_default_timeout(WAIT * 1000)
        self.page = self.context.new_page()
        self.page.on("websocket", lambda socket: self.requests.append(socket.url))
        self.page.on("console", lambda message: self.troubles.append(message.text))
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))

    def enter(self, link: str) -> str:
        """Use a link; returns the address of the first view."""
        self.page.goto(link)
        self._settled()
        self.home = str(self.page.url)
        return self.home

    def open(self, view: str) -> Any:
        """Go to a view by its address; returns the page."""
        self.page.goto(self.home + view)
        self._settled()
        return self.page

    def _settled(self) -> None:
        """Wait until a view has everything that it waited for."""
        self.page.wait_for_selector("h1")
        self.page.wait_for_selector("main:not(:has([aria-busy]))")

    def hosts(self) -> set[str]:
        """Every host and port that was asked for anything."""
        return {urlsplit(url).netloc for url in self.requests if not url.startswith(("data:", "blob:"))}

    def close(self) -> None:
        """Close the window."""
        self.context.close()


def violations(page: Any) -> list[str]:
    """What axe finds that is serious or critical, as one line each.

    axe itself tries what the page's policy forbids, so a window that it ran in has troubles that are not the
    page's.
    """
    found = Axe().run(page).response["violations"]
    return [
        f"{v['impact']} {v['id']}: {node['html'][:120]} {node.get('failureSummary', '')[:160]}"
        for v in found
        if v["impact"] in ("serious", "critical")
        for node in v["nodes"]
    ]


def too_wide(page: Any) -> list[str]:
    """Visible elements that reach beyond the window, and the page itself where it scrolls sideways."""
    found: list[str] = page.evaluate(
        """() => [...document.querySelectorAll('body *')].filter((element) =>
             element.checkVisibility() && !element.closest('pre, .out, #popup, #too_long_message_popup')
             && element.getBoundingClientRect().right > innerWidth + 1)
             .map((element) => element.outerHTML.slice(0, 90))"""
    )
    return found + (
        ["the page"] if page.evaluate("document.documentElement.scrollWidth > innerWidth") else []
    )
