import math
import re
from typing import Any

import pytest

from commonground.errors import PrivacyError
from commonground.privacy.claims import PrivateClaim, SharedClaim, private_claim, shared_claim
from commonground.privacy.statement import refuse_if_unaccounted, statement

RELEASED = ["clipped updates of the shared adapter", "num-examples = 1"]
WORDS = ["A comparison is built from two ratings; one rating touches up to 40 comparisons."]


def shared(**changes: Any) -> SharedClaim:
    values: dict[str, Any] = {
        "people": 500,
        "cohort": 100,
        "rounds": 31,
        "epsilon_target": 6.0,
        "clip": 0.537,
    }
    return shared_claim(**values | changes)


def private(**changes: Any) -> PrivateClaim:
    values: dict[str, Any] = {"epsilon_target": 3.0, "delta": 1e-3, "sampling": 0.23, "steps": 19, "cap": 43}
    return private_claim(**values | {"clip": 0.321} | changes)


def said(shared_part: SharedClaim, private_part: PrivateClaim | None = None, **changes: Any) -> str:
    values: dict[str, Any] = {"people": shared_part.people, "released": RELEASED, "unit_words": WORDS}
    return statement(shared_part, private_part, **values | changes)


@pytest.mark.parametrize(
    "claim",
    [
        shared(),
        shared(trust="local"),
        shared(unit="comparison", pair_sampling=0.17),
        shared(unit="comparison", trust="local", pair_sampling=0.17),
    ],
    ids=lambda claim: f"{claim.unit}-{claim.trust}",
)
def test_holds_every_number(claim: SharedClaim) -> None:
    own = private()
    text = said(claim, own)
    numbers = [claim.epsilon, claim.delta, claim.noise_multiplier, claim.sampling, claim.rounds, claim.clip]
    numbers += [own.epsilon, own.delta, own.noise_multiplier, own.sampling, own.steps, own.cap, own.clip]
    numbers += [claim.participations] if claim.participations else [claim.cohort, claim.people]
    for number in numbers:
        assert re.search(rf"(?<![\d.]){re.escape(f'{number:.4g}')}(?!\d)", text), (
            f"{number} is not in: {text}"
        )
    for words in (claim.neighbours, claim.adversary, own.neighbours, own.adversary, "one " + claim.unit):
        assert words in text
    assert all(name in text for name in RELEASED + WORDS)
    assert "PRV" in text or "Gaussian accountant" in text


def test_the_units_of_two_tags_are_two_sentences() -> None:
    units = ["safety: one answer preferred to another", " taste: one pair of ratings; each touches many. "]
    lines = said(shared(), private(), unit_words=units).splitlines()
    wanted = "Safety: one answer preferred to another. Taste: one pair of ratings; each touches many."
    assert f"About the unit. {wanted}" in lines
    assert "About the unit" not in said(shared(), private(), unit_words=["", " "])


def test_names_the_accountant() -> None:
    assert "PRV accountant" in said(shared(rounds=3))
    assert "RDP accountant" in said(shared(accountant="rdp", rounds=3))
    assert "exact (analytic) Gaussian" in said(shared(trust="local"))


def test_central_trust_admits_what_the_server_could_see() -> None:
    assert "gradient inversion" in said(shared())
    assert "gradient inversion" not in said(shared(trust="local"))
    assert "no amplification" in said(shared(trust="local"))


def test_simulation_is_a_side_view() -> None:
    text = said(shared(), private())
    for words in ("omniscient", "accuracies, texts", "not covered by any epsilon", "seed"):
        assert words in text
    assert "omniscient" not in said(shared(), private(), side_view=False)


@pytest.mark.parametrize("trust", ["central", "local"])
def test_few_people_get_no_epsilon_number(trust: str) -> None:
    few = shared(people=12, cohort=6, rounds=10, epsilon_target=6.5432, trust=trust)
    text = said(few)
    assert "12 people are fewer than 100" in text
    assert "no number is claimed" in text
    assert not re.search(r"epsilon\s*(=|is|of|at most)\s*\d", text)
    for value in (few.epsilon, 6.5432):
        for form in (f"{value:.4g}", f"{value:.3g}", f"{value:.2f}", str(value)):
            assert form not in text
    # ... of that claim: the private one is about comparisons and keeps its number
    assert f"epsilon = {private().epsilon:.4g}" in said(few, private())


def test_infinite_epsilon_promises_nothing() -> None:
    text = said(shared(epsilon_target=math.inf), private(epsilon_target=math.inf))
    assert "no promise about the shared adapter" in text
    assert "nothing derived from a private adapter may leave" in text
    assert not re.search(r"epsilon = ", text)


def test_label_mechanism_protects_the_choice_not_the_text() -> None:
    own = private(mechanism="label", epsilon_target=1.5)
    text = said(shared(), own)
    assert "protects the choice, not the text" in text
    assert f"{own.flip_probability:.4g}" in text
    assert "epsilon = 1.5 with delta = 0" in text


def test_schedules_are_told_apart() -> None:
    assert "private adapters cannot influence what is sent" in said(shared())
    for schedule in ("alternating", "joint"):
        text = said(shared(schedule=schedule))
        assert f"The schedule is {schedule}" in text
        assert "depends on private adapters" in text


def test_a_delta_too_large_gets_no_number_and_is_explained() -> None:
    text = said(shared(people=200, cohort=40, delta=0.004), private(people=200))
    assert "delta = 0.004 over 200 units is meaningless" in text
    assert "show at least one with probability 0.5514; at most 0.0005 is accepted" in text  # 1 - 0.996^200
    assert "delta = 0.001 over 8600 units is meaningless" in text
    assert "epsilon =" not in text
    assert "fail outright" not in text
    assert "meaningless" not in said(shared(), private(delta=None, people=500))


def test_a_release_without_an_account_is_refused() -> None:
    refuse_if_unaccounted(["shared"], ["shared", "audit"])
    refuse_if_unaccounted([], [])
    with pytest.raises(PrivacyError, match="'train_loss'") as caught:
        refuse_if_unaccounted(["shared", "train_loss"], ["shared"])
    assert "'shared'" in caught.value.message
