"""The page of a tournament: one self-contained HTML file, made from `compare.json` alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from commonground.report.compare_view import compare_view
from commonground.report.page import embeddable, environment, write_page


def build_compare_page(found: Mapping[str, Any], path: Path) -> None:
    """Write the page; it is whole or, on an error, as it was before.

    Args:
        found: a compare.json.
        path: where the page goes.

    Raises:
        StorageError: the disk refused.
    """
    write_page(render_compare_page(found), path, "`commonground compare --resume DIR` builds it again")


def render_compare_page(found: Mapping[str, Any]) -> str:
    """The page as text; see `build_compare_page`."""
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    view = compare_view(found)
    view["config"] = json.dumps(view["config"], indent=2, ensure_ascii=False, default=str)
    data = embeddable({one["id"]: one["figure"] for one in view["figures"].values()})
    template = environment().get_template("compare.html")
    return str(
        template.render(
            view=view,
            figures=Markup(data),  # JSON with every < > & written as an escape
            plotly=Markup(get_plotlyjs()),  # the library's own text
            nonce=hashlib.sha256((data + repr(view)).encode()).hexdigest()[:32],
        )
    )
