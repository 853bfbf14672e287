"""The pieces that pages are made of: plain HTML elements under one style sheet (look.css).

They have the names, roles and states that assistive software reads. They use no Vue template, no JavaScript
handler and no `run_javascript`, so that the pages run without eval (see `commonground.web.gate`). What the
browser does beyond HTML is in field.js and keys.js.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from nicegui import ui
from nicegui.element import Element
from nicegui.elements.mixins.text_element import TextElement

from commonground.web.text import safe_html

TOPIC = re.compile(r"([A-Z][\w ()]{2,38}[:.]) ")
DIGEST = re.compile(r"[0-9a-f]{16,}")


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
