"""Model text: what is shown, and what can never be in it."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commonground.web.text import LARGEST, TAGS, safe_html


class Seen(HTMLParser):
    """Every tag of a text, and every attribute."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[object] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs


HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[a](javascript:alert(1))",
    "[a](JaVaScRiPt:alert(1) 'x')",
    "[a](data:text/html;base64,PHNjcmlwdD4=)",
    "![p](https://evil.example/p.png)",
    "[a]: https://evil.example 'x\" onmouseover=\"alert(1)'\n[a]",
    "<https://evil.example/?q=1>",
    '<a href="https://evil.example">a</a>',
    "<svg><script>alert(1)</script></svg>",
    "<math><mi//xlink:href='data:x,<script>'>",
    "```<img src=x onerror=alert(1)>\nx\n```",
    "| <b onclick=x> | b |\n|---|---|\n| <style>*{}</style> | 2 |",
    "<!--><img src=x onerror=alert(1)>-->",
    "<iframe srcdoc='<script>1</script>'></iframe><base href=//evil.example>",
    "&#60;script&#62;alert(1)&#60;/script&#62;",
    "<style>@import url(https://evil.example)</style>",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_becomes_words(text: str) -> None:
    seen = Seen(safe_html(text))
    assert seen.tags <= TAGS
    assert seen.attributes == []


PIECES = st.sampled_from(
    [*HOSTILE, "**", "`", "[", "](", ")", "<", ">", "\n", "\n\n", "- ", "# ", "| ", "\x00"]
)


@given(st.lists(PIECES | st.text(max_size=8), max_size=12).map("".join))
def test_no_text_at_all_brings_another_tag_or_an_attribute(text: str) -> None:
    seen = Seen(safe_html(text))
    assert seen.tags <= TAGS
    assert seen.attributes == []


def test_markdown_is_rendered() -> None:
    assert safe_html("# Plan\n\n1. **rest**\n2. `run`\n\nx\ny") == (
        "<h4>Plan</h4>\n<ol>\n<li><strong>rest</strong></li>\n<li><code>run</code></li>\n</ol>\n<p>x<br>\ny</p>\n"
    )


def test_a_link_is_its_words_and_its_address() -> None:
    assert safe_html("[our **site**](https://a.b/c?x=1&y=2)") == (
        "<p>our <strong>site</strong> (https://a.b/c?x=1&amp;y=2)</p>\n"
    )
    assert safe_html("<https://a.b>") == "<p>https://a.b</p>\n"
    assert safe_html("![a <pixel>](https://a.b/p.png)") == "<p>[image: a &lt;pixel&gt;]</p>\n"


def test_what_is_too_long_is_cut() -> None:
    assert len(safe_html("a" * (2 * LARGEST))) == LARGEST + len("<p></p>\n")
