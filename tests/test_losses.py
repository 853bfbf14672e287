"""Checks of methods.md A, by hand where a hand can do it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from commonground.errors import InputError
from commonground.losses import LOSSES, LossSettings, Scores, get_loss, reward_scores

NAMES = sorted(LOSSES)


def scores(chosen: float | Tensor, rejected: float | Tensor = 0.0, tokens: float = 1.0) -> Scores:
    c = torch.as_tensor(chosen, dtype=torch.float64)
    r = torch.as_tensor(rejected, dtype=torch.float64).expand(c.shape)
    zero, count = torch.zeros_like(c), torch.full_like(c, tokens)
    return Scores(c, r, zero, zero, count, count)


def test_dpo_at_the_reference_is_ln_two_with_slope_half_beta() -> None:
    chosen = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    loss = LOSSES["dpo"](scores(chosen), LossSettings(beta=0.3))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(math.log(2), abs=1e-15)
    assert chosen.grad is not None
    assert chosen.grad.item() == pytest.approx(-0.15, abs=1e-15)  # -(beta / 2)


def test_dpo_swapped_is_the_loss_of_the_negated_margin() -> None:
    settings = LossSettings(beta=0.7)
    straight = LOSSES["dpo"](scores(1.3, 0.2), settings)
    swapped = LOSSES["dpo"](scores(0.2, 1.3), settings)
    assert swapped.item() - straight.item() == pytest.approx(0.7 * 1.1, abs=1e-12)  # -ls(-m) + ls(m) = m


def test_ipo_is_zero_exactly_at_its_target_and_starts_at_a_quarter_beta_squared() -> None:
    settings = LossSettings(beta=0.1)
    assert LOSSES["ipo"](scores(5.0), settings).item() == pytest.approx(0, abs=1e-12)  # 1 / (2 * 0.1)
    assert LOSSES["ipo"](scores(0.0), settings).item() == pytest.approx(25.0)  # 1 / (4 * 0.01)
    assert LOSSES["ipo"](scores(20.0, tokens=4.0), settings).item() == pytest.approx(0, abs=1e-12)


def test_cdpo_is_lowest_where_the_margin_is_the_log_odds() -> None:
    margin = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([margin], line_search_fn="strong_wolfe", max_iter=100)

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = LOSSES["cdpo"](scores(margin), LossSettings(beta=1.0, flip=0.1)).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    assert margin.item() == pytest.approx(2.1972, abs=1e-4)  # ln(.9 / .1)


@pytest.mark.parametrize("flip", [0.05, 0.2, 0.45])
@pytest.mark.parametrize("margin", [-3.0, 0.4, 2.0])
def test_rdpo_is_unbiased_under_flips(flip: float, margin: float) -> None:
    settings = LossSettings(beta=0.5, flip=flip)
    noisy = (1 - flip) * LOSSES["rdpo"](scores(margin), settings) + flip * LOSSES["rdpo"](
        scores(0.0, margin), settings
    )
    clean = LOSSES["dpo"](scores(margin), settings)
    assert noisy.item() == pytest.approx(clean.item(), abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_losses_are_separable_by_pair(name: str) -> None:
    """The loss of a batch is that of its singletons: what per-pair clipping rests on."""
    chosen = torch.tensor([0.3, -1.2, 4.0], dtype=torch.float64)
    settings = LossSettings(beta=0.4, flip=0.1, sft=0.5)
    together = get_loss(name)(scores(chosen, 0.2, 3.0), settings)
    alone = torch.stack([get_loss(name)(scores(c, 0.2, 3.0), settings) for c in chosen])
    assert together.shape == (3,)
    assert torch.equal(together, alone)


@pytest.mark.parametrize("name", NAMES)
def test_losses_pass_gradcheck(name: str) -> None:
    chosen = torch.randn(4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    rejected = torch.randn(
        4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    ).requires_grad_()

    def value(c: Tensor, r: Tensor) -> Tensor:
        zero, ones = torch.zeros_like(c), torch.ones_like(c)
        return get_loss(name)(Scores(c, r, zero, zero, ones, ones), LossSettings(beta=0.6, flip=0.1, sft=0.3))

    assert torch.autograd.gradcheck(value, (chosen, rejected))


def test_bradley_terry_is_dpo_with_beta_one_for_a_reward_model() -> None:
    chosen, rejected = torch.tensor([1.5]), torch.tensor([0.5])
    zero = torch.zeros(1)
    pair = reward_scores(chosen, rejected, zero, zero)
    left = LOSSES["bradley_terry"](pair, LossSettings())
    assert torch.equal(left, LOSSES["dpo"](pair, LossSettings(beta=1.0)))


def test_bradley_terry_optimum_obeys_the_score_equations() -> None:
    """Methods A0: at the optimum of a round robin the predicted wins of every item are its observed wins."""
    wins = torch.tensor([[0, 7, 8], [3, 0, 6], [2, 4, 0]], dtype=torch.float64)  # i beat j so often of 10
    rewards = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    i, j = torch.nonzero(wins, as_tuple=True)
    optimiser = torch.optim.LBFGS(
        [rewards], max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        zero = torch.zeros(len(i), dtype=torch.float64)
        pair = reward_scores(rewards[i], rewards[j], zero, zero)
        loss = (wins[i, j] * LOSSES["bradley_terry"](pair, LossSettings())).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    predicted = torch.sigmoid(rewards[:, None] - rewards[None]).detach().fill_diagonal_(0).sum(1) * 10
    assert torch.allclose(predicted, wins.sum(1), atol=1e-5)


def test_the_anchor_adds_nats_a_token() -> None:
    pair = scores(-6.0, -2.0, tokens=3.0)
    plain = get_loss("dpo")(pair, LossSettings(beta=0.1))
    anchored = get_loss("dpo")(pair, LossSettings(beta=0.1, sft=0.5))
    assert (anchored - plain).item() == pytest.approx(0.5 * 2.0)


def test_an_unknown_loss_is_answered_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"dppo.*bradley_terry, cdpo, dpo"):
        get_loss("dppo")
