"""What the views share: a way to ask the vault without stopping the page, and what was left half done."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from commonground.client.pieces import Piece
from commonground.errors import CommonGroundError, InputError
from commonground.web.aside import aside

Document = dict[str, Any]
Result = TypeVar("Result")
TOKENS = 128  # of an answer
EXPORT = "export-{}.zip"
LEFT = "This device has left the study. Its key and its store are destroyed."


class Owner(Protocol):
    """What the page needs of the vault; `commonground.client.owner.OwnerClient` documents each answer."""

    def status(self) -> Document:
        """How the device stands."""

    def add(self, prompt: str, chosen: str, rejected: str, tag: str, why: str = "") -> int:
        """Keep a comparison."""

    def tie(self, prompt: str, a: str, b: str, verdict: str) -> int:
        """Keep that neither answer was better."""

    def undo(self) -> Document | None:
        """Take the newest back."""

    def comparisons(self, offset: int = 0, limit: int = 50) -> Document:
        """What the person said."""

    def suggest(self) -> Document | None:
        """Something to compare."""

    def generate(self, prompt: str, which: str = "personal", tokens: int = TOKENS) -> Iterator[Piece]:
        """Write an answer, piece by piece, each of which has passed the charter's guard."""

    def propose_tag(self, prompt: str, a: str, b: str) -> str:
        """Whether a comparison may be about harm."""

    def learned(self) -> Document:
        """What the private adapter learned."""

    def refit(self) -> Document:
        """Fit the private adapter anew."""

    def ledger(self) -> Document:
        """What was spent."""

    def receipts(self) -> list[Document]:
        """The messages that left."""

    def receipt(self, id: int) -> Document:
        """One of them, to its bytes."""

    def consent(self) -> Document:
        """What is offered, and what was accepted."""

    def accept(self, offer_digest: str, epsilon_cap: float) -> Document:
        """Accept the offer."""

    def withdraw(self) -> Document:
        """Take the consent back."""

    def private_cap(self, epsilon: float) -> Document:
        """Change the cap on what fits cost together."""

    def passphrase(self, old: str, new: str) -> Document:
        """Change the store's passphrase."""

    def pause(self) -> Document:
        """Send nothing until `resume`."""

    def resume(self) -> Document:
        """Take part again."""

    def adapters(self) -> list[Document]:
        """Kept versions of the private adapter."""

    def rollback(self, version: int) -> Document:
        """Use an older one again."""

    def reset(self) -> Document:
        """Forget what was learned."""

    def export(self, path: Path) -> Document:
        """Write everything to a zip file."""

    def erase(self) -> Document:
        """Destroy the key and the store."""


Connect = Callable[[], AbstractContextManager[Owner]]


@dataclass
class Pair:
    """Two answers to compare, side A and side B.

    Attributes:
        prompt: what was asked.
        answers: the texts of A and B.
        sides: which policy wrote A and B; empty where no policy wrote them.
        whys: why A and B are what they are, in words; they could tell whose is whose, so they are kept back
            until the vote.
    """

    prompt: str
    answers: list[str] = field(default_factory=lambda: ["", ""])
    sides: tuple[str, ...] = ()
    whys: list[str] = field(default_factory=lambda: ["", ""])
    written: bool = False
    kept: bool = False


def shuffled(*values: str) -> tuple[str, ...]:
    """The values in an order that the operating system's randomness chose."""
    left = list(values)
    return tuple(left.pop(secrets.randbelow(len(left))) for _ in values)


class Desk:
    """The state of one page process.

    Args:
        connect: opens a connection to the vault. Every question opens its own, so that a vault that was
            started anew is found again.
        folder: a private folder, for an export that waits to be downloaded.
    """

    def __init__(self, connect: Connect, folder: Path) -> None:
        self.connect, self.folder = connect, folder
        self.left = False
        self.pair: Pair | None = None
        self.exports: dict[str, Path] = {}
        self.forget_exports()

    def forget_exports(self) -> None:
        """Delete exports that nobody came for, those of a process before this one too: they are in clear."""
        self.exports.clear()
        for path in self.folder.glob(EXPORT.format("*")):
            path.unlink(missing_ok=True)

    async def ask(self, question: Callable[[Owner], Result]) -> Result:
        """Put one question to the vault, in a thread; raises what the vault raises."""

        def put() -> Result:
            with self.connect() as owner:
                return question(owner)

        if self.left:
            raise InputError(LEFT)
        return await aside(put)

    async def generate(self, prompt: str, which: str) -> AsyncIterator[Piece]:
        """The pieces of an answer as they are written; raises what the vault raises."""
        loop, stopped = asyncio.get_running_loop(), False
        pieces: asyncio.Queue[Piece | CommonGroundError | None] = asyncio.Queue()

        def put(piece: Piece | CommonGroundError | None) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody reads any more
                loop.call_soon_threadsafe(pieces.put_nowait, piece)

        def write() -> None:
            try:
                with self.connect() as owner:
                    for piece in owner.generate(prompt, which, TOKENS):
                        if stopped:
                            return
                        put(piece)
            except CommonGroundError as error:
                put(error)
            finally:
                put(None)

        writing = asyncio.create_task(aside(write))
        try:
            while (piece := await pieces.get()) is not None:
                if isinstance(piece, CommonGroundError):
                    raise piece
                yield piece
            await writing
        finally:
            stopped = True
