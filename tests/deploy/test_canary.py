"""A build that leaks on purpose is found by the same look at captured bytes, and the server refuses it."""

from __future__ import annotations

from pathlib import Path

import pytest
from canary import SCORE, leaking_build
from fleet_traffic import said
from leak_scanner import Scanner
from real_parts import Site, comparisons, texts
from whole_study import secrets_of

pytestmark = pytest.mark.slow


@pytest.mark.night
def test_a_build_that_leaks_is_found(tmp_path: Path) -> None:
    sizes = ["people=2", "cohort=2", "rounds=3"]
    with Site(tmp_path, sizes, min_online=1, minimum=1, deadline=60.0) as site:
        site.server.start()
        device = site.device("ada", recorded=True)
        site.server.stop()
        device.python = leaking_build(tmp_path / "canary")
        device.up()
        words = comparisons(1)
        device.teach(words)
        site.server.start()
        site.finished()
        captured = site.proxies["ada"].recording.device()
        refusals = {row["reason"]: row["count"] for row in site.overview()["refusals"]}
        device.down()
        scanner = Scanner()
        for name, text in texts(words).items():
            scanner.text(f"text: {name}", text)
        for name, value in secrets_of(device).items():
            scanner.tensor(f"private: {name}", value)
        scanner.number("score", SCORE)
        found = scanner.scan(captured)
    kinds = {finding.secret.split(":")[0] for finding in found}
    assert kinds == {"text", "private", "score"}
    assert {f.how for f in found if f.secret.startswith("private")} >= {">f2"}
    assert any("base64 > compression" in f.where for f in found if f.secret.startswith("text"))
    listed = said(captured)  # ... and so does the list of what left at all
    assert ("loss", SCORE) in listed.metrics
    assert {name for name, _ in listed.configs} == {"trace"}
    assert "more" in listed.names
    assert refusals["update does not pass the manifest"] >= 1
