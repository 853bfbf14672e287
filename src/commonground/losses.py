"""Preference losses: pure functions of one pair each, in a dict.

Every loss maps `Scores` to one loss a pair and never looks at another pair: the gradient of a pair is
then a function of that pair alone, which per-pair clipping needs (methods A5). A loss that coupled pairs
(KTO's batch baseline, whitening, sorting) cannot be written in this form.

Letters: beta is the inverse temperature, D = (chosen - ref_chosen) - (rejected - ref_rejected), sigma the
logistic function. For the reward model `chosen` and `rejected` are rewards; for the policy they are
log-probabilities of the answer in nats, summed over its tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from commonground.errors import InputError


@dataclass(frozen=True)
class Scores:
    """What a loss may see of its pairs. All tensors have the same shape, e.g. (P, B), float32.

    Attributes:
        chosen: score of the preferred answer under the trained model (reward, or nats).
        rejected: score of the other answer.
        ref_chosen: score of the preferred answer under the frozen reference.
        ref_rejected: score of the other answer under the frozen reference.
        chosen_tokens: tokens in the preferred answer (ones for the reward model).
        rejected_tokens: tokens in the other answer.
    """

    chosen: Tensor
    rejected: Tensor
    ref_chosen: Tensor
    ref_rejected: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor

    @property
    def advantage(self) -> Tensor:
        """D: how much more than its reference the model prefers `chosen`, same shape, nats."""
        return (self.chosen - self.ref_chosen) - (self.rejected - self.ref_rejected)


@dataclass(frozen=True)
class LossSettings:
    """Numbers that losses share.

    Attributes:
        beta: inverse temperature of the implicit reward (DPO, IPO and kin); 0.1 is usual.
        flip: assumed probability that a label is flipped, in [0, 0.5) (cdpo, rdpo).
        sft: weight of the negative log-likelihood of the chosen answer, nats a token (policy only).
    """

    beta: float = 0.1
    flip: float = 0.0
    sft: float = 0.0


Loss = Callable[[Scores, LossSettings], Tensor]


def bradley_terry(scores: Scores, settings: LossSettings) -> Tensor:
    """-log sigma(chosen - rejected). Bradley and Terry, Biometrika 1952."""
    return -logsigmoid(scores.chosen - scores.rejected)


def dpo(scores: Scores, settings: LossSettings) -> Tensor:
    """-log sigma(beta D); ln 2 where the model equals its reference. arXiv 2305.18290."""
    return -logsigmoid(settings.beta * scores.advantage)


def ipo(scores: Scores, settings: LossSettings) -> Tensor:
    """(D' - 1/(2 beta))^2 with D' from per-token means on each side. arXiv 2310.12036."""
    per_token = (scores.chosen - scores.ref_chosen) / scores.chosen_tokens - (
        scores.rejected - scores.ref_rejected
    ) / scores.rejected_tokens
    return (per_token - 1 / (2 * settings.beta)).square()


def cdpo(scores: Scores, settings: LossSettings) -> Tensor:
    """-(1-flip) log sigma(beta D) - flip log sigma(-beta D); minimum at beta D = ln((1-flip)/flip)."""
    margin = settings.beta * scores.advantage
    return -(1 - settings.flip) * logsigmoid(margin) - settings.flip * logsigmoid(-margin)


def rdpo(scores: Scores, settings: LossSettings) -> Tensor:
    """Unbiased under label flips: its mean over flips equals dpo on clean labels. arXiv 2403.00409."""
    margin = settings.beta * scores.advantage
    straight, flipped = -logsigmoid(margin), -logsigmoid(-margin)
    return ((1 - settings.flip) * straight - settings.flip * flipped) / (1 - 2 * settings.flip)


def sft(scores: Scores, settings: LossSettings) -> Tensor:
    """Negative log-likelihood of the chosen answer, nats a token."""
    return -scores.chosen / scores.chosen_tokens


LOSSES: dict[str, Loss] = {
    "bradley_terry": bradley_terry,
    "dpo": dpo,
    "ipo": ipo,
    "cdpo": cdpo,
    "rdpo": rdpo,
    "sft": sft,
}


@dataclass(frozen=True)
class PreferenceLoss:
    """A loss with the SFT anchor that its settings ask for.

    Attributes:
        name: its name in `LOSSES`.
    """

    name: str

    def __call__(self, scores: Scores, settings: LossSettings) -> Tensor:
        """One loss a pair; `settings.sft` times the anchor is added when that weight is above 0."""
        value = LOSSES[self.name](scores, settings)
        return value + settings.sft * sft(scores, settings) if self._anchored(settings) else value

    def of_margin_only(self, settings: LossSettings) -> bool:
        """Whether, for answers of one token each, only `chosen - rejected` matters."""
        return self.name != "sft" and not self._anchored(settings)

    def _anchored(self, settings: LossSettings) -> bool:
        return bool(settings.sft) and self.name != "sft"


def get_loss(name: str) -> PreferenceLoss:
    """The loss called `name`; raises `InputError` with the known names."""
    if name not in LOSSES:
        raise InputError(f"loss.name is {name!r}; known losses: {', '.join(sorted(LOSSES))}")
    return PreferenceLoss(name)


def reward_scores(chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor) -> Scores:
    """Scores of a reward model, whose answers count as one token each."""
    ones = torch.ones_like(chosen)
    return Scores(chosen, rejected, ref_chosen, ref_rejected, ones, ones)
