"""`commonground certify`: from a finished run to a signed certificate and its page."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from commonground import __version__
from commonground.bounds.charter_files import check_probes
from commonground.bounds.enforcement import careful, enforce
from commonground.data.starter import starter_texts
from commonground.embeddings import Encoder
from commonground.errors import InputError, InterruptedRunError
from commonground.files import write_atomically
from commonground.mishaps import storage_errors
from commonground.report.certificate_page import certificate_page
from commonground.report.page import write_page
from commonground.simulations.certify.answering import Kept, answer_all
from commonground.simulations.certify.charters import CharterFile, trusted_charter
from commonground.simulations.certify.dealing import Row, deal, read_charter_probes
from commonground.simulations.certify.document import SCHEMA, document, judge_answers
from commonground.simulations.certify.judges import LETTERS, make_judge
from commonground.simulations.certify.loading import RunPolicies, finished_config, load_policies
from commonground.simulations.folder import RunFolder
from commonground.study.signing import Paper, load_key, new_key, sign

KIND = "certificate"
CERTIFICATE, PAGE, KEY = "certificate.json", "certificate.html", "certificate.key"
Tick = Callable[[str, int, int], None]


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
    """

    charter: Path | None = None
    signer: str | None = None
    key: Path | None = None
    probes: int = 300
    tokens: int = 24
    judge: str = LETTERS
    full: bool = False

    def __post_init__(self) -> None:
        """Check the numbers; raises `InputError`."""
        for name, value in (("probes", self.probes), ("tokens", self.tokens)):
            if value < 1:
                raise InputError(f"--{name} is {value}; accepted: 1 or more")


def certify(run: Path, asked: Asked, tick: Tick) -> Paper:
    """Certify a finished run; `certificate.json` and `certificate.html` are written into its folder.

    Args:
        run: the run's folder.
        asked: how.
        tick: progress.

    Returns:
        The signed certificate.

    Raises:
        InputError: run, charter, key, probes or judge cannot be used; nothing was written then.
        TrustError: the charter, or a file beside it, is not the accepted one.
        InterruptedRunError: Ctrl-C; the same command goes on.
    """
    began = time.monotonic()
    folder = RunFolder(run)
    config = finished_config(folder)
    charter = trusted_charter(asked.charter, asked.signer)
    check_probes(charter.charter, charter.folder)
    given = None if asked.key is None else load_key(asked.key)
    encoder = Encoder()
    embed = careful(encoder, starter_texts())
    judge = make_judge(asked.judge, charter.charter, charter.folder, embed, encoder.digest)
    with _resumable(run), storage_errors(run), folder.claim(config):
        policies = load_policies(folder, config, asked.tokens, tick)
        probes = read_charter_probes(charter, policies.used)
        enforcement = enforce(charter.charter, charter.folder, encoder, policies.base)
        rows = deal(probes, asked.probes, len(policies.people), config.seed, full=asked.full)
        plan = _plan(charter, policies, rows, encoder.digest)
        kept = Kept(folder.state / "certify" / f"{plan}.jsonl")
        answers = answer_all(policies, enforcement, rows, kept, tick)
        found = judge_answers(rows, answers, judge)
        content: dict[str, Any] = {"schema": SCHEMA, "software": __version__}
        content |= {"made": datetime.now(UTC).isoformat(timespec="seconds")}
        content |= document(charter.charter, found, judge, policies.people, policies.groups)
        content["run"] = {
            "name": run.resolve().name,
            "base": policies.base,
            "adapters": policies.digest,
            "people": len(policies.people),
            "rounds": config.rounds,
            "seed": config.seed,
        }
        content["charter"] = _charter(charter)
        content["procedure"] = {
            "probes": sum(row.kind == "probe" and row.dealt for row in rows),
            "sets": {name: charter.charter.probes[name].sha256 for name in probes.sets},
            "split": probes.split,
            "tokens": asked.tokens,
            "temperature": policies.temperature,
            "delta": charter.charter.bounds.delta,
            "draws": charter.charter.bounds.draws,
            "full": asked.full,
            "plan": plan,
            "seconds": round(time.monotonic() - began, 1),
        }
        paper = sign(given or _key(run), KIND, content)
        # the page first: where there is a certificate, everything is there
        again = f"commonground certify {run} makes it again"
        write_page(certificate_page(paper.content, paper.signer, paper.signature), run / PAGE, again)
        write_atomically(run / CERTIFICATE, (paper.to_text() + "\n").encode())
    return paper


@contextmanager
def _resumable(run: Path) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as error:
        raise InterruptedRunError(
            f"stopped; the answers written so far are kept in {run}", hint="the same command goes on"
        ) from error


def _key(run: Path) -> Ed25519PrivateKey:
    """The run's own key, made on first use."""
    return load_key(run / KEY) if (run / KEY).exists() else new_key(run / KEY)


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


def _plan(charter: CharterFile, policies: RunPolicies, rows: Sequence[Row], encoder: str) -> str:
    """A name for exactly this: charter, policies, who is asked what, how long and how warm."""
    about = [charter.charter.digest, policies.digest, policies.tokens, policies.temperature, encoder]
    text = json.dumps([*about, [asdict(row) for row in rows]])
    return hashlib.sha256(text.encode()).hexdigest()[:24]
