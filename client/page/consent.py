"""Consent: what is offered, in which version, who adds the noise, and what was accepted."""

from __future__ import annotations

import math

from nicegui import ui

from commonground.client.page.desk import Document
from commonground.client.page.stage import Stage
from commonground.errors import InputError
from commonground.web import inputs, parts
from commonground.web.figures import at_least, number, shape, when

NO_NUMBER = "with so few people a number would promise nothing"
NOISE = {"local": "Your device adds the noise", "central": "The operator adds the noise"}
NONE = "Nobody adds noise"
WITHDRAWN = (
    "Nothing more leaves this device, and nothing more is learned from the study. What was sent stays sent: "
    "it is part of the shared adapter, and the account of what it cost is kept. The server sees refusals, as "
    "from a device that is paused; it still lists this one until you tell the operator. You can accept again."
)


async def consent(stage: Stage) -> None:
    """The view."""
    found = await stage.ask(lambda owner: owner.consent())
    offer, accepted = found["offer"], found["accepted"]
    if found["fits"]:
        parts.notice(f"This device cannot take part in this offer: {found['fits']}", "bad")
    if accepted is None and found["withdrawn"]:
        parts.notice(f"You took your consent back on {when(found['withdrawn'])}. {WITHDRAWN}")
    elif accepted is None:
        parts.notice("You have accepted nothing yet, and nothing leaves this device.")
    elif found["changed"]:
        parts.notice(
            f"The operator changed the offer. You accepted version {accepted['version']}; this is version "
            f"{offer['version']}. Nothing leaves this device until you accept it."
        )
    else:
        parts.notice(
            f"You accepted version {accepted['version']} on {when(accepted['time'])}, up to ε = "
            f"{number(accepted['epsilon_cap'], 4)}.",
            "good",
        )
    with parts.box("two"):
        with parts.card("What for"):
            parts.el("p", offer["purpose"] or "The operator wrote nothing here.")
        if not found["fits"]:  # otherwise this device could not derive what the offer means
            with parts.card(NOISE[found["trust"]] if found["noise_multiplier"] else NONE):
                parts.el("p", found["words"][0])
    if not found["fits"]:
        with parts.card("What it means"):
            parts.statement(found["words"][1:])
        if found["charter"] is not None:
            _charter(found["charter"])
        with parts.card("The claim in full"):
            parts.statement(found["claim"])
    _terms(found)
    if not found["fits"]:
        _leaves(found)
        if accepted is None or found["changed"]:
            _accept(stage, found)
    if accepted is not None:
        _withdraw(stage)


def _charter(charter: Document) -> None:
    """What bounds every answer; it is accepted with the offer."""
    with parts.card(
        "What your model may not write", note=f"{charter['title']}, version {charter['version']}"
    ):
        parts.table(
            "Rules of the charter",
            ("Rule", "Severity", "Where"),
            [(rule["text"], rule["severity"], rule["jurisdiction"]) for rule in charter["rules"]],
        )
        parts.statement(charter["words"])
        parts.pairs([("Signed by", charter["signer"]), ("SHA-256 of the charter", charter["digest"])])


def _terms(found: Document) -> None:
    offer = found["offer"]
    with parts.card(f"Version {offer['version']} of the offer"):
        parts.pairs(
            [
                ("Study", offer["study"]),
                ("Contact", offer["contact"] or "no contact given"),
                ("The shared adapter learns from", offer["shares"]),
                ("Open", f"{when(offer['opens'])} to {when(offer['closes'])}"),
                *([] if found["fits"] else _derived(found)),
                ("Software", f"commonground {offer['software']}"),
                ("Operator's key", offer["signer"]),
                ("SHA-256 of the offer", offer["digest"]),
            ]
        )


def _derived(found: Document) -> list[tuple[str, str]]:
    """What this device derived from the offer by itself."""
    return [
        ("At most", f"{found['most']} of your messages, {found['separation']} rounds apart"),
        ("ε of all of them", number(found["epsilon"], 4) if found["meaningful"] else NO_NUMBER),
        ("Clipped to", number(found["clip"])),
        ("Noise multiplier", number(found["noise_multiplier"])),
    ]


def _leaves(found: Document) -> None:
    with parts.card("What may leave", note=f"{found['size']:,} numbers a message, and nothing else:"):
        parts.table(
            "Tensors of a message",
            ("Name", "Shape", "Type"),
            [(spec["name"], shape(spec["shape"]), spec["dtype"]) for spec in found["leaves"]],
        )


def _withdraw(stage: Stage) -> None:
    async def withdraw() -> None:
        await stage.ask(lambda owner: owner.withdraw())
        ui.navigate.to("consent")

    def sure() -> None:
        area.clear()
        with area:
            parts.el("p", "Take your consent back?", "strong")
            with parts.box("row"):
                yes = inputs.button("Yes, take it back", stage.doing(withdraw), "danger")
                inputs.button("No", no)
        stage.keys.focus(yes)

    def no() -> None:
        area.clear()
        with area:
            inputs.button("Take my consent back", sure)

    with parts.card("Take your consent back"):
        parts.el("p", f"From then on: {WITHDRAWN}")
        area = ui.element("div")
        with area:
            inputs.button("Take my consent back", sure)


def _accept(stage: Stage, found: Document) -> None:

    async def accept() -> None:
        if agreed.value != "true":
            raise InputError("the box is not ticked", hint="tick it once you have read the offer")
        cap = parse_cap(field.value)
        await stage.ask(lambda owner: owner.accept(found["offer"]["digest"], cap))
        ui.navigate.to("consent")

    with parts.card("Your answer", "accept"):
        field = inputs.Field(
            "The most ε that this device may ever spend, in this study and every other on this profile",
            value=at_least(found["epsilon"]),
            inputmode="decimal",
            autocomplete="off",
        )
        parts.el(
            "p",
            "A smaller number makes this device stop earlier. It is kept here and holds whatever the server "
            "asks.",
            "small soft",
        )
        with parts.box("check"):
            agreed = inputs.Field(agreed_words(found), type="checkbox", value="false")
        with parts.box("row end"):
            inputs.button(f"Accept version {found['offer']['version']}", stage.doing(accept), "main")


def agreed_words(found: Document) -> str:
    """What a person says that she has read."""
    if found["charter"] is None:
        return "I have read what leaves, and who adds the noise."
    return "I have read what leaves, who adds the noise, and what my model may not write."


def parse_cap(text: str) -> float:
    """A cap as a person types it, with a point or a comma.

    Raises:
        InputError: it is no number above 0.
    """
    try:
        cap = float(text.strip().replace(",", "."))
    except ValueError:
        cap = math.nan
    if not cap > 0:
        raise InputError(f"ε is {text!r}; a number above 0 is needed")
    return cap
