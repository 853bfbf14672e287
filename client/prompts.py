"""What a participant is asked on the command line, and where a file answers in their place."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from commonground.errors import InputError

if TYPE_CHECKING:
    from commonground.client.profile import Profile

PASSPHRASE_FILE = "COMMONGROUND_PASSPHRASE_FILE"
NEW_PASSPHRASE_FILE = "COMMONGROUND_NEW_PASSPHRASE_FILE"  # of `device passphrase` alone


def agreed(question: str) -> bool:
    """Ask for a yes; raises `InputError` where nobody can be asked."""
    if not sys.stdin.isatty():
        raise InputError(
            f"{question} Nobody can be asked here: the input is no terminal",
            hint="give --accept (join) or --yes, once you have read what is above",
        )
    return typer.confirm(question, default=False, err=True)


def passphrase_of(profile: Profile) -> str | None:
    """The passphrase of a store, where it has no keyring; asked for where no file is named.

    Raises:
        InputError: it cannot be read, or nobody can be asked.
    """
    from commonground.client.keys import ways

    known = ways(profile.folder)
    if "passphrase" not in known or ("keyring" in known and PASSPHRASE_FILE not in os.environ):
        return None
    return _from_file() or str(typer.prompt("Passphrase of this device", hide_input=True, err=True))


def new_passphrase() -> str:
    """The passphrase of a new store, typed twice, or from the file; raises `InputError`."""
    return _from_file() or str(
        typer.prompt("A passphrase for this device", hide_input=True, confirmation_prompt=True, err=True)
    )


def changed_passphrase(known: bool) -> tuple[str | None, str]:
    """The old passphrase, where there is one, and the new one; each typed, or from its file.

    Args:
        known: whether there is an old one.

    Raises:
        InputError: one cannot be read, or nobody can be asked.
    """
    old = (_from_file() or _typed("The old passphrase")) if known else None
    return old, _from_file(NEW_PASSPHRASE_FILE) or _typed("The new passphrase", twice=True)


def _typed(question: str, *, twice: bool = False) -> str:
    return str(typer.prompt(question, hide_input=True, confirmation_prompt=twice, err=True))


def _from_file(name: str = PASSPHRASE_FILE) -> str | None:
    from commonground.client.service import read_passphrase

    if name in os.environ:
        return read_passphrase(Path(os.environ[name]))
    if not sys.stdin.isatty():
        raise InputError(
            "the store's key is behind a passphrase, and the input is no terminal",
            hint=f"put it into a file of mode 0600 and name it in {name}",
        )
    return None
