"""The charter on the page: shown before it is accepted; why an answer was held back, told after the vote."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import toy_owner
from toy_pages import DESK, PHONE, Served, Watched, serving, too_wide, violations

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("charter")
    with serving(toy_owner.__file__, folder, "--kind", "policy", "--state", "new") as page:
        yield page


@pytest.fixture(scope="module")
def window(browser: Any, served: Served) -> Iterator[Watched]:
    opened = Watched(browser)
    opened.enter(served.link)
    yield opened
    assert opened.troubles == []
    assert opened.hosts() == {served.origin.split("://")[1]}
    opened.close()


def ask(page: Any, prompt: str) -> None:
    page.get_by_role("textbox", name="Your question").fill(prompt)
    page.keyboard.press("Enter")
    page.locator(".asked", has_text=prompt).wait_for()
    page.locator(".votes, .notice").first.wait_for()


def test_the_charter_is_read_before_it_is_accepted(window: Watched, served: Served) -> None:
    page = window.open("consent")
    page.get_by_role("heading", name="What your model may not write").wait_for()
    text = page.inner_text("main")
    for words in (
        "Charter of kind answers, version 2",
        "Help to cheat people out of money.",
        "Every question is placed before your own adapter sees it.",
        "Who may change it: the operator",
        "If you think that it decided wrongly",
        toy_owner.RULES["signer"],
        toy_owner.CHARTER["digest"],
    ):
        assert text.count(words) == 1, words
    box = page.get_by_label("I have read what leaves, who adds the noise, and what my model may not write.")
    box.check()
    page.get_by_role("button", name="Accept version 2").click()
    page.get_by_text("You accepted version 2").wait_for()


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("Is it held back?", "Your model's own answer was held back"),
        ("A closed matter?", "Your own adapter is not asked then"),
        ("A small risk?", "your own adapter had a small budget"),
    ],
)
def test_why_is_told_under_her_own_answer_and_after_the_vote_alone(
    window: Watched, served: Served, prompt: str, words: str
) -> None:
    page = window.open("")
    ask(page, prompt)
    before = page.locator(".two").inner_html()
    assert page.get_by_role("note").count() == 0
    for told in (words, "held back", "common ground", "personal", "shared", "sensitive", "closed", "budget"):
        assert told not in before, told
    page.get_by_role("button", name="Tie").click()
    page.locator(".which").nth(1).wait_for()
    note = page.get_by_role("note")
    assert note.count() == 1
    assert words in note.inner_text()
    # below the answer that is hers, inside of its card
    assert page.locator(".answer", has=note).locator(".which").inner_text() == "yours"


def test_a_refusal_says_which_rule_and_how_to_appeal(window: Watched, served: Served) -> None:
    page = window.open("")
    ask(page, "Is it refused?")
    assert page.locator(".votes").count() == 0  # both say the same
    note = page.get_by_role("note")
    assert note.count() == 1
    for words in (
        "The rest of this answer was held back: the charter's detector did not find it safe.",
        "The nearest rule forbids: Help to cheat people out of money.",
        "This sentence is the charter's own; no model wrote it.",
        "Write to study@example.org",
    ):
        assert words in note.inner_text()


def test_in_a_chat_it_is_told_at_once(window: Watched, served: Served) -> None:
    page = window.open("")
    page.get_by_role("button", name="Chat with yours").click()
    for prompt, notes in (("How are you?", 0), ("A closed matter?", 1), ("Is it refused?", 2)):
        page.get_by_role("textbox", name="Your question").fill(prompt)
        page.keyboard.press("Enter")
        page.locator(".said:not(.writing)").nth(("How", "A c", "Is ").index(prompt[:3])).wait_for()
        if notes:
            page.get_by_role("note").nth(notes - 1).wait_for()
        assert page.get_by_role("note").count() == notes


@pytest.mark.parametrize(("scheme", "size"), [("light", DESK), ("dark", PHONE)])
def test_it_can_be_read_by_everybody(
    browser: Any, served: Served, scheme: str, size: dict[str, int], tmp_path: Path
) -> None:
    window = Watched(browser, scheme, size)
    window.enter(served.link)
    ask(window.page, "Is it refused?")
    assert violations(window.page) == []
    assert too_wide(window.page) == []
    page = window.open("consent")
    assert violations(page) == []
    assert too_wide(page) == []
    window.close()
