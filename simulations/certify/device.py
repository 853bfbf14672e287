"""Certify the policy of one device, on that device, through its running vault.

The vault alone opens the store: this asks it what its person asks it, and counts what she would be shown, by
the stack that really runs. Answers are streamed, so one may be cut: what was shown of it is judged, and where
cost is counted it was not her own. Draws are the device's, new each time, so nobody can choose them, and a
second certificate is another one. Answers are kept in memory alone. Nothing leaves.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from commonground.client.owner import OwnerClient
from commonground.client.pieces import Piece
from commonground.client.profile import Profile
from commonground.client.prompts import passphrase_of
from commonground.client.told import TEMPERATURE
from commonground.embeddings import Encoder
from commonground.errors import InputError, InterruptedRunError, TrustError
from commonground.simulations.certify.answering import Answer, Tick
from commonground.simulations.certify.content import Asked, assembled, make_ready, plan_of
from commonground.simulations.certify.dealing import PROBE, Row, deal, read_charter_probes
from commonground.simulations.certify.run import write_certificate
from commonground.study.carried import Carried, read_carried
from commonground.study.charters import CharterFile, trusted_charter
from commonground.study.signing import Paper, fingerprint, load_key

PAGE = 500  # comparisons that are read at once


@dataclass(frozen=True)
class OneDevice:
    """Whose policy it is; see `answering.Described`.

    Attributes:
        used: prompts that she compared answers to.
        tokens: of an answer, at most.
        base: digest of the base model.
        digest: over the offer and the versions of both adapters.
    """

    used: frozenset[str]
    tokens: int
    base: str
    digest: str
    people: tuple[str, ...] = ("this device",)
    groups: tuple[str | None, ...] = (None,)
    temperature: float = TEMPERATURE


def certify_device(profile: Profile, asked: Asked, tick: Tick) -> Paper:
    """Certify; the certificate, its page and its key are in the profile's folder.

    Args:
        profile: of the device; its vault must run.
        asked: how. The charter is the accepted one; a file is needed where it has sealed probes.
        tick: progress.

    Raises:
        InputError: no vault runs, nothing is accepted, the model writes nothing, or an option cannot be used.
        TrustError: another charter than the accepted one.
        DataError: a probe was learnt from.
        InterruptedRunError: Ctrl-C; nothing was kept.
    """
    if asked.full:
        raise InputError("--full with a device; accepted with a run, which has people to compare")
    offer = profile.terms()
    if not offer.config.get("bounds", {}).get("charter"):
        raise InputError(
            f"study {profile.study} has no charter: its model judges answers and writes none",
            hint="a certificate is about answers; take a study of kind policy",
        )
    given = None if asked.key is None else load_key(asked.key)
    encoder = Encoder()
    carried = read_carried(profile.charter(), offer.config["bounds"]["charter"], encoder.digest)
    with OwnerClient(profile.folder, passphrase_of(profile)) as owner, carried.folder() as folder, _stopped():
        began, status = time.monotonic(), _ready_status(owner)
        file = _charter(carried, folder, asked)
        ready = make_ready(replace(asked, charter=None), encoder, file)
        who = OneDevice(_used(owner), asked.tokens, dict(offer.base).get("base", ""), _digest(status))
        probes = read_charter_probes(file, who.used)
        rows = deal(probes, asked.probes, 1, seed=0)
        answers = _answers(owner, rows, asked.tokens, tick)
        if _digest(_ready_status(owner)) != who.digest:
            raise InputError(
                "an adapter of this device changed while it was asked: nothing is certified",
                hint="commonground device pause, then try again",
            )
        about = {"name": f"{profile.study}, {profile.name}", "rounds": status["shared"]["round"], "seed": 0}
        plan = plan_of(ready, who, rows)
        content = assembled(who, ready, asked, probes, rows, answers, about | {"plan": plan}, began, tick)
        return write_certificate(profile.folder, content, given)


def _ready_status(owner: OwnerClient) -> dict[str, Any]:
    status = owner.status()
    if not status["consented"]:
        raise InputError(
            "nothing is accepted on this device", hint="read the offer on its page and accept it"
        )
    return status


def _digest(status: dict[str, Any]) -> str:
    about = [status["offer"]["digest"], status["shared"], status["private"]["version"]]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _charter(carried: Carried, folder: Path, asked: Asked) -> CharterFile:
    """The accepted charter, in the folder where its probes are."""
    came = CharterFile(carried.charter, folder, carried.signer, "the accepted offer")
    if asked.charter is None:
        names = (carried.signer, fingerprint(carried.signer).replace(" ", ""))
        if asked.signer is not None and "".join(asked.signer.split()).lower() not in names:
            raise TrustError(
                f"the accepted charter is signed by {fingerprint(carried.signer)}; accepted: {asked.signer}"
            )
        return came
    found = trusted_charter(asked.charter, asked.signer)
    if found.charter.digest != carried.charter.digest:
        raise TrustError(
            f"the charter {asked.charter} has the digest {found.charter.digest[:16]}; this device accepted "
            f"{carried.charter.digest[:16]}",
            hint="leave --charter out: the accepted one came with the offer",
        )
    return found


def _used(owner: OwnerClient) -> frozenset[str]:
    """Prompts of everything that she compared."""
    found: set[str] = set()
    total, first = 1, 0
    while first < total:
        page = owner.comparisons(first, PAGE)
        total, first = int(page["total"]), first + PAGE
        found |= {str(item["prompt"]) for item in page["items"]}
    return frozenset(found)


def _answers(owner: OwnerClient, rows: Sequence[Row], tokens: int, tick: Tick) -> list[Answer]:
    found = []
    tick("answers", 0, len(rows))
    for done, row in enumerate(rows, start=1):
        mine = list(owner.generate(row.prompt, "personal", tokens))
        # a closed prompt was answered by a draw of the shared policy: it is that draw
        ours = mine
        if row.kind == PROBE and mine[-1].tier != "closed":
            ours = list(owner.generate(row.prompt, "shared", tokens))
        found.append(answer_of(row, mine, ours))
        tick("answers", done, len(rows))
    return found


def answer_of(row: Row, mine: Sequence[Piece], ours: Sequence[Piece]) -> Answer:
    """What was shown, as certificates count it.

    Args:
        row: what was asked.
        mine: the personal answer in pieces.
        ours: the shared policy's; for probes alone.
    """
    shown, last = _shown(mine), mine[-1]
    cut = bool(shown) and last.source == "refusal"
    # of a cut answer the words that were shown are judged; for what safety costs, it was refused
    source = mine[0].source if cut and row.kind == PROBE else last.source
    text = shown if source != "refusal" else last.text
    passed = _shown(ours)
    if row.kind != PROBE:
        return Answer(last.tier, source, text, last.reasons, None, False)
    return Answer(last.tier, source, text, last.reasons, passed or None, bool(passed))


def _shown(pieces: Sequence[Piece]) -> str:
    return "".join(piece.text for piece in pieces if piece.source != "refusal")


@contextmanager
def _stopped() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as error:
        raise InterruptedRunError(
            "stopped; no answer was kept", hint="the same command begins anew"
        ) from error
