"""Chat and compare: two answers side by side, blind, in an order nobody chose; revealed after the vote."""

from __future__ import annotations

from nicegui import ui

from commonground.client.page.asking import Asking, note, stream
from commonground.client.page.desk import Pair, shuffled
from commonground.client.page.stage import Stage
from commonground.web import inputs, parts

SIDES = ("A", "B")
OWN = "own"  # the side that the person wrote herself
BOTH = "both"  # what both policies wrote
NAMES = {"shared": "common ground", "personal": "yours", OWN: "your words", BOTH: "both models"}
VOTES = (("a", "A is better"), ("b", "B is better"), ("t", "Tie"), ("x", "Both bad"))
ABOUT_HARM = (
    "This comparison may be about harm. If it is, it counts as safety: it helps to teach the adapter that "
    "everybody shares, through the sealed messages you can see under Messages. If it is a matter of taste, "
    "it stays on this device and teaches your own adapter alone."
)


def comparable(pair: Pair) -> bool:
    """Whether a vote on the two answers says something."""
    a, b = (text.strip() for text in pair.answers)
    return bool(a and b and a != b)


class Compare:
    """The view's state machine: ask, read, vote, (confirm,) see.

    Args:
        stage: what it stands on.
    """

    def __init__(self, stage: Stage) -> None:
        self.stage, self.desk = stage, stage.desk
        self.writes = stage.status["kind"] == "policy"
        self.asking: Asking | None = None
        self.lettered = True
        self.busy = False
        self.pair: Pair | None = None  # what this window shows; another window may show another
        self.pending: int | None = None  # the vote that waits for a confirmation
        self.why: inputs.Field | None = None
        self.reason = ""

    async def build(self) -> None:
        """Draw the view and go on where it was left."""
        keys = {key: self._vote(key) for key, _ in VOTES} | {
            "u": self.stage.doing(self.undo),
            "y": self._confirm("safety"),
            "n": self._next_or_taste,
        }
        self.keys = inputs.Keys(keys)
        if self.writes:
            self.asking = Asking(self.stage, self.write)
        self.area = ui.element("div") if self.asking is None else self.asking.area
        left = self.desk.pair
        if left is not None and left.written and not left.kept:
            self.show(left)
        elif not self.writes:
            await self.suggest()

    async def _use_keys(self, value: str) -> None:
        self.lettered = value == "true"
        self.keys.listen(self.lettered)

    async def write(self, prompt: str) -> None:
        """Two answers, one after the other, so that the order of arrival says nothing."""
        pair = Pair(prompt, sides=shuffled("shared", "personal"))
        self.show(pair)
        for side in range(2):
            found = await stream(self.stage, self.blocks[side], prompt, pair.sides[side])
            pair.answers[side], pair.whys[side] = found
        pair.written = True
        self.show(pair)

    async def suggest(self) -> None:
        """A prompt with two stored answers."""
        found = await self.stage.ask(lambda owner: owner.suggest())
        if found is None:
            self.area.clear()
            with self.area:
                parts.nothing("Nothing to compare", "This study has no prompts of its own left.")
            return
        answers = list(shuffled(*found["answers"]))
        self.show(Pair(found["prompt"], answers, written=True))

    def show(self, pair: Pair) -> None:
        """Draw a pair; with the votes once it is written."""
        self.pair = self.desk.pair = pair
        self.pending = None
        self.area.clear()
        with self.area:
            parts.el("p", pair.prompt, "asked")
            self.columns, self.blocks, self.titles = [], [], []
            with parts.box("two"):
                for side, text in zip(SIDES, pair.answers, strict=True):
                    with parts.card(f"Answer {side}", "answer") as column:
                        self.titles.append(next(iter(column)))
                        self.blocks.append(parts.rich(text))
                    self.columns.append(column)
            self.after = ui.element("div")
            parts.put(self.after, tabindex="-1")
            if pair.written:
                with self.after:
                    self._after_writing(pair)

    def _after_writing(self, pair: Pair) -> None:
        if not comparable(pair):
            self._offer_own_words(pair)
            return
        with parts.box("votes", role="group", aria_label="Your verdict"):
            for key, name in VOTES:
                inputs.button(name, self._vote(key), key=key)
        self.why = inputs.Field("Why? If you like. Your words stay on this device.", maxlength="2000")
        with parts.box("row apart"):
            with parts.box("check keys"):
                on = "true" if self.lettered else "false"
                inputs.Field("Letter keys vote", value=on, type="checkbox", changed=self._use_keys)
            if not self.writes:
                inputs.button("Skip this pair", self.stage.doing(self.suggest), "quiet")

    def _offer_own_words(self, pair: Pair) -> None:
        """Two answers that are none to compare: hers can stand against theirs.

        Before anything is learned, both policies may well write the same.
        """
        theirs = next((text for text in pair.answers if text.strip()), "")
        same = "Both answers are the same, word for word." if all(pair.answers) else "An answer is empty."
        parts.notice(f"{same} There is nothing to compare, but you can write what you would have liked.")
        for text in dict.fromkeys(pair.whys):  # equal answers: this tells nobody's from nobody's
            note(text)
        if not theirs:
            return

        async def own(text: str) -> None:
            written = Pair(pair.prompt, [text.strip(), theirs], (OWN, BOTH), written=True)
            if not comparable(written):
                self.stage.say("Write an answer that differs from theirs.", "warn")
                return
            self.show(written)
            await self.vote("a")

        field = inputs.Field("The answer you would have liked", "textarea", rows="3", maxlength="20000")
        with parts.box("row end"):
            inputs.button("Mine is better", self.stage.doing(lambda: own(field.value)), "main")

    def _vote(self, key: str) -> inputs.Action:
        return self.stage.doing(lambda: self.vote(key))

    async def vote(self, key: str) -> None:
        """Take a verdict: keep it, or ask whether it is about harm."""
        pair = self.pair
        if pair is None or not pair.written or pair.kept or self.pending is not None:
            return
        if self.busy or (self.asking is not None and (self.asking.busy or self.asking.chatting)):
            return
        a, b = pair.answers
        if not comparable(pair):
            return
        self.busy = True
        for side, column in enumerate(self.columns):
            column.classes(**{"add" if SIDES[side].lower() == key else "remove": "picked"})
        try:
            if key in "ab":
                tag = await self.stage.ask(lambda owner: owner.propose_tag(pair.prompt, a, b))
                if tag == "safety":
                    self._ask_about_harm("ab".index(key))
                else:
                    await self.keep(pair, "ab".index(key), "taste")
            else:
                verdict = "tie" if key == "t" else "both bad"
                await self.stage.ask(lambda owner: owner.tie(pair.prompt, a, b, verdict))
                self.reveal(pair, None, "Kept. Nothing is learned from a tie or from two bad answers.")
        finally:
            self.busy = False

    def _ask_about_harm(self, chosen: int) -> None:
        self.pending = chosen
        self.columns[chosen].classes("picked")
        why = "" if self.why is None else self.why.value
        self.reason = why
        self.after.clear()
        with self.after, parts.card("Is this about harm?") as card:
            parts.el("p", ABOUT_HARM)
            with parts.box("row"):
                inputs.button("Yes, it is about harm", self._confirm("safety"), "main", key="y")
                inputs.button("No, it is taste", self._confirm("taste"), key="n")
                inputs.button("Back", self._back, "quiet")
            parts.put(card, tabindex="-1")
        self.stage.keys.focus(card)

    def _back(self) -> None:
        if self.pair is not None:
            self.show(self.pair)

    def _confirm(self, tag: str) -> inputs.Action:
        async def run() -> None:
            pair, chosen = self.pair, self.pending
            if pair is not None and chosen is not None:
                self.pending = None
                await self.keep(pair, chosen, tag)

        return self.stage.doing(run)

    async def keep(self, pair: Pair, chosen: int, tag: str) -> None:
        """Store a comparison and show what was compared."""
        why = self.reason if tag == "safety" or self.why is None else self.why.value
        better, worse = pair.answers[chosen], pair.answers[1 - chosen]
        await self.stage.ask(lambda owner: owner.add(pair.prompt, better, worse, tag, why))
        where = (
            "Kept as safety. It teaches the shared adapter, within your budget."
            if tag == "safety"
            else "Kept as taste. It stays on this device."
        )
        self.reveal(pair, chosen, where)

    def reveal(self, pair: Pair, chosen: int | None, text: str) -> None:
        """Say which policy wrote which answer, and what can be done now."""
        pair.kept = True
        for side, column in enumerate(self.columns):
            column.classes(remove="picked")
            if side == chosen:
                column.classes("picked")
            if pair.sides:
                which = pair.sides[side]
                column.classes(which)
                with self.titles[side]:
                    parts.el("span", NAMES[which], f"which {which}")
                with column:
                    note(pair.whys[side])
        self.stage.say("")
        self.after.clear()
        with self.after:
            parts.notice(text, "good said-here")
            with parts.box("row apart"):
                inputs.button("Undo", self.stage.doing(self.undo), "quiet", key="u")
                if self.writes:
                    parts.el("p", "Ask something else when you like.", "soft")
                else:
                    inputs.button("Next pair", self.stage.doing(self.suggest), "main", key="n")
        self.stage.keys.focus(self.after)

    async def _next_or_taste(self) -> None:
        if self.pending is not None:
            await inputs.settled(self._confirm("taste")())
        elif not self.writes and self.pair is not None and self.pair.kept and not self.busy:
            await self.stage.attempt(self.suggest)

    async def undo(self) -> None:
        """Take the newest verdict back; the pair on the screen can be voted on again."""
        if self.pending is not None:
            self._back()
            return
        taken = await self.stage.ask(lambda owner: owner.undo())
        if taken is None:
            self.stage.say("There is nothing to take back.", "warn")
            return
        pair, text = self.pair, "Taken back, and what was learned from it with it."
        if pair is not None and pair.kept and taken["prompt"] == pair.prompt:
            pair.kept = False
            self.show(pair)
            with self.after:
                parts.notice(text, "good").move(target_index=0)
            self.stage.keys.focus(self.after)
        else:
            self.stage.say(text)


async def compare(stage: Stage) -> None:
    """The first view."""
    if stage.status["state"] == "consent":
        with parts.card("First, what you would take part in"):
            parts.el(
                "p",
                "Nothing leaves this device until you have read and accepted the study's offer. You can "
                "compare answers before that: they stay here.",
            )
            parts.el("a", "Read the offer", "button main", href="consent")
    await Compare(stage).build()
