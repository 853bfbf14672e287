"""Model text as safe HTML.

A model writes whatever it was taught to write, and the shared part of it came from strangers. So its Markdown
is rendered with raw HTML off, and what comes out passes an allow list (nh3, Rust's ammonia) that knows no
link, no image, no style and no attribute: nothing in an answer can ask a network or run. The address of a
link is shown as text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import nh3
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererProtocol
from markdown_it.token import Token

TAGS = frozenset(
    {"p", "br", "strong", "em", "s", "code", "pre", "blockquote", "ul", "ol", "li", "hr"}
    | {"h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td"}
)
LARGEST = 20_000  # characters; what is longer is cut, so that one answer cannot stop the browser
_HEADINGS = {f"h{level}": f"h{min(6, level + 3)}" for level in range(1, 7)}


def _close_link(self: RendererProtocol, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    """Write where a link points behind its words, instead of pointing there."""
    depth = 0
    for token in reversed(tokens[: index + 1]):
        depth += {"link_close": 1, "link_open": -1}.get(token.type, 0)
        if depth == 0:
            if token.info == "auto":  # its words are the address
                return ""
            return f" ({nh3.clean_text(str(token.attrGet('href') or ''))})"
    return ""


def _image(self: RendererProtocol, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    """Say what an image would have shown."""
    return f"[image: {nh3.clean_text(tokens[index].content)}]"


def _markdown() -> MarkdownIt:
    parser = MarkdownIt("js-default", {"html": False, "linkify": False, "breaks": True})
    parser.add_render_rule("link_open", lambda self, tokens, index, options, env: "")
    parser.add_render_rule("link_close", _close_link)
    parser.add_render_rule("image", _image)
    return parser


_PARSER = _markdown()


def safe_html(text: str) -> str:
    """Markdown of a model as HTML that cannot run, load or lead anywhere.

    Args:
        text: anything; headings are lowered below those of the page.
    """
    tokens = _PARSER.parse(text[:LARGEST])
    for token in tokens:
        token.tag = _HEADINGS.get(token.tag, token.tag)
    return nh3.clean(_PARSER.renderer.render(tokens, _PARSER.options, {}), tags=TAGS, attributes={})
