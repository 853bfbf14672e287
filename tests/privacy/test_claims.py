import json
import math
from typing import Any

import pytest

from commonground.errors import ConfigError, InputError
from commonground.privacy.accounting import epsilon_gaussian, epsilon_sampled_gaussian
from commonground.privacy.claims import SharedClaim, private_claim, shared_claim


def claim(**changes: Any) -> SharedClaim:
    values: dict[str, Any] = {"people": 500, "cohort": 100, "rounds": 30, "epsilon_target": 8.0, "clip": 0.5}
    return shared_claim(**values | changes)


def test_person_central_is_amplified_by_the_cohort_and_charged_every_round() -> None:
    found = claim()
    assert (found.sampling, found.rounds, found.participations) == (0.2, 30, None)
    assert found.delta == pytest.approx(1 / 5000)
    assert 7.97 < found.epsilon <= 8
    assert found.epsilon == epsilon_sampled_gaussian(found.noise_multiplier, 0.2, 30, found.delta)
    assert found.charge(7) == (0.2, found.noise_multiplier, 7)
    assert found.meaningful


@pytest.mark.parametrize("schedule", ["decoupled", "alternating", "joint"])
def test_person_level_costs_the_same_in_every_schedule(schedule: str) -> None:
    """Theorem U: private state on the same comparisons costs nothing at person level."""
    assert claim(schedule=schedule).noise_multiplier == claim().noise_multiplier


def test_person_local_has_no_amplification_and_twice_the_sensitivity() -> None:
    found = claim(trust="local")
    assert found.participations == 6 + 3 * 3  # qT = 6, ceil(sqrt 6) = 3
    assert found.accountant == "gaussian"
    mu = 2 * math.sqrt(15) / found.noise_multiplier
    assert found.epsilon == pytest.approx(epsilon_gaussian(mu, found.delta), rel=1e-10)
    assert 7.97 < found.epsilon <= 8
    assert found.epsilon_after(1) == pytest.approx(epsilon_gaussian(2 / found.noise_multiplier, found.delta))
    assert found.epsilon_after(15) == found.epsilon_after(30) == found.epsilon
    assert "replaced" in found.neighbours


def test_participations_are_capped_by_the_rounds_and_can_be_chosen() -> None:
    assert claim(trust="local", rounds=3).participations == 3
    assert claim(trust="local", participations=2).participations == 2
    assert claim(trust="local", participations=2).noise_multiplier < claim(trust="local").noise_multiplier


@pytest.mark.parametrize("trust", ["central", "local"])
def test_comparison_level_counts_pair_sampling_only(trust: str) -> None:
    found = claim(unit="comparison", trust=trust, pair_sampling=0.25)
    assert (found.sampling, found.participations) == (0.25, None)
    assert found.epsilon == epsilon_sampled_gaussian(found.noise_multiplier, 0.25, 30, found.delta)
    # a smaller cohort must not buy anything
    assert claim(unit="comparison", trust=trust, pair_sampling=0.25, cohort=2).epsilon == found.epsilon


@pytest.mark.parametrize("schedule", ["alternating", "joint"])
def test_comparison_level_is_refused_where_it_is_not_private(schedule: str) -> None:
    with pytest.raises(ConfigError, match="private adapter fitted on the same comparisons"):
        claim(unit="comparison", schedule=schedule, pair_sampling=0.25)


def test_infinite_epsilon_means_no_noise() -> None:
    for trust in ("central", "local"):
        found = claim(epsilon_target=math.inf, trust=trust)
        assert found.noise_multiplier == 0
        assert found.epsilon == found.epsilon_after(1) == math.inf
        assert found.to_dict()["epsilon"] == "inf"


@pytest.mark.parametrize("accountant", ["rdp", "prv"])
def test_epsilon_over_rounds_rises_to_the_whole(accountant: str) -> None:
    found = claim(accountant=accountant, rounds=10)
    values = [found.epsilon_after(t) for t in range(11)]
    assert values == sorted(values)
    assert values[0] == 0
    assert values[10] == found.epsilon <= 8


