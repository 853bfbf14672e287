"""Where strategies settle on beds whose answer is known on paper (methods D), both halves at work."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import toy_bed as toy
from flwr.app import Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import QFedAvg as FlowerQFedAvg
from scipy.optimize import brentq
from torch import Tensor

from commonground.strategies.alpha_fair import welfare_weight
from commonground.strategies.qfedavg import QFedAvg
from commonground.strategies.records import from_record, to_record
from commonground.training.model import Batch, Rows, Tensors

H, M = (1.0, 4.0, 0.5), (0.0, 1.0, 5.0)
OPTIMUM = sum(h * m for h, m in zip(H, M, strict=True)) / sum(H)  # 1.18182


def settled(name: str, rounds: int, **options: Any) -> float:
    """Where a strategy is after some rounds of ten steps of size 0.1 on the bed of methods D."""
    return float(toy.Run(name, toy.one_d(H, M), options).rounds(rounds)["x"])


def weighted(weights: list[float]) -> float:
    return sum(w * m for w, m in zip(weights, M, strict=True)) / sum(weights)


@pytest.mark.parametrize("name", ["fedavg", "utilitarian", "centred_clipping"])
def test_fedavg_settles_where_its_drift_pulls_it(name: str) -> None:
    """w_i = 1 - (1 - eta h_i)^K: 1.46602, a quarter beside the optimum."""
    expected = weighted([1 - (1 - 0.1 * h) ** 10 for h in H])
    assert expected == pytest.approx(1.46602, abs=5e-6)
    assert settled(name, 25) == pytest.approx(expected, abs=2e-5)


def test_scaffold_settles_at_the_optimum() -> None:
    assert pytest.approx(1.18182, abs=5e-6) == OPTIMUM
    assert settled("scaffold", 60) == pytest.approx(OPTIMUM, abs=2e-5)


def test_scaffold_with_half_of_the_people_a_round_still_does() -> None:
    run = toy.Run("scaffold", toy.one_d(H, M), changes={"q": 2 / 3, "m": 2.0, "rounds": 400})
    assert float(run.rounds(250)["x"]) == pytest.approx(OPTIMUM, abs=2e-3)
    fedavg = toy.Run("fedavg", toy.one_d(H, M), changes={"q": 2 / 3, "m": 2.0, "rounds": 400})
    assert abs(float(fedavg.rounds(250)["x"]) - OPTIMUM) > 0.1


def test_the_clipped_control_variates_of_scaffold_still_add_up() -> None:
    """Without noise c is the mean of what devices keep, however hard the joint clip bites."""
    run = toy.Run("scaffold", toy.one_d(H, M), clip=0.2)
    shared = run.rounds(7)
    kept = [run.kept[person][7]["x"] for person in range(3)]
    assert float(shared["extra.control.x"]) == pytest.approx(float(np.mean(kept)), abs=1e-6)
    both = [math.hypot(*(float(v) for v in run.messages[p].tensors.values())) for p in range(3)]
    assert max(both) == pytest.approx(0.2, rel=1e-6)


def test_fednova_takes_people_with_more_steps_for_no_more_than_others() -> None:
    """tau = (1, 5, 20) steps of 0.01: 1.9139 where FedAvg would be at 3.9795 and the optimum is 2."""
    weights = [(1 - 0.99**tau) / tau for tau in (1, 5, 20)]
    expected = weighted(weights)
    assert expected == pytest.approx(1.9139, abs=5e-5)
    bed, plan = toy.one_d((1.0, 1.0, 1.0), M), toy.plan(steps=20, rate=0.01)
    run = toy.Run("fednova", bed, {"cap": 20.0}, plan=plan, counts=[1, 5, 20])
    assert float(run.rounds(100)["x"]) == pytest.approx(expected, abs=2e-5)


def test_without_a_cap_fednova_is_fedavg() -> None:
    assert settled("fednova", 3, cap=0.0) == settled("fedavg", 3)


def test_fedprox_with_exact_local_solutions() -> None:
    """w_i = h_i / (h_i + mu)."""
    run = toy.Run("fedprox", toy.one_d(H, M), {"proximal_mu": 1.0}, plan=toy.plan(steps=120))
    assert float(run.rounds(40)["x"]) == pytest.approx(weighted([h / (h + 1) for h in H]), abs=2e-5)


def test_fedprox_without_a_pull_is_fedavg_bit_for_bit() -> None:
    assert settled("fedprox", 4, proximal_mu=0.0) == settled("fedavg", 4)
    assert settled("fedprox", 4, proximal_mu=0.1) != settled("fedavg", 4)


def test_qfedavg_settles_where_losses_weigh() -> None:
    """sum_k F_k^q w_k (x - m_k) = 0, w_k = 1 - (1 - eta h_k)^K."""

    def balance(x: float) -> float:
        return sum(
            (0.5 * h * (x - m) ** 2) * (1 - (1 - 0.1 * h) ** 10) * (x - m) for h, m in zip(H, M, strict=True)
        )

    expected = float(brentq(balance, 0, 5))
    assert settled("qfedavg", 120, q=1.0, highest=100.0) == pytest.approx(expected, abs=1e-4)
    assert expected > 1.8  # away from FedAvg's 1.466, towards the one who is served worst


def test_qfedavg_without_q_is_fedavg() -> None:
    assert settled("qfedavg", 5, q=0.0) == pytest.approx(settled("fedavg", 5), abs=2e-6)


def test_one_round_of_qfedavg_is_that_of_flower() -> None:
    """Given the losses before training, which Flower's class cannot know, in clear."""
    bed = toy.spread(5)
    run = toy.Run("qfedavg", bed, {"q": 0.7, "highest": 1e6})
    start = run.first(0.3)
    ours = run.round(1, start)
    visit = run.visit(1, range(5), start)
    moved, losses = visit.train()[0], visit.surprise()
    theirs = FlowerQFedAvg(client_learning_rate=10 * 0.1, q=0.7, fraction_train=0.0)
    own = {n: start[n].astype(np.float64) for n in toy.SHAPES}
    theirs.configure_train(1, to_record(own), {}, run.nodes)
    replies = []
    for person, message in enumerate(run.wrapper.configure_train(2, to_record(ours), {}, run.nodes)):
        after = {n: own[n] + moved[n][person].double().numpy() for n in own}
        metrics = MetricRecord({"num-examples": 1, "train_loss": float(losses[person])})
        content = RecordDict({"arrays": to_record(after), "metrics": metrics})
        replies.append(Message(content, reply_to=message))
    found = from_record(theirs.aggregate_train(1, replies)[0])
    np.testing.assert_allclose(toy.flat(ours), toy.flat(found), atol=1e-5)


