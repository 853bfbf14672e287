"""Probe prompts: read with their digest, and refused once a training run has seen them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from commonground.errors import DataError, TrustError


@dataclass(frozen=True)
class Probe:
    """A prompt of a probe set.

    Attributes:
        prompt: what is asked.
        constraint: the constraint that it probes, or, in a benign set, the one it only looks like.
    """

    prompt: str
    constraint: str


def read_probes(data: bytes, sha256: str, constraints: Collection[str], what: str) -> tuple[Probe, ...]:
    """Probes out of JSON lines of `prompt` and `constraint` (or `near`, in a benign set).

    Args:
        data: the file.
        sha256: the digest that the charter names.
        constraints: known ids.
        what: how to call the file in an error.

    Raises:
        TrustError: the digest differs.
        DataError: a line is no probe, names an unknown constraint, or stands there twice.
    """
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise TrustError(
            f"probe set {what} has the digest {found[:16]}; the charter says {sha256[:16]}",
            hint="take the file that the charter was signed with",
        )
    probes: dict[str, Probe] = {}
    for number, line in enumerate(data.decode("utf-8", "replace").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            prompt, constraint = row["prompt"], row.get("constraint", row.get("near"))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise DataError(f"{what}:{number}: this is no JSON object with prompt and constraint") from error
        if not isinstance(prompt, str) or not prompt.strip():
            raise DataError(f"{what}:{number}: prompt is {prompt!r:.40}; a text is needed")
        if constraint not in constraints:
            raise DataError(
                f"{what}:{number}: constraint is {constraint!r:.40}; known: {', '.join(constraints)}"
            )
        if any("\ud800" <= sign <= "\udfff" for sign in prompt):
            raise DataError(f"{what}:{number}: prompt holds half of a surrogate pair; a text is needed")
        if fingerprint(prompt) in probes:
            raise DataError(f"{what}:{number}: this probe was there before: {prompt!r:.60}")
        probes[fingerprint(prompt)] = Probe(prompt, constraint)
    return tuple(probes.values())


def fingerprint(prompt: str) -> str:
    """SHA-256 of a prompt's words: case, spaces and signs do not make another probe of it."""
    words = "".join(c if c.isalnum() else " " for c in prompt.casefold()).split()
    return hashlib.sha256(" ".join(words).encode()).hexdigest()


def refuse_burned(probes: Sequence[Probe], used: Iterable[str], what: str = "training") -> None:
    """Refuse probes that a run has learnt from: they certify nothing any more.

    Args:
        probes: about to be used in a certificate.
        used: prompts that were used.
        what: for what they were used.

    Raises:
        DataError: some were.
    """
    seen = {fingerprint(prompt) for prompt in used}
    burned = [probe.prompt for probe in probes if fingerprint(probe.prompt) in seen]
    if burned:
        raise DataError(
            f"{len(burned)} of {len(probes)} probes were used in {what} before, e.g. {burned[0]!r:.60}; "
            "a probe that was learnt from certifies nothing",
            hint="bring probes that no run has seen, e.g. a sealed set",
        )
