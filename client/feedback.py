"""What the person said: comparisons, and the verdicts that are none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast, get_args

from commonground.client.database import Database, now
from commonground.comparisons import MAX_TEXT, Comparison, Tag
from commonground.errors import InputError

Undecided = Literal["tie", "both bad"]
UNDECIDED: tuple[Undecided, ...] = get_args(Undecided)
OWNER = "owner"  # the one person of a device; no name of hers is needed anywhere
_COLUMNS = "id, prompt, first, second, verdict, tag, why, time"


@dataclass(frozen=True)
class Verdict:
    """One thing that the person said about two answers.

    Attributes:
        id: grows, and is never given twice.
        prompt: what was asked.
        first: the preferred answer; of an undecided pair, one of the two.
        second: the other answer.
        verdict: first | tie | both bad. Only `first` is a comparison that is learned from.
        tag: safety | taste; None where undecided.
        why: her own words, or empty.
        time: UTC, ISO 8601.
    """

    id: int
    prompt: str
    first: str
    second: str
    verdict: str
    tag: str | None
    why: str
    time: str


class Feedback:
    """The comparisons of a store.

    Args:
        database: where they lie.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, prompt: str, chosen: str, rejected: str, tag: str, why: str = "") -> int:
        """Keep a comparison.

        Returns:
            Its id.

        Raises:
            DataError: a text is empty, too long, the same twice, or the tag is unknown.
            InputError: `why` is too long.
        """
        Comparison(prompt, chosen, rejected, cast(Tag, tag), OWNER)
        return self._insert(prompt, chosen, rejected, "first", tag, why)

    def undecided(self, prompt: str, first: str, second: str, verdict: str, why: str = "") -> int:
        """Keep a verdict that prefers neither answer: it is hers to take away, and nothing learns from it.

        Returns:
            Its id.

        Raises:
            InputError: the verdict is not `tie` or `both bad`, or `why` is too long.
            DataError: as in `add`.
        """
        if verdict not in UNDECIDED:
            raise InputError(f"verdict is {verdict!r}; accepted: {', '.join(UNDECIDED)}")
        Comparison(prompt, first, second, "taste", OWNER)  # the same checks of the texts
        return self._insert(prompt, first, second, verdict, None, why)

    def undo(self) -> Verdict | None:
        """Take the newest back; None where there is nothing. What was learned from it stays learned."""
        with self._database.transaction() as run:
            found = self._database.row(f"SELECT {_COLUMNS} FROM comparisons ORDER BY id DESC LIMIT 1")
            if found is None:
                return None
            run("DELETE FROM comparisons WHERE id = ?", [found[0]])
        return Verdict(*found)

    def page(self, offset: int = 0, limit: int = 50) -> list[Verdict]:
        """`limit` verdicts from the newest on, leaving out `offset`."""
        query = f"SELECT {_COLUMNS} FROM comparisons ORDER BY id DESC LIMIT ? OFFSET ?"
        return [Verdict(*row) for row in self._database.rows(query, [max(limit, 0), max(offset, 0)])]

    def all(self) -> list[Verdict]:
        """Every verdict, the oldest first."""
        return [
            Verdict(*row) for row in self._database.rows(f"SELECT {_COLUMNS} FROM comparisons ORDER BY id")
        ]

    def comparisons(self) -> list[Comparison]:
        """What is learned from, the oldest first."""
        query = "SELECT prompt, first, second, tag FROM comparisons WHERE verdict = 'first' ORDER BY id"
        return [Comparison(p, c, r, tag, OWNER) for p, c, r, tag in self._database.rows(query)]

    def counts(self) -> dict[str, int]:
        """How many comparisons of each tag, and how many undecided: safety, taste, tie, both bad."""
        counts = dict.fromkeys(("safety", "taste", *UNDECIDED), 0)
        query = "SELECT COALESCE(tag, verdict), COUNT(*) FROM comparisons GROUP BY 1"
        return counts | {str(name): int(count) for name, count in self._database.rows(query)}

    def newest(self) -> int:
        """Id of the newest verdict, 0 where there is none; tells whether anything was added or taken back."""
        found = self._database.row("SELECT COALESCE(MAX(id), 0) FROM comparisons")
        return 0 if found is None else int(found[0])

    def _insert(self, prompt: str, first: str, second: str, verdict: str, tag: str | None, why: str) -> int:
        if len(why) > MAX_TEXT:
            raise InputError(f"the reason has {len(why):,} characters; at most {MAX_TEXT:,} are accepted")
        for text in (prompt, first, second, why):
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise InputError(
                    f"a text holds half of a character ({error.reason}); it cannot be kept"
                ) from error
        query = "INSERT INTO comparisons VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)"
        with self._database.transaction() as run:
            return int(run(query, (prompt, first, second, verdict, tag, why, now())).lastrowid)
