"""Controls: pause, take everything away, go back, forget, leave."""

from __future__ import annotations

import secrets
from pathlib import Path

from fastapi import HTTPException
from fastapi.responses import FileResponse
from nicegui import app, ui
from starlette.background import BackgroundTask

from commonground.client.page.desk import EXPORT, Desk
from commonground.client.page.stage import Stage
from commonground.web import inputs, parts
from commonground.web.figures import many, size, when

PAST = (
    "Leaving destroys the key and the store of this device: your comparisons, your adapter, your ledger. "
    "What you sent before is part of the shared adapter that others use. That influence cannot be withdrawn, "
    "and the privacy it cost cannot be given back. Export first if you want to keep anything."
)

CHANGED = (
    "Changed: the old passphrase opens nothing any more. This device was started with it: end it and start "
    "it again (commonground device down, then up)."
)


async def controls(stage: Stage) -> None:
    """The view."""
    with parts.box("two"):
        _pause(stage)
        _export(stage)
    await _versions(stage)
    _reset(stage)
    _passphrase(stage)
    _leave(stage)


def _pause(stage: Stage) -> None:
    paused = stage.status["paused"]

    async def turn() -> None:
        await stage.ask(lambda owner: owner.resume() if paused else owner.pause())
        ui.navigate.to("controls")

    with parts.card("Paused" if paused else "Taking part"):
        if paused:
            parts.el(
                "p", "Nothing leaves this device until you take part again. You can still compare answers."
            )
            inputs.button("Take part again", stage.doing(turn), "main")
        else:
            parts.el("p", "When the study asks, this device answers within your budget.")
            inputs.button("Pause", stage.doing(turn))


def _export(stage: Stage) -> None:
    async def export() -> None:
        key = secrets.token_urlsafe(16)
        path = stage.desk.folder / EXPORT.format(key)
        stage.desk.forget_exports()
        done = await stage.ask(lambda owner: owner.export(path))
        stage.desk.exports[key] = path
        area.clear()
        with area:
            text = f"Save it ({size(done['bytes'])})"
            parts.el("a", text, "button main", href=f"export/{key}", download="commonground-export.zip")
            parts.el("p", "It is not encrypted: keep it where only you can read it.", "small soft")

    with parts.card("Take your data away"):
        parts.el("p", "One zip file with everything this device keeps about you, and a README.")
        area = ui.element("div")
        with area:
            inputs.button("Make the file", stage.doing(export))


def serve_exports(desk: Desk) -> None:
    """Register the download of an export; the file is gone once it was read."""

    @app.get("/export/{key}")
    async def download(key: str) -> FileResponse:
        path = desk.exports.pop(key, None)
        if path is None or not path.is_file():
            raise HTTPException(404, "no such export; make a new one")
        return FileResponse(
            path,
            media_type="application/zip",
            filename="commonground-export.zip",
            headers={"cache-control": "no-store"},
            background=BackgroundTask(_forget, path),
        )


def _forget(path: Path) -> None:
    path.unlink(missing_ok=True)


async def _versions(stage: Stage) -> None:
    found = await stage.ask(lambda owner: owner.adapters())
    with parts.card(
        "Versions of your adapter", note="Going back changes how your answers are written, at once."
    ):
        if not found:
            parts.nothing("No version yet", "The first one is kept once your adapter has learned something.")
        for adapter in found:
            version = adapter["version"]

            async def back(version: int = version) -> None:
                await stage.ask(lambda owner: owner.rollback(version))
                ui.navigate.to("controls")

            with parts.box("row apart line"):
                with parts.box("grow"):
                    parts.el("p", f"Version {version}", "strong")
                    learned = many(adapter["taste"], "comparison")
                    about = f"{when(adapter['time'])}, {learned}, {adapter['reason']}"
                    parts.el("p", about, "small soft")
                if adapter["current"]:
                    parts.el("span", "in use", "which personal")
                else:
                    inputs.button(
                        "Use this one", stage.doing(back), "quiet", aria_label=f"Use version {version}"
                    )


def _reset(stage: Stage) -> None:
    async def reset() -> None:
        await stage.ask(lambda owner: owner.reset())
        area.clear()
        stage.say("Forgotten. Your answers are those of the shared adapter, bit for bit.")
        with area:
            inputs.button("Forget what it learned", sure)

    def sure() -> None:
        area.clear()
        with area:
            parts.el("p", "Forget everything that your adapter learned?", "strong")
            with parts.box("row"):
                yes = inputs.button("Yes, forget it", stage.doing(reset), "danger")
                inputs.button("No", no)
        stage.keys.focus(yes)

    def no() -> None:
        area.clear()
        with area:
            inputs.button("Forget what it learned", sure)

    with parts.card("Start over"):
        parts.el(
            "p",
            "Your adapter forgets what it learned, and your answers are the shared ones again. Your "
            "comparisons stay in the store; they are not learned from again.",
        )
        area = ui.element("div")
        with area:
            inputs.button("Forget what it learned", sure)


def _passphrase(stage: Stage) -> None:
    async def change() -> None:
        if new.value != again.value:
            stage.say("The two new passphrases differ; nothing was changed.", "bad")
            return
        await stage.ask(lambda owner: owner.passphrase(old.value, new.value))
        area.clear()  # and what was typed with it
        with area:
            parts.notice(CHANGED, "good")

    with parts.card("Passphrase", note="It opens what this device keeps. Nobody can recover it."):
        area = ui.element("div")
        with area:
            old = inputs.Field("The old one, if any", type="password", autocomplete="current-password")
            new = inputs.Field("The new one", type="password", autocomplete="new-password")
            again = inputs.Field("The new one again", type="password", autocomplete="new-password")
            inputs.button("Change the passphrase", stage.doing(change))


def _leave(stage: Stage) -> None:
    study = stage.status["study"]

    async def leave() -> None:
        if field.value.strip() != study:
            stage.say(f"Type the study's name, {study}, to leave.", "bad")
            return
        offer = (await stage.ask(lambda owner: owner.consent()))["offer"]
        await stage.ask(lambda owner: owner.erase())
        stage.desk.left = True
        stage.say_goodbye(offer["contact"])

    with parts.card("Leave the study", "leave"):
        parts.el("p", PAST)
        field = inputs.Field(
            f"Type {study} to leave", autocomplete="off", autocapitalize="off", spellcheck="false"
        )
        inputs.button("Leave and destroy everything here", stage.doing(leave), "danger")
