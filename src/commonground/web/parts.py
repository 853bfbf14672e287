"""The pieces that pages are made of: plain HTML elements under one style sheet (look.css).

They have the names, roles and states that assistive software reads. They use no Vue template, no JavaScript
handler and no `run_javascript`, so that the pages run without eval (see `commonground.web.gate`). What the
browser does beyond HTML is in field.js and keys.js.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from typing import Any

from nicegui import ui
from nicegui.element import Element
from nicegui.elements.mixins.text_element import TextElement

from commonground.web.text import safe_html

TOPIC = re.compile(r"([A-Z][\w ()]{2,38}[:.]) ")
DIGEST = re.compile(r"[0-9a-f]{16,}")
Action = Callable[[], Awaitable[None] | None]


def el(tag: str, text: str = "", classes: str = "", **attributes: Any) -> TextElement:
    """An HTML element; `aria_label=` is `aria-label`, True an attribute without value, None is none."""
    made = TextElement(tag=tag, text=text)
    made.classes(classes)
    put(made, **attributes)
    return made


def put(element: Element, **attributes: Any) -> None:
    """Set attributes as `el` names them; None and False take one away."""
    for name, value in attributes.items():
        key = name.rstrip("_").replace("_", "-")
        if value is None or value is False:
            element.props.pop(key, None)
        else:
            element.props[key] = "" if value is True else value


def rich(text: str, classes: str = "") -> Element:
    """A block of model text, made safe."""
    made = ui.element("div").classes(f"text {classes}")
    show(made, text)
    return made


def show(block: Element, text: str) -> None:
    """Replace what a block of model text shows."""
    block.props["innerHTML"] = safe_html(text)


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


@contextmanager
def card(title: str = "", classes: str = "", note: str = "") -> Iterator[Element]:
    """A section with a heading of its own."""
    section = ui.element("section").classes(f"card {classes}")
    with section:
        if title:
            heading = el("h2", title)
            put(section, aria_labelledby=heading.html_id)
        if note:
            el("p", note, "soft")
        yield section


@contextmanager
def box(classes: str, tag: str = "div", **attributes: Any) -> Iterator[Element]:
    """A container."""
    made = ui.element(tag).classes(classes)
    put(made, **attributes)
    with made:
        yield made


def notice(text: str, kind: str = "warn", **attributes: Any) -> TextElement:
    """A sentence that stands out; kind: warn | good | bad."""
    return el("p", text, f"notice {kind}", **attributes)


def statement(lines: Iterable[str]) -> None:
    """Paragraphs; a short beginning up to a colon or a full stop is set as what the paragraph is about."""
    for line in lines:
        with box("", "p"):
            topic = TOPIC.match(line)
            if topic:
                el("b", topic[1])
            el("span", line[topic.end(1) :] if topic else line)


def nothing(title: str, text: str) -> None:
    """What a list says while it is empty."""
    with box("empty"):
        el("p", title, "empty-title")
        el("p", text)


def pairs(rows: Iterable[tuple[str, str]]) -> None:
    """Names and values."""
    with box("pairs", "dl"):
        for name, value in rows:
            with box(""):
                el("dt", name)
                el("dd", value, "mono" if DIGEST.fullmatch(value) else "")


def table(
    caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()
) -> None:
    """A table whose first column heads its rows; on a phone each row becomes a block.

    Args:
        caption: read out before it.
        head: names of the columns.
        rows: texts.
        numbers: columns that are set to the right.
    """
    with box("stack", "table"):
        el("caption", caption, "out")
        with box("", "thead"), box("", "tr"):
            for column, name in enumerate(head):
                el("th", name, "n" if column in numbers else "", scope="col")
        with box("", "tbody"):
            for row in rows:
                with box("", "tr"):
                    for column, text in enumerate(row):
                        classes = "n" if column in numbers else ""
                        if column == 0:
                            named = (
                                head[0] if text.isdigit() else None
                            )  # a bare number says nothing on a phone
                            el("th", text, classes, scope="row", data_name=named)
                        else:
                            el("td", text, classes, data_name=head[column])


def gauge(name: str, value: float, most: float, text: str, role: str = "meter") -> None:
    """How much of a whole is used, as a bar, and in words for those who do not see it.

    Args:
        name: of what.
        value: so much.
        most: of so much.
        text: in words.
        role: meter, whose colour warns towards the end; or progressbar.
    """
    share = min(1.0, max(0.0, value / most)) if most > 0 else 1.0
    level = "" if role != "meter" or share < 0.8 else "full" if share >= 1 else "high"
    with box(
        f"gauge {level}",
        role=role,
        aria_label=name,
        aria_valuemin="0",
        aria_valuemax=f"{most:g}",
        aria_valuenow=f"{min(value, most):g}",
        aria_valuetext=text,
    ):
        ui.element("span").style(f"width: {100 * share:.2f}%")


def scale(name: str, before: float, after: float, reach: float) -> None:
    """A value before and after on a common axis around 0, with its numbers.

    Args:
        name: what it is.
        before: the value that it had.
        after: the value that it has.
        reach: the largest size on the axis.
    """
    at = (
        [50 + 48 * max(-1.0, min(1.0, value / reach)) for value in (before, after)] if reach > 0 else [50, 50]
    )
    with box("scale"):
        el("p", name, "strong")
        with box("track", aria_hidden="true"):
            ui.element("span").classes("way").style(f"left: {min(at):.1f}%; width: {abs(at[1] - at[0]):.1f}%")
            ui.element("span").classes("at shared").style(f"left: {at[0]:.1f}%")
            ui.element("span").classes("at").style(f"left: {at[1]:.1f}%")
        el("p", f"{signed(before)} before, {signed(after)} after", "figures small soft")


def signed(value: float) -> str:
    """A number with its sign, as typeset."""
    return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


def strip(values: Sequence[float], text: str, bad: Sequence[bool] = ()) -> None:
    """Shares between 0 and 1 as a row of small bars; `text` says what they are, `bad` which stand out."""
    with box("strip", role="img", aria_label=text):
        for index, value in enumerate(values):
            marked = "bad" if index < len(bad) and bad[index] else ""
            bar = ui.element("span").classes(marked)
            bar.style(f"height: {100 * min(1.0, max(0.0, value)):.1f}%")
    el("p", text, "small soft")


@contextmanager
def frame(
    brand: str, subtitle: str, views: Sequence[tuple[str, str]], here: str, title: str
) -> Iterator[Keys]:
    """A whole page: skip link, header with the views, the heading, and what follows in the block.

    Args:
        brand: the name at the top.
        subtitle: what this page is about, e.g. the study's name.
        views: (address, name) of each view, relative to the page.
        here: the address of this one.
        title: its heading.

    Yields:
        What moves the focus; keys are the views' own.
    """
    ui.add_head_html(f"<style>{style()}</style>")
    with ui.context.client.layout:
        header = ui.element("header").classes("top")
        header.move(target_index=0)
        with header:
            skip = el("a", "Skip to the content", "skip")
            with box("brand"):
                with box("mark", "span", aria_hidden="true"):
                    ui.element("i")
                    ui.element("i")
                el("span", brand, "name")
                el("span", subtitle, "study")
            with box("views", "nav", aria_label="Views"):
                for address, name in views:
                    el("a", name, href=address or ".", aria_current="page" if address == here else None)
    heading = el("h1", title, tabindex="-1")
    put(skip, href=f"#{heading.html_id}")
    yield Keys()


def style() -> str:
    """The style sheet."""
    return resources.files("commonground.web").joinpath("look.css").read_text(encoding="utf-8")
