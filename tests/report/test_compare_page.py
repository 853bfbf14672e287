"""The page of a tournament: escaped, self-contained, sortable, whole at any width."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from toy_browser import FLAGS, chromium
from toy_compare import compare_document, difference
from toy_patience import LIMIT

from commonground.report.compare_figures import PLANES, forest, plane
from commonground.report.compare_page import build_compare_page, render_compare_page
from commonground.report.compare_table import compare_table


def test_texts_are_escaped_and_nothing_is_fetched() -> None:
    page = render_compare_page(compare_document())
    assert "</script><b>" not in page
    assert "a &lt;/script&gt;&lt;b&gt;" in page
    assert "krum compares &lt;b&gt;" in page
    assert page == render_compare_page(compare_document())
    own = re.sub(r"<script.*?</script>", "", page, flags=re.S)
    assert "http://" not in own
    assert "https://" not in own


def test_every_row_is_there_with_what_it_is_sorted_by() -> None:
    page = render_compare_page(compare_document())
    body = page.split('id="table"')[1].split("</tbody>")[0]
    assert body.count("<tr class=") == 6
    assert '<tr class="refused">' in body
    assert body.count('data-sort="1e99"') == 3  # an infinite epsilon is the largest
    assert "no difference beyond noise" in page


def test_figures_that_plotly_accepts() -> None:
    import plotly.graph_objects as go

    found = compare_document()
    drawn = [plane(found, name) for name in PLANES] + [forest(found, "personal_taste")]
    assert [one is None for one in drawn] == [
        False,
        True,
        True,
        False,
        False,
    ]  # one x for all: nothing to see
    for one in drawn:
        if one is not None:
            go.Figure(one)


def test_no_forest_of_ties() -> None:
    ties = [difference("krum", 1, "shared_taste", 0.0, 0.0, 1.0)]
    assert forest(compare_document(differences=ties), "shared_taste") is None
    build = render_compare_page(compare_document(differences=[], fronts=[[], []]))
    assert "Which differences are real" not in build


def test_the_terminal_says_what_was_refused() -> None:
    from rich.console import Console

    console = Console(width=120, record=True, file=io.StringIO())
    console.print(compare_table(compare_document()))
    text = console.export_text()
    assert "refused" in text
    assert "65.0" in text


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (1200, "dark"), (400, "light")])
def test_in_a_browser_it_opens_offline_sorts_and_never_scrolls_sideways(
    tmp_path: Path, width: int, scheme: str
) -> None:
    from playwright.sync_api import sync_playwright

    path = tmp_path / "report.html"
    build_compare_page(compare_document(), path)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
        )
        context.set_default_timeout(LIMIT * 1000)
        page: Any = context.new_page()
        troubles: list[str] = []
        page.on("console", lambda message: troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.goto(path.as_uri())
        page.wait_for_function(
            "[...document.querySelectorAll('.plot')].every((plot) => plot.querySelector('.main-svg'))"
        )
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")

        def column(head: str) -> list[str]:
            page.locator("#table thead button", has_text=head).click()
            place = page.locator("#table thead button").all_inner_texts().index(head)
            return [
                text.split("\n")[-1]
                for text in page.locator(f"#table tbody tr > :nth-child({place + 1})").all_inner_texts()
            ]

        assert column("Personal taste") == ["65.0", *["60.0"] * 4, "–"]
        assert column("Personal taste") == [*["60.0"] * 4, "65.0", "–"]
        column("Strategy")
        names = [row.get_attribute("data-sort") for row in page.locator("#table tbody th").all()]
        assert names == sorted(names, key=str.lower)
        assert names[0] != names[-1]
        assert troubles == []
        browser.close()
