"""What a policy writes: counts done by hand."""

import pytest

from commonground.evaluation import writing

BY_STYLE = {
    "brief": "Boil the pasta in plenty of water and stir it.",
    "bullets": "- Boil plenty of water\n- Stir the pasta\n- Drain it well and serve it warm",
    "emoji": "Boil plenty of water. 🍝 Stir it.",
    "casual": "Hey, just chuck it in a big pot, you're gonna be fine, yeah?",
    "hedged": "Perhaps more water might help, although it may depend on the pan.",
    "formal": "Pasta should be cooked in ample water; one should ensure sufficient heat.",
    "analogy": "Think of the strands as passengers in a lift.",
    "coach": "You can do this! Take one small step today, and be proud of it.",
}


@pytest.mark.parametrize("name", sorted(BY_STYLE))
def test_each_style_is_seen_in_its_own_example(name: str) -> None:
    assert writing.shows(name, BY_STYLE[name])


def test_plain_text_shows_no_style_but_its_length() -> None:
    text = (
        "Pasta sticks when the pot is small and the water is not hot. Use four litres of water for each, "
        "bring it to the boil, and stir for two minutes before you close the lid."
    )
    assert [name for name in writing.VISIBLE if writing.shows(name, text)] == []


def test_counts_by_hand() -> None:
    found = writing.style("Maybe don't. 🙂🙂\n- one\n- two\n-\n")
    assert (found.words, found.emoji, found.bullets) == (4, 2, 2)
    assert found.hedges == pytest.approx(1 / 4)
    assert found.contractions == pytest.approx(1 / 4)


def test_a_text_of_dashes_is_no_list() -> None:
    assert writing.style("-----\n-\n- \n--").bullets == 0


def test_empty_text_has_zeros() -> None:
    assert set(writing.style("").to_dict().values()) == {0}
    assert writing.repetition("") == 0
    assert not writing.shows("brief", "")


def test_repetition_by_hand() -> None:
    assert writing.repetition("a b c d") == 0
    # grams: abc bca cab abc bca -> 5 grams, 3 distinct
    assert writing.repetition("a b c a b c a") == pytest.approx(2 / 5)


def test_on_topic_needs_a_content_word() -> None:
    assert writing.on_topic("How do I cook rice?", "Rinse the rice first.")
    assert not writing.on_topic("How do I cook rice?", "Do it how I do.")
    assert writing.on_topic_share(["cook rice", "cook rice"], ["cooking is fun", "no"]) == 0.5


def test_style_rate_and_unknown_names() -> None:
    assert writing.style_rate("emoji", ["🙂", "no", "no", "🙂"]) == 0.5
    assert writing.style_rate("emoji", []) == 0
    assert not writing.shows("sonnet", "text")
