"""Asking a model: the question field, a chat with her own model, and answers seen while they are written."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from nicegui import ui
from nicegui.element import Element

from commonground.client.page.stage import Stage
from commonground.client.pieces import Piece, why
from commonground.errors import CommonGroundError
from commonground.web import inputs, parts

EVERY = 0.08  # seconds between two drawings of an answer that is being written
QUESTION = (
    "Every question stands for itself; earlier ones are not remembered. You see which model wrote which "
    "answer once you have voted."
)


async def stream(stage: Stage, block: Element, prompt: str, which: str) -> tuple[str, str]:
    """Write an answer into a block; returns it whole, and why it is this one, or ''.

    Args:
        stage: of the window that it is written in.
        block: as `parts.rich` makes it.
        prompt: what is asked.
        which: shared | personal.
    """
    text, drawn, pieces = "", 0.0, list[Piece]()
    block.classes("writing")
    try:
        async for piece in stage.desk.generate(prompt, which):
            stage.still_open()
            pieces.append(piece)
            text += piece.text
            if time.monotonic() - drawn > EVERY:
                parts.show(block, text)
                drawn = time.monotonic()
    except CommonGroundError:
        block.classes(remove="writing")
        raise
    parts.show(block, text or "*(no words)*")
    block.classes(remove="writing")
    # asked for now: before the model was loaded, nobody had looked at the charter
    refused = bool(pieces) and pieces[-1].source == "refusal"
    charter = (await stage.ask(lambda owner: owner.status()))["charter"] if refused else None
    return text, why(which, pieces, charter)


def note(text: str) -> None:
    """Why an answer is the one that it is, below it; nothing where there is nothing to say."""
    if text:
        parts.el("p", text, "why small soft", role="note")


class Asking:
    """The card at the top of the first view, in a study whose model writes.

    Args:
        stage: what it stands on.
        compare: writes two answers to a question.

    Attributes:
        busy: something is being written.
        chatting: questions go to her own model, and nothing is compared.
        area: where answers are compared; hidden while she chats.
    """

    def __init__(self, stage: Stage, compare: Callable[[str], Awaitable[None]]) -> None:
        self._stage, self._compare = stage, compare
        self.busy = self.chatting = False
        with parts.card():
            self._field()
        self._talk = ui.element("div")
        self.area = ui.element("div")

    def _field(self) -> None:
        with parts.box("choice", role="group", aria_label="What happens with your question"):
            self._modes = [
                inputs.button("Compare two answers", lambda: self.mode(False), aria_pressed="true"),
                inputs.button("Chat with yours", lambda: self.mode(True), aria_pressed="false"),
            ]
        self._question = inputs.Field(
            "Your question",
            "textarea",
            submit=self.ask,
            rows="2",
            placeholder="Ask anything. Enter sends it, Shift and Enter begins a new line.",
            maxlength="20000",
        )
        with parts.box("row apart"):
            parts.el("p", QUESTION, "small soft grow")
            inputs.button("Ask", lambda: self.ask(self._question.value), "main")

    def mode(self, chatting: bool) -> None:
        """Compare two answers, or read one."""
        self.chatting = chatting
        for button, on in zip(self._modes, (not chatting, chatting), strict=True):
            parts.put(button, aria_pressed="true" if on else "false")
        parts.put(self._talk, hidden=not chatting)
        parts.put(self.area, hidden=chatting)

    async def ask(self, prompt: str) -> None:
        """Send a question, unless one is being answered."""
        prompt = prompt.strip()
        if not prompt or self.busy:
            return
        self._question.set("")
        self._stage.say("")
        self.busy = True
        try:
            doing = self._chat if self.chatting else self._compare
            await self._stage.attempt(lambda: doing(prompt), quiet=True)
        finally:
            self.busy = False

    async def _chat(self, prompt: str) -> None:
        """One answer, by the personal policy."""
        with self._talk:
            parts.el("p", prompt, "asked")
            block = parts.rich("", "said")
            below = ui.element("div")
        _, why_this = await stream(self._stage, block, prompt, "personal")
        with below:
            note(why_this)
