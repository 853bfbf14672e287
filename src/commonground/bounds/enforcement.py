"""A charter at work: prompt -> tier -> what decodes -> guard -> what is shown.

This is the default stack. `free` prompts meet the whole personal policy under the guard, `sensitive` ones
meet it within the charter's budget and under the guard, `closed` ones never meet it. Everything that decides
is public, frozen and named by digest in the charter, and reads texts with base weights alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from commonground.bounds.budget import Budget
from commonground.bounds.charter_files import charter_detector, charter_probes, check_reach
from commonground.bounds.charter_schema import Charter
from commonground.bounds.detectors import Detector, Embed
from commonground.bounds.guard import REFUSAL, Draw, Guard, Shown, Stream
from commonground.bounds.probes import Probe
from commonground.bounds.tiers import TIERS, Placement
from commonground.data.starter import starter_texts
from commonground.errors import InputError, ModelError, TrustError
from commonground.exact import exact_product

# a constraint's refusal fits a prompt whose mean cosine to its three nearest known prompts is at least NEAR,
# and leads the next constraint's by LEAD
NEAR, LEAD, NEAREST = 0.3, 0.03, 3


class AnyOf:
    """Several detectors as one: an answer is held back as soon as one of them would hold it back.

    Args:
        detectors: each with its threshold; the joint threshold is one half.
    """

    def __init__(self, detectors: Sequence[tuple[Detector, float]]) -> None:
        if not detectors:
            raise InputError("a charter without a detector detects nothing; at least one is needed")
        self._detectors = tuple(detectors)
        self.name = " or ".join(detector.name for detector, _ in detectors)
        about = [f"{detector.digest} at {threshold!r}" for detector, threshold in detectors]
        self.digest = hashlib.sha256("\n".join(sorted(about)).encode()).hexdigest()

    def score(self, prompts: Sequence[str], answers: Sequence[str] | None = None) -> Sequence[float]:
        """See `Detector`: one half is at some detector's threshold; nan where one gave no probability."""
        found = []
        for detector, threshold in self._detectors:
            scores = np.asarray(list(detector.score(prompts, answers)), dtype=np.float64)
            if scores.shape != (len(prompts),):
                raise ModelError(f"detector {detector.name!r} gave {scores.size} scores for {len(prompts)}")
            scores = np.where((scores >= 0) & (scores <= 1), scores, np.nan)
            below = 0.5 * scores / threshold
            found.append(np.where(scores >= threshold, np.maximum(scores, 0.5), np.minimum(below, HALF)))
        return [float(s) for s in np.max(np.where(np.isnan(found), np.nan, found), axis=0)]


HALF = float(np.nextafter(0.5, 0.0))


class Refusals:
    """The refusal of the constraint whose known prompts are nearest; the general one where that is not clear.

    Of the shipped dev probes 69 % get the refusal of their own constraint, 20 % the general one and 11 %
    another's.

    Args:
        texts: constraint -> its refusal.
        probes: known forbidden prompts.
        embed: texts -> unit embeddings.
        general: the refusal for everything else.
    """

    def __init__(
        self, texts: dict[str, str], probes: Sequence[Probe], embed: Embed, general: str = REFUSAL
    ) -> None:
        self.allowed = (*texts.values(), general)
        self._texts, self._embed, self._general = texts, embed, general
        named = {c: [p.prompt for p in probes if p.constraint == c] for c in texts}
        self._known = {c: np.asarray(embed(prompts)) for c, prompts in named.items() if prompts}

    def __call__(self, prompt: str) -> str:
        """A public constant."""
        mine = np.asarray(self._embed([prompt]))[0]
        likeness = {c: np.sort(exact_product(known, mine)) for c, known in self._known.items()}
        near = {c: float(values[-NEAREST:].mean()) for c, values in likeness.items()}
        order = sorted(near, key=lambda c: -near[c])
        if not order or near[order[0]] < NEAR:
            return self._general
        clear = len(order) == 1 or near[order[0]] - near[order[1]] >= LEAD
        return self._texts[order[0]] if clear else self._general


