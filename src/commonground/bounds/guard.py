"""The guard with fallback: what it holds back is never shown, whoever wrote it.

    draw y from the personal policy, at most R times;   show it if the detector says safe
    draw y from the shared policy;                      show it if the detector says safe
    show the refusal, a public constant that is safe by construction.

Anything but a clear "safe" counts as unsafe: an exception, a timeout, a score that is no probability. So
answers that the detector calls unsafe are never shown. What is left are violations that it misses. Let v_s(x)
be their probability under the shared policy; then, with the decode-time budget Delta on each personal draw,

    P(a violation is shown) <= (R e^Delta + 1) v_s(x)

for every private adapter: each of the R personal draws is a missed violation with probability at most
e^Delta v_s, whatever was rejected before it, and the shared draw with at most v_s. Each redraw costs, since
rejecting renormalises; R is 1 by default. Without a budget the guard is as good as its detector is.

Streaming: a sentence is shown only once the detector has passed everything up to its end. What was shown is a
function of the full answer, so the same bound holds with v_s the probability that the shared policy, streamed
like this, shows a violation. Once something was shown there is no second draw: the rest is the refusal.
"""

from __future__ import annotations

import math
import queue
import re
import threading
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from commonground.bounds.detectors import Detector
from commonground.errors import InputError, TrustError

Draw = Callable[[], str]
Stream = Callable[[], Iterator[str]]
REFUSAL = "I can't help with that. I'm glad to help with something else, or to say where to turn."
SENTENCE_END = re.compile(r"(?<=[.!?…])[\"')\]]*\s+|\n+")


@dataclass(frozen=True)
class Shown:
    """What a person sees, and why.

    Attributes:
        text: the answer.
        source: personal | shared | refusal.
        reasons: one word a draw that was held back: prompt | unsafe | error | timeout | score.
    """

    text: str
    source: str
    reasons: tuple[str, ...] = ()

    @property
    def fallback(self) -> bool:
        """Whether the personal policy's answer was held back."""
        return self.source != "personal"


def bound(delta: float, draws: int, shared_rate: float) -> float:
    """(R e^Delta + 1) v_s, at most 1: how likely a violation that the guard misses is shown.

    Args:
        delta: budget of each personal draw, nats; infinity where there is none.
        draws: R.
        shared_rate: v_s, or an upper bound on it.
    """
    factor = draws * math.exp(delta) if delta < 700 else math.inf
    return min(1.0, (factor + 1) * shared_rate) if shared_rate > 0 else 0.0


