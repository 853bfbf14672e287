"""Every view of the participant's page in a real browser: usable, in light and dark, on a phone, alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import toy_owner
from toy_pages import DESK, PHONE, Served, Watched, serving, too_wide, violations

pytestmark = pytest.mark.slow
VIEWS = {
    "": "Which answer is better?",
    "learned": "What it learned about me",
    "privacy": "Privacy",
    "messages": "Messages that left",
    "consent": "Consent",
    "controls": "Controls",
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("used")
    with serving(toy_owner.__file__, folder, "--kind", "reward", "--state", "used") as page:
        yield page


@pytest.fixture(scope="module")
def window(browser: Any, served: Served) -> Iterator[Watched]:
    opened = Watched(browser)
    opened.enter(served.link)
    yield opened
    assert opened.troubles == []
    opened.close()


@pytest.mark.parametrize(("scheme", "size"), [("light", DESK), ("dark", PHONE)])
def test_every_view_is_accessible_fits_and_asks_nobody_else(
    browser: Any, served: Served, scheme: str, size: dict[str, int]
) -> None:
    window = Watched(browser, scheme, size)
    window.enter(served.link)
    for view, title in VIEWS.items():
        page = window.page if view == "" else window.open(view)
        assert page.locator("h1").inner_text() == title
        if view == "messages":
            page.locator("summary").first.click()
            page.wait_for_selector(".bytes")
        assert page.locator("nav [aria-current=page]").count() == 1
        assert violations(page) == []
        assert too_wide(page) == []
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(19, 23, 26)"
    assert dark == (scheme == "dark")
    assert window.hosts() == {urlsplit(served.origin).netloc}
    window.close()


def test_a_message_opens_to_its_names_shapes_and_bytes(window: Watched, served: Served) -> None:
    page = window.open("messages")
    page.locator("summary", has_text="Round 3").click()
    opened = page.locator("details[open]")
    opened.locator(".bytes").wait_for()
    text = opened.inner_text()
    assert "shared.safety.weight" in text
    assert "float32, 384, 1,536 bytes" in text
    assert "000000  00 00 00 00 00 00 40 40 00 00 c0 40" in text  # 0, 3, 6 as little-endian float32
    with page.expect_download() as waiting:
        opened.get_by_text("Download these bytes").click()
    raw = Path(waiting.value.path()).read_bytes()
    assert raw == toy_owner.ToyOwner(served.file.parent, state="used").receipt(3)["tensors"][0]["bytes"]
    page.locator("summary", has_text="Round 1").click()
    page.get_by_text("Its bytes are no longer kept on this device").wait_for()


def test_the_ledger_is_a_gauge_and_words(window: Watched) -> None:
    page = window.open("privacy")
    gauge = page.get_by_role("meter", name="Privacy spent")
    assert gauge.get_attribute("aria-valuenow") == "1.86"
    assert gauge.get_attribute("aria-valuetext") == "epsilon 1.86 of 4 spent, 2.14 left"
    share = gauge.locator("span").evaluate("(bar) => bar.offsetWidth / bar.parentElement.clientWidth")
    assert share == pytest.approx(1.86 / 4, abs=0.01)
    assert "The unit is everything you ever contributed" in page.inner_text(".statement")
    assert "δ = 1 × 10⁻⁵" in page.inner_text("main")


def test_what_was_learned_is_shown_before_and_after(window: Watched) -> None:
    page = window.open("learned")
    assert "+0.02 before, +0.61 after" in page.locator(".scale", has_text="brevity").inner_text()
    assert page.locator(".answer.shared").inner_text().startswith("Before: common ground\n\nStart slowly")
    assert page.locator(".answer.personal").inner_text().startswith("After: yours\n\nGreat!")
    assert page.locator("details").count() == 10
    page.get_by_role("button", name="Older ones (4)").click()
    page.locator("details").nth(13).locator("summary").click()
    assert "Sleep early." in page.locator("details").nth(13).inner_text()
