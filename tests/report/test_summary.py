"""The three sentences say what the numbers say."""

from typing import Any

from commonground.report.summary import summary

NB = "\N{NO-BREAK SPACE}"


def run(
    mean: float, low: float | None, high: float | None, few: dict[str, Any] | None = None
) -> dict[str, Any]:
    return {
        "policies": {
            "personal": {"taste": {"accuracy": 0.66 + mean}, "safety": {"accuracy": 0.9}},
            "pooled": {"taste": {"accuracy": 0.66}},
            "shared": {"safety": {"accuracy": 0.91, "low": 0.9, "high": 0.92}},
            "base": {"safety": {"accuracy": 0.5}},
        },
        "paired": {"personal_minus_pooled": {"mean": mean, "low": low, "high": high, "minority": few}},
        "privacy": {
            "shared": {"unit": "person", "epsilon": 8.0, "delta": 0.002},
            "private": {"epsilon": None},
        },
        "egress": {"messages": 1, "bytes": 3072, "private_tensors": 0},
    }


def test_a_gain() -> None:
    few = {"mean": 0.2, "low": 0.15, "high": 0.25, "people": 12}
    gain, safety, price = summary(run(0.051, 0.04, 0.062, few))
    assert f"71.1{NB}%" in gain
    assert f"a gain of 5.1 points on average (95{NB}% interval 4.0 to 6.2)" in gain
    assert (
        "agree least with the pooled model (12 people) the difference is +20.0 points (15.0 to 25.0)" in gain
    )
    assert f"shared model gets 91.0{NB}% right" in safety
    assert "costs epsilon 8 at delta 2.0e−3 per person" in price
    assert "each private adapter claims no epsilon per comparison" in price
    assert "1 sealed message" in price
    assert "no private tensor did" in price


def test_an_interval_that_covers_zero_is_no_gain() -> None:
    text = summary(run(0.003, -0.005, 0.011))[0]
    assert "covers 0, so this run does not show a gain or a loss" in text
    assert "a gain of" not in text


def test_a_loss_is_called_a_loss() -> None:
    assert "a loss of 3.2 points" in summary(run(-0.032, -0.05, -0.01))[0]


def test_too_few_people_for_an_interval() -> None:
    assert "too few people for an interval" in summary(run(0.1, None, None))[0]


def test_a_minority_whose_interval_covers_zero_is_marked() -> None:
    few = {"mean": 0.2, "low": -0.1, "high": 0.5, "people": 3}
    assert "+20.0 points (−10.0 to 50.0, which covers 0)" in summary(run(0.05, 0.04, 0.06, few))[0]


def test_planted_minority_is_named_as_such() -> None:
    few = {"mean": 0.2, "low": 0.1, "high": 0.5, "people": 3}
    text = summary(run(0.05, 0.04, 0.06, few) | {"truth": {"personal": 0.8}})[0]
    assert "the planted minority (3 people)" in text


def with_safety(comparisons: int | None, personal: float | None, shared: float | None = 1 / 3) -> str:
    result = run(0.05, 0.04, 0.06)
    held_out = {"low": 0.0, "high": 1.0, "comparisons": comparisons}
    result["policies"]["shared"]["safety"] = {"accuracy": shared} | held_out
    result["policies"]["personal"]["safety"] = {"accuracy": personal} | held_out
    return summary(result)[1]


def test_none_right_of_a_few_safety_comparisons_is_not_left_to_speak_for_itself() -> None:
    """The demonstration's language model: three people with one held-out safety comparison each."""
    text = with_safety(3, 0.0)
    assert f"shared model gets 33.3{NB}% right" in text
    assert f"personal models 0.0{NB}%. That is over 3 comparisons, too few to tell models apart" in text
    assert f"0{NB}% and 100{NB}% may both be chance" in text
    assert "over 1 comparison, too few" in with_safety(1, 0.0)
    assert "over 29 comparisons, too few" in with_safety(29, 0.5)


def test_enough_safety_comparisons_need_no_excuse() -> None:
    for comparisons in (30, 4000, None):
        assert with_safety(comparisons, 0.0).endswith(f"personal models 0.0{NB}%.")


def test_no_safety_comparison_is_said() -> None:
    assert with_safety(0, None, None) == (
        "Nothing is known about safety: no safety comparison was held out to measure it."
    )


def test_private_tensors_that_left_are_not_hidden() -> None:
    result = run(0.05, 0.04, 0.06)
    result["egress"]["private_tensors"] = 2
    assert "2 private tensors did" in summary(result)[-1]


def test_nothing_known_nothing_said() -> None:
    assert summary({}) == []


def test_no_epsilon_where_people_are_too_few_and_none_without_noise() -> None:
    result = run(0.05, 0.04, 0.06)
    result["privacy"]["shared"] = {"unit": "person", "epsilon": None, "delta": 0.01, "meaningful": False}
    result["privacy"]["private"] = {"unit": "comparison", "epsilon": "inf"}
    price = summary(result)[-1]
    assert "the shared adapter claims no epsilon per person (too few people)" in price
    assert "each private adapter has no privacy guarantee per comparison" in price
