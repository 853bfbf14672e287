"""The safety gate by hand: on one number, L(x) = (x - 1)^2 / 2, half a public step towards 1 at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_bed as toy
from flwr.app import ConfigRecord
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvgM, Strategy
from toy_gate import Bowl, one_round

from commonground.errors import InputError, StrategyError
from commonground.own_code import allow_code, forget_code
from commonground.server.checkpoint import load_state, save_state
from commonground.simulations.grid import InProcessGrid
from commonground.strategies.records import from_record, to_record
from commonground.strategies.registry import get_strategy
from commonground.strategies.safety_gate import Decision, SafetyGate
from commonground.strategies.server_half import Arrays, ServerHalf


def gate(inner: Strategy | None = None, **changes: Any) -> SafetyGate:
    values: dict[str, Any] = {"tolerance": 0.0, "steps": 1, "rate": 0.5, "public": Bowl()}
    return SafetyGate(inner or get_strategy("fedavg"), **values | changes)


def step(rule: Strategy, round: int, start: Arrays, proposal: float) -> Arrays:
    """A round whose one reply is `proposal` in every number."""
    return one_round(
        rule, round, start, {name: np.full_like(value, proposal) for name, value in start.items()}
    )


def at(value: float) -> Arrays:
    return {"x": np.array([value])}


def decided(rule: SafetyGate) -> Decision:
    assert rule.decision is not None
    return rule.decision


def test_a_good_proposal_is_accepted_as_it_is() -> None:
    """From 0 the shadow reaches 1/2, loss 1/8; a proposal of 0.8 has loss 0.02."""
    rule = gate()
    assert step(rule, 1, at(0.0), 0.8)["x"].tolist() == [0.8]
    found = decided(rule)
    assert (found.action, found.steps) == ("accepted", 0)
    assert found.allowed == pytest.approx(0.125, abs=1e-15)
    assert found.proposed == found.loss == pytest.approx(0.02, abs=1e-15)
    assert found.proposed_accuracy == found.accuracy == 1.0
    assert rule.counts == {"accepted": 1, "repaired": 0, "rolled_back": 0}


def test_a_slightly_poisoned_one_is_repaired() -> None:
    """0.4 has loss 0.18, above 1/8; half a step leads to 0.7, loss 0.045."""
    rule = gate()
    assert step(rule, 1, at(0.0), 0.4)["x"].tolist() == pytest.approx([0.7], abs=1e-15)
    found = decided(rule)
    assert (found.action, found.steps) == ("repaired", 1)
    assert found.proposed == pytest.approx(0.18, abs=1e-15)
    assert found.loss == pytest.approx(0.045, abs=1e-15)
    assert found.reason == "public safety loss 0.1800 is above 0.1250; 0.0450 after 1 public steps"


def test_no_more_steps_are_taken_than_are_needed() -> None:
    """Six steps a round: the shadow is at 1 - 2^-6. With a tolerance of 1/8 a proposal of -1 needs two."""
    rule = gate(steps=6, tolerance=0.125 - 0.5 * 2.0**-12)
    assert step(rule, 1, at(0.0), -1.0)["x"].tolist() == [0.5]
    assert decided(rule).steps == 2


def test_one_that_gets_better_than_what_there_is_goes_on_although_it_is_not_good_yet() -> None:
    """At 0 the loss is 1/2. A proposal of -0.5 is repaired to 0.25, loss 0.28: above 1/8, below 1/2."""
    rule = gate()
    assert step(rule, 1, at(0.0), -0.5)["x"].tolist() == [0.25]
    assert decided(rule).action == "repaired"


def test_a_broken_one_is_rolled_back() -> None:
    """-5 is repaired to -2, loss 4.5: worse than the 1/2 of where the round began."""
    rule = gate()
    assert step(rule, 1, at(0.0), -5.0)["x"].tolist() == [0.0]
    found = decided(rule)
    assert (found.action, found.steps, found.loss, found.proposed) == ("rolled_back", 1, 0.5, 18.0)
    assert "worse than the 0.5000 of the last accepted" in found.reason
    assert rule.counts["rolled_back"] == 1


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf"), 1e39, -1e300])
def test_what_is_not_finite_as_float32_is_rolled_back(broken: float) -> None:
    rule = gate(tolerance=1e9)
    assert step(rule, 1, at(0.25), broken)["x"].tolist() == [0.25]
    found = decided(rule)
    assert (found.action, found.proposed, found.proposed_accuracy) == ("rolled_back", None, None)
    assert found.reason == "what was proposed is not finite"


def test_what_was_once_within_reach_stays_the_measure() -> None:
    """A slow slide within the tolerance of each round is measured against the best, not against the last."""
    rule = gate(tolerance=0.01, steps=1, rate=1e-9)  # a shadow that stands still, a repair that does nothing
    now, kept = at(1.0), []
    for round in range(1, 9):
        now = step(rule, round, now, float(now["x"][0]) + 0.1)
        kept.append(float(now["x"][0]))
    assert kept == pytest.approx([1.1] * 8)  # loss 0.005; 1.2 has 0.02, more than 0.01 above the best
    assert rule.counts == {"accepted": 1, "repaired": 0, "rolled_back": 7}


def test_a_run_that_only_learns_slowly_is_seen_by_the_shadow() -> None:
    """It loses nothing it had, round after round; the server alone would be further."""
    rule = gate(rate=0.1, steps=1)
    now = at(0.0)
    for round in range(1, 6):
        now = step(rule, round, now, float(now["x"][0]) + 0.01)
    assert rule.counts["accepted"] == 0
    assert float(now["x"][0]) > 0.4  # 1 - 0.9^5 = 0.41 by the shadow
    slow = gate(rate=1e-9)
    step(slow, 1, at(0.0), 0.01)
    assert slow.counts["accepted"] == 1


def test_a_rate_at_which_public_steps_diverge_breaks_nothing() -> None:
    """The shadow stays where it still was a number, and a repair that runs away is rolled back."""
    rule = gate(rate=1e30, steps=3)
    assert step(rule, 1, at(0.0), 0.5)["x"].tolist() == [0.5]
    assert step(rule, 2, at(0.5), 0.4)["x"].tolist() == [0.5]
    assert decided(rule).action == "rolled_back"
    save = rule.state_dict()
    assert np.isfinite(save["shadow"]["x"]).all()


class Extra(ServerHalf):
    """Moves, and keeps a tensor beside the adapter that devices know of."""

    def step(self, start: Arrays, moves: Sequence[Arrays]) -> Arrays:
        return {name: value + moves[0][name] for name, value in start.items()}


def test_what_is_sent_beside_the_adapter_moves_on_and_is_not_judged() -> None:
    rule = gate(Extra())
    found = step(rule, 1, {"x": np.array([0.0]), "extra.control.x": np.array([0.0])}, -5.0)
    assert found["x"].tolist() == [0.0]
    assert found["extra.control.x"].tolist() == [-5.0]


@pytest.mark.parametrize(("proposal", "stands"), [(0.4, 0.7), (-5.0, 0.0)])
def test_a_rule_that_remembers_where_it_stands_is_told(proposal: float, stands: float) -> None:
    """FedAvgM keeps its own copy of the parameters, and momentum that a rolled-back round must not leave."""
    inner = FedAvgM(fraction_train=0.0, fraction_evaluate=0.0, min_available_nodes=0, server_momentum=0.5)
    rule = gate(inner)
    now = step(rule, 1, at(0.0), proposal)
    assert now["x"].tolist() == pytest.approx([stands], abs=1e-15)
    assert inner.current_arrays is not None
    assert from_record(inner.current_arrays)["x"].tolist() == pytest.approx([stands], abs=1e-15)
    if proposal == -5.0:
        assert inner.momentum_vector is None
        assert step(rule, 2, now, 0.9)["x"].tolist() == [0.9]


def test_momentum_that_keeps_proposing_what_is_undone_is_forgotten() -> None:
    """From 5 back to 1 the momentum is 4: whoever then sends 1 is led to 1 - 4/2 = -1, again and again."""
    inner = FedAvgM(fraction_train=0.0, fraction_evaluate=0.0, min_available_nodes=0, server_momentum=0.5)
    rule = gate(inner, rate=1e-9)
    now = step(rule, 1, at(5.0), 1.0)
    for round in (2, 3):
        now = step(rule, round, now, 1.0)
        assert decided(rule).action == "rolled_back"
        assert now["x"].tolist() == [1.0]
    assert step(rule, 4, now, 1.0)["x"].tolist() == [1.0]
    assert decided(rule).action == "accepted"


def test_state_goes_through_a_file_and_the_next_round_is_the_same(tmp_path: Path) -> None:
    one = gate(get_strategy("fedavgm"), steps=3, rate=0.1)
    now = at(0.0)
    for round in range(1, 4):
        now = step(one, round, now, float(now["x"][0]) + 0.05)
    save_state(tmp_path / "state.npz", one.state_dict())
    other, state = gate(get_strategy("fedavgm"), steps=3, rate=0.1), load_state(tmp_path / "state.npz")
    assert state is not None
    other.load_state_dict(state)
    assert other.counts == one.counts
    left, right = step(one, 4, now, 0.1), step(other, 4, now, 0.1)
    assert left["x"].tobytes() == right["x"].tobytes()
    assert one.decision == other.decision


def test_the_public_set_is_named_as_a_text_and_asked_for_late() -> None:
    rule = gate(public=allow_code("toy_gate:bowl"))
    assert isinstance(rule.public, Bowl)
    nothing = gate(public=allow_code("toy_gate:nothing"))
    with pytest.raises(InputError, match=r"gate\.public is 'toy_gate:nothing', which cannot be imported"):
        step(nothing, 1, at(0.0), 1.0)
    forget_code()
    with pytest.raises(InputError, match="nobody on this machine asked for"):
        _ = gate(public="toy_gate:bowl").public


def test_a_public_set_that_gives_no_loss_is_refused() -> None:
    with pytest.raises(StrategyError, match="gives the loss inf where the round began"):
        step(gate(public=Bowl(float("nan"))), 1, at(0.0), 1.0)


@pytest.mark.parametrize("gated", [False, True])
def test_a_fifth_of_inverted_people_shift_fedavg_and_the_gate_takes_most_of_it_back(gated: bool) -> None:
    """Eight people want 1, two want -1; ten local and ten public steps each leave r = 0.9^10 of the way.

    FedAvg settles at 0.6. A proposal from x is 0.6 + r (x - 0.6), its repair 1 - r (1 - that), which is no
    better than x from x = (1 - 0.4 r - 0.6 r^2) / (1 - r^2) = 0.89657 on: 74 % of what the two took from 1.
    """
    run = toy.Run("fedavg", toy.one_d([1.0] * 10, [-1.0] * 2 + [1.0] * 8))
    if gated:
        run.wrapper.inner = gate(run.wrapper.inner, rate=0.1, steps=10)
    r = 0.9**10
    settles = (1 - 0.4 * r - 0.6 * r * r) / (1 - r * r) if gated else 0.6
    assert float(run.rounds(14)["x"]) == pytest.approx(settles, abs=1e-5)


def test_no_reply_is_no_decision() -> None:
    class Silent(ServerHalf):
        def step(self, start: Arrays, moves: Sequence[Arrays]) -> Arrays:
            return start

    rule = gate(Silent())
    rule.configure_train(1, to_record(at(0.0)), ConfigRecord(), InProcessGrid(ClientApp(), 1))
    assert rule.aggregate_train(1, []) == (None, None)
    assert rule.decision is None