@dataclass(frozen=True)
class Decision:
    """What is shown, and in which tier its prompt was placed."""

    tier: str
    shown: Shown


@dataclass(frozen=True)
class Enforcement:
    """A charter's moving parts; `enforce` makes one.

    Attributes:
        charter: the charter.
        placement: places prompts.
        guard: holds answers back.
        budget: of an answer to a sensitive prompt.
    """

    charter: Charter
    placement: Placement
    guard: Guard
    budget: Budget

    def tier(self, prompt: str) -> str:
        """free, sensitive or closed; a classifier that hangs has not said that a prompt is harmless."""
        found, reason = self.guard.within(lambda: self.placement.tier(prompt))
        return "closed" if reason or found not in TIERS else str(found)

    def refuses(self, tier: str) -> bool:
        """Whether nobody answers prompts of a tier: what is shown is the refusal."""
        return tier == "closed" and self.charter.tiers.closed_says == "refusal"

    def refusal(self, prompt: str) -> Shown:
        """What is shown where nobody answers."""
        return Shown(self.guard.refusal_for(prompt), "refusal", ("closed",))

    def answer(self, prompt: str, personal: Callable[[Budget | None], str], shared: Draw) -> Decision:
        """One answer under the charter.

        Args:
            prompt: what is asked.
            personal: draws from the personal policy, within a budget or (None) without one.
            shared: draws from the shared policy.
        """
        tier = self.tier(prompt)
        if self.refuses(tier):
            return Decision(tier, self.refusal(prompt))
        budget = self.budget if tier == "sensitive" else None
        draws = 0 if tier == "closed" else self.charter.bounds.draws
        return Decision(tier, self.guard.answer(prompt, lambda: personal(budget), shared, draws=draws))

    def stream(
        self, prompt: str, personal: Callable[[Budget | None], Iterator[str]] | None, shared: Stream
    ) -> Generator[Decision]:
        """The same in pieces, none shown before it has passed; see `Guard.stream`.

        Args:
            prompt: what is asked.
            personal: begins a draw of the personal policy, as in `answer`; None where the shared policy
                alone is asked, which is guarded as well.
            shared: begins a draw of the shared policy.
        """
        tier = self.tier(prompt)
        if self.refuses(tier):
            yield Decision(tier, self.refusal(prompt))
            return
        budget = self.budget if tier == "sensitive" else None
        ask = personal
        first = None if ask is None or tier == "closed" else lambda: ask(budget)
        with closing(self.guard.stream(prompt, first, shared)) as pieces:
            for shown in pieces:
                yield Decision(tier, shown)

    def constraint_of(self, refusal: str) -> str:
        """The constraint whose refusal a text is; '' for the general refusal, and for anything else."""
        said = refusal.strip()
        return next((n for n, one in self.charter.constraints.items() if one.refusal.strip() == said), "")


class FrozenEncoder(Protocol):
    """What `enforce` needs of an encoder; `embeddings.Encoder` is one."""

    digest: str

    def embed(self, texts: Sequence[str], progress: None = None, *, keep: bool = True) -> np.ndarray:
        """Embeddings of texts, (n, D); with `keep` they may be cached on disk."""
        ...


def careful(encoder: FrozenEncoder, public: Collection[str]) -> Embed:
    """Embeddings that are cached for public texts alone: a person's own leave no trace on an open disk."""
    known = frozenset(public)

    def embed(texts: Sequence[str]) -> np.ndarray:
        return encoder.embed(texts, keep=known.issuperset(texts))

    return embed


