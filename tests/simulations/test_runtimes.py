"""The main job gives the same on every runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from toy_runs import Kit

SAME = ("policies", "paired", "privacy", "egress", "erased", "per_person")


@pytest.mark.slow
def test_ray_gives_what_one_process_gives(
    kit: Kit, plain: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    result = kit(tmp_path / "ray", "runtime=ray")
    assert result["config"]["runtime"] == "ray"
    assert {key: result[key] for key in SAME} == {key: plain[1][key] for key in SAME}