class Guard:
    """A detector with thresholds, on both sides of an answer.

    Args:
        detector: of answers.
        expected: the digest it must have; '' takes whatever it has (tests and trials only).
        prompts: a detector of prompts, or None for none; a prompt that it calls unsafe never meets the
            private adapter.
        expected_prompts: the digest that one must have.
        threshold: an answer that scores this or more is held back.
        prompt_threshold: likewise for prompts.
        refusal: the constant.
        pick: chooses a refusal for a prompt; whatever it gives that is not among `allowed`, is too late or
            fails, is replaced by `refusal`.
        allowed: the public constants that `pick` may choose.
        timeout: seconds that a detector may take.

    Raises:
        TrustError: a detector is not the expected one.
        InputError: a threshold or a timeout out of range, or an empty refusal.
    """

    def __init__(
        self,
        detector: Detector,
        *,
        expected: str = "",
        prompts: Detector | None = None,
        expected_prompts: str = "",
        threshold: float = 0.5,
        prompt_threshold: float = 0.5,
        refusal: str = REFUSAL,
        pick: Callable[[str], str] | None = None,
        allowed: Collection[str] = (),
        timeout: float = 10.0,
    ) -> None:
        for found, wanted in ((detector, expected), (prompts, expected_prompts)):
            if found is not None and wanted and found.digest != wanted:
                raise TrustError(
                    f"detector {found.name!r} has the digest {found.digest[:16]}; accepted: {wanted[:16]}",
                    hint="install the detector that the charter names",
                )
        for name, value in (("threshold", threshold), ("prompt_threshold", prompt_threshold)):
            if not 0 < value <= 1:
                raise InputError(f"guard {name} is {value}; accepted: above 0 up to 1")
        if not 0 < timeout < math.inf:
            raise InputError(f"guard timeout is {timeout}; accepted: above 0, in seconds")
        if not refusal.strip():
            raise InputError("guard refusal is empty; a text is needed")
        self.detector, self.prompts, self.refusal = detector, prompts, refusal
        self._threshold, self._prompt_threshold, self._timeout = threshold, prompt_threshold, timeout
        self._pick, self._allowed = pick, frozenset(allowed)

    def prompt_verdict(self, prompt: str) -> str:
        """'' where a prompt may meet the private adapter, else the reason."""
        if self.prompts is None:
            return ""
        return "prompt" if self._judge(self.prompts, self._prompt_threshold, prompt, None) else ""

    def answer_verdict(self, prompt: str, answer: str) -> str:
        """'' where an answer is safe to show, else the reason: unsafe | error | timeout | score."""
        return self._judge(self.detector, self._threshold, prompt, answer)

    def answer(self, prompt: str, personal: Draw, shared: Draw, *, draws: int = 1) -> Shown:
        """One answer, with everything that was held back replaced.

        Args:
            prompt: what is asked.
            personal: draws an answer from the personal policy; an exception counts as a held-back draw.
            shared: draws one from the shared policy.
            draws: R, personal draws at most; 0 is shared alone.
        """
        if draws < 0:
            raise InputError(f"draws is {draws}; accepted: 0 or more")
        reasons: list[str] = []
        if reason := self.prompt_verdict(prompt):
            reasons.append(reason)
            draws = 0
        for source, ask in [("personal", personal)] * draws + [("shared", shared)]:
            try:
                text = ask()
            except Exception:  # whatever a policy dies of, the person gets an answer that is safe
                reasons.append("error")
                continue
            if not (reason := self.answer_verdict(prompt, text)):
                return Shown(text, source, tuple(reasons))
            reasons.append(reason)
        return Shown(self.refusal_for(prompt), "refusal", tuple(reasons))

    def refusal_for(self, prompt: str) -> str:
        """A public constant, whatever happens."""
        pick = self._pick
        if pick is None:
            return self.refusal
        found, _ = self.within(lambda: pick(prompt))
        return found if isinstance(found, str) and found in self._allowed else self.refusal

    def stream(self, prompt: str, personal: Stream | None, shared: Stream) -> Generator[Shown]:
        """Pieces to show, sentence by sentence, none before everything up to its end has passed.

        Args:
            prompt: what is asked.
            personal: begins an answer of the personal policy, in pieces; None is shared alone.
            shared: begins one of the shared policy.

        Yields:
            Pieces; joined texts are what is shown. The last piece of a cut answer is the refusal.
        """
        reasons = tuple(r for r in (self.prompt_verdict(prompt),) if r)
        mine = [] if reasons or personal is None else [("personal", personal)]
        for source, ask in [*mine, ("shared", shared)]:
            shown = ""
            with closing(self._passed(prompt, ask)) as passed:
                for piece, reason in passed:
                    if not reason:
                        yield Shown(piece, source, reasons)
                        shown += piece
                        continue
                    reasons = (*reasons, reason)
                    if shown:  # no second draw after the first words: it would see what was rejected
                        lead = "" if shown[-1].isspace() else " "
                        yield Shown(lead + self.refusal_for(prompt), "refusal", reasons)
                        return
            if shown:
                return
        yield Shown(self.refusal_for(prompt), "refusal", reasons or ("error",))

    def _passed(self, prompt: str, ask: Stream) -> Generator[tuple[str, str]]:
        """(sentence, '') while they pass, then ('', reason) once if one does not."""
        held, passed = "", ""
        source: Iterator[str] | None = None
        try:
            while True:
                try:
                    source = source or ask()
                    piece = next(source, None)
                except Exception:
                    yield "", "error"
                    return
                held += piece or ""
                ends = [m.end() for m in SENTENCE_END.finditer(held)]
                cut = len(held) if piece is None else (ends[-1] if ends else 0)
                if cut:
                    if reason := self.answer_verdict(prompt, passed + held[:cut]):
                        yield "", reason
                        return
                    yield held[:cut], ""
                    passed, held = passed + held[:cut], held[cut:]
                if piece is None:
                    return
        finally:
            # a draw that was held back is half written: its adapters must not act on the next one
            if isinstance(source, Generator):
                source.close()

    def _judge(self, detector: Detector, threshold: float, prompt: str, answer: str | None) -> str:
        scores, reason = self.within(lambda: detector.score([prompt], None if answer is None else [answer]))
        if reason:
            return reason
        try:
            (score,) = (float(s) for s in scores)
        except (TypeError, ValueError):
            return "error"
        if not 0 <= score <= 1:  # nan too
            return "score"
        return "unsafe" if score >= threshold else ""

    def within(self, ask: Callable[[], Any]) -> tuple[Any, str]:
        """What `ask` gives within the guard's timeout, and '', or None and error | timeout."""
        found: queue.SimpleQueue[tuple[Any, str]] = queue.SimpleQueue()

        def run() -> None:
            try:
                found.put((ask(), ""))
            except BaseException:  # a detector that dies has not said that the answer is safe
                found.put((None, "error"))

        # a thread of its own: a detector that hangs must not hold the answer, nor the next one
        threading.Thread(target=run, daemon=True).start()
        try:
            return found.get(timeout=self._timeout)
        except queue.Empty:
            return None, "timeout"
