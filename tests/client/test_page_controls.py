"""Consent, budget, controls, and what the page says when something is not as it should be."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from typing import Any

import pytest
import toy_owner
from toy_pages import Served, Watched, serving, violations
from toy_patience import until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("controls")
    with serving(toy_owner.__file__, folder, "--kind", "reward", "--state", "used") as page:
        yield page


@pytest.fixture(scope="module")
def window(browser: Any, served: Served) -> Iterator[Watched]:
    opened = Watched(browser)
    opened.enter(served.link)
    yield opened
    assert opened.hosts() == {served.origin.split("://")[1]}
    opened.close()


def turn(served: Served, state: str) -> None:
    (served.file.parent / "state").write_text(state)


def calls(served: Served) -> list[str]:
    path = served.file.parent / "said.jsonl"
    return [json.loads(line)["what"] for line in path.read_text().splitlines()] if path.exists() else []


def test_consent_is_shown_with_its_version_and_accepted_with_a_cap(window: Watched, served: Served) -> None:
    turn(served, "changed")
    (served.file.parent / "withdrawn").touch()
    page = window.open("consent")
    page.get_by_text("You have accepted nothing yet").wait_for()
    assert page.get_by_role("heading", name="The operator adds the noise").is_visible()
    text = page.inner_text("main")
    for words in (
        "could reconstruct parts of your safety feedback",
        "At most five messages leave",
        "Shared adapter (40 people)",
    ):
        assert text.count(words) == 1
    accept = page.get_by_role("button", name="Accept version 2")
    accept.click()
    page.get_by_text("The box is not ticked").wait_for()
    page.get_by_label("I have read what leaves").check()
    cap = page.get_by_label("The most ε")
    for wrong in ("zero", "-1", "0"):
        cap.fill(wrong)
        accept.click()
        page.get_by_text(f"Ε is '{wrong}'").or_(page.get_by_text(f"ε is '{wrong}'")).wait_for()
    cap.fill("2,5")
    accept.click()
    page.get_by_text("You accepted version 2").wait_for()
    assert "up to ε = 2.5" in page.inner_text(".notice")
    assert calls(served)[-1] == "accept"


@pytest.mark.parametrize(
    ("state", "text", "gauges"),
    [
        ("spent", "All 5 messages were sent. This device sends no more.", 1),
        ("few", "No epsilon is shown.", 0),
        ("plain", "There is no noise in this study", 0),
    ],
)
def test_a_number_that_would_promise_nothing_is_not_shown(
    window: Watched, served: Served, state: str, text: str, gauges: int
) -> None:
    turn(served, state)
    page = window.open("privacy")
    page.get_by_text(text).wait_for()
    assert page.get_by_role("meter").count() == gauges
    assert ("ε =" in page.inner_text("main")) == (gauges == 1)


def test_pause_export_and_reset(window: Watched, served: Served) -> None:
    turn(served, "used")
    page = window.open("controls")
    page.get_by_role("button", name="Pause").click()
    page.get_by_text("Paused: nothing leaves this device.").wait_for()
    page.get_by_role("button", name="Take part again").click()
    page.get_by_role("button", name="Pause").wait_for()
    page.get_by_role("button", name="Make the file").click()
    page.get_by_text("Save it").wait_for()
    page = window.open("controls")  # nobody came for the first one
    page.get_by_role("button", name="Make the file").click()
    page.get_by_text("Save it").wait_for()
    assert len(list(served.file.parent.glob("export-*"))) == 1
    with page.expect_download() as waiting:
        page.get_by_text("Save it").click()
    with zipfile.ZipFile(waiting.value.path()) as file:
        assert sorted(file.namelist()) == ["README.txt", "comparisons.jsonl"]
    until(lambda: not list(served.file.parent.glob("export-*")))  # read once, and gone
    page.get_by_role("button", name="Use version 1").click()
    page.get_by_role("button", name="Use version 2").wait_for()  # the view has come again by itself
    assert calls(served)[-1] == "rollback"
    page.get_by_role("button", name="Forget what it learned").click()
    page.get_by_role("button", name="No", exact=True).click()
    assert "reset" not in calls(served)
    page.get_by_role("button", name="Forget what it learned").click()
    page.get_by_role("button", name="Yes, forget it").click()
    page.get_by_text("Forgotten.").wait_for()
    assert calls(served)[-1] == "reset"


def test_empty_views_say_so_and_a_dead_vault_is_named(window: Watched, served: Served) -> None:
    turn(served, "fresh")
    assert "Nothing has left" in window.open("messages").inner_text(".empty")
    assert "Nothing was spent" in window.open("privacy").inner_text(".empty")
    gone = served.file.parent / "gone"
    gone.touch()
    page = window.open("messages")
    text = page.inner_text("main")
    assert "No vault runs on the profile. What helps: start it: commonground device up." in text
    assert violations(page) == []
    gone.unlink()
    page.get_by_text("Try again").click()
    page.get_by_text("Nothing has left").wait_for()


def test_leaving_needs_the_name_and_says_what_stays(window: Watched, served: Served) -> None:
    page = window.open("controls")
    assert "That influence cannot be withdrawn" in page.inner_text(".leave")
    leave = page.get_by_role("button", name="Leave and destroy everything here")
    leave.click()
    page.get_by_text("Type the study's name").wait_for()
    assert "erase" not in calls(served)
    page.get_by_label("Type kind-answers to leave").fill("kind-answers")
    leave.click()
    page.get_by_role("heading", name="You have left").wait_for()
    assert "Tell them: study@example.org" in page.inner_text("main")
    page.locator(".goodbye:focus").wait_for()
    assert calls(served)[-1] == "erase"
    assert "cannot be withdrawn" in window.open("").inner_text("main")
