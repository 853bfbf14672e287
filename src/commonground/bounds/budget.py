"""The decode-time budget: a bound on every answer, whatever the private adapter holds.

At each step the next token is drawn from the point p_l on the geometric path from the shared policy p_s to
the personal policy p_i,

    ln p_l(v) = (1 - l) ln p_s(v) + l ln p_i(v) - Z(l),    0 <= l <= 1,

with the largest l whose cost f(l) = max_v ln(p_l(v) / p_s(v)) is at most what is left of the budget Delta,
and f(l) is taken off the budget. What is spent at a step is known before the token is drawn, so over a whole
answer y (end token and length limit included) the costs add up to at most Delta:

    pi(y | x) <= e^Delta pi_s(y | x)    for every y and every private adapter.

It follows that any event, such as a violation, is at most e^Delta times as likely as under the shared policy,
and what is impossible there stays impossible. This is max-KL "near access-freeness" (Vyas, Kakade and Barak,
ICML 2023, arXiv 2302.10870) kept per answer rather than per token.

The theorem is about draws. The temperature is applied to both policies before the path, so the reference is
the shared policy at that temperature; greedy decoding and truncation after the path (top-p, top-k) are no
draws from p_l and are refused. Shared means what would be drawn from in the same precision, log-softmax
rounded as it is; a draw of 53 random bits cannot tell probabilities below 2^-53 apart.

Numbers: with d = (logit_i - logit_s) - max over the support of p_s, f(l) = -ln sum_v p_s(v) e^(l d(v)) is
increasing and concave, so Newton's method from the left never overshoots, and whatever it has reached can be
afforded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from commonground.errors import InputError, ModelError

NEWTON_STEPS = 40  # each is affordable, so an unfinished search loses style and never the bound
ROUNDING = 32.0  # see `rounding_margin`


@dataclass(frozen=True)
class Budget:
    """How much one answer may move away from the shared policy.

    Attributes:
        delta: Delta, nats an answer; an answer is at most e^delta times as likely as under shared.
        gate: spend only on tokens whose full personal step would cost at least so many nats.
        step: nats that one token may cost at most.
    """

    delta: float
    gate: float = 0.0
    step: float = math.inf

    def __post_init__(self) -> None:
        """Check the numbers; raises `InputError`."""
        if not 0 <= self.delta < math.inf:
            raise InputError(f"budget delta is {self.delta}; accepted: a finite number of nats, 0 or more")
        if not 0 <= self.gate < math.inf:
            raise InputError(f"budget gate is {self.gate}; accepted: a finite number of nats, 0 or more")
        if not self.step > 0:
            raise InputError(f"budget step is {self.step}; accepted: above 0, in nats (inf = no limit)")

    def start(self, rows: int) -> Tensor:
        """What each of `rows` answers may spend: (rows,) float64, nats."""
        return torch.full((rows,), float(self.delta), dtype=torch.float64)


@dataclass(frozen=True)
class Step:
    """One step of R answers.

    Attributes:
        log_probs: (R, V), what the next token is drawn from, in the dtype of the logits.
        spent: (R,) float64, nats taken off the budget; at least the true cost of `log_probs`.
        weight: (R,) float64, l: 0 is shared, 1 is personal.
    """

    log_probs: Tensor
    spent: Tensor
    weight: Tensor


def check_sampling(temperature: float, *, top_p: float = 1.0, top_k: int = 0) -> None:
    """Refuse what the theorem does not cover.

    Args:
        temperature: of the draws, applied to both policies.
        top_p: 1 is no truncation.
        top_k: 0 is no truncation.

    Raises:
        InputError: greedy decoding, a temperature that is no positive number, or a truncation.
    """
    if not 0 < temperature < math.inf:
        greedy = " (greedy)" if temperature == 0 else ""
        raise InputError(
            f"temperature is {temperature}{greedy}; the budget's bound is about draws: above 0 is needed",
            hint="use a small temperature such as 0.3, or decode the shared policy alone",
        )
    if top_p != 1 or top_k != 0:
        raise InputError(
            f"top_p is {top_p} and top_k is {top_k}; the budget's bound needs all tokens: top_p 1, top_k 0"
        )


def spend(
    shared: Tensor,
    personal: Tensor,
    remaining: Tensor,
    *,
    gate: float = 0.0,
    most: float = math.inf,
) -> Step:
    """The furthest point towards the personal policy that each row can afford.

    Args:
        shared: (R, V) logits or log-probabilities of the shared policy, temperature already applied; -inf is
            an impossible token.
        personal: (R, V) those of the personal policy, same temperature. A row that holds anything but finite
            numbers where shared is possible counts as shared.
        remaining: (R,) nats that each row may still spend.
        gate: see `Budget`.
        most: see `Budget.step`.

    Returns:
        What to draw from, and what it costs.

    Raises:
        ModelError: the shapes differ (two vocabularies), or a shared row is no distribution.
    """
    if shared.shape != personal.shape:
        raise ModelError(
            f"the shared policy scores {tuple(shared.shape)} tokens, the personal one "
            f"{tuple(personal.shape)}; two policies of one tokenizer are needed"
        )
    shared, personal = _wide(shared), _wide(personal)
    possible = shared > -math.inf
    if not bool((possible.any(1) & ~(shared.isnan() | (shared == math.inf)).any(1)).all()):
        raise ModelError("the shared policy gave logits that are no numbers: nothing is left to fall back to")
    log_probs = torch.log_softmax(shared, dim=1)
    weight, spent = (
        torch.zeros(len(shared), dtype=torch.float64),
        torch.zeros(len(shared), dtype=torch.float64),
    )
    gap = torch.where(possible, personal - shared, -math.inf)
    gap = gap - gap.amax(dim=1, keepdim=True)
    gap = torch.where(possible, gap, 0.0)  # an impossible token stays impossible, and 0 * -inf would be nan
    allowed = torch.clamp(remaining.double(), max=most)
    margin = rounding_margin(log_probs, possible, allowed)
    afford = allowed - margin
    rows = torch.nonzero((afford > 0) & gap.isfinite().all(1)).flatten()
    if len(rows) == 0:
        return Step(log_probs, spent, weight)
    gap = gap[rows]
    found, cost = _furthest(log_probs[rows].exp(), gap, afford[rows], margin[rows], gate)
    moved = found > 0
    rows, found, cost, gap = rows[moved], found[moved], cost[moved], gap[moved]
    log_probs[rows] = torch.log_softmax(log_probs[rows] + found[:, None].to(gap.dtype) * gap, dim=1)
    weight[rows], spent[rows] = found, cost + margin[rows]
    return Step(log_probs, spent, weight)


def rounding_margin(log_probs: Tensor, possible: Tensor, allowed: Tensor) -> Tensor:
    """Nats by which rounding may understate a step's cost: (R,) float64.

    The gap d counts as it stands, however it was rounded, so the personal logits do not matter here. Adding
    l d to ln p_s and normalising rounds numbers as large as ln p_s and, where a token still has weight, as
    what may be spent: a first-order count stays below 20 units of the last place of their sum, 32 are taken.
    """
    size = torch.where(possible, log_probs, 0.0).abs().amax(1).double()
    return ROUNDING * torch.finfo(log_probs.dtype).eps * (1 + size + allowed)


def _furthest(
    base: Tensor, gap: Tensor, afford: Tensor, margin: Tensor, gate: float
) -> tuple[Tensor, Tensor]:
    """Largest affordable l of each row and its cost, both (R,) float64; l = 0 where the gate is shut."""
    whole = base.sum(1, dtype=torch.float64)  # 1, but for rounding that would count as cost
    cost, _ = _cost(base, whole, gap, torch.ones_like(afford))
    shut = cost < gate
    full = (cost <= afford) & ~shut
    weight, reached = full.double(), torch.where(full, cost, 0.0)
    todo = torch.nonzero(~full & ~shut).flatten()
    if len(todo):
        weight[todo], reached[todo] = _newton(base[todo], whole[todo], gap[todo], afford[todo], margin[todo])
    return weight, reached


def _newton(
    base: Tensor, whole: Tensor, gap: Tensor, afford: Tensor, margin: Tensor
) -> tuple[Tensor, Tensor]:
    """The l in (0, 1) at which the cost is what can be afforded, from below, and the cost there."""
    low, reached = torch.zeros_like(afford), torch.zeros_like(afford)
    _, slope = _cost(base, whole, gap, low)
    tolerance = torch.clamp(margin, min=1e-9)
    for _ in range(NEWTON_STEPS):
        aim = torch.clamp(low + (afford - reached) / slope, max=1.0)
        cost, steeper = _cost(base, whole, gap, aim)
        better = cost <= afford
        # rounding may overshoot by a hair: that row tries half the step
        slope = torch.where(better, steeper, 2 * slope)
        going = (afford - torch.where(better, cost, reached) > tolerance) & (aim > low)
        low, reached = torch.where(better, aim, low), torch.where(better, cost, reached)
        if not bool(going.any()):
            break
    return low, reached


def _cost(base: Tensor, whole: Tensor, gap: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """f(l) and its slope, each (R,) float64; `base` = p_s, `whole` its sum, `gap` = d <= 0."""
    tilted = base * torch.exp(weight[:, None].to(gap.dtype) * gap)
    # summed in double: 50,000 terms in single precision would lose more than all else together
    total = tilted.sum(1, dtype=torch.float64)
    slope = -(tilted * gap).sum(1, dtype=torch.float64) / total
    return torch.log(whole / total), slope


def _wide(logits: Tensor) -> Tensor:
    """Half precision has no margin to speak of: single at least."""
    return logits if logits.dtype in (torch.float32, torch.float64) else logits.float()
