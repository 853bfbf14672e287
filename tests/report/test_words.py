"""How values are written."""

import math

import pytest

from commonground.report import words as w

NB = "\N{NO-BREAK SPACE}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (w.percent(0.7312), f"73.1{NB}%"),
        (w.percent(-2.15, 0), f"−215{NB}%"),
        (w.percent(None), "–"),
        (w.percent(math.nan), "–"),
        (w.percent("0.5"), "–"),
        (w.percent(True), "–"),
        (w.points(0.051), "+5.1"),
        (w.points(-0.051), "−5.1"),
        (w.points(-0.0001), "0.0"),
        (w.points(None), "–"),
        (w.span(-0.01, 0.02), "−1.0 to 2.0"),
        (w.span(None, 0.02), ""),
        (w.count(12345), "12,345"),
        (w.plural(1, "person", "people"), "1 person"),
        (w.plural(2, "person", "people"), "2 people"),
        (w.plural(0, "message"), "0 messages"),
        (w.size(999), f"999{NB}bytes"),
        (w.size(4_608_000), f"4.6{NB}MB"),
        (w.size(5e12), f"5000.0{NB}GB"),
        (w.duration(7.25), "7.2 s"),
        (w.duration(75), "1 min 15 s"),
        (w.duration(7300), "2 h 01 min"),
        (w.epsilon(8.0), "8"),
        (w.epsilon(math.inf), "unlimited (no guarantee)"),
        (w.epsilon("inf"), "unlimited (no guarantee)"),
        (w.epsilon(None), "not claimed"),
        (w.epsilon("4.10378"), "4.1"),
        (w.epsilon("odd"), "not claimed"),
        (w.epsilon([1]), "not claimed"),
        (w.claimed({"epsilon": None, "meaningful": False}), "not claimed (too few people)"),
        (
            w.claimed({"epsilon": None, "meaningful": False, "units": 200, "delta": 0.004}),
            "not claimed (delta is too large)",
        ),
        (w.claimed({"epsilon": 8.0, "meaningful": True}), "8"),
        (w.scientific(0.00294), "2.9e−3"),
        (w.scientific(0.5), "0.5"),
        (w.plain(True), "yes"),
        (w.plain(12345), "12,345"),
        (w.plain(0.12345), "0.1235"),
        (w.plain(None), "–"),
        (w.decimal(-0.0001, 2), "0.00"),
        (w.label("pooled_central"), "Pooled, no noise"),
        (w.label("my_model"), "my model"),
    ],
)
def test_words(text: str, expected: str) -> None:
    assert text == expected


def test_dig_survives_anything() -> None:
    assert w.dig({"a": {"b": 1}}, "a", "b") == 1
    assert w.dig({"a": None}, "a", "b") is None
    assert w.dig(None, "a") is None
    assert w.mapping({"a": [1]}, "a") == {}


def test_excludes_zero() -> None:
    assert w.excludes_zero({"low": 0.1, "high": 0.2}) is True
    assert w.excludes_zero({"low": -0.2, "high": -0.1}) is True
    assert w.excludes_zero({"low": -0.1, "high": 0.2}) is False
    assert w.excludes_zero({"low": None, "high": 0.2}) is None