def test_noise_cannot_turn_a_denominator_round() -> None:
    half = QFedAvg()
    half.attach(q=0.2, noise=0.5)
    start = {"x": np.zeros(()), "extra.denominator": np.zeros(())}
    moved = half.step(start, [{"x": np.ones(()), "extra.denominator": np.asarray(-3.0)}])
    assert float(moved["x"]) == pytest.approx(1 / (3 * 0.5 / half.scale))
    assert float(moved["extra.denominator"]) == 0.0


def test_maxmin_serves_the_group_that_is_served_worst() -> None:
    """Three people at 0 and one at 4: the mean is 1, and at 2 both groups lose the same."""
    bed = toy.one_d((0.25,) * 4, (0.0, 0.0, 0.0, 4.0))
    plan, groups = toy.plan(steps=4, rate=0.5), [0, 0, 0, 1]
    fedavg = toy.Run("fedavg", bed, plan=plan, groups=groups).rounds(60)
    assert float(fedavg["x"]) == pytest.approx(1.0, abs=1e-3)
    run = toy.Run("maxmin", bed, {"rate": 0.1}, plan=plan, groups=groups)
    shared = run.rounds(150)
    assert float(shared["x"]) == pytest.approx(2.0, abs=0.02)
    assert run.wrapper.inner.lam.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(shared["extra.group_weight"], run.wrapper.inner.lam / [0.75, 0.25], rtol=1e-5)


def test_maxmin_without_a_rate_is_fedavg() -> None:
    assert settled("maxmin", 4, rate=0.0) == settled("fedavg", 4)


class Opposed(toy.Bed):
    """U_1 = a x and U_2 = b (1 - x), in nats above the base policy."""

    a, b = 0.6, 0.3

    def scores(self, rows: Rows, shared: Tensors | None, private: Tensors | None) -> tuple[Tensor, Tensor]:
        """A margin of which -log sigmoid is ln 2 - U."""
        zero = torch.zeros(rows.index.shape)
        if shared is None:
            return zero, zero
        x = shared["x"]
        utility = torch.where(rows.index[:, 0] == 0, self.a * x, self.b * (1 - x))
        return -torch.log(torch.expm1(math.log(2) - utility))[:, None] + zero, zero

    def gradient_sums(
        self, batch: Batch, trained: Tensors, loss: Any, settings: Any, weights: Tensor, clip: Any = None
    ) -> Tensors:
        """Of the loss ln 2 - U."""
        return {"x": torch.where(batch.rows.index[:, 0] == 0, -self.a, self.b)}


def welfare_optimum(name: str, rounds: int = 150, **options: Any) -> float:
    bed = Opposed((1.0, 1.0), {"x": np.zeros(2)})
    run = toy.Run(name, bed, options, plan=toy.plan(steps=1, rate=0.05))
    return float(run.rounds(rounds, run.first(0.7))["x"])


def test_two_people_and_the_welfare_between_them() -> None:
    """Nash at 1/2; alpha at x/(1-x) = (b/a)^((alpha-1)/alpha), towards b/(a+b); utilitarian in the corner."""
    assert welfare_optimum("nash") == pytest.approx(0.5, abs=2e-3)
    ratio = (Opposed.b / Opposed.a) ** 0.9
    assert welfare_optimum("egalitarian") == pytest.approx(ratio / (1 + ratio), abs=2e-3)
    assert ratio / (1 + ratio) == pytest.approx(Opposed.b / (Opposed.a + Opposed.b), abs=0.02)
    assert welfare_optimum("utilitarian", rounds=40) > 0.95
    assert welfare_optimum("alpha_fair", alpha=1.0) == welfare_optimum("nash")


def test_weights_are_capped_around_a_public_reference() -> None:
    utility = torch.tensor([0.0, 0.01, 0.1, 0.2, 0.6])
    weights = welfare_weight(utility, torch.tensor(0.2), 1.0, 10.0)
    assert weights.tolist() == pytest.approx([10.0, 10.0, 2.0, 1.0, 1 / 3])
    assert welfare_weight(utility, torch.tensor(0.2), 0.0, 10.0).tolist() == [1.0] * 5
    steep = welfare_weight(utility, torch.tensor(0.2), 10.0, 10.0)
    assert steep.tolist() == pytest.approx([10.0, 10.0, 10.0, 1.0, 0.1])
