"""The format-only probe catches leaks and finds nothing where there is none."""

import numpy as np

from commonground.comparisons import Comparison, Tag
from commonground.evaluation.format_probe import FEATURES, format_counts, format_differences, format_probe

WORDS = ("apple", "river", "stone", "cloud", "green", "table", "light", "house")


def comparisons(n: int, seed: int, leak: str, tag: Tag = "taste") -> list[Comparison]:
    draws = np.random.default_rng(seed)
    made = []
    for i in range(n):
        a, b = (" ".join(draws.choice(WORDS, 6)) for _ in range(2))
        made.append(Comparison("p", a + leak, b + " .", tag, f"person{i % 20}"))
    return made


def probe(leak: str) -> dict[str, dict[str, float]]:
    train, test = comparisons(400, 1, leak), comparisons(200, 2, leak)
    return format_probe(train, test, resamples=200, rng=np.random.default_rng(1))


def test_a_leak_in_punctuation_is_found() -> None:
    found = probe(" !")["taste"]
    assert found["accuracy"] == 1.0
    assert found["people"] == 20
    assert found["comparisons"] == 200
    assert 0.3 < found["longer"] < 0.7


def test_no_leak_no_accuracy() -> None:
    found = probe(" .")["taste"]
    assert abs(found["accuracy"] - 0.5) < 0.1


def test_longer_wins_is_counted_in_characters() -> None:
    pairs = [Comparison("", "aaa", "a", "safety", "x"), Comparison("", "b", "bbbb", "safety", "x")]
    pairs.append(Comparison("", "cc", "dd", "safety", "y"))
    found = format_probe([], pairs, resamples=10, rng=np.random.default_rng(1))
    assert found["safety"]["longer"] == 0.5  # one right, one wrong, one tie
    assert found["safety"]["accuracy"] == 0.5  # without training it knows nothing
    assert found["taste"]["accuracy"] is None
    assert found["taste"]["longer"] is None


def test_counts_by_hand() -> None:
    counts = dict(
        zip(FEATURES, np.expm1(format_counts("Hi! Go,\n42 - é 🙂")).round().astype(int), strict=True)
    )
    assert counts["characters"] == 16
    assert counts["words"] == 6
    assert (counts["mark '!'"], counts["mark ','"], counts["mark '-'"], counts["mark '\\n'"]) == (1, 1, 1, 1)
    assert (counts["digits"], counts["capitals"], counts["non_ascii"]) == (2, 2, 2)


def test_swapping_the_answers_negates_the_features() -> None:
    pair = Comparison("", "One, two!", "three", "taste", "x")
    swapped = Comparison("", "three", "One, two!", "taste", "x")
    assert (format_differences([pair]) == -format_differences([swapped])).all()
