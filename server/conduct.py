"""How the rounds of real devices differ from a simulation's: what happens around a round, never inside it."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from flwr.app import ArrayRecord

from commonground.strategies.person_dp import PersonLevel


class Conduct:
    """A simulation's: nothing happens around a round."""

    def opening(
        self, round: int, arrays: ArrayRecord, wrapper: PersonLevel, stop: threading.Event
    ) -> ArrayRecord:
        """Before anything of a round goes out; the one after the last round is the final release.

        Args:
            round: from 1 to rounds + 1.
            arrays: the shared adapter as the round before left it.
            wrapper: may be told who can be drawn.
            stop: set where the run is to stop; waiting must end then.

        Returns:
            What the round begins with.
        """
        return arrays

    def asked_privately(self, wrapper: PersonLevel) -> Sequence[int]:
        """People who are asked for their private phase once the round's updates are in, ascending."""
        return wrapper.cohort
