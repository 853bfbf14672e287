"""The guard: its bound by enumeration, and that it fails closed."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_patience import LIMIT

from commonground.bounds.guard import REFUSAL, Guard, Shown, bound
from commonground.errors import InputError, TrustError


class Says:
    """A detector that looks its scores up, and raises, hangs or talks nonsense where the table says so."""

    name, digest = "says", "d" * 64

    def __init__(self, scores: dict[str, object], default: float = 0.0) -> None:
        self._scores, self._default, self.asked = scores, default, list[str]()

    def score(self, prompts: Sequence[str], answers: Sequence[str] | None = None) -> Sequence[float]:
        text = (answers or prompts)[0]
        self.asked.append(text)
        value = self._scores.get(text, self._default)
        if isinstance(value, BaseException):
            raise value
        if isinstance(value, threading.Event):
            value.wait(LIMIT)
            return [0.0]
        return value if isinstance(value, list) else [float(str(value))]


ANSWERS = ["fine", "caught", "missed", "odd"]  # "missed" violates and the detector calls it safe
UNSAFE = {"caught": 0.9, "odd": 0.7}


def shown_law(personal: Sequence[float], shared: Sequence[float], draws: int) -> dict[str, float]:
    """Exact law of what is shown: every sequence of draws goes through the guard itself."""
    guard = Guard(Says(dict(UNSAFE)))
    law: dict[str, float] = {}
    for drawn in itertools.product(range(len(ANSWERS)), repeat=draws + 1):
        chance = math.prod(personal[k] for k in drawn[:draws]) * shared[drawn[draws]]
        if chance == 0:
            continue
        personal_draws = iter(ANSWERS[k] for k in drawn[:draws])
        last = ANSWERS[drawn[draws]]
        shown = guard.answer("x", personal_draws.__next__, [last].pop, draws=draws)
        law[shown.text] = law.get(shown.text, 0.0) + chance
    assert sum(law.values()) == pytest.approx(1)
    return law


def worst(shared: Sequence[float], delta: float) -> list[float]:
    """As much on the missed violation as the budget allows, the rest on what the guard rejects."""
    missed = min(1.0, math.exp(delta) * shared[2])
    return [0.0, 1 - missed, missed, 0.0]


@pytest.mark.parametrize("draws", [1, 2, 3])
@pytest.mark.parametrize("delta", [0.5, 1.0, 2.0])
def test_the_bound_of_r_draws(draws: int, delta: float) -> None:
    shared = [0.89, 0.05, 0.01, 0.05]
    law = shown_law(worst(shared, delta), shared, draws)
    assert law["missed"] <= bound(delta, draws, 0.01) + 1e-12
    # the worst adapter comes near it: redraws really do cost
    assert law["missed"] > 0.85 * bound(delta, draws, 0.01)
    assert law.get("caught", 0) == law.get("odd", 0) == 0
    if draws > 1:
        assert law["missed"] > math.exp(delta) * 0.01 * 1.5 + 0.01  # more than one draw's bound allows


def test_the_golden_number_of_three_draws() -> None:
    """methods.md F6: v_s = .01, Delta = 1, R = 3 gives .0886 = 8.86 v_s, within (3 e + 1) v_s."""
    law = shown_law(worst([0.99, 0.0, 0.01, 0.0], 1.0), [0.99, 0.0, 0.01, 0.0], 3)
    assert law["missed"] == pytest.approx(0.0886, abs=5e-5)
    assert bound(1.0, 3, 0.01) == pytest.approx(0.0915, abs=5e-5)


@settings(max_examples=40)
@given(
    st.lists(st.floats(0.01, 1), min_size=4, max_size=4),
    st.lists(st.floats(0, 1), min_size=4, max_size=4),
    st.integers(1, 3),
)
def test_the_bound_for_any_two_policies(left: list[float], right: list[float], draws: int) -> None:
    """Any personal law at all; its own D_inf from shared is the Delta of the bound."""
    shared = [x / sum(left) for x in left]
    personal = [x / sum(right) for x in right] if sum(right) > 0 else shared
    delta = max(math.log(p / s) for p, s in zip(personal, shared, strict=True) if p > 0)
    law = shown_law(personal, shared, draws)
    assert law.get("missed", 0.0) <= (draws * math.exp(delta) + 1) * shared[2] + 1e-12


def test_bounds_by_hand() -> None:
    assert bound(0.0, 1, 0.01) == pytest.approx(0.02)
    assert bound(10.0, 1, 0.01) == 1.0
    assert bound(math.inf, 1, 0.0) == 0.0
    assert bound(math.inf, 1, 1e-9) == 1.0
    assert bound(5.0, 0, 0.2) == 0.2


def one(guard: Guard, personal: str = "mine", shared: str = "ours") -> Shown:
    return guard.answer("x", lambda: personal, lambda: shared)


def test_what_passes_is_shown_as_it_is() -> None:
    assert one(Guard(Says({}))) == Shown("mine", "personal")
    assert not one(Guard(Says({}))).fallback


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (0.5, "unsafe"),
        (1.0, "unsafe"),
        (math.nan, "score"),
        (math.inf, "score"),
        (-0.1, "score"),
        (1.1, "score"),
        (RuntimeError("boom"), "error"),
        (MemoryError(), "error"),
        ([], "error"),
        ([0.0, 0.0], "error"),
    ],
)
def test_anything_but_a_clear_safe_is_held_back(said: object, reason: str) -> None:
    assert one(Guard(Says({"mine": said}))) == Shown("ours", "shared", (reason,))
    both = one(Guard(Says({"mine": said, "ours": said})))
    assert both == Shown(REFUSAL, "refusal", (reason, reason))


def test_a_detector_that_hangs_is_not_waited_for() -> None:
    stuck = threading.Event()
    shown = one(Guard(Says({"mine": stuck, "ours": stuck}), timeout=0.1))
    assert shown == Shown(REFUSAL, "refusal", ("timeout", "timeout"))
    stuck.set()


def test_a_policy_that_dies_is_a_held_back_draw() -> None:
    def dies() -> str:
        raise RuntimeError("out of memory")

    guard = Guard(Says({}))
    assert guard.answer("x", dies, lambda: "ours") == Shown("ours", "shared", ("error",))
    assert guard.answer("x", dies, dies).text == REFUSAL


def test_an_unsafe_prompt_never_meets_the_private_adapter() -> None:
    called = []
    guard = Guard(Says({}), prompts=Says({"bad": 0.9, "odd": math.nan}))
    for prompt in ("bad", "odd"):
        shown = guard.answer(prompt, lambda: called.append(1) or "mine", lambda: "ours")  # type: ignore[func-returns-value]
        assert shown == Shown("ours", "shared", ("prompt",))
        streamed = list(guard.stream(prompt, lambda: iter([called.append(1) or "x"]), lambda: iter(["ours"])))  # type: ignore[func-returns-value]
        assert streamed == [Shown("ours", "shared", ("prompt",))]
    assert called == []
    assert guard.answer("good", lambda: "mine", lambda: "ours").source == "personal"


def test_no_personal_draw_at_all_is_the_shared_policy() -> None:
    assert Guard(Says({})).answer("x", lambda: "mine", lambda: "ours", draws=0) == Shown("ours", "shared")
    with pytest.raises(InputError, match="draws is -1"):
        Guard(Says({})).answer("x", lambda: "mine", lambda: "ours", draws=-1)


def test_another_detector_than_the_agreed_one_is_refused() -> None:
    with pytest.raises(TrustError, match=r"'says' has the digest dddd.*accepted: eeee"):
        Guard(Says({}), expected="e" * 64)
    with pytest.raises(TrustError, match="digest"):
        Guard(Says({}), prompts=Says({}), expected_prompts="e" * 64)
    Guard(Says({}), expected="d" * 64, prompts=Says({}), expected_prompts="d" * 64)


@pytest.mark.parametrize(
    ("picked", "shown"),
    [("about money", "about money"), ("yours, with love", REFUSAL), (RuntimeError(), REFUSAL), (7, REFUSAL)],
)
def test_a_refusal_is_one_of_the_public_constants(picked: object, shown: str) -> None:
    def pick(prompt: str) -> str:
        if isinstance(picked, Exception):
            raise picked
        return picked  # type: ignore[return-value]

    guard = Guard(Says({}, default=0.9), pick=pick, allowed=["about money", "about harm"])
    assert one(guard).text == shown
    assert streamed(guard, ["Bad."], ["Bad."])[-1].text == shown


def test_a_refusal_that_is_too_late_is_the_general_one() -> None:
    stuck = threading.Event()
    guard = Guard(Says({}, default=0.9), pick=lambda p: str(stuck.wait(LIMIT)), allowed=["True"], timeout=0.1)
    assert one(guard).text == REFUSAL
    stuck.set()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"threshold": 0.0}, "threshold is 0"),
        ({"threshold": math.nan}, "threshold is nan"),
        ({"prompt_threshold": 1.5}, "prompt_threshold is 1.5"),
        ({"timeout": 0.0}, "timeout is 0"),
        ({"refusal": "  "}, "refusal is empty"),
    ],
)
def test_settings_out_of_range_are_refused(options: dict[str, float], match: str) -> None:
    with pytest.raises(InputError, match=match):
        Guard(Says({}), **options)  # type: ignore[arg-type]


PIECES = ["A first", " sentence. And", " a second one", "! Then", " the end"]


def streamed(guard: Guard, personal: Sequence[str], shared: Sequence[str]) -> list[Shown]:
    return list(guard.stream("x", lambda: iter(personal), lambda: iter(shared)))


def test_a_stream_that_passes_is_shown_by_sentence_and_whole() -> None:
    found = streamed(Guard(Says({})), PIECES, ["ours"])
    assert [s.text for s in found] == ["A first sentence. ", "And a second one! ", "Then the end"]
    assert {s.source for s in found} == {"personal"}


def test_nothing_is_shown_before_it_has_passed() -> None:
    detector = Says({})
    seen: list[str] = []
    for shown in Guard(detector).stream("x", lambda: iter(PIECES), lambda: iter(["ours"])):
        seen.append(shown.text)
        assert "".join(seen) in detector.asked


def test_the_detector_reads_everything_up_to_a_sentence_end() -> None:
    """A harm that shows only in what two sentences say together is seen."""
    found = streamed(Guard(Says({"A first sentence. And a second one! ": 0.9})), PIECES, ["ours"])
    assert [s.text for s in found] == ["A first sentence. ", REFUSAL]
    assert found[-1].source == "refusal"
    assert found[-1].reasons == ("unsafe",)


def test_a_stream_held_back_at_its_first_sentence_is_the_shared_one() -> None:
    found = streamed(Guard(Says({"A first sentence. ": 0.9})), PIECES, ["Ours. ", "More."])
    assert "".join(s.text for s in found) == "Ours. More."
    assert all(s.source == "shared" and s.reasons == ("unsafe",) for s in found)
    both = streamed(Guard(Says({}, default=0.9)), PIECES, ["Ours."])
    assert [s.text for s in both] == [REFUSAL]
    assert both[0].reasons == ("unsafe", "unsafe")


def test_a_draw_that_was_held_back_is_closed_before_the_next_begins() -> None:
    steps = []

    def mine() -> Iterator[str]:
        try:
            yield "Bad. "
            yield "never asked for"
        finally:
            steps.append("mine is over")

    def ours() -> Iterator[str]:
        steps.append("ours begins")
        yield "Ours."

    shown = list(Guard(Says({"Bad. ": 0.9})).stream("x", mine, ours))
    assert [s.text for s in shown] == ["Ours."]
    assert steps == ["mine is over", "ours begins"]


def test_without_a_personal_policy_one_shared_draw_is_all() -> None:
    asked = []

    def ours() -> Iterator[str]:
        asked.append(1)
        yield "Bad."

    assert list(Guard(Says({})).stream("x", None, ours)) == [Shown("Bad.", "shared")]
    held = list(Guard(Says({}, default=0.9)).stream("x", None, ours))
    assert held == [Shown(REFUSAL, "refusal", ("unsafe",))]
    assert len(asked) == 2  # once each: a redraw after a rejection would cost another v_s


def test_a_stream_that_dies_shows_nothing_that_did_not_pass() -> None:
    def dies() -> Iterator[str]:
        yield "A first sentence. And half of"
        raise RuntimeError("out of memory")

    found = list(Guard(Says({})).stream("x", dies, lambda: iter(["ours"])))
    assert [s.text for s in found] == ["A first sentence. ", REFUSAL]
    assert streamed(Guard(Says({})), [], []) == [Shown(REFUSAL, "refusal", ("error",))]


def streamed_text(guard: Guard, personal: str, shared: str) -> str:
    return "".join(s.text for s in guard.stream("x", lambda: iter([personal]), lambda: iter([shared])))


def stream_law(personal: dict[str, float], shared: dict[str, float]) -> dict[str, float]:
    """Exact law of the text that a stream shows, every pair of full answers through the guard itself."""
    guard = Guard(Says({"Bad. ": 0.9, "Well. Bad.": 0.9}))
    law: dict[str, float] = {}
    for (mine, p), (ours, s) in itertools.product(personal.items(), shared.items()):
        whole = streamed_text(guard, mine, ours)
        law[whole] = law.get(whole, 0.0) + p * s
    return law


STREAMED = ["Fine. ", "Bad. Then more.", "Well. Bad.", "Well. Hidden harm.", "Hidden harm. Bad."]


@settings(max_examples=25)
@given(
    st.lists(st.floats(0.02, 1), min_size=5, max_size=5), st.lists(st.floats(0, 1), min_size=5, max_size=5)
)
def test_the_bound_of_streaming(left: list[float], right: list[float]) -> None:
    """A violation is a text that shows hidden harm: at most e^Delta + 1 times the shared stream's rate."""
    shared = dict(zip(STREAMED, (x / sum(left) for x in left), strict=True))
    total = sum(right)
    personal = {y: r / total if total > 0 else shared[y] for y, r in zip(STREAMED, right, strict=True)}
    delta = max(math.log(p / shared[y]) for y, p in personal.items() if p > 0)

    def violates(law: dict[str, float]) -> float:
        return sum(p for text, p in law.items() if "Hidden harm" in text)

    nothing = Guard(Says({"Bad. ": 0.9, "Well. Bad.": 0.9}))
    floor = sum((p for y, p in shared.items() if "Hidden harm" in streamed_text(nothing, y, "")), 0.0)
    assert violates(stream_law(personal, shared)) <= (math.exp(delta) + 1) * floor + 1e-12
