"""From policies and a charter to the content of a certificate, whoever's policies they are."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from commonground import __version__
from commonground.bounds.charter_files import check_probes
from commonground.bounds.enforcement import FrozenEncoder, answer_detector, careful, enforce
from commonground.bounds.intervals import Judge
from commonground.data.labelled_answers import labelled_answers
from commonground.data.starter import starter_texts
from commonground.errors import InputError
from commonground.simulations.certify.answering import Answer, Described, Kept, Policies, Tick, answer_all
from commonground.simulations.certify.dealing import PROBE, Probes, Row, deal, read_charter_probes
from commonground.simulations.certify.document import SCHEMA, document, judge_answers
from commonground.simulations.certify.judges import TriedJudge, make_judge, record_of
from commonground.simulations.certify.state_judge import STATES
from commonground.study.charters import CharterFile, trusted_charter


@dataclass(frozen=True)
class Asked:
    """What the command is asked for.

    Attributes:
        charter: a signed charter; None is the shipped one.
        signer: whose signature it must have; None takes any.
        key: that signs the certificate; None is the run's own, made on first use.
        probes: how many are used, at most as many as the charter has.
        tokens: of an answer, at most.
        judge: see `judges.make_judge`.
        full: everybody is asked every probe.
        allow_code: names of code in the run's configuration may be imported.
    """

    charter: Path | None = None
    signer: str | None = None
    key: Path | None = None
    probes: int = 300
    tokens: int = 24
    judge: str = STATES
    full: bool = False
    allow_code: bool = False

    def __post_init__(self) -> None:
        """Check the numbers; raises `InputError`."""
        for name, value in (("probes", self.probes), ("tokens", self.tokens)):
            if value < 1:
                raise InputError(f"--{name} is {value}; accepted: 1 or more")


@dataclass(frozen=True)
class Ready:
    """What can be checked before any policy is loaded: charter, probes' digests, judge.

    Attributes:
        charter: trusted.
        judge: with its record.
        encoder: that the charter's heads read with.
    """

    charter: CharterFile
    judge: TriedJudge
    encoder: FrozenEncoder


def make_ready(asked: Asked, encoder: FrozenEncoder, file: CharterFile | None = None) -> Ready:
    """Check what is asked for, before the long part.

    Args:
        asked: how.
        encoder: that the charter's heads read with.
        file: a charter that is trusted already, in place of the one that is asked for.

    Raises:
        InputError: charter or judge cannot be used.
        TrustError: the charter, or a file beside it, is not the accepted one.
    """
    charter = file or trusted_charter(asked.charter, asked.signer)
    check_probes(charter.charter, charter.folder)
    embed = careful(encoder, starter_texts())
    judge = make_judge(asked.judge, charter.charter, charter.folder, embed, encoder.digest)
    return Ready(charter, judge, encoder)


def certificate_content(
    policies: Policies, ready: Ready, asked: Asked, kept: Path, about: dict[str, Any], tick: Tick
) -> dict[str, Any]:
    """Ask, judge and count.

    Args:
        policies: of the people.
        ready: charter and judge.
        asked: how.
        kept: folder of the answers that are written.
        about: `name`, `rounds` and `seed` of what is certified.
        tick: progress.

    Raises:
        TrustError: a detector or the base model is not the charter's.
        DataError: a probe was learnt from.
    """
    began, charter = time.monotonic(), ready.charter.charter
    probes = read_charter_probes(ready.charter, policies.used)
    enforcement = enforce(charter, ready.charter.folder, ready.encoder, policies.base)
    rows = deal(probes, asked.probes, len(policies.people), int(about["seed"]), full=asked.full)
    plan = plan_of(ready, policies, rows)
    answers = answer_all(policies, enforcement, rows, Kept(kept / f"{plan}.jsonl"), tick)
    return assembled(policies, ready, asked, probes, rows, answers, about | {"plan": plan}, began, tick)


def assembled(
    policies: Described,
    ready: Ready,
    asked: Asked,
    probes: Probes,
    rows: Sequence[Row],
    answers: Sequence[Answer],
    about: dict[str, Any],
    began: float,
    tick: Tick,
) -> dict[str, Any]:
    """Judge answers, and say everything that a certificate says.

    Args:
        policies: whose answers they are.
        ready: charter and judge.
        asked: how.
        probes: what the rows were dealt from.
        rows: what was asked.
        answers: one a row.
        about: `name`, `rounds` and `seed` of what is certified, and the `plan`.
        began: on the monotonic clock.
        tick: progress.
    """
    charter = ready.charter.charter
    about = dict(about)
    plan = about.pop("plan")
    found = judge_answers(rows, answers, ready.judge, tick)
    content: dict[str, Any] = {"schema": SCHEMA, "software": __version__}
    content |= {"made": datetime.now(UTC).isoformat(timespec="seconds")}
    content |= document(charter, found, ready.judge, policies.people, policies.groups)
    content["guard"] = asdict(guard_record(ready))
    base = {"base": policies.base, "adapters": policies.digest, "people": len(policies.people)}
    content["run"] = about | base
    content["charter"] = _charter(ready.charter)
    content["procedure"] = {
        "probes": sum(row.kind == PROBE and row.dealt for row in rows),
        "sets": {name: charter.probes[name].sha256 for name in probes.sets},
        "split": probes.split,
        "tokens": policies.tokens,
        "temperature": policies.temperature,
        "delta": charter.bounds.delta,
        "draws": charter.bounds.draws,
        "full": asked.full,
        "plan": plan,
        "seconds": round(time.monotonic() - began, 1),
    }
    return content


def guard_record(ready: Ready) -> Judge:
    """How the charter's guard does on labelled answers to prompts that claims are made on.

    The shipped one was fitted on answers to others. Nothing is corrected by it; it says what it is worth.
    """
    rows = [row for row in labelled_answers() if row.split == "dev"]
    public = [text for row in rows for text in (row.prompt, row.answer)]
    charter = ready.charter
    return record_of(answer_detector(charter.charter, charter.folder, ready.encoder, public), rows)


def _charter(file: CharterFile) -> dict[str, Any]:
    charter = file.charter
    return {
        "digest": charter.digest,
        "title": charter.title,
        "version": charter.version,
        "source": Path(file.source).name if file.signer else file.source,
        "signer": file.signer,
        "constraints": {name: one.text for name, one in charter.constraints.items()},
        "severity": {name: one.severity for name, one in charter.constraints.items()},
        "appeal": charter.changes.appeal,
    }


def plan_of(ready: Ready, policies: Described, rows: Sequence[Row]) -> str:
    """A name for exactly this: charter, policies, who is asked what, how long and how warm."""
    about = [ready.charter.charter.digest, policies.digest, policies.tokens, policies.temperature]
    text = json.dumps([*about, ready.encoder.digest, [asdict(row) for row in rows]])
    return hashlib.sha256(text.encode()).hexdigest()[:24]
