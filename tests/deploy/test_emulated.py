"""Twenty light devices on a real SuperLink, behind the real front door, for two rounds."""

from __future__ import annotations

import pytest

from commonground.simulations.bench.devices import measure

pytestmark = [pytest.mark.slow, pytest.mark.night]


def test_twenty_devices_answer_two_rounds_without_an_error() -> None:
    said: list[str] = []
    found = measure(quick=True, say=said.append)
    assert found.missed == []
    assert {bar.what: bar.seen for bar in found.bars} == {
        "rounds that ended": 2,
        "updates used, of those asked for": 40,
        "errors of connections": 0,
        "requests refused": 0,
    }
    assert said[-1] == "2 rounds done"
    rows = {row.what: row.values.max for row in found.rows}
    assert rows["memory: superlink"] < 400  # MB