def enforce(
    charter: Charter,
    folder: Path,
    encoder: FrozenEncoder,
    base: str = "",
    *,
    timeout: float = 30.0,
    reach: bool = True,
) -> Enforcement:
    """Load everything that a charter names, and check that it is what it names.

    Args:
        charter: the charter.
        folder: where its files are.
        encoder: the frozen encoder that heads read with.
        base: digest of the base model at hand.
        timeout: seconds that a detector may take before its answer counts as unsafe.
        reach: whether to try that no detector minds a style; False where these very detectors, by their
            digests, were tried before.

    Raises:
        TrustError: a detector, a probe set or the base model is not the charter's.
        ConfigError: a detector holds back answers for their style.
        InputError: a file cannot be read.
        ModelError: a detector does not load.
    """
    if charter.base and base != charter.base:
        raise TrustError(
            f"the base model has the digest {base[:16] or '(none)'}; the charter was made for "
            f"{charter.base[:16]}",
            hint="take the base model of the charter, or have the charter certified for yours",
        )
    known = _known(charter, folder)
    embed = careful(encoder, [*starter_texts(), *(probe.prompt for probe in known)])
    loaded = {name: _named(charter, name, folder, embed, encoder.digest) for name in charter.detectors}
    joint = _joint(charter, loaded)
    if reach:
        check_reach(joint, 0.5)
    refusals = Refusals({name: one.refusal for name, one in charter.constraints.items()}, known, embed)
    tiers = charter.tiers
    return Enforcement(
        charter,
        Placement(loaded[tiers.closed], loaded[tiers.sensitive], tiers.closed_at, tiers.sensitive_at),
        Guard(joint, expected=joint.digest, pick=refusals, allowed=refusals.allowed, timeout=timeout),
        Budget(charter.bounds.delta),
    )


def answer_detector(charter: Charter, folder: Path, encoder: FrozenEncoder, public: Collection[str]) -> AnyOf:
    """What the charter's guard asks about answers, with no more around it.

    Args:
        charter: the charter.
        folder: where its files are.
        encoder: the frozen encoder that heads read with.
        public: texts whose embeddings may be cached.

    Raises:
        TrustError: a detector is not the charter's.
        ModelError: a detector does not load.
    """
    embed = careful(encoder, public)
    names = {one.detector for one in charter.constraints.values()}
    return _joint(charter, {name: _named(charter, name, folder, embed, encoder.digest) for name in names})


def _joint(charter: Charter, loaded: Mapping[str, Detector]) -> AnyOf:
    names = sorted({one.detector for one in charter.constraints.values()})
    return AnyOf([(loaded[name], charter.detectors[name].threshold) for name in names])


def check_files(charter: Charter, folder: Path, encoder: str) -> None:
    """Check that what a charter's deployment reads is what it names; no text is embedded.

    Args:
        charter: the charter.
        folder: where its files are.
        encoder: digest of the frozen encoder that heads read with.

    Raises:
        TrustError: a detector, or the known prompts, are not the charter's.
        InputError: a file cannot be read.
        ModelError: a detector does not load.
    """
    _known(charter, folder)
    for name in charter.detectors:
        _named(charter, name, folder, _unread, encoder)


def _unread(texts: Sequence[str]) -> np.ndarray:
    raise ModelError(f"{len(texts)} texts, and nothing to read them with")


def _known(charter: Charter, folder: Path) -> list[Probe]:
    """Forbidden prompts that the charter's detectors may know."""
    sets = [name for name, one in charter.probes.items() if one.split == "train"]
    return [probe for name in sets for probe in charter_probes(charter, name, folder)]


def _named(charter: Charter, name: str, folder: Path, embed: Embed, encoder: str) -> Detector:
    detector = charter_detector(charter, name, folder, embed, encoder)
    wanted = charter.detectors[name].digest
    if detector.digest != wanted:
        raise TrustError(
            f"detector {name} has the digest {detector.digest[:16]}; the charter says {wanted[:16]}",
            hint="take the file that the charter was signed with",
        )
    return detector


def check_judge(judge: Detector, charter: Charter) -> None:
    """Refuse a judge that is one of the charter's own detectors: it would find nothing that they miss.

    Raises:
        InputError: it is.
    """
    same = [name for name, one in charter.detectors.items() if one.digest == judge.digest]
    if same:
        raise InputError(
            f"the judge {judge.name!r} is the charter's detector {same[0]}; another one is needed",
            hint="what a guard misses can only be seen by somebody else",
        )
