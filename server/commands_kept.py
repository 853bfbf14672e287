"""`commonground server release ...` and `server audit ...`: what a study keeps, and how it is looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from commonground.console import Format, Output, run_command
from commonground.terminal import Table

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The study's folder.")]

release_app = typer.Typer(
    help="The versions of the shared adapter.\n\nExample: `commonground server release list studies/first`",
    no_args_is_help=True,
)
audit_app = typer.Typer(
    help="The audit log.\n\nExample: `commonground server audit verify studies/first`", no_args_is_help=True
)


@release_app.command("list")
def release_list(folder: Folder, format: Format = "text") -> None:
    """List the versions of the shared adapter, newest first.

    Example: `commonground server release list studies/first`
    """

    def work(output: Output) -> dict[str, Any]:
        from commonground.server.state import Study

        rows = Study(folder).overview()["releases"]
        output.show(table("version", [_plain(row) for row in rows]) if rows else "there is no release yet")
        return {"releases": rows}

    run_command(format, work)


@release_app.command("show")
def release_show(
    folder: Folder, version: Annotated[int, typer.Argument(help="Which.")], format: Format = "text"
) -> None:
    """Show a version: its signed paper and its tensors' norms.

    Example: `commonground server release show studies/first 3`
    """

    def work(output: Output) -> dict[str, Any]:
        import numpy as np

        from commonground.server.releases import Releases
        from commonground.server.state import Study

        releases = Releases(Study(folder))
        row = releases.version(version)
        arrays = releases.arrays(row)
        tensors = [
            {"name": name, "shape": list(value.shape), "norm": float(np.linalg.norm(value))}
            for name, value in arrays.items()
        ]
        output.show(row.paper, table("name", tensors))
        return {"version": version, "round": row.round, "paper": row.paper, "tensors": tensors}

    run_command(format, work)


@release_app.command("rollback")
def release_rollback(
    folder: Folder, version: Annotated[int, typer.Argument(help="Which.")], format: Format = "text"
) -> None:
    """Let the next round begin with an earlier version, under a new number.

    Example: `commonground server release rollback studies/first 3`
    """

    def work(output: Output) -> dict[str, Any]:
        from commonground.server.releases import Releases
        from commonground.server.state import Study

        Releases(Study(folder)).roll_back(version)
        output.show(f"the next round begins with version {version}; privacy that was spent stays spent")
        return {"version": version}

    run_command(format, work)


@audit_app.command("verify")
def audit_verify(folder: Folder, format: Format = "text") -> None:
    """Check the audit log from its first line to its signed head.

    Example: `commonground server audit verify studies/first`
    """

    def work(output: Output) -> dict[str, Any]:
        from commonground.server.audit import verify
        from commonground.server.state import Study

        study = Study(folder)
        found = verify(study.folder, study.signer)
        output.show(f"{found['lines']} lines hang together; the last is {found['last']}")
        return {"lines": found["lines"], "last": found["last"]}

    run_command(format, work)


@audit_app.command("show")
def audit_show(folder: Folder, format: Format = "text") -> None:
    """Print the audit log.

    Example: `commonground server audit show studies/first`
    """

    def work(output: Output) -> dict[str, Any]:
        from commonground.server.audit import entries
        from commonground.server.state import Study

        rows = entries(Study(folder).folder)
        for row in rows:
            values = ", ".join(f"{name} {value}" for name, value in row["values"].items())
            output.show(f"{row['time']}  {row['event']}  {values}")
        return {"entries": rows}

    run_command(format, work)


def table(first: str, rows: list[dict[str, Any]]) -> Table:
    """Rows of the same keys as a table; the first column has a title of its own."""
    table = Table(first, *list(rows[0])[1:], box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(str(value) if value is not None else "" for value in row.values()))
    return table


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    safety = row["safety"] or {}
    return row | {
        "tensors": row["tensors"][:12],
        "safety": f"{safety['accuracy']:.3f} right, loss {safety['loss']:.4f}" if safety else "",
        "current": "current" if row["current"] else "",
    }
