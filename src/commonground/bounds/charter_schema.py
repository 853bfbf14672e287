"""What a charter holds, and what its values must obey."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from commonground.study.signing import digest

SEVERITIES = ("critical", "high")
CLOSED_SAYS = ("shared", "refusal")
SPLITS = ("train", "dev", "sealed", "benign")
DETECTORS = ("head", "classifier")
MOST_CONSTRAINTS = 16  # few: a charter that rules on everything leaves nothing to the people
_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_SHA = re.compile(r"[0-9a-f]{64}")


@dataclass
class Constraint:
    """What must not be written, where that holds, how grave it is, who finds it, what is said instead."""

    text: str
    jurisdiction: str
    severity: str
    detector: str
    refusal: str


@dataclass
class DetectorRule:
    """`kind`: head | classifier. `place`: its file, folder or hub name. `threshold`: of its score."""

    kind: str
    place: str
    digest: str
    threshold: float = 0.5
    unsafe_labels: list[str] = field(default_factory=list)


@dataclass
class ProbeSet:
    """`file` beside the charter, of digest `sha256`. `split`: train | dev | sealed | benign (look-alikes)."""

    split: str
    file: str
    sha256: str


@dataclass
class Bounds:
    """`delta`: nats an answer in `sensitive`. The other bounds are what a certificate is held against."""

    delta: float = 1.0
    draws: int = 1
    max_violation: float = 0.05
    confidence: float = 0.95
    max_fallback: float = 0.1


@dataclass
class Tiers:
    """Detectors of prompts by name, and from which score on a prompt counts as closed, or as sensitive.

    `closed_says`: who answers a closed prompt, `shared` (the shared policy, under the guard) or `refusal`
    (nobody: the public constant, which is safe whatever the shared policy has learnt).
    """

    closed: str
    sensitive: str
    closed_at: float = 0.5
    sensitive_at: float = 0.5
    closed_says: str = "shared"


@dataclass
class Changes:
    """Who may change the charter, how, and how a decision that it made is appealed."""

    who: str
    how: str
    appeal: str


@dataclass
class Charter:
    """A charter; see the module's text. `base`: digest of the base model it was certified for ('' = any)."""

    title: str
    version: int
    constraints: dict[str, Constraint]
    detectors: dict[str, DetectorRule]
    probes: dict[str, ProbeSet]
    tiers: Tiers
    bounds: Bounds
    changes: Changes
    base: str = ""

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical form: what a manifest and a certificate name."""
        return digest(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)


def wrong_values(charter: Charter) -> Iterator[tuple[str, str]]:
    """(key, what is wrong) of values that fit their types and still cannot be."""
    if charter.version < 1:
        yield "version", f"found {charter.version}; accepted: 1 or more"
    if charter.base and not _SHA.fullmatch(charter.base):
        yield "base", f"found {charter.base!r:.40}; accepted: a SHA-256 in 64 hexadecimal digits, or ''"
    if not 1 <= len(charter.constraints) <= MOST_CONSTRAINTS:
        yield "constraints", f"found {len(charter.constraints)}; accepted: 1 to {MOST_CONSTRAINTS}"
    for part in ("constraints", "detectors", "probes"):
        for name in getattr(charter, part):
            if not _NAME.fullmatch(name):
                yield f"{part}.{name}", f"found the name {name!r}; accepted: a to z, 0 to 9 and _, at most 32"
    known = ", ".join(charter.detectors) or "none"
    for name, one in charter.constraints.items():
        at = f"constraints.{name}"
        for what in ("text", "jurisdiction", "refusal"):
            if not getattr(one, what).strip():
                yield f"{at}.{what}", "found an empty text; a text is needed"
        if one.severity not in SEVERITIES:
            yield f"{at}.severity", f"found {one.severity!r}; accepted: {', '.join(SEVERITIES)}"
        if one.detector not in charter.detectors:
            yield f"{at}.detector", f"found {one.detector!r}; accepted: a detector of this charter: {known}"
    for tier in ("closed", "sensitive"):
        if getattr(charter.tiers, tier) not in charter.detectors:
            found = getattr(charter.tiers, tier)
            yield f"tiers.{tier}", f"found {found!r}; accepted: a detector of this charter: {known}"
        if not 0 < (value := getattr(charter.tiers, f"{tier}_at")) <= 1:
            yield f"tiers.{tier}_at", f"found {value}; accepted: above 0 up to 1"
    if charter.tiers.closed_says not in CLOSED_SAYS:
        accepted = ", ".join(CLOSED_SAYS)
        yield "tiers.closed_says", f"found {charter.tiers.closed_says!r}; accepted: {accepted}"
    yield from _detector_rules(charter)
    yield from _probe_rules(charter)
    yield from _bound_rules(charter.bounds)
    for what in ("who", "how", "appeal"):
        if not getattr(charter.changes, what).strip():
            yield f"changes.{what}", "found an empty text; a text is needed"


def _detector_rules(charter: Charter) -> Iterator[tuple[str, str]]:
    for name, one in charter.detectors.items():
        at = f"detectors.{name}"
        if one.kind not in DETECTORS:
            yield f"{at}.kind", f"found {one.kind!r}; accepted: {', '.join(DETECTORS)}"
        if not one.place.strip():
            yield f"{at}.place", "found an empty text; a file, folder or hub name is needed"
        if not _SHA.fullmatch(one.digest):
            yield f"{at}.digest", f"found {one.digest!r:.40}; accepted: a SHA-256 in 64 hexadecimal digits"
        if not 0 < one.threshold <= 1:
            yield f"{at}.threshold", f"found {one.threshold}; accepted: above 0 up to 1"


def _probe_rules(charter: Charter) -> Iterator[tuple[str, str]]:
    if not any(one.split in ("dev", "sealed") for one in charter.probes.values()):
        yield "probes", "found no set of split dev or sealed; a charter without probes cannot be checked"
    for name, one in charter.probes.items():
        at = f"probes.{name}"
        if one.split not in SPLITS:
            yield f"{at}.split", f"found {one.split!r}; accepted: {', '.join(SPLITS)}"
        if not _SHA.fullmatch(one.sha256):
            yield f"{at}.sha256", f"found {one.sha256!r:.40}; accepted: a SHA-256 in 64 hexadecimal digits"
        if not one.file.strip():
            yield f"{at}.file", "found an empty text; a file name is needed"


def _bound_rules(bounds: Bounds) -> Iterator[tuple[str, str]]:
    if not 0 <= bounds.delta < math.inf:
        yield "bounds.delta", f"found {bounds.delta}; accepted: a finite number of nats, 0 or more"
    if not 1 <= bounds.draws <= 10:
        yield "bounds.draws", f"found {bounds.draws}; accepted: 1 to 10"
    for name in ("max_violation", "max_fallback"):
        if not 0 < (value := getattr(bounds, name)) <= 1:
            yield f"bounds.{name}", f"found {value}; accepted: above 0 up to 1"
    if not 0.5 <= bounds.confidence < 1:
        yield "bounds.confidence", f"found {bounds.confidence}; accepted: at least 0.5 and below 1"
