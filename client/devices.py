"""The person's side of the boundary, as the Flower node process sees it.

A `Device` owns a person's comparisons, adapters and ledger. It hands out one thing, a `Sealed`. Which
device a node talks to is a local decision (the environment variable COMMONGROUND_DEVICE), never the
server's: a message cannot choose what code runs or whose store is opened by it.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import os
from collections.abc import Callable
from typing import Protocol

import numpy as np

from commonground.errors import InputError
from commonground.manifest import Manifest, Sealed

VARIABLE = "COMMONGROUND_DEVICE"
GROUP = "commonground.devices"


class Device(Protocol):
    """What the Flower node may ask of a person's device."""

    @property
    def manifest(self) -> Manifest:
        """What this person agreed may leave."""
        ...

    def shared_update(
        self,
        round: int,
        shared: dict[str, np.ndarray],
        clip: float | None = None,
        release: str | None = None,
    ) -> Sealed:
        """Shared phase: a few steps from `shared` with the private adapter disabled, clipped and sealed.

        Args:
            round: the round, from 1; asked again for the same round, the same update must come.
            shared: the shared adapter u_t, name -> array as in the manifest.
            clip: the clip that the server asks for in this round, where the manifest says that it is adapted;
                one that `manifest.accepted` does not take must be refused. Not given where there is none.
            release: the signed paper that says which version of the shared adapter this is, see
                `commonground.study.release`. Not given where there is none; a real device refuses then.
        """
        ...

    def private_update(
        self, round: int, shared: dict[str, np.ndarray], final: bool, release: str | None = None
    ) -> None:
        """Private phase against the shared policy at `shared`; nothing is handed out.

        Args:
            round: the round; asked again for a round already done, nothing must happen.
            shared: the shared adapter u_t.
            final: True for the one private phase after the last round.
            release: as in `shared_update`.
        """
        ...


Opener = Callable[[int], Device]
OPENERS: dict[str, Opener] = {}  # kinds added in this process, by tests


def open_device(person: int) -> Device:
    """The device of `person`, of the kind that COMMONGROUND_DEVICE names.

    Args:
        person: which person of a simulation; a real device has one person and need not look at it.

    Raises:
        InputError: the variable is not set, or names a kind that is not known here.
    """
    return _opener(os.environ.get(VARIABLE, ""))(person)


def known_devices() -> list[str]:
    """The kinds that can be named on this machine, sorted."""
    return sorted({*OPENERS, *(entry.name for entry in importlib.metadata.entry_points(group=GROUP))})


def _opener(kind: str) -> Opener:
    return OPENERS[kind] if kind in OPENERS else _installed(kind)


@functools.lru_cache(maxsize=8)  # reading the entry points takes milliseconds, and every message asks
def _installed(kind: str) -> Opener:
    for entry in importlib.metadata.entry_points(group=GROUP, name=kind):
        opener: Opener = entry.load()
        return opener
    module, colon, attribute = kind.partition(":")
    if colon:  # a local dotted path, for a device of one's own without packaging
        try:
            opener = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise InputError(f"{VARIABLE} is {kind!r}, which cannot be imported: {error}") from error
        return opener
    known = ", ".join(known_devices()) or "none"
    raise InputError(
        f"{VARIABLE} is {kind!r}; known devices: {known}, or package.module:function",
        hint=f"set the environment variable {VARIABLE} on the machine where the person's data is",
    )
