r"""Centred clipping, one step around a public centre.

    device:  sends clip_r(y - u - v);     server:  v <- v + mean,  u <- u + v

Karimireddy, He, Jaggi, ICML 2021, arXiv 2012.10333, with one iteration and the previous aggregate as the
centre v, zero at first. Because v is public, what is sent is bounded by r and is added up: one person moves
the sum by at most r, so the rule is linear and meets central noise and secure summation. r is the run's
clip norm (`privacy.shared.clip`, or `radius` where it is smaller) and stands in the manifest even without
any privacy, so that the server refuses whoever does not keep to it. Where nobody is clipped and the cohort
has its expected size this is FedAvg. A cohort that is smaller than expected leaves a part of the last step
in the next one.
"""

from __future__ import annotations

from collections.abc import Sequence

from commonground.strategies.server_half import Arrays, ServerHalf, between
from commonground.training.client_half import EXTRA, Answer, ClientHalf, Spec, Visit

CENTRE = f"{EXTRA}centre."


class CentredClipping(ServerHalf):
    """The server's half.

    Args:
        radius: r; 0 = the run's clip norm.
    """

    def __init__(self, radius: float = 0.0) -> None:
        super().__init__()
        self.radius = between("radius", radius, 0.0, float("inf"))

    def client_half(self) -> ClientHalf:
        """The device's half."""
        return CentredClippingDevice(self.radius)

    def step(self, start: Arrays, moves: Sequence[Arrays]) -> Arrays:
        """See the module's text."""
        (mean,) = moves
        centres = {
            n: value + mean[n.removeprefix(CENTRE)] for n, value in start.items() if n.startswith(CENTRE)
        }
        return {n: value + centres[CENTRE + n] for n, value in start.items() if n not in centres} | centres


class CentredClippingDevice(ClientHalf):
    """The device's half; the manifest does the clipping."""

    def __init__(self, radius: float) -> None:
        self.radius = radius

    def received(self, shared: Spec, groups: int) -> Spec:
        """The centre v."""
        return {CENTRE + name: shape for name, shape in shared.items()}

    def bound(self, clip: float, private: bool) -> float | None:
        """The radius r."""
        return min(clip, self.radius) if self.radius else clip

    def update(self, visit: Visit) -> Answer:
        """The update as seen from the centre; a person with nothing to learn from stands at zero."""
        moved, after = visit.train()
        return Answer({name: value - visit.received[CENTRE + name] for name, value in moved.items()}, after)
