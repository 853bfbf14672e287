"""The server app finds its job by run config or environment."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from flwr.app import Context, RecordDict

import commonground.client.app
import commonground.server.app
from commonground.errors import InputError, RunFolderError
from commonground.server.app import app
from commonground.simulations.grid import InProcessGrid


def context(**config: str) -> Context:
    return Context(1, 0, {}, RecordDict(), dict(config))


def test_no_job_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COMMONGROUND_JOB", raising=False)
    with pytest.raises(InputError, match="COMMONGROUND_JOB names a job file"):
        app(InProcessGrid(commonground.client.app.app, 1), context())


def test_the_run_config_comes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMMONGROUND_JOB", "from-environment.json")
    grid = InProcessGrid(commonground.client.app.app, 1)
    with pytest.raises(RunFolderError, match=r"from-config\.json"):
        app(grid, context(job="from-config.json"))
    with pytest.raises(RunFolderError, match=r"from-environment\.json"):
        app(grid, context())


@pytest.mark.parametrize(
    ("module", "kind"), [(commonground.server.app, "ServerApp"), (commonground.client.app, "ClientApp")]
)
def test_flower_finds_the_apps_by_syntax(module: object, kind: str) -> None:
    """A plain module-level `app = Kind()`: not annotated, not imported."""
    tree = ast.parse(Path(str(getattr(module, "__file__", ""))).read_text())
    plain = [
        node for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node) == f"app = {kind}()"
    ]
    assert len(plain) == 1