def test_dict_is_json_and_holds_both_accountants() -> None:
    values = json.loads(json.dumps(claim().to_dict(), allow_nan=False))
    assert values["epsilon_rdp"] > values["epsilon"] == values["epsilon_prv"] > 0
    assert {"unit", "neighbours", "adversary", "delta", "noise_multiplier", "sampling", "rounds"} <= set(
        values
    )
    json.dumps(claim(epsilon_target=math.inf, clip=math.inf).to_dict(), allow_nan=False)


def test_few_people_get_no_epsilon_but_a_nominal_one() -> None:
    found = claim(people=12, cohort=6, rounds=10)
    values = found.to_dict()
    assert not found.meaningful
    assert [values[name] for name in ("epsilon", "epsilon_rdp", "epsilon_prv")] == [None, None, None]
    assert 7.97 < values["epsilon_if_many"] <= 8
    assert "nominal" in values["epsilon_if_many_is"]
    assert "epsilon_if_many" not in claim().to_dict()


def test_a_delta_too_large_for_the_units_gets_no_number() -> None:
    """Units are people, or comparisons of all people where those are protected, as in private adapters."""
    assert not claim(people=200, cohort=40, delta=0.004).meaningful
    assert claim(people=200, cohort=40, delta=1 / 2000).meaningful
    pairs: dict[str, Any] = {"unit": "comparison", "pair_sampling": 0.25, "comparisons": 40}
    assert not claim(**pairs, delta=1 / 5000).meaningful
    assert claim(**pairs).meaningful
    assert claim(**pairs).units == 500 * 40
    assert claim(**pairs).delta == pytest.approx(1 / 200_000)
    kept = private_claim("dp_sgd", 8.0, None, 0.25, 20, 40, people=300)
    assert (kept.units, kept.meaningful) == (12_000, True)
    assert kept.delta == pytest.approx(1 / 120_000)
    large = private_claim("dp_sgd", 8.0, 1e-3, 0.25, 20, 40, people=300)
    assert not large.meaningful
    values = json.loads(json.dumps(large.to_dict(), allow_nan=False))
    assert (values["epsilon"], values["epsilon_prv"], values["meaningful"]) == (None, None, False)
    assert 7.9 < values["epsilon_if_many"] <= 8
    assert private_claim("label", 2.0, people=10**6).meaningful  # delta is 0


def test_every_fault_is_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        claim(unit="pair", trust="both", epsilon_target=0.0, delta=2.0, cohort=501, accountant="gdp")
    text = "\n".join(caught.value.faults)
    assert len(caught.value.faults) == 6
    for word in ("'pair'", "'both'", "epsilon is 0.0", "delta is 2.0", "cohort 501", "'gdp'"):
        assert word in text


def test_private_dp_sgd_solves_the_lifetime() -> None:
    found = private_claim("dp_sgd", 8.0, 1e-3, 0.25, 20, 40, "rdp")
    assert found.noise_multiplier == pytest.approx(0.887, rel=2e-3)
    assert found.expected_batch == 10
    assert found.epsilon_after(20) == found.epsilon == found.epsilon_after(1000) <= 8
    assert 0 < found.epsilon_after(5) < found.epsilon
    assert found.charge(4) == (0.25, found.noise_multiplier, 4)
    assert found.unit == "comparison"
    json.dumps(found.to_dict(), allow_nan=False)


def test_private_label_protects_the_choice() -> None:
    found = private_claim("label", math.log(3), steps=20)
    assert found.unit == "choice"
    assert found.flip_probability == pytest.approx(0.25)
    assert (found.epsilon, found.delta, found.noise_multiplier) == (math.log(3), 0, 0)
    assert (found.epsilon_after(0), found.epsilon_after(1)) == (0, math.log(3))
    assert found.to_dict()["epsilon_rdp"] is None
    with pytest.raises(InputError, match="once per choice"):
        found.charge()


def test_private_infinite_epsilon() -> None:
    assert private_claim("dp_sgd", math.inf, steps=5).noise_multiplier == 0
    assert private_claim("dp_sgd", math.inf, steps=5).to_dict()["epsilon"] == "inf"
    assert private_claim("label", math.inf).flip_probability == 0


def test_private_faults() -> None:
    with pytest.raises(ConfigError) as caught:
        private_claim("vote", -1.0, 0.0, 0.0, -1, 0)
    assert len(caught.value.faults) == 5
