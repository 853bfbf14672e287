"""One self-contained HTML page: style, figures and plotly.js are inside; nothing is fetched.

Every text is escaped by the template engine, figures are data and not script, and the page forbids itself
the network, so that an answer which holds markup is shown and never run.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from commonground.errors import StorageError
from commonground.report.view import part_view
from commonground.terminal import escaped


def build_page(parts: Sequence[tuple[str, Mapping[str, Any]]], path: Path) -> None:
    """Write the report; the file is whole or, on an error, as it was before.

    Args:
        parts: (title, result.json) of each part, in reading order.
        path: where the page goes.

    Raises:
        StorageError: the disk refused.
    """
    write_page(render_page(parts), path)


def write_page(text: str, path: Path, again: str = "`commonground report DIR` builds it again") -> None:
    """Write a page; the file is whole or, on an error, as it was before. See `build_page`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
                handle.write(text)
                handle.flush()
                os.fsync(handle.fileno())
            Path(name).chmod(0o644)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StorageError(
            f"the report {path} cannot be written: {error.strerror or error}",
            hint=f"free some space or choose another --out; {again}",
        ) from error


def render_page(parts: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """The page as text; see `build_page`."""
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    views = [part_view(title, result, f"part{i}") for i, (title, result) in enumerate(parts, 1)]
    for view in views:
        view["config"] = _pretty(view["config"])
    figures = {f["id"]: f["figure"] for view in views for f in view["figures"].values()}
    data = embeddable(figures)
    template = environment().get_template("page.html")
    return str(
        template.render(
            parts=views,
            figures=Markup(data),  # JSON with every < > & written as an escape
            plotly=Markup(get_plotlyjs()),  # the library's own text
            nonce=hashlib.sha256((data + repr(parts)).encode()).hexdigest()[:32],
        )
    )


@cache
def environment() -> Any:
    """The template engine; made once, because compiling the templates takes longer than filling them."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("commonground.report", "templates"),
        autoescape=True,
        finalize=shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def shown(value: Any) -> Any:
    """A value as a page writes it: of a text, what moves a terminal that prints the page is escaped."""
    return escaped(value) if type(value) is str else value


def embeddable(values: Any) -> str:
    """JSON that may stand inside a script element: no character in it can end the element."""
    text = json.dumps(values, ensure_ascii=True, allow_nan=False, separators=(",", ":"), sort_keys=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _pretty(config: Any) -> str:
    return json.dumps(config, indent=2, ensure_ascii=False, default=str) if config else ""
