"""A private claim where the same comparisons are elsewhere too. Class: a number true of one part alone."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import toy_world

from commonground.privacy.accounting import epsilon_composed
from commonground.privacy.both_claims import NO_NOISE, OWN_PART, UNFLIPPED, beside_shared
from commonground.privacy.claims import PrivateClaim, SharedClaim, private_claim, shared_claim
from commonground.privacy.statement import statement
from commonground.recipe import claims
from commonground.strategies.registry import client_half
from commonground.training.client_half import ClientHalf

BOTH = ["safety", "taste"]


def shared(**changes: Any) -> SharedClaim:
    values: dict[str, Any] = {"people": 500, "cohort": 100, "rounds": 30, "epsilon_target": 8.0, "clip": 0.5}
    return shared_claim(**values | changes)


def private(**changes: Any) -> PrivateClaim:
    values: dict[str, Any] = {"epsilon_target": 8.0, "sampling": 0.25, "steps": 40, "cap": 40, "people": 500}
    return private_claim(**values | changes)


def said(claim: PrivateClaim, beside: SharedClaim) -> str:
    lines = statement(beside, claim, people=500, released=[], unit_words=[]).splitlines()
    return next(line for line in lines if line.startswith("Private adapters"))


def test_nothing_changes_where_taste_is_not_shared() -> None:
    own = private()
    assert beside_shared(own, shared(epsilon_target=math.inf), ["safety"]) == own
    assert own.epsilon == own.alone


def test_two_claims_of_one_comparison_are_one_composition() -> None:
    """The figures of an audit: 8 and 8 at delta 1e-3, by PRV, are 10.7 together, not 8 and 8, nor 16."""
    beside = shared(
        people=120, cohort=24, rounds=2, unit="comparison", pair_sampling=0.25, epsilon_target=7.997,
        delta=1e-3, comparisons=16,
    )  # fmt: skip
    own = private(delta=1e-3, people=1)
    found = beside_shared(own, beside, BOTH)
    charges = [own.charge(40), beside.charge(2)]
    assert found.epsilon == epsilon_composed(charges, 1e-3)
    assert max(own.epsilon, 8) < found.epsilon < own.epsilon + 8
    assert found.alone == own.epsilon
    values = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert values["epsilon_prv"] == values["epsilon"] < values["epsilon_rdp"]


@pytest.mark.parametrize("changes", [{}, {"trust": "local"}, {"mechanism": "banded"}])
def test_a_person_level_claim_counts_as_a_replacement(changes: dict[str, Any]) -> None:
    """One comparison of hers more or less: she is in under both, with another message."""
    beside, own = shared(**changes), private()
    found = beside_shared(own, beside, BOTH)
    assert found.epsilon > max(own.epsilon, beside.epsilon)
    assert 0 < found.epsilon_after(1) < found.epsilon == found.epsilon_after(40)
    text = said(found, beside)
    assert f"epsilon = {found.epsilon:.4g} at delta" in text
    assert "both adapters together" in text
    assert f"Private training alone is epsilon = {own.epsilon:.4g}" in text
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("beside", "own", "part", "why"),
    [
        ({"epsilon_target": math.inf}, {}, False, NO_NOISE),
        ({}, {"mechanism": "label", "epsilon_target": 1.0}, False, UNFLIPPED),
        ({}, {}, True, OWN_PART),
        ({"epsilon_target": math.inf}, {"mechanism": "label", "epsilon_target": 1.0}, False, NO_NOISE),
    ],
)
def test_no_number_where_the_comparison_is_seen_as_it_is(
    beside: dict[str, Any], own: dict[str, Any], part: bool, why: str
) -> None:
    tags = ["safety"] if part else BOTH
    found = beside_shared(private(**own), shared(**beside), tags, part)
    assert (found.epsilon, found.why) == (math.inf, why)
    assert found.to_dict()["epsilon"] == "inf"
    assert found.epsilon_after(1) == math.inf
    text = said(found, shared(**beside))
    assert why in text
    assert "nothing derived from a private adapter may leave" in text
    assert "The guarantee is" not in text


@pytest.mark.parametrize(
    "changes",
    [
        {"shared__tags": BOTH, "privacy__shared__epsilon": math.inf},
        {"shared__tags": BOTH, "privacy__private__mechanism": "label", "privacy__private__epsilon": 1.0},
        {"strategy__name": "fedsa", "model__form": "tanh"},
        {"strategy__name": "lore", "shared__tags": BOTH, "schedule": "joint", "model__form": "basis"},
    ],
    ids=["no noise", "label", "fedsa", "lore"],
)
def test_configurations_know_what_their_parts_share(changes: dict[str, Any]) -> None:
    config = toy_world.tiny_config(people=200, cohort=40, **changes)
    _, own = claims(config, 200, client_half(config.strategy.name, config.strategy.options))
    assert own.epsilon > 1.2 * own.alone


def test_any_half_with_a_part_of_its_own_is_noticed() -> None:
    class Keeps(ClientHalf):
        def own(self, shared: Any, memory: Any) -> Any:
            return shared

        def update(self, visit: Any) -> Any:
            raise AssertionError("a claim is made without a visit")

    config = toy_world.tiny_config(people=200, cohort=40)
    assert claims(config, 200, Keeps())[1].why == OWN_PART
    assert claims(config, 200)[1].why == ""


def test_words_name_the_unit_and_neighbours() -> None:
    text = said(private(), shared())
    assert "the unit is one taste comparison" in text
    assert "What was said about safety is covered by the claim on the shared adapter alone" in text
    for claim in (shared(), shared(mechanism="banded")):
        assert "contribution is replaced by zeros" in claim.neighbours
        assert "added or removed" not in claim.neighbours
