"""What it learned about me: style features, answers before and after, and the comparisons it learned from."""

from __future__ import annotations

from nicegui import ui
from nicegui.element import Element

from commonground.client.page.asking import stream
from commonground.client.page.desk import Document
from commonground.client.page.stage import Stage
from commonground.web import inputs, measures, parts
from commonground.web.figures import many, share, tile, when

PAGE = 10  # comparisons shown at once
VERDICTS = {"tie": "a tie", "both bad": "both bad"}


async def learned(stage: Stage) -> None:
    """The view."""
    found = await stage.ask(lambda owner: owner.learned())
    counts = stage.status["comparisons"]
    if not counts["taste"] and not counts["safety"] and not counts["ties"]:
        parts.nothing(
            "Nothing yet",
            "Compare some answers first. What your adapter learns from them shows up here, and nowhere else.",
        )
        return
    with parts.box("tiles"):
        tile(str(found["taste"]), "taste comparisons it learned from", "They never leave this device.")
        tile(str(counts["safety"]), "comparisons about harm", "They teach the shared adapter.")
        if found["agrees"]:
            tile(
                share(found["agrees"]["after"]),
                "of your taste comparisons are ordered as you did",
                f"{share(found['agrees']['before'])} before. It has seen them, so this is no test.",
            )
    with parts.card("In one sentence"):
        parts.el("p", found["words"])
        if stage.status["refit"]:
            parts.el("p", stage.status["refit"], "small soft")
        new = stage.status["private"]["new"]
        if new:
            with parts.box("row"):
                parts.el("p", f"{many(new, 'comparison')} of taste not learned from yet.", "small soft grow")
                inputs.button("Learn from them now", stage.doing(lambda: _refit(stage)))
    if found["styles"]:
        _styles(found["styles"])
    if found["examples"]:
        _examples(found["examples"])
    elif stage.status["kind"] == "policy":
        _try(stage)
    await _said(stage)


async def _refit(stage: Stage) -> None:
    done = await stage.ask(lambda owner: owner.refit())
    stage.say(f"Learned from {many(done['taste'], 'comparison')}.")


def _styles(styles: list[Document]) -> None:
    note = (
        "How much each public style of answering is liked, compared with the average style: 0 is neither "
        "liked nor disliked. “Before” is the adapter that everybody shares, “after” is yours."
    )
    with parts.card("Styles", note=note):
        reach = max(0.01, *(abs(style[when]) for style in styles for when in ("before", "after")))
        for style in styles:
            measures.scale(style["name"], style["before"], style["after"], reach)


def _examples(examples: list[Document]) -> None:
    with parts.card("The same question, before and after"):
        for example in examples:
            parts.el("p", example["prompt"], "asked")
            if example["before"] == example["after"]:
                parts.el("p", "Both prefer the same answer:", "small soft")
                parts.rich(example["after"])
            else:
                with parts.box("two"):
                    for name, which in (("before", "shared"), ("after", "personal")):
                        _answer(which, example[name])


def _answer(which: str, text: str) -> Element:
    title = "Before: common ground" if which == "shared" else "After: yours"
    with parts.card(classes=f"answer {which}"):
        parts.el("h3", title)
        return parts.rich(text)


def _try(stage: Stage) -> None:
    """A policy writes its examples when it is asked to."""
    with parts.card("The same question, before and after"):

        async def write(prompt: str) -> None:
            if prompt.strip() and not busy:
                busy.append(prompt)
                try:
                    await stage.attempt(lambda: both(prompt.strip()), quiet=True)
                finally:
                    busy.clear()

        async def both(prompt: str) -> None:
            area.clear()
            with area, parts.box("two"):
                blocks = {which: _answer(which, "") for which in ("shared", "personal")}
            for which, block in blocks.items():
                await stream(stage, block, prompt, which)

        busy: list[str] = []
        field = inputs.Field("A question to try", submit=write, maxlength="2000")
        with parts.box("row end"):
            inputs.button("Show both answers", lambda: write(field.value))
        area = ui.element("div")


async def _said(stage: Stage) -> None:
    with parts.card("What you said"):
        listed = ui.element("div")
        more = ui.element("div")
        offset = 0

        async def show() -> None:
            nonlocal offset
            found = await stage.ask(lambda owner: owner.comparisons(offset, PAGE))
            offset += len(found["items"])
            with listed:
                for item in found["items"]:
                    _item(item)
            more.clear()
            if offset < found["total"]:
                with more, parts.box("row end"):
                    inputs.button(f"Older ones ({found['total'] - offset})", stage.doing(show), "quiet")

        await show()


def _item(item: Document) -> None:
    undecided = VERDICTS.get(item["verdict"])
    with parts.box("", "details"):
        with parts.box("", "summary"):
            parts.el("span", item["prompt"] or "Two answers")
            parts.el("span", undecided or item["tag"], "soft")
            parts.el("span", when(item["time"]), "soft last")
        with parts.box("inside"):
            names = ("One answer", "The other") if undecided else ("You preferred", "to")
            for name, text in zip(names, (item["chosen"], item["rejected"]), strict=True):
                parts.el("h3", name)
                parts.rich(text, "said")
            if item["why"]:
                parts.el("h3", "Why")
                parts.el("p", item["why"])
