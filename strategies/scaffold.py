r"""SCAFFOLD: control variates against client drift.

    device:  y <- y - eta (g_i(y) - c_i + c),  K times;     c_i+ = mean_k g_i(y_k)
             sends (y - u, s (c_i+ - c_i)), s = K eta, clipped jointly to C;  keeps what it sent added to c_i
    server:  u <- u + server_learning_rate * mean(y - u);   c <- c + q * mean(c_i+ - c_i)

Karimireddy, Kale, Mohri, Reddi, Stich, Suresh, ICML 2020, arXiv 1910.06378, option II (for SGD c_i - c + (u
- y)/(K eta) is that mean of gradients; as a mean it also holds for Adam). The joint clip is DP-SCAFFOLD's
(Noble, Bellet, Dieuleveut, AISTATS 2022, arXiv 2111.09278). Control variates travel in units of an update,
s c, so that neither part of the message drowns in the noise of the other. A device adds what was left after
the clip, so that without noise c stays the mean of all c_i exactly. With central noise c is a random walk
of step q z C / m on top of that mean: the noise never leaves it. Where people come less than once in twenty
rounds their c_i are stale, and FedAvg is the better choice.
"""

from __future__ import annotations

from collections.abc import Sequence

from commonground.strategies.server_half import Arrays, ServerHalf, between
from commonground.training.client_half import EXTRA, Answer, ClientHalf, Spec, Visit, shrink
from commonground.training.people import along
from commonground.training.steering import Steering, only

CONTROL = f"{EXTRA}control."


class Scaffold(ServerHalf):
    """The server's half.

    Args:
        server_learning_rate: eta_g.
    """

    def __init__(self, server_learning_rate: float = 1.0) -> None:
        super().__init__()
        self.server_learning_rate = between("server_learning_rate", server_learning_rate, 0.0, float("inf"))

    def client_half(self) -> ClientHalf:
        """The device's half."""
        return ScaffoldDevice()

    def step(self, start: Arrays, moves: Sequence[Arrays]) -> Arrays:
        """See the module's text; the mean of controls is over the cohort, c is over everybody: hence q."""
        (mean,) = moves
        return {
            name: value + (self.q if name.startswith(CONTROL) else self.server_learning_rate) * mean[name]
            for name, value in start.items()
        }


class ScaffoldDevice(ClientHalf):
    """The device's half."""

    def sent(self, shared: Spec, groups: int) -> Spec:
        """One control a tensor."""
        return {CONTROL + name: shape for name, shape in shared.items()}

    def kept(self, shared: Spec) -> Spec:
        """The device's own s c_i."""
        return dict(shared)

    def update(self, visit: Visit) -> Answer:
        """See the module's text."""
        plan, own = visit.plan.shared, visit.memory
        size = plan.steps * plan.rate
        away = {name: (visit.received[CONTROL + name] - own[name]) / size for name in own}
        steering = Steering(constant=away, watch=True)
        moved, after = visit.train(steering)
        change = only(visit.learns, {n: size * v - own[n] for n, v in steering.seen.items()})
        message = moved | {CONTROL + name: value for name, value in change.items()}
        factor = shrink(message, visit.clip)
        kept = {name: own[name] + along(factor, value) * value for name, value in change.items()}
        return Answer(message, after, {name: value.nan_to_num(0, 0, 0) for name, value in kept.items()})
