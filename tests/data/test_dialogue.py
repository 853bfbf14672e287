import pytest
from hypothesis import given
from hypothesis import strategies as st

from commonground.data.dialogue import opening, render, split_dialogues, turns


def test_a_lone_question_is_plain_text() -> None:
    assert render([("user", " Why? ")]) == "Why?"
    assert turns("Why?") == (("user", "Why?"),)
    assert turns("  ") == ()


def test_a_dialogue_is_a_transcript_and_comes_back() -> None:
    said = (("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello\nyou"), ("user", "Why?"))
    text = render(said)
    assert text == "System: Be kind.\n\nHuman: Hi\n\nAssistant: Hello\nyou\n\nHuman: Why?"
    assert turns(text) == said
    assert opening(text) == "Hi"


@given(
    st.lists(
        st.tuples(st.sampled_from(["user", "assistant"]), st.text("ab \n", min_size=1).map(str.strip)),
        min_size=2,
    )
)
def test_what_is_rendered_parses_to_the_same_turns(said: list[tuple[str, str]]) -> None:
    assert turns(render(said)) == tuple(said)


def test_text_before_the_first_mark_means_it_is_no_dialogue() -> None:
    text = "See this:\n\nHuman: hi"
    assert turns(text) == (("user", text),)


@pytest.mark.parametrize(
    ("chosen", "rejected", "expected"),
    [
        ("\n\nHuman: Q\n\nAssistant: yes", "\n\nHuman: Q\n\nAssistant: no", ("Q", "yes", "no")),
        # the replies begin alike: the split is at the mark, not at the first difference
        (
            "\n\nHuman: Q\n\nAssistant: no way",
            "\n\nHuman: Q\n\nAssistant: not now",
            ("Q", "no way", "not now"),
        ),
        # one goes on where the other stops: the common context ends earlier
        (
            "\n\nHuman: Q\n\nAssistant: A\n\nHuman: R\n\nAssistant: B",
            "\n\nHuman: Q\n\nAssistant: C",
            ("Q", "A\n\nHuman: R\n\nAssistant: B", "C"),
        ),
        (
            "\n\nHuman: Q\n\nAssistant: A\n\nHuman: R\n\nAssistant: B",
            "\n\nHuman: Q\n\nAssistant: A\n\nHuman: R\n\nAssistant: C",
            ("Human: Q\n\nAssistant: A\n\nHuman: R", "B", "C"),
        ),
        ("\n\nHuman: Q\n\nAssistant: ", "\n\nHuman: Q\n\nAssistant: Ok", ("Q", "", "Ok")),
        # one text is the beginning of the other
        ("\n\nHuman: Q\n\nAssistant: Ok", "\n\nHuman: Q\n\nAssistant: Ok then", ("Q", "Ok", "Ok then")),
        ("The sky is blue", "The sky is green", None),
        ("\n\nHuman: Q\n\nAssistant: a", "\n\nHuman: P\n\nAssistant: b", None),
    ],
)
def test_two_dialogues_split_at_the_last_common_mark(
    chosen: str, rejected: str, expected: tuple[str, str, str] | None
) -> None:
    assert split_dialogues(chosen, rejected) == expected
