"""The audit view: whether the log holds together, its newest lines, and the whole of it to take away."""

from __future__ import annotations

import json

from fastapi import HTTPException, Response
from nicegui import app, ui

from commonground.server.audit import HEAD, LOG
from commonground.server.console.books import AuditView, Books
from commonground.server.console.frame import VIEWS
from commonground.web import parts
from commonground.web.aside import aside
from commonground.web.figures import many, when
from commonground.web.frame import frame

TITLE = "Audit log"
COPY = (
    "Whoever has the signing key could write the whole log anew. A copy of the head in other hands is what "
    "binds an operator: give one away now and then."
)
LEAD = "What this server did, in lines that hang together."


def register(books: Books) -> None:
    """Register the view and the downloads."""

    @ui.page("/audit", title="Audit · commonground", response_timeout=60)
    async def page() -> None:
        found = await aside(books.audit)
        study = f"console of {books.study.settings.study}"
        with frame("commonground", study, VIEWS, "audit", TITLE):
            parts.el("p", LEAD, "lead")
            _held(found)
            _lines(found)

    @app.get("/audit/{name}")
    async def download(name: str) -> Response:
        found = await aside(lambda: books.file(name))
        if found is None:
            raise HTTPException(404, "no such file")
        head = {"content-disposition": f'attachment; filename="{name}"', "cache-control": "no-store"}
        return Response(found, media_type="application/octet-stream", headers=head)


def _held(found: AuditView) -> None:
    with parts.card("Does it hold together?"):
        if found.fault:
            parts.notice(f"No: {found.fault}.", "bad")
        elif not found.lines:
            parts.nothing("The log is empty", "Nothing was done yet.")
        else:
            parts.notice(f"Yes: {many(found.lines, 'line')}, each following from the one before.", "good")
            parts.pairs([("Digest of the last line", found.last)])
        parts.el("p", COPY, "small soft")
        with parts.box("row"):
            parts.el("a", "Download the log", "button main", href=f"audit/{LOG}", download=LOG)
            parts.el("a", "Download its signed head", "button", href=f"audit/{HEAD}", download=HEAD)


def _lines(found: AuditView) -> None:
    if not found.recent:
        return
    with parts.card("The newest lines"):
        for line in found.recent:
            with parts.box("", "details"):
                with parts.box("", "summary"):
                    parts.el("span", f"{line['n']}. {line['event']}")
                    parts.el("span", when(str(line["time"])), "soft last")
                with parts.box("inside"):
                    rows = [
                        (str(name), value if isinstance(value, str) else json.dumps(value))
                        for name, value in line["values"].items()
                    ]
                    parts.pairs([*rows, ("previous", str(line["previous"]))])
