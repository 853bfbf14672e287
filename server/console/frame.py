"""What every view of the console stands on: it is drawn anew whenever the study has changed."""

from __future__ import annotations

from collections.abc import Callable

from nicegui import ui

from commonground.errors import CommonGroundError
from commonground.server.console.books import Books, Document
from commonground.web import parts
from commonground.web.aside import aside
from commonground.web.frame import frame

VIEWS = (
    ("", "Overview"),
    ("people", "People"),
    ("rounds", "Rounds"),
    ("releases", "Releases"),
    ("privacy", "Privacy"),
    ("audit", "Audit"),
)
EVERY = 2.0  # seconds between two looks
Draw = Callable[[Document], None]


def view(books: Books, here: str, title: str, lead: str, draw: Draw) -> None:
    """Register a view.

    Args:
        books: what it reads.
        here: its address.
        title: its heading.
        lead: the sentence below it.
        draw: builds it from an overview.
    """
    name = dict(VIEWS)[here]

    @ui.page(f"/{here}", title=f"{name} · commonground", response_timeout=30)
    async def page() -> None:
        shown: list[Document | str] = []
        found = await _look(books)
        study = found["study"] if isinstance(found, dict) else ""
        with frame("commonground", f"console of {study}", VIEWS, here, title):
            parts.el("p", lead, "lead")
            area = ui.element("div")

        def show(found: Document | str) -> None:
            if shown != [found]:
                shown[:] = [found]
                area.clear()
                with area:
                    if isinstance(found, str):
                        parts.notice(found, "bad")
                    else:
                        _state(found)
                        draw(found)

        async def again() -> None:
            show(await _look(books))

        show(found)
        ui.timer(EVERY, again)


async def _look(books: Books) -> Document | str:
    """The overview, or what is wrong in one line."""
    try:
        return await aside(books.overview)
    except CommonGroundError as error:
        return f"{error.message}. What helps: {error.hint}." if error.hint else f"{error.message}."


def state(found: Document) -> tuple[str, str]:
    """How the study stands: a tone, and a sentence."""
    rounds = found["rounds"]
    if found["finished"]:
        return "good", f"The study is done: all {rounds['of']} rounds."
    if not found["open"]:
        return "warn", "The study is outside of its time: nothing is asked of anybody."
    if not found["running"]:
        return "bad", "The server is down. Start it: commonground server up."
    poorly = [part["name"] for part in found["health"] if part["state"] not in ("up", "starting")]
    if poorly:
        return "warn", f"The server runs, but not all of it: {', '.join(poorly)}."
    if rounds["under_way"] is None:
        return "good", "The server is up and waits for devices."
    return "good", f"Round {rounds['under_way']} of {rounds['of']} is under way."


def _state(found: Document) -> None:
    tone, words = state(found)
    with parts.box("small soft", "p", role="status"):
        parts.el("span", "", f"dot {tone}", aria_hidden="true")
        parts.el("span", words)
