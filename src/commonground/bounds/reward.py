"""The reward-level bound: a private reward may break ties, and no more.

    r(x, y) = r_shared(x, y) + c tanh(r_private(x, y) / c),    c > 0 public.

A private reward moves each answer by less than c, so it moves a margin by less than 2c: every pair whose
shared margin is above 2c keeps its order, whatever the private adapter holds. That is all that is promised;
an adapter that knows which way to push still turns pairs of smaller margin.

Only differences between answers to one prompt mean anything in a reward, so what a private reward says of
them all is taken off first (`centred`): else a constant would use up tanh, and with it the person's taste.
The theorem needs nothing of r_private, so it holds all the same; between two answers it reads
    margin = m_shared + 2c tanh(m_private / 2c).

`best_of` is the baseline without any adapter in the decoder: n draws from the shared policy, the best by any
score whatever. An answer can be chosen only if it was drawn, so its probability is at most n times that under
shared: D_inf <= ln n (and KL <= ln n - (n - 1) / n).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from commonground.errors import InputError


def bounded_reward(shared: Tensor, private: Tensor, c: float) -> Tensor:
    """The personal reward within c of the shared one.

    Args:
        shared: any shape, finite.
        private: the same shape, anything: nan counts as 0, infinity as its limit.
        c: how far an answer may move, in the reward's unit; 0 is the shared reward.

    Returns:
        The reward, in the dtype of `shared`.

    Raises:
        InputError: c is no finite number of 0 or more, or the shared reward is not finite.
    """
    check_clamp(c)
    if not bool(shared.isfinite().all()):
        raise InputError(
            "the shared reward holds values that are no finite numbers; there is nothing to bound"
        )
    if c == 0:
        return shared.clone()
    pull = torch.nan_to_num(torch.tanh(private.to(shared.dtype) / c), nan=0.0)
    return shared + c * pull


def bounded_margin(shared: Tensor, private_chosen: Tensor, private_rejected: Tensor, c: float) -> Tensor:
    """Margin of the bounded reward between two answers to a prompt: the shared one, moved by less than 2c.

    Args:
        shared: shared margin, chosen minus rejected, any shape.
        private_chosen: private reward of the chosen answer, same shape.
        private_rejected: private reward of the rejected answer, same shape.
        c: see `bounded_reward`.
    """
    return bounded_reward(shared, private_chosen - private_rejected, 2 * c)


def centred(private: Tensor) -> Tensor:
    """Private rewards of the answers to one prompt, without what it says of them all.

    Args:
        private: (..., K) anything.

    Returns:
        The same shape; the mean of those that are finite is taken off.
    """
    finite = private.isfinite()
    total = torch.where(finite, private, 0.0).sum(-1, keepdim=True)
    return private - total / finite.sum(-1, keepdim=True).clamp(min=1)


def rank(shared: Tensor, private: Tensor, c: float) -> list[int]:
    """Answers to a prompt from best to worst by the bounded reward; (n,) each; ties go to the shared one."""
    reward = bounded_reward(shared, centred(private), c).tolist()
    return sorted(range(len(reward)), key=lambda k: (-reward[k], -float(shared[k]), k))


def best_of(scores: Sequence[float]) -> int:
    """The first of the best of n draws; a score that is no number is worse than any other.

    Raises:
        InputError: there is no draw.
    """
    if not scores:
        raise InputError("best of 0 draws was asked for; at least 1 is needed")
    return max(range(len(scores)), key=lambda k: (-math.inf if math.isnan(scores[k]) else scores[k], -k))


def best_of_bound(draws: int) -> float:
    """D_inf of the best of n draws from the shared policy, in nats."""
    if draws < 1:
        raise InputError(f"best of {draws} draws was asked for; at least 1 is needed")
    return math.log(draws)


def check_clamp(c: float) -> None:
    """Refuse a c that bounds nothing; raises `InputError`."""
    if not 0 <= c < math.inf:
        raise InputError(
            f"c is {c}; accepted: a finite number of 0 or more, in the unit of the shared reward"
        )
