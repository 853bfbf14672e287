"""Comparing in a real browser: blind, shuffled, by keyboard alone, and hostile text that stays text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import toy_owner
from toy_pages import PHONE, Served, Watched, serving, too_wide, violations
from toy_patience import a_while

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("policy")
    with serving(toy_owner.__file__, folder, "--kind", "policy") as page:
        yield page


@pytest.fixture(scope="module")
def opened(browser: Any, served: Served) -> Iterator[Watched]:
    window = Watched(browser)
    window.enter(served.link)
    yield window
    assert window.troubles == []
    assert window.hosts() == {served.origin.split("://")[1]}
    window.close()


@pytest.fixture
def window(opened: Watched, served: Served) -> Watched:
    said(served).unlink(missing_ok=True)
    return opened


def said(served: Served) -> Path:
    return served.file.parent / "said.jsonl"


def calls(served: Served) -> list[dict[str, Any]]:
    return (
        [json.loads(line) for line in said(served).read_text().splitlines()] if said(served).exists() else []
    )


def ask(page: Any, prompt: str) -> None:
    page.get_by_role("textbox", name="Your question").fill(prompt)
    page.keyboard.press("Enter")
    page.locator(".asked", has_text=prompt).wait_for()
    page.locator(".votes, .notice").first.wait_for()


def sides(page: Any) -> list[str]:
    """Which policy wrote A and B, by what the toy's policies write."""
    texts = [card.inner_text() for card in page.locator(".answer").all()]
    return ["personal" if "Here is a plan." in text else "shared" for text in texts]


def test_a_vote_is_blind_until_it_is_cast_and_can_be_taken_back(window: Watched, served: Served) -> None:
    page = window.page
    ask(page, "How do I start running?")
    wrote = sides(page)
    assert sorted(wrote) == ["personal", "shared"]
    assert page.locator(".which").count() == 0
    html = page.locator(".two").inner_html()
    assert not any(word in html.lower() for word in ("shared", "personal", "yours", "common ground"))

    page.get_by_label("Why?").fill("It is warmer.")
    page.get_by_role("button", name="B is better").click()
    page.locator(".which").nth(1).wait_for()
    names = {"shared": "common ground", "personal": "yours"}
    assert page.locator(".which").all_inner_texts() == [names[side] for side in wrote]
    kept = calls(served)[-1]
    assert (kept["tag"], kept["verdict"], kept["why"]) == ("taste", "better", "It is warmer.")
    assert ("Here is a plan." in kept["chosen"]) == (wrote[1] == "personal")
    assert "It stays on this device." in page.inner_text("main")

    page.keyboard.press("u")
    page.get_by_text("Taken back").wait_for()
    assert calls(served)[-1] == {"what": "undo"}
    page.keyboard.press("a")  # the pair can be voted on again
    page.get_by_text("Kept as taste").wait_for()
    assert ("Here is a plan." in calls(served)[-1]["chosen"]) == (wrote[0] == "personal")


# Notes both answers to a question whenever the page changes: a busy machine looks too late from outside.
WATCH = """() => {
  window.seen = [];
  new MutationObserver(() => {
    const asked = document.querySelector(".asked");
    if (!asked || !asked.innerText.includes("Say it slowly")) return;
    const texts = [...document.querySelectorAll(".answer .text")].map((e) => e.innerText.trim());
    if (texts.length === 2) window.seen.push(texts);
  }).observe(document.body, { subtree: true, childList: true, characterData: true });
}"""


def test_answers_are_seen_while_they_are_written_a_first_whoever_writes_it(
    window: Watched, served: Served
) -> None:
    page = window.page
    page.evaluate(WATCH)
    page.get_by_role("textbox", name="Your question").fill("Say it slowly")
    page.keyboard.press("Enter")
    page.locator(".asked", has_text="Say it slowly").wait_for()
    page.locator("h1").click()
    page.keyboard.press("a")  # nobody votes on half an answer
    page.locator(".votes").wait_for()
    assert calls(served) == []
    seen = page.evaluate("() => window.seen")
    began = [pair for pair in seen if pair[0]]
    assert began[0][1] == ""
    assert len({pair[0] for pair in began if not pair[1]}) > 1  # a piece at a time
    assert all(seen[-1])


def test_a_vault_that_dies_loses_no_vote_and_the_page_goes_on(window: Watched, served: Served) -> None:
    page = window.page
    ask(page, "Does it hold?")
    gone = said(served).with_name("gone")
    gone.touch()
    page.get_by_role("button", name="A is better").click()
    page.get_by_text("What helps: start it: commonground device up.").wait_for()
    gone.unlink()
    page.get_by_role("button", name="B is better").click()
    page.get_by_text("Kept as taste").wait_for()
    assert [call["verdict"] for call in calls(served)] == ["better"]
    assert page.locator(".answer.picked").count() == 1
    page.get_by_role("textbox", name="Your question").fill("Does it break?")
    page.keyboard.press("Enter")
    page.get_by_text("The vault does not answer.").wait_for()
    assert page.locator(".writing").count() == 0
    ask(page, "And now?")
    page.locator(".votes").wait_for()


