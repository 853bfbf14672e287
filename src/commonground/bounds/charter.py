"""The charter: the hard constraints, as a file that is checked, signed, and compared.

It says what must not be written, how that is probed and detected, which bounds hold, what is said instead,
and who may change it. Constraints are few and universal. Style and values are out of its reach: a detector
that holds back any answer of the starter set, whose answers differ in taste alone, is refused.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from commonground.bounds.detectors import Classifier, Detector, Embed, head_from
from commonground.bounds.probes import Probe, read_probes
from commonground.data.starter import taste_prompts
from commonground.errors import ConfigError, InputError
from commonground.settings import Places, check_values, read_values
from commonground.study.signing import Paper, digest, sign

KIND = "charter"
SEVERITIES = ("critical", "high")
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
    """Detectors of prompts by name, and from which score on a prompt counts as closed, or as sensitive."""

    closed: str
    sensitive: str
    closed_at: float = 0.5
    sensitive_at: float = 0.5


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


_NAMED: dict[str, Any] = {"constraints": Constraint, "detectors": DetectorRule, "probes": ProbeSet}
_PARTS: dict[str, Any] = {"tiers": Tiers, "bounds": Bounds, "changes": Changes}


@dataclass
class _Frame:
    """The charter's top, as `check_values` can check it."""

    title: str
    version: int
    constraints: dict[str, Any]
    detectors: dict[str, Any]
    probes: dict[str, Any]
    tiers: dict[str, Any]
    bounds: dict[str, Any]
    changes: dict[str, Any]
    base: str = ""


def load_charter(file: Path) -> Charter:
    """Read a charter file.

    Args:
        file: YAML, read through OmegaConf.

    Raises:
        ConfigError: with every fault: place, value found, what is accepted.
    """
    values, places, faults = read_values(file)
    return charter_from(values, places, faults)


def charter_from(
    values: Mapping[str, Any], places: Places | None = None, faults: Sequence[str] = ()
) -> Charter:
    """A checked charter from plain values; see `load_charter`."""
    places, found = places or {}, list(faults)
    clean = _checked(_Frame, values, "", places, found)
    for name, kind in _NAMED.items():
        items = clean.get(name, {})
        clean[name] = {
            str(key): _built(kind, item, f"{name}.{key}.", places, found) for key, item in items.items()
        }
    for name, kind in _PARTS.items():
        clean[name] = _built(kind, clean.get(name, {}), f"{name}.", places, found)
    if not found:
        charter = Charter(**clean)
        found += [f"{places.get(key, key)}: {message}" for key, message in _rules(charter)]
        if not found:
            return charter
    raise ConfigError(list(dict.fromkeys(found)), hint="docs/bounds.md lists what a charter holds")


def _checked(
    kind: Any, values: Mapping[str, Any], prefix: str, places: Places, faults: list[str]
) -> dict[str, Any]:
    clean = check_values(kind, values, prefix, places, faults)
    for one in dataclasses.fields(kind):
        given = one.default is not dataclasses.MISSING or one.default_factory is not dataclasses.MISSING
        if one.name not in values and not given:
            faults.append(f"{prefix}{one.name}: found nothing; it is needed")
    return clean


def _built(kind: Any, item: Any, prefix: str, places: Places, faults: list[str]) -> Any:
    if not isinstance(item, Mapping):
        inner = ", ".join(one.name for one in dataclasses.fields(kind))
        key = prefix.rstrip(".")
        faults.append(f"{places.get(key, key)}: found {item!r:.60}; accepted: a mapping with {inner}")
        return None
    before = len(faults)
    clean = _checked(kind, item, prefix, places, faults)
    return kind(**clean) if len(faults) == before else None


def _rules(charter: Charter) -> Iterator[tuple[str, str]]:
    """(key, what is wrong) of values that fit their types and still cannot be."""
    if charter.version < 1:
        yield "version", f"found {charter.version}; accepted: 1 or more"
    if charter.base and not _SHA.fullmatch(charter.base):
        yield "base", f"found {charter.base!r:.40}; accepted: a SHA-256 in 64 hexadecimal digits, or ''"
    if not 1 <= len(charter.constraints) <= MOST_CONSTRAINTS:
        yield "constraints", f"found {len(charter.constraints)}; accepted: 1 to {MOST_CONSTRAINTS}"
    for part in _NAMED:
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


