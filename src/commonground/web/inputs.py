"""What a person presses and types in: native controls that tell the page, and single keys.

What the browser does beyond HTML is in field.js and keys.js.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from nicegui.element import Element
from nicegui.elements.mixins.text_element import TextElement

from commonground.web.parts import el, put

Action = Callable[[], Awaitable[None] | None]


def button(text: str, action: Action, classes: str = "", **attributes: Any) -> TextElement:
    """A button; `key=` shows the key that does the same."""
    key = attributes.pop("key", None)
    made = el("button", text, f"button {classes}", type="button", **attributes)
    made.on("click", lambda _: action(), args=[])
    if key is not None:
        put(made, aria_keyshortcuts=key)
        with made:
            el("kbd", key, aria_hidden="true")
    return made


class Field(Element, component="field.js"):
    """A labelled native control.

    Args:
        label: what it is for.
        tag: input | textarea.
        value: what it holds at first; "true" and "false" for a checkbox.
        changed: told of every change.
        submit: called with the value on Enter; None lets Enter do what it does.
        attributes: of the control.
    """

    def __init__(
        self,
        label: str,
        tag: str = "input",
        value: str = "",
        changed: Callable[[str], Awaitable[None] | None] | None = None,
        submit: Callable[[str], Awaitable[None] | None] | None = None,
        **attributes: Any,
    ) -> None:
        self.caption = el("label", label, "caption")
        super().__init__()
        self.value, self._changed, self._submit = value, changed, submit
        put(self.caption, for_=self.html_id)
        self.props["tag"], self.props["start"], self.props["version"] = tag, value, 0
        self.props["submits"] = submit is not None
        put(self, **attributes)
        self.on("value", self._take)
        if submit is not None:
            self.on("submit", self._send)

    async def _take(self, event: Any) -> None:
        self.value = str(event.args)
        if self._changed is not None:
            await settled(self._changed(self.value))

    async def _send(self, event: Any) -> None:
        self.value = str(event.args)
        if self._submit is not None:
            await settled(self._submit(self.value))

    def set(self, value: str) -> None:
        """Replace what it holds."""
        self.value = value
        self.props["start"] = value
        self.props["version"] += 1


class Keys(Element, component="keys.js"):
    """Single keys of a page.

    Args:
        keys: key -> what it does.
    """

    def __init__(self, keys: dict[str, Action] | None = None) -> None:
        super().__init__()
        self._keys = keys or {}
        self._names = list(self._keys)
        self.props["keys"], self.props["target"], self.props["turn"] = self._names, "", 0
        self.on("key", self._press)

    async def _press(self, event: Any) -> None:
        action = self._keys.get(str(event.args))
        if action is not None and event.args in self.props["keys"]:
            await settled(action())

    def listen(self, on: bool) -> None:
        """Take keys, or leave them to the browser."""
        self.props["keys"] = self._names if on else []

    def focus(self, element: Element) -> None:
        """Move the focus."""
        self.props["target"] = element.html_id
        self.props["turn"] += 1


async def settled(result: Awaitable[None] | None) -> None:
    """Wait for what an action returned, if there is anything to wait for."""
    if inspect.isawaitable(result):
        await result
