"""What attackers send in place of the updates that their devices sealed.

The result is clipped to the manifest's C and lies on its grid. The server checks both and refuses the rest,
so an attacker who does not clip is not heard at all. Where devices add noise (`trust=local`) the server
cannot check the norm; attackers there add no noise and still keep to C, so that the bounds below hold under
either trust.

Influence on the mean with denominator m, whatever is sent: f attackers move it by at most f C / m against
their being absent, and by at most 2 f C / m against their having been honest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from commonground.grid import truncated
from commonground.manifest import Manifest
from commonground.simulations.attacks.base import Attack, Cohort
from commonground.simulations.attacks.numerics import within

Arrays = dict[str, np.ndarray]
Noise = Callable[[int, Sequence[int]], Arrays]


class Rewriter:
    """The update half of an attack in one arm.

    Args:
        attack: which.
        people: indices of the attackers.
        manifest: what may leave a device.
        seed: `attack.seed`.
        expected: m.
        noise: the noise that these people's devices have added in a round, name -> (P, *shape), or None.
    """

    def __init__(
        self,
        attack: Attack,
        people: frozenset[int],
        manifest: Manifest,
        *,
        seed: int,
        expected: float,
        noise: Noise | None = None,
    ) -> None:
        self.attack, self.people, self.manifest = attack, people, manifest
        self._seed, self._expected, self._noise = seed, expected, noise

    def concerns(self, people: Sequence[int]) -> bool:
        """Whether anybody among these people attacks."""
        return not self.people.isdisjoint(people)

    def rewrite(self, round: int, people: Sequence[int], sent: Arrays, clip: float | None = None) -> Arrays:
        """What arrives at the server.

        Args:
            round: from 1.
            people: who answered, ascending.
            sent: name -> (P, *shape), their sealed updates.
            clip: the clip that the server asks for, where it is adapted; None is the manifest's.

        Returns:
            The same of honest people, byte for byte; of attackers, clipped, in the manifest's dtypes. What
            leaves beside the tensors under the clip is what the attackers' devices sealed.
        """
        lies = np.array([person in self.people for person in people], bool)
        if not lies.any():
            return sent
        liars = [person for person in people if person in self.people]
        most = self.manifest.clip if clip is None else clip
        own = {t.name: sent[t.name][lies].astype(np.float64) for t in self.manifest.tensors}
        if self._noise is not None:  # their devices add none
            noise = self._noise(round, liars)
            own = {name: value - noise[name] for name, value in own.items()}
        cohort = Cohort(
            self._seed, round, tuple(liars), self._flat(own), self._flat(sent)[~lies],
            most, self._expected,
        )  # fmt: skip
        clipped = self._parts(within(self.attack.send(cohort), most))
        found = {name: value.copy() for name, value in sent.items()}
        for name, value in clipped.items():
            found[name][lies] = truncated(value, self.manifest.step(clip)) + 0.0  # no -0, as in every message
        return found

    def _flat(self, arrays: Arrays) -> np.ndarray:
        """(P, d) float64, in the manifest's order."""
        specs = self.manifest.tensors
        parts = [arrays[t.name].reshape(-1, int(np.prod(t.shape))).astype(np.float64) for t in specs]
        return np.concatenate(parts, axis=1)

    def _parts(self, flat: np.ndarray) -> Arrays:
        specs = self.manifest.tensors
        ends = np.cumsum([int(np.prod(t.shape)) for t in specs])[:-1]
        parts = np.split(flat, ends, axis=1)
        return {t.name: part.reshape(-1, *t.shape) for t, part in zip(specs, parts, strict=True)}