def sign_charter(key: Ed25519PrivateKey, charter: Charter) -> Paper:
    """The charter as a signed paper."""
    return sign(key, KIND, charter.to_dict())


def open_charter(paper: Paper, signer: str) -> Charter:
    """A signed charter, once signer and signature hold and its content is a charter.

    Raises:
        TrustError: it is no charter paper, signed by somebody else, or changed afterwards.
        ConfigError: its content has faults.
    """
    return charter_from(paper.opened(KIND, signer, "the charter"))


def diff_charters(old: Charter, new: Charter) -> list[str]:
    """What changed, a line a value: `key: old -> new`; keys in order, `(nothing)` for what is not there."""
    left, right = dict(_flat(old.to_dict())), dict(_flat(new.to_dict()))
    return [
        f"{key}: {left.get(key, '(nothing)')} -> {right.get(key, '(nothing)')}"
        for key in dict.fromkeys([*left, *right])
        if left.get(key) != right.get(key)
    ]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value, ensure_ascii=False)


def charter_probes(charter: Charter, name: str, folder: Path) -> tuple[Probe, ...]:
    """The probes of one set, with their digest checked.

    Args:
        charter: it names the set.
        name: of the set.
        folder: where the charter's files are.

    Raises:
        InputError: no such set, or its file cannot be read.
        TrustError: the file's digest is not the charter's.
        DataError: a line is no probe.
    """
    if name not in charter.probes:
        raise InputError(f"the charter has no probe set {name!r}; known: {', '.join(charter.probes)}")
    one = charter.probes[name]
    try:
        data = (folder / one.file).read_bytes()
    except OSError as error:
        raise InputError(
            f"probe set {name} ({folder / one.file}) cannot be read: {error.strerror or error}"
        ) from error
    return read_probes(data, one.sha256, tuple(charter.constraints), one.file)


def charter_detector(charter: Charter, name: str, folder: Path, embed: Embed, encoder: str) -> Detector:
    """One of the charter's detectors, loaded; the guard checks its digest.

    Args:
        charter: it names the detector.
        name: of the detector.
        folder: where the charter's files are.
        embed: texts -> embeddings, for heads.
        encoder: digest of that encoder.

    Raises:
        InputError: no such detector, or its file cannot be read.
        ModelError: it does not load, or was fitted on another encoder.
    """
    if name not in charter.detectors:
        raise InputError(f"the charter has no detector {name!r}; known: {', '.join(charter.detectors)}")
    rule = charter.detectors[name]
    beside = folder / rule.place
    if rule.kind == "classifier":
        return Classifier(str(beside) if beside.is_dir() else rule.place, rule.unsafe_labels)
    try:
        values = json.loads(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"detector {name} ({beside}) cannot be read: {error}") from error
    return head_from(values, embed, encoder, f"detector {name}")


def check_reach(detector: Detector, threshold: float) -> None:
    """Refuse a detector that holds back an answer of the starter set for its style.

    Raises:
        ConfigError: it does; style and values are out of a charter's reach.
    """
    rows = [(p.prompt, style, answer) for p in taste_prompts() for style, answer in p.answers.items()]
    scores = detector.score([p for p, _, _ in rows], [a for _, _, a in rows])
    held = [(p, style) for (p, style, _), s in zip(rows, scores, strict=True) if not s < threshold]
    if held:
        raise ConfigError(
            [
                f"detector {detector.name!r} holds back {len(held)} of {len(rows)} answers that differ in "
                f"taste alone, e.g. the {held[0][1]} one to {held[0][0]!r:.60}; accepted: none"
            ],
            hint="raise its threshold, or take another detector",
        )


def shipped_folder() -> Path:
    """Where the default charter's files are."""
    with as_file(files("commonground.bounds") / "charter" / "default.yaml") as file:
        return file.parent


def default_charter() -> Charter:
    """The charter that is shipped: eight constraints, written by the project."""
    return load_charter(shipped_folder() / "default.yaml")
