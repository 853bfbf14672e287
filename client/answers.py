"""What this device's model writes, under the charter that its person accepted.

Every answer goes through the charter's default stack (`bounds.enforcement`): the prompt is placed first, the
personal policy is asked alone, within the budget, or not at all, and nothing is shown that the guard has not
passed. What decides are the charter's frozen detectors, which read texts with their own weights: no adapter
acts on them. A charter that cannot be put to work means that nothing is written. What a person asks and is
answered is embedded in memory alone.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import closing

import numpy as np

from commonground.bounds.budget import Budget
from commonground.bounds.enforcement import Enforcement, enforce
from commonground.client import told
from commonground.client.learner import Understood
from commonground.client.pieces import Piece
from commonground.client.rounds import Rounds
from commonground.embeddings import Encoder
from commonground.errors import TrustError


class Unkept:
    """An encoder that keeps no embedding on the disk, whatever it is asked to: public texts neither."""

    def __init__(self) -> None:
        self._encoder = Encoder()
        self.digest = self._encoder.digest

    def embed(self, texts: Sequence[str], progress: None = None, *, keep: bool = False) -> np.ndarray:
        """Unit embeddings of texts, (n, D) float32."""
        return self._encoder.embed(texts, keep=False)


def try_charter(meant: Understood) -> None:
    """Put a study's charter to work once, before anybody accepts it.

    The shipped one is left out: the project's own tests hold it.

    Raises:
        TrustError: the base model, or a file, is not what it names.
        ConfigError: a detector of it minds a style.
        ModelError: a detector does not load.
    """
    if meant.charter is not None and not meant.charter.shipped:
        with meant.charter.folder() as folder:
            enforce(meant.charter.charter, folder, Unkept(), meant.manifest.versions["base"])


class Answers:
    """Writes answers; the charter is put to work once.

    Args:
        rounds: holds store, adapters and model.
    """

    def __init__(self, rounds: Rounds) -> None:
        self._rounds = rounds
        self._enforcement: Enforcement | None = None
        self._loading = threading.Lock()

    def enforcement(self, meant: Understood) -> Enforcement:
        """The accepted charter at work.

        Raises:
            TrustError: there is none, or a file or the base model is not what it names.
            ModelError: a detector does not load.
        """
        with self._loading:
            if self._enforcement is None:
                if meant.charter is None:
                    raise TrustError("there is no charter, so nothing is written", hint="ask the operator")
                base = meant.manifest.versions["base"]
                with meant.charter.folder() as folder:
                    # `join` has tried the reach of these very detectors; it would take a while at every start
                    charter = meant.charter.charter
                    self._enforcement = enforce(charter, folder, Unkept(), base, reach=False)
            return self._enforcement

    def write(self, meant: Understood, prompt: str, which: str, tokens: int) -> Iterator[Piece]:
        """An answer in pieces, each of which has passed.

        Args:
            meant: the offer as this device understands it.
            prompt: what is asked.
            which: base | shared | personal.
            tokens: of one draw, at most.

        Raises:
            InputError: the study's model writes nothing.
            CommonGroundError: the charter cannot be put to work; see `enforcement`.
        """
        told.check_writes(meant)
        enforcement = self.enforcement(meant)
        with self._rounds.model:
            shared, private = told.policies(self._rounds, meant)

            def personal(budget: Budget | None) -> Iterator[str]:
                return self._politely(told.write(meant, prompt, (shared, private), tokens, budget))

            def public() -> Iterator[str]:
                own = None if which == "base" else shared
                return self._politely(told.write(meant, prompt, (own, None), tokens))

            asked = personal if which == "personal" else None
            with closing(enforcement.stream(prompt, asked, public)) as decisions:
                for one in decisions:
                    shown, source = one.shown, one.shown.source
                    if source == "shared" and which == "base":
                        source = "base"
                    held = enforcement.constraint_of(shown.text) if source == "refusal" else ""
                    yield Piece(shown.text, source, one.tier, held, shown.reasons)

    def _politely(self, pieces: Iterator[str]) -> Iterator[str]:
        """The same pieces; a message of a round that is being made meanwhile has the processor first."""
        try:
            for piece in pieces:
                yield piece
                self._rounds.give_way()
        finally:
            pieces.close()  # type: ignore[attr-defined]  # a generator: lets go of the model at once
