"""The charter as it travels with an offer: its signed paper, and the files beside it, as one text.

The offer's configuration names the charter by its digest (`bounds.charter`), and so does the egress manifest
that a device derives from it; whoever accepts the offer accepts that charter and no other. An invitation
carries the text. Each file in it is held to the charter's own digests, so that nobody on the way can change
one. The files of the shipped charter are installed on both sides and do not travel. Sealed probes never do:
they are a certifier's, and would be no secret any more.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from commonground.bounds.charter import open_charter
from commonground.bounds.charter_files import shipped_digest, shipped_folder
from commonground.bounds.charter_schema import Charter
from commonground.bounds.enforcement import check_files
from commonground.errors import CommonGroundError, ConfigError, InputError, TrustError
from commonground.study.offer import odd_characters
from commonground.study.signing import Paper

LARGEST = 2 << 20  # characters; the shipped files together have 130,000
PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # a file beside the charter, never a way out of there
HUB = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)
ASK = "ask the operator for a new invitation"


@dataclass(frozen=True)
class Carried:
    """A charter that came with an offer.

    Attributes:
        charter: checked; its digest is the offer's.
        signer: public key of who signed it.
        files: name -> text, as they came; none for the shipped charter.
    """

    charter: Charter
    signer: str
    files: Mapping[str, str]

    @property
    def shipped(self) -> bool:
        """Whether it is the charter that is installed on both sides."""
        return _shipped(self.charter)

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """Where the charter's files can be read; gone afterwards, unless they are the shipped ones.

        Raises:
            StorageError: the disk refused.
        """
        if self.shipped:
            yield shipped_folder()
            return
        with tempfile.TemporaryDirectory(prefix="commonground-charter-") as made:
            for name, text in self.files.items():
                (Path(made) / name).write_bytes(text.encode())
            yield Path(made)


def carry(paper: Paper, folder: Path) -> str:
    """The text that travels.

    Args:
        paper: the signed charter.
        folder: where its files are.

    Raises:
        InputError: a file cannot be read or does not travel, or all together are too large.
        TrustError: the signature does not hold.
        ConfigError: the charter has faults.
    """
    charter = open_charter(paper, paper.signer)
    faults = [*_odd_names(charter), *_odd_texts(charter)]
    if faults:
        raise InputError(f"the charter cannot travel with an offer: {faults[0]}")
    files = {}
    for name in _travel(charter):
        try:
            files[name] = (folder / name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no text"
            raise InputError(f"the charter's file {folder / name} cannot be read: {reason}") from error
    text = json.dumps({"charter": paper.to_text(), "files": files}, ensure_ascii=False)
    if len(text) > LARGEST:
        raise InputError(
            f"the charter and its files have {len(text):,} characters; accepted: at most {LARGEST:,}",
            hint="name a large detector by its hub name, and keep probes that only a certifier needs sealed",
        )
    return text


def read_carried(text: str, digest: str, encoder: str) -> Carried:
    """A charter that came with an offer, held to it, with every file held to the charter.

    Args:
        text: as it came.
        digest: of the charter, as the accepted offer names it.
        encoder: digest of this device's frozen encoder, which heads must have been fitted on.

    Raises:
        TrustError: it is missing, damaged, not signed, another charter than the offer's, or a file is not
            what the charter names.
    """
    if not text:
        raise TrustError("the charter of the study is missing from the invitation", hint=ASK)
    paper, charter, files = _read(text)
    if charter.digest != digest:
        raise TrustError(
            f"the study's charter has the digest {charter.digest[:12]}; the offer names {digest[:12]}",
            hint=ASK,
        )
    faults = [*_odd_names(charter), *_odd_texts(charter)]
    if sorted(files) != sorted(_travel(charter)) or not all(isinstance(t, str) for t in files.values()):
        faults.append(f"files {', '.join(sorted(map(str, files))) or '(none)'} came with it")
    if faults:
        raise TrustError(f"the study's charter cannot be used: {faults[0]}", hint=ASK)
    found = Carried(charter, paper.signer, files)
    try:
        with found.folder() as folder:
            check_files(charter, folder, encoder)
    except TrustError:
        raise
    except CommonGroundError as error:
        raise TrustError(f"the study's charter cannot be used: {error.message}", hint=ASK) from error
    return found


def carried_models(text: str) -> dict[str, str]:
    """Hub name -> digest of the classifiers that a carried charter names; nothing of it is held to yet.

    Raises:
        TrustError: it is no charter.
    """
    _, charter, _ = _read(text)
    if _shipped(charter):
        return {}
    return {one.place: one.digest for one in charter.detectors.values() if one.kind == "classifier"}


def _read(text: str) -> tuple[Paper, Charter, dict[str, str]]:
    """Paper, charter and files of a carried text; raises `TrustError` where it is none."""
    try:
        values = json.loads(text if len(text) <= LARGEST else "")
        paper, files = Paper.from_text(values["charter"], "the study's charter"), dict(values["files"])
        for one in files.values():
            str(one).encode()  # half of a surrogate pair is no text that a file can hold
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise TrustError(
            "the study's charter is damaged: it is no charter with its files", hint=ASK
        ) from error
    try:
        return paper, open_charter(paper, paper.signer), files
    except ConfigError as error:
        raise TrustError(f"the study's charter cannot be used: {error.faults[0]}", hint=ASK) from error


def _shipped(charter: Charter) -> bool:
    return charter.digest == shipped_digest()


def _travel(charter: Charter) -> list[str]:
    """Names of the files that travel."""
    if _shipped(charter):
        return []
    heads = {one.place for one in charter.detectors.values() if one.kind == "head"}
    probes = {one.file for one in charter.probes.values() if one.split != "sealed"}
    return sorted(heads | probes)


def _odd_names(charter: Charter) -> Iterator[str]:
    for name, detector in charter.detectors.items():
        form = PLAIN if detector.kind == "head" else HUB
        if not form.fullmatch(detector.place) or ".." in detector.place:
            yield f"detectors.{name}.place is {detector.place[:60]!a}; accepted: a plain file or hub name"
    for name, probes in charter.probes.items():
        if not PLAIN.fullmatch(probes.file):
            yield f"probes.{name}.file is {probes.file[:60]!a}; accepted: a plain file name"


def _odd_texts(charter: Charter) -> Iterator[str]:
    """A participant reads these words in a terminal and decides by what they see."""
    texts = {"title": charter.title}
    for name, one in charter.constraints.items():
        at = f"constraints.{name}"
        texts |= {
            f"{at}.text": one.text,
            f"{at}.jurisdiction": one.jurisdiction,
            f"{at}.refusal": one.refusal,
        }
    changes = charter.changes
    texts |= {"changes.who": changes.who, "changes.how": changes.how, "changes.appeal": changes.appeal}
    for at, text in texts.items():
        if odd := odd_characters(text):
            yield f"{at} holds {odd}"