def test_two_windows_do_not_mix_their_pairs(window: Watched, served: Served) -> None:
    ask(window.page, "In the first window?")
    other = window.context.new_page()
    other.goto(window.home)
    other.get_by_text("In the first window?").wait_for()  # a pair that was left open is there again
    ask(other, "In the second window?")
    window.page.get_by_role("button", name="A is better").click()
    window.page.get_by_text("Kept as taste").wait_for()
    other.get_by_role("button", name="Tie").click()
    other.get_by_text("Nothing is learned").wait_for()
    assert [(call["prompt"], call["verdict"]) for call in calls(served)] == [
        ("In the first window?", "better"),
        ("In the second window?", "tie"),
    ]
    other.close()


def test_a_chat_is_with_her_own_model_alone(window: Watched, served: Served) -> None:
    page = window.open("")
    ask(page, "Left open?")
    page.get_by_role("button", name="Chat with yours").click()
    for prompt in ("How are you?", "And now?"):
        page.get_by_role("textbox", name="Your question").fill(prompt)
        page.keyboard.press("Enter")
        page.locator(".asked", has_text=prompt).wait_for()
        page.locator(".said:not(.writing)").nth(("How", "And").index(prompt[:3])).wait_for()
    assert page.locator(".said").all_inner_texts() == [page.locator(".said").first.inner_text()] * 2
    assert "Here is a plan." in page.locator(".said").first.inner_text()
    assert not page.locator(".votes").is_visible()  # a pair that was left open waits on the other side
    page.locator("h1").click()
    page.keyboard.press("a")
    page.get_by_role("button", name="Compare two answers").click()
    page.locator(".votes").wait_for()
    assert not page.locator(".said").first.is_visible()
    assert calls(served) == []


@pytest.mark.parametrize(("key", "verdict"), [("t", "tie"), ("x", "both bad")])
def test_neither_is_better(window: Watched, served: Served, key: str, verdict: str) -> None:
    page = window.page
    ask(page, f"Which {verdict}?")
    page.locator("h1").click()
    page.keyboard.press(key)
    page.get_by_text("Nothing is learned from").wait_for()
    assert [call["verdict"] for call in calls(served)] == [verdict]
    page.keyboard.press(key)  # once is enough
    page.keyboard.press("a")
    a_while(0.2)
    assert len(calls(served)) == 1


def test_harm_counts_as_safety_only_when_she_says_so(window: Watched, served: Served) -> None:
    page = window.page
    for answer, tag in (("n", "taste"), ("y", "safety")):
        ask(page, f"Is this poison? {tag}")
        page.locator("h1").click()
        page.keyboard.press("a")
        page.get_by_role("heading", name="Is this about harm?").wait_for()
        before = len(calls(served))
        page.keyboard.press("b")  # a second vote does not slip past the question
        a_while(0.15)
        assert len(calls(served)) == before
        page.keyboard.press(answer)
        page.get_by_text(f"Kept as {tag}").wait_for()
        assert calls(served)[-1]["tag"] == tag


def test_what_a_model_writes_is_text_and_asks_nobody(window: Watched, served: Served) -> None:
    page = window.page
    ask(page, "What do you write?")
    answer = page.locator(".answer", has_text="Here is a plan.")
    assert "<script>window.broken = 1</script><img src=x" in answer.inner_text()
    assert "a page (https://evil.example/steal?x=1)" in answer.inner_text()
    assert answer.locator("script, img, a, [onerror], [href], iframe").count() == 0
    assert answer.locator("strong").inner_text() == "bold"
    assert page.evaluate("window.broken === undefined")


def test_the_same_words_twice_are_no_comparison_but_her_own_may_stand_against_them(
    window: Watched, served: Served
) -> None:
    page = window.page
    ask(page, "Say the same")
    assert page.locator(".votes").count() == 0
    page.locator("h1").click()
    page.keyboard.press("a")
    a_while(0.2)
    assert calls(served) == []
    mine = page.get_by_role("textbox", name="The answer you would have liked")
    mine.fill(" The same words. ")
    page.get_by_role("button", name="Mine is better").click()
    page.get_by_text("Write an answer that differs").wait_for()
    mine.fill("Words of my own.")
    page.get_by_role("button", name="Mine is better").click()
    page.get_by_text("Kept as taste").wait_for()
    assert page.locator(".which").all_inner_texts() == ["your words", "both models"]
    kept = calls(served)[-1]
    assert (kept["chosen"], kept["rejected"]) == ("Words of my own.", "The same words.")


def test_by_keyboard_alone_on_a_phone_in_the_dark(browser: Any, served: Served) -> None:
    window = Watched(browser, "dark", PHONE)
    window.enter(served.link)
    page = window.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.tagName") == "TEXTAREA":
            break
    page.keyboard.type("Is a poisonous bath extra bad?")  # letters that are typed are no votes
    page.keyboard.press("Enter")
    page.locator(".votes").wait_for()
    reached = []
    for _ in range(8):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.textContent"))
        if reached[-1] == "Tiet":
            assert page.evaluate("getComputedStyle(document.activeElement).outlineWidth") == "2px"
    assert [name for name in reached if name.startswith(("A is", "B is", "Tie", "Both"))] == [
        "A is bettera",
        "B is betterb",
        "Tiet",
        "Both badx",
    ]
    assert too_wide(page) == []
    page.locator("h1").focus()
    page.keyboard.press("b")
    page.get_by_role("heading", name="Is this about harm?").wait_for()
    assert page.evaluate("document.activeElement.tagName") == "SECTION"  # where the question is read out
    assert violations(page) == []
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.get_by_text("Kept as safety").wait_for()
    assert too_wide(page) == []
    assert violations(page) == []
    window.close()
