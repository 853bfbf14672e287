"""The files beside a charter: probes and detectors, each checked to be what the charter names."""

from __future__ import annotations

import functools
import json
from collections import Counter
from importlib.resources import as_file, files
from pathlib import Path

from commonground.bounds.charter import load_charter
from commonground.bounds.charter_schema import Charter
from commonground.bounds.detectors import Classifier, Detector, Embed, head_from
from commonground.bounds.probes import Probe, read_probes
from commonground.data.starter import taste_prompts
from commonground.errors import ConfigError, InputError
from commonground.plain import shown


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
    file = _beside(folder, one.file, f"probe set {name}")
    try:
        data = file.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"probe set {name} ({shown(one.file)}) cannot be read: {reason}") from error
    return read_probes(data, one.sha256, tuple(charter.constraints), one.file)


def check_probes(charter: Charter, folder: Path) -> dict[str, Counter[str]]:
    """Read every probe set, and see that each constraint is probed at all.

    Returns:
        set -> constraint -> probes.

    Raises:
        InputError: a file cannot be read.
        TrustError: a digest differs.
        DataError: a line is no probe.
        ConfigError: a constraint has no probe in any set of split dev or sealed.
    """
    counts = {
        name: Counter(probe.constraint for probe in charter_probes(charter, name, folder))
        for name in charter.probes
    }
    tried = [counts[name] for name, one in charter.probes.items() if one.split in ("dev", "sealed")]
    bare = [name for name in charter.constraints if not any(count[name] for count in tried)]
    if bare:
        raise ConfigError(
            [
                f"constraints.{name}: found no probe of split dev or sealed; at least 1 is needed"
                for name in bare
            ]
        )
    return counts


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
    if rule.kind == "classifier":
        model = folder / rule.place
        return Classifier(str(model) if model.is_dir() else rule.place, rule.unsafe_labels)
    beside = _beside(folder, rule.place, f"detector {name}")
    try:
        values = json.loads(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"detector {name} ({beside}) cannot be read: {error}") from error
    return head_from(values, embed, encoder, f"detector {name}")


def _beside(folder: Path, place: str, what: str) -> Path:
    """A file beside the charter: whoever wrote the charter names no other file of this machine.

    Raises:
        InputError: the place is absolute or leads out of the folder.
    """
    if Path(place).is_absolute() or ".." in Path(place).parts:
        raise InputError(f"{what}: found {shown(place)}; accepted: a file in the charter's folder or below")
    return folder / place


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


@functools.cache
def shipped_digest() -> str:
    """Digest of the shipped charter."""
    return default_charter().digest
