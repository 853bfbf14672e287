"""The page in a real browser, from a file, with the network blocked."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from toy_browser import FLAGS, chromium
from toy_patience import LIMIT

from commonground.report.page import build_page

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    path = chromium()
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield opened
        opened.close()


def test_without_a_browser_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(pytest.fail.Exception, match="apt-get install chromium") as caught:
        chromium()
    assert len(str(caught.value).splitlines()) == 1


@pytest.fixture(scope="module")
def page_path(
    tmp_path_factory: pytest.TempPathFactory, result: dict[str, Any], policy_result: dict[str, Any]
) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    build_page([("Reward: 240 people", result), ("Policy: 6 people", policy_result)], path)
    return path


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (1200, "dark"), (400, "light")])
def test_it_opens_offline_without_errors_and_without_sideways_scrolling(
    browser: Any, page_path: Path, width: int, scheme: str
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
    context.set_default_timeout(LIMIT * 1000)
    page = context.new_page()
    troubles: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: troubles.append(message.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(page_path.as_uri())
    page.wait_for_function(
        "[...document.querySelectorAll('.plot')].every((plot) => plot.querySelector('.main-svg'))"
    )
    assert troubles == []
    assert requests == [page_path.as_uri()]

    rows = page.locator("#part1-headline tbody tr")
    assert rows.count() == 6
    assert [text.strip() for text in rows.locator("th").all_inner_texts()] == [
        "Base",
        "Pooled",
        "Pooled, no noise",
        "Local only",
        "Shared",
        "Personal",
    ]
    assert page.locator(".plot").count() == 16
    assert page.locator("#part1-taste .scatterlayer .point").count() >= 12
    assert page.locator("#part1-distribution .barlayer .point").count() > 5
    assert page.evaluate("window.broken === undefined")
    for details in page.locator("details").all():
        details.evaluate("(element) => { element.open = true; }")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    too_wide = page.evaluate(
        """[...document.querySelectorAll('main *')].filter((element) =>
             element.getBoundingClientRect().right > innerWidth + 1)
             .map((element) => element.outerHTML.slice(0, 80))"""
    )
    assert too_wide == []
    context.close()


def test_colours_follow_the_scheme(browser: Any, page_path: Path) -> None:
    seen = []
    for scheme in ("light", "dark"):
        context = browser.new_context(color_scheme=scheme, offline=True)
        context.set_default_timeout(LIMIT * 1000)
        page = context.new_page()
        page.goto(page_path.as_uri())
        page.wait_for_selector("#part1-curve-taste .main-svg")
        seen.append(page.evaluate("document.getElementById('part1-curve-taste').data[0].line.color"))
        context.close()
    assert seen == ["#2f6fb0", "#6aa9e6"]


def test_it_prints(browser: Any, page_path: Path, tmp_path: Path) -> None:
    context = browser.new_context(color_scheme="dark", offline=True)
    context.set_default_timeout(LIMIT * 1000)
    page = context.new_page()
    page.goto(page_path.as_uri())
    page.wait_for_selector("#part1-taste .main-svg")
    printed = page.pdf(path=str(tmp_path / "report.pdf"), format="A4")
    pages = len(re.findall(rb"/Type\s*/Page\b", printed))
    assert 5 < pages < 30
    context.close()
