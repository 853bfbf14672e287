"""All views of the participant's page."""

from __future__ import annotations

from commonground.client.page.compare import compare
from commonground.client.page.consent import consent
from commonground.client.page.controls import controls, serve_exports
from commonground.client.page.desk import Desk
from commonground.client.page.learned import learned
from commonground.client.page.messages import messages, serve_bytes
from commonground.client.page.privacy import privacy
from commonground.client.page.stage import view


def build(desk: Desk) -> None:
    """Register every view and download."""
    view(
        desk,
        "",
        "Which answer is better?",
        "There is no right one. Say which you like better, and your own adapter learns it.",
        compare,
    )
    view(
        desk,
        "learned",
        "What it learned about me",
        "Your own adapter, which never leaves this device.",
        learned,
    )
    view(desk, "privacy", "Privacy", "What you have spent, and what is left.", privacy)
    view(desk, "messages", "Messages that left", "Everything that this device ever sent, and when.", messages)
    view(desk, "consent", "Consent", "What the operator offers, and what you accepted.", consent)
    view(desk, "controls", "Controls", "Your device, your data, your choice.", controls)
    serve_bytes(desk)
    serve_exports(desk)
