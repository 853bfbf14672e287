"""What every view stands on: the frame, how the device is, and one place where results are said."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from nicegui import ui
from nicegui.element import Element

from commonground.client.page.desk import LEFT, Desk, Document, Owner
from commonground.errors import CommonGroundError
from commonground.web import inputs, parts
from commonground.web.frame import frame

VIEWS = (
    ("", "Compare"),
    ("learned", "Learned"),
    ("privacy", "Privacy"),
    ("messages", "Messages"),
    ("consent", "Consent"),
    ("controls", "Controls"),
)
TONE = {
    "ready": "good",
    "learning": "good",
    "spent": "bad",
    "consent": "warn",
    "paused": "warn",
    "closed": "warn",
}
STAYS = "What it sent before is part of the shared adapter and cannot be withdrawn. You can close this page."
WAITING = "One moment: your device is working it out."
GONE = "The page cannot reach what keeps your data"


Result = TypeVar("Result")


class WindowClosedError(Exception):
    """The window that an action began in is gone."""


@dataclass
class Stage:
    """One open view.

    Args:
        desk: the page's state.
        keys: moves the focus.
        live: where results are said; read out by screen readers.
        status: how the device stood when the view was opened.
    """

    desk: Desk
    keys: inputs.Keys
    live: Element
    status: Document

    def __post_init__(self) -> None:
        """Remember which window this is."""
        self._client = ui.context.client

    async def ask(self, question: Callable[[Owner], Result]) -> Result:
        """`Desk.ask`; raises `WindowClosedError` where nobody looks any more."""
        found = await self.desk.ask(question)
        self.still_open()
        return found

    def still_open(self) -> None:
        """Raise `WindowClosedError` where the window was closed: nothing can be drawn in it."""
        if self._client.is_deleted:
            raise WindowClosedError

    def say(self, text: str, kind: str = "good") -> None:
        """Say what happened, in place of what was said before; an empty text says nothing."""
        self.live.clear()
        if text:
            with self.live:
                parts.notice(text, kind)

    def say_goodbye(self, contact: str) -> None:
        """Replace the page's content: the process that serves it may end at any moment now."""
        told = contact or "no contact given"
        content = ui.context.client.content
        content.clear()
        with content:
            keys = inputs.Keys()
            with parts.card("You have left", "goodbye") as card:
                parts.el("p", LEFT)
                parts.el("p", STAYS)
                parts.el("p", f"The operator still lists you as enrolled. Tell them: {told}.")
                parts.put(card, tabindex="-1")
            keys.focus(card)

    async def attempt(self, action: Callable[[], Awaitable[None]], *, quiet: bool = False) -> None:
        """Do something; an error becomes one line and what to do next.

        Args:
            action: what.
            quiet: it shows by itself that it goes on; otherwise a line says so where it takes long.
        """
        if not quiet:
            self.live.clear()
            with self.live:
                waiting = parts.el("p", WAITING, "soft waiting")
        try:
            await action()
        except WindowClosedError:
            return
        except CommonGroundError as error:
            self.say(sentence(error), "bad")
        if not quiet and not waiting.is_deleted:
            waiting.delete()

    def doing(self, action: Callable[[], Awaitable[None]]) -> inputs.Action:
        """`action` for a button: errors are said, not raised."""

        async def run() -> None:
            await self.attempt(action)

        return run


def sentence(error: CommonGroundError) -> str:
    """An error and its hint as text for a person."""
    first = error.message[:1].upper() + error.message[1:]
    return f"{first.rstrip('.')}." + (f" What helps: {error.hint.rstrip('.')}." if error.hint else "")


Body = Callable[[Stage], Awaitable[None]]


def view(desk: Desk, here: str, title: str, lead: str, body: Body) -> None:
    """Register a view.

    Args:
        desk: the page's state.
        here: its address.
        title: its heading.
        lead: the sentence below it.
        body: builds the rest, once the vault has answered.
    """
    name = dict(VIEWS)[here]

    @ui.page(f"/{here}", title=f"{name} · commonground", response_timeout=90)
    async def page() -> None:
        client = ui.context.client
        status, trouble = {}, None
        try:
            status = await desk.ask(lambda owner: owner.status())
        except CommonGroundError as error:
            trouble = error
        with frame("commonground", str(status.get("study", "")), VIEWS, here, title) as keys:
            parts.el("p", lead, "lead")
            if status:
                _how_it_stands(status)
            live, area = ui.element("div"), ui.element("div")
            parts.put(live, role="status", aria_live="polite")
        with area:
            waiting = parts.el("p", WAITING, "soft waiting")
        parts.put(area, aria_busy="true")
        await client.connected()  # the frame is on the screen; the rest may take a model to load
        if client.is_deleted:
            return
        with area:
            try:
                if trouble is None:
                    await body(Stage(desk, keys, live, status))
            except WindowClosedError:
                return
            except CommonGroundError as error:
                trouble = error
            if trouble is not None:
                _out_of_reach(desk, trouble)
        waiting.delete()
        parts.put(area, aria_busy=None)


def _how_it_stands(status: Document) -> None:
    with parts.box("small soft", "p"):
        parts.el("span", "", f"dot {TONE.get(status['state'], '')}", aria_hidden="true")
        parts.el("span", status["words"])


def _out_of_reach(desk: Desk, error: CommonGroundError) -> None:
    with parts.card("You have left" if desk.left else GONE):
        parts.el("p", sentence(error))
        if desk.left:
            parts.el("p", STAYS)
        else:
            parts.el("a", "Try again", "button", href="")
