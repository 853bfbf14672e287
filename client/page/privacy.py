"""Privacy: the ledger as a gauge, and the statement in words."""

from __future__ import annotations

import math

from nicegui import ui

from commonground.client.page.consent import parse_cap
from commonground.client.page.desk import Document
from commonground.client.page.stage import Stage
from commonground.web import inputs, measures, parts
from commonground.web.figures import at_least, many, number, tile, when

NO_NUMBER = (
    "No epsilon is shown. With so few people in the study the number would promise nothing, so this page "
    "does not print one. The noise is added all the same."
)
NO_NOISE = (
    "There is no noise in this study: epsilon has no limit, and what you said about harm may be read from "
    "what leaves this device."
)


async def privacy(stage: Stage) -> None:
    """The view."""
    found = await stage.ask(lambda owner: owner.ledger())
    with parts.card("Your budget"):
        _budget(found)
    with parts.card("Your private adapter"):
        _private(stage, found["private"])
    with parts.card("In words"):
        with parts.box("statement"):
            parts.statement(found["words"])
        parts.el(
            "p",
            "This device computed these numbers itself. What a server says about it changes nothing here.",
            "small soft",
        )
    with parts.card("Every charge"):
        if not found["entries"]:
            parts.nothing("Nothing was spent", "A charge is written here before its message may leave.")
            return
        parts.table(
            "Charges of the ledger, the newest first",
            ("When", "What for", "Noise", "State"),
            [
                (
                    when(entry["time"]),
                    entry["key"],
                    f"z = {number(entry['z'])}",
                    "sent" if entry["status"] == "committed" else "reserved, counts as spent",
                )
                for entry in found["entries"]
            ],
        )


def _private(stage: Stage, found: Document) -> None:
    """What every fit of the private adapter cost together, and the cap that she may raise."""
    if found["frozen"]:
        parts.notice(found["frozen"], "bad")
    parts.el("p", found["words"])
    if found["mechanism"] == "label" or math.isinf(float(found["one"])):
        return

    async def change() -> None:
        await stage.ask(lambda owner: owner.private_cap(parse_cap(field.value)))
        ui.navigate.to("privacy")

    field = inputs.Field(
        "The most ε that all fits together may cost one comparison",
        value=at_least(float(found["cap"])),
        inputmode="decimal",
        autocomplete="off",
    )
    inputs.button("Change the cap", stage.doing(change), "quiet")


def _budget(found: Document) -> None:
    spent, cap, one = (float(found[name]) for name in ("epsilon", "cap", "one"))
    messages = f"{found['messages']} of at most {many(found['most'], 'message')}"
    if not found["meaningful"]:
        parts.notice(NO_NUMBER)
        parts.el("p", f"Charged so far: {messages}.")
        return
    if math.isinf(spent) or (math.isinf(one) and math.isinf(cap)):
        parts.notice(NO_NOISE, "bad")
        parts.el("p", f"Charged so far: {messages}.")
        return
    with parts.box("row apart"):
        parts.el("p", f"ε = {number(spent, 4)} spent", "big")
        at = f"at δ = {number(found['delta'], 2)}"
        limit = f"of {number(cap, 4)} that you accepted" if math.isfinite(cap) else "and you set no cap"
        parts.el("p", f"{limit}, {at}", "soft")
    words = f"epsilon {number(spent, 4)} of {number(cap, 4)} spent, {number(found['left'], 4)} left"
    measures.gauge("Privacy spent", spent, cap if math.isfinite(cap) else one, words)
    if found["messages"] >= found["most"]:
        parts.notice(f"All {many(found['most'], 'message')} were sent. This device sends no more.")
    elif one > cap:
        parts.notice(
            f"Nothing more is sent: the next message would bring epsilon to {number(one)}, above your "
            f"{number(cap)}."
        )
    else:
        parts.el("p", f"The next message would bring it to {number(one)}.")
    with parts.box("tiles"):
        tile(str(found["messages"]), f"of at most {many(found['most'], 'message')}")
        tile(str(found["separation"]), "rounds between two of your messages, at least")
        tile(
            "Your device" if found["trust"] == "local" else "The operator",
            "adds the noise",
            "Before anything leaves." if found["trust"] == "local" else "After it has received your message.",
        )
