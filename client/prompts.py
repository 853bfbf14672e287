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


def _from_file() -> str | None:
    from commonground.client.service import read_passphrase

    if PASSPHRASE_FILE in os.environ:
        return read_passphrase(Path(os.environ[PASSPHRASE_FILE]))
    if not sys.stdin.isatty():
        raise InputError(
            "the store's key is behind a passphrase, and the input is no terminal",
            hint=f"put it into a file of mode 0600 and name it in {PASSPHRASE_FILE}",
        )
    return None
