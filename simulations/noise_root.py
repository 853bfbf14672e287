"""The secret number that noise and coins of a run come from, with `privacy.noise=os`."""

from __future__ import annotations

import secrets
from pathlib import Path

from commonground.config import Config
from commonground.errors import RunFolderError
from commonground.files import write_atomically

NAME = "noise.key"
BITS = 256


def make_noise_root(config: Config, state: Path) -> int | None:
    """The number of a run, drawn once from the operating system and kept for whoever resumes it.

    Args:
        config: resolved.
        state: the run's `state/`; the number stands there and nowhere else.

    Returns:
        None where noise comes from the run's seed.

    Raises:
        RunFolderError: what is kept cannot be read.
    """
    path = state / NAME
    if config.privacy.noise == "os" and not path.is_file():
        state.mkdir(parents=True, exist_ok=True)
        write_atomically(path, f"{secrets.randbits(BITS)}\n".encode(), private=True)
    return noise_root(config, state)


def noise_root(config: Config, state: Path) -> int | None:
    """What `make_noise_root` made; raises `RunFolderError` where it is missing or damaged."""
    if config.privacy.noise != "os":
        return None
    try:
        return int((state / NAME).read_text())
    except (OSError, ValueError) as error:
        raise RunFolderError(
            f"{state / NAME} cannot be read: {error}; without it this run's noise cannot be made again",
            hint=f"delete {state} to start over",
        ) from error
