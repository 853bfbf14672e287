"""A whole page: what stands around every view."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import resources

from nicegui import ui

from commonground.web.inputs import Keys
from commonground.web.parts import box, el, put


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
