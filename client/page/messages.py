"""The messages that left, each openable to its names, shapes and bytes."""

from __future__ import annotations

from typing import Any

from fastapi import HTTPException, Response
from nicegui import app, ui

from commonground.client.page.desk import Desk, Document
from commonground.client.page.stage import Stage
from commonground.errors import CommonGroundError
from commonground.web import parts
from commonground.web.figures import many, number, shape, size, when

SHOWN = 160  # bytes of a tensor on the page; all of them can be downloaded
ROW = 16


async def messages(stage: Stage) -> None:
    """The view."""
    found = await stage.ask(lambda owner: owner.receipts())
    if not found:
        parts.nothing(
            "Nothing has left",
            "This device has sent no message. Every one it sends will be listed here, byte for byte.",
        )
        return
    with parts.card(many(len(found), "message")):
        for receipt in found:
            _message(stage, receipt)


def _message(stage: Stage, receipt: Document) -> None:
    opened = False

    async def open_() -> None:
        nonlocal opened
        if not opened:
            opened = True
            full = await stage.ask(lambda owner: owner.receipt(receipt["id"]))
            inside.clear()
            with inside:
                _contents(full)

    with parts.box("", "details") as details:
        with parts.box("", "summary"):
            parts.el("span", f"Round {receipt['round']}")
            parts.el("span", size(receipt["bytes"]), "soft")
            parts.el("span", when(receipt["time"]), "soft last")
        inside = ui.element("div").classes("inside")
        with inside:
            parts.el("p", "Opening it.", "soft")
    details.on("toggle", stage.doing(open_), args=[])


def _contents(receipt: Document) -> None:
    parts.pairs(
        [
            ("Answer to release", str(receipt["release"])),
            ("Size", f"{receipt['bytes']:,} bytes"),
            ("SHA-256", receipt["digest"]),
            ("ε once it had left", number(receipt["epsilon"])),
        ]
    )
    if not receipt["tensors"]:
        parts.notice("Its bytes are no longer kept on this device; its names and its digest are.")
        parts.pairs([("Names", ", ".join(receipt["names"]))])
    for index, tensor in enumerate(receipt["tensors"]):
        _tensor(receipt["id"], index, tensor)


def _tensor(id: int, index: int, tensor: dict[str, Any]) -> None:
    raw = tensor["bytes"]
    parts.el("h3", tensor["name"], "mono")
    parts.el("p", f"{tensor['dtype']}, {shape(tensor['shape'])}, {len(raw):,} bytes", "small soft")
    block = parts.el("pre", dump(raw[:SHOWN]), "bytes", tabindex="0", role="region")
    parts.put(block, aria_label=f"The first bytes of {tensor['name']}")
    with parts.box("row apart"):
        rest = len(raw) - SHOWN
        parts.el("span", f"and {rest:,} more bytes" if rest > 0 else "", "small soft")
        parts.el("a", "Download these bytes", "small", href=f"messages/{id}/{index}", download=True)


def dump(raw: bytes) -> str:
    """Bytes in hexadecimal, sixteen a row, each row with its place."""
    rows = range(0, len(raw), ROW)
    return "\n".join(f"{start:06x}  {raw[start : start + ROW].hex(' ')}" for start in rows)


def serve_bytes(desk: Desk) -> None:
    """Register the download of a tensor's bytes."""

    @app.get("/messages/{id}/{index}")
    async def tensor_bytes(id: int, index: int) -> Response:
        try:
            found = await desk.ask(lambda owner: owner.receipt(id))
            tensor = found["tensors"][index]
        except (CommonGroundError, IndexError, KeyError) as error:
            raise HTTPException(404, "no such message") from error
        name = f"message-{id}-{index}.bin"
        return Response(
            tensor["bytes"],
            media_type="application/octet-stream",
            headers={"content-disposition": f'attachment; filename="{name}"', "cache-control": "no-store"},
        )
