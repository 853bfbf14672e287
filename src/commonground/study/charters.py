"""Charters as files: a plain one that is being written, or a signed paper that a certificate may rest on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from commonground import __version__
from commonground.bounds.charter import load_charter, open_charter
from commonground.bounds.charter_files import default_charter, shipped_folder
from commonground.bounds.charter_schema import Charter
from commonground.errors import InputError, TrustError
from commonground.study.signing import Paper, fingerprint

SHIPPED = f"shipped with commonground {__version__}"


@dataclass(frozen=True)
class CharterFile:
    """A charter and where it comes from.

    Attributes:
        charter: checked.
        folder: where the files that it names are.
        signer: public key of who signed it; '' where nobody did.
        source: the file, or that it is the shipped one.
    """

    charter: Charter
    folder: Path
    signer: str
    source: str


def read_charter(file: Path | None) -> CharterFile:
    """A charter, signed or not; None is the shipped one.

    Args:
        file: YAML, or a signed paper (JSON).

    Raises:
        InputError: it cannot be read.
        ConfigError: with every fault of its values.
        TrustError: it is a paper, and its signature does not hold.
    """
    if file is None:
        return CharterFile(default_charter(), shipped_folder(), "", SHIPPED)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise InputError(f"the charter {file} cannot be read: {reason}") from error
    if not text.lstrip().startswith("{"):
        return CharterFile(load_charter(file), file.parent, "", str(file))
    paper = Paper.from_text(text, f"the charter {file}")
    return CharterFile(open_charter(paper, paper.signer), file.parent, paper.signer, str(file))


def trusted_charter(file: Path | None, signer: str | None = None) -> CharterFile:
    """A charter that a certificate may rest on: the shipped one, or one that somebody has signed.

    Args:
        file: see `read_charter`.
        signer: whose signature is asked for: a public key, or its fingerprint; None takes any.

    Raises:
        TrustError: it is not signed, or by another.
    """
    found = read_charter(file)
    if file is not None and not found.signer:
        raise TrustError(
            f"the charter {file} is not signed; a signed charter is needed",
            hint=f"commonground charter sign {file} --key FILE signs it",
        )
    if signer is not None:
        wanted, names = "".join(signer.split()).lower(), (found.signer, fingerprint(found.signer))
        if not found.signer or wanted not in ("".join(name.split()) for name in names):
            who = f"signed by {names[1]}" if found.signer else f"not signed, but {SHIPPED}"
            raise TrustError(
                f"the charter {found.source} is {who}; accepted: {signer}",
                hint="ask its author, over another channel, for the charter and the fingerprint",
            )
    return found
