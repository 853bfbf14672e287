r"""How long an honest message can be where its device added the noise (trust=local).

    ||x + N(0, s^2 I_d)||  <=  C + s (sqrt(d) + t)      but with probability exp(-t^2 / 2)

for every x of norm at most C. The norm of a standard normal vector has mean at most sqrt(d) and is a
1-Lipschitz function of it, hence the tail (Borell 1975; Ledoux and Talagrand, Probability in Banach Spaces,
1991, eq. 1.4; the same for a part of the vector). So a server can refuse what no honest device sends without
knowing the noise, and what it does with a message is post-processing: it costs no privacy.

Each tensor has a bound of its own beside that on all of them: a strategy's scalar (a loss, a denominator) is
one number, and would otherwise be given the whole message's length. The tensors' bounds share one failure
probability: t_T = sqrt(t^2 + 2 ln T) for T of them. Together an honest message is refused with probability at
most 2 exp(-t^2/2), 3e-8 at t = 6.

What this cannot take away: whoever keeps to the bound and points all of it one way still weighs
z (sqrt(d) + t) + 1 clips, z = s/C, against one clip of an honest person. That is the price of local noise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from commonground.clipping import joint_norm, joint_norms
from commonground.errors import EgressError
from commonground.manifest import TOLERANCE, Manifest


class TooLongError(EgressError):
    """A message is longer than one of an honest device."""


TAIL = 6.0  # t: 1.5e-8 of honest messages are longer


@dataclass(frozen=True)
class Reach:
    """The longest honest message.

    Attributes:
        joint: L2 norm over all tensors under the clip together.
        each: name of a tensor -> its own L2 norm.
    """

    joint: float
    each: Mapping[str, float]

    def check(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Refuse a message that is longer; raises `TooLongError`.

        Args:
            tensors: name -> array, of the manifest's names and shapes; others than those bounded are left.
        """
        bounds = {"message": self.joint} | {f"tensor {name!r}": most for name, most in self.each.items()}
        norms = {"message": joint_norm({name: tensors[name] for name in self.each})}
        norms |= {f"tensor {name!r}": joint_norm({name: tensors[name]}) for name in self.each}
        for what, most in bounds.items():
            if not norms[what] <= most * (1 + TOLERANCE):
                raise TooLongError(
                    f"{what} has L2 norm {norms[what]:.6g}; an honest one has at most {most:.6g}"
                )

    def holds(self, tensors: Mapping[str, np.ndarray]) -> np.ndarray:
        """`check` for many people: (P,) bool of name -> (P, *shape)."""
        norms = joint_norms({name: tensors[name] for name in self.each})
        kept = np.asarray(norms <= self.joint * (1 + TOLERANCE))
        for name, most in self.each.items():
            kept &= joint_norms({name: tensors[name]}) <= most * (1 + TOLERANCE)
        return kept


def honest_reach(
    manifest: Manifest, deviation: float, clip: float | None = None, tail: float = TAIL
) -> Reach:
    """The bounds of the module's text.

    Args:
        manifest: what leaves a device; the bit, where there is one, is no part of it.
        deviation: s, of the noise that the device adds to each number; 0 where it adds none.
        clip: C of this round; None is the manifest's.
        tail: t.
    """
    clip = manifest.clip if clip is None else clip
    own = math.sqrt(tail**2 + 2 * math.log(max(1, len(manifest.tensors))))
    sizes = {spec.name: math.prod(spec.shape) for spec in manifest.tensors}
    each = {name: clip + deviation * (math.sqrt(size) + own) for name, size in sizes.items()}
    return Reach(clip + deviation * (math.sqrt(sum(sizes.values())) + tail), each)


def cohort_reach(manifest: Manifest, deviation: float, people: int, tail: float = TAIL) -> float:
    """The longest sum of the messages of so many honest people: n C + sqrt(n) s (sqrt(d) + t).

    Args:
        manifest: as in `honest_reach`.
        deviation: as there.
        people: n.
        tail: t.
    """
    noise = deviation * (math.sqrt(manifest.size) + tail)
    return people * manifest.clip + math.sqrt(people) * noise


def weight_in_clips(noise_multiplier: float, size: int, tail: float = TAIL) -> float:
    """How far one participant can move the sum, in clips: z (sqrt(d) + t) + 1, 1 without device noise.

    Args:
        noise_multiplier: z of the noise that each device adds; 0 where the server adds it.
        size: d, numbers in a message.
        tail: t.
    """
    return 1.0 + noise_multiplier * (math.sqrt(size) + tail)
