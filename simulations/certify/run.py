"""`commonground certify`: from a finished run to a signed certificate and its page."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from commonground.embeddings import Encoder
from commonground.errors import InterruptedRunError
from commonground.files import write_atomically
from commonground.mishaps import storage_errors
from commonground.report.certificate_page import certificate_page
from commonground.report.page import write_page
from commonground.simulations.certify.answering import Tick
from commonground.simulations.certify.content import Asked, certificate_content, make_ready
from commonground.simulations.certify.loading import finished_config, load_policies
from commonground.simulations.device_attacks.full import attacked
from commonground.simulations.folder import RunFolder
from commonground.study.signing import Paper, load_key, new_key, sign

KIND = "certificate"
HIDING = "adapters.key"  # in the run's state: of the keyed digests that a certificate shows
CERTIFICATE, PAGE, KEY = "certificate.json", "certificate.html", "certificate.key"


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
    folder = RunFolder(run)
    config = finished_config(folder, allow_code=asked.allow_code)
    given = None if asked.key is None else load_key(asked.key)
    ready = make_ready(asked, Encoder())
    with resumable_answers(run), storage_errors(run), folder.claim(config):
        policies = load_policies(folder, config, asked.tokens, tick)
        about = {"name": run.resolve().name, "rounds": config.rounds, "seed": config.seed}
        kept = folder.state / "certify"
        content = certificate_content(policies, ready, asked, kept, about, tick)
        _hide(content, folder.state / HIDING)
        if asked.full:
            content["attacks"] = attacked(policies, ready, asked.probes, config.seed, kept, tick)
        return write_certificate(run, content, given)


def _hide(content: dict[str, Any], file: Path) -> None:
    """Put keyed digests in the place of digests of people's adapters.

    Whoever knows everybody else's answers could try one person's and compare a plain digest. With the key,
    which stays in `state/`, whoever holds the run can still show what was certified.
    """
    if not file.is_file():
        write_atomically(file, secrets.token_bytes(32), private=True)
    key = file.read_bytes()
    for part, name in (("run", "adapters"), ("procedure", "plan")):
        plain = str(content[part][name])
        content[part][name] = hmac.new(key, plain.encode(), hashlib.sha256).hexdigest()[: len(plain)]


def write_certificate(folder: Path, content: dict[str, Any], key: Ed25519PrivateKey | None = None) -> Paper:
    """Sign a certificate, and write it and its page into a folder.

    Args:
        folder: of the run.
        content: see `certificate_content`.
        key: that signs; None is the folder's own, made on first use.

    Raises:
        StorageError: the disk refused.
    """
    own = folder / KEY
    if key is None:
        key = load_key(own) if own.exists() else new_key(own)
    paper = sign(key, KIND, content)
    # the page first: where there is a certificate, everything is there
    again = f"commonground certify {folder} makes it again"
    write_page(certificate_page(paper.content, paper.signer, paper.signature), folder / PAGE, again)
    write_atomically(folder / CERTIFICATE, (paper.to_text() + "\n").encode())
    return paper


@contextmanager
def resumable_answers(folder: Path) -> Iterator[None]:
    """Turn a stop by the user into an error that says how to go on; raises `InterruptedRunError`."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise InterruptedRunError(
            f"stopped; the answers written so far are kept in {folder}", hint="the same command goes on"
        ) from error
