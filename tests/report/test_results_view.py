"""What the page says about results, from the numbers alone."""

from typing import Any

import pytest

from commonground.report.results_view import format_probe


@pytest.mark.parametrize(
    ("right", "comparisons", "above"),
    [
        (0.60, 400, True),
        (0.59, 400, False),  # the end of the probe's own interval
        (0.60, 30, True),
        (1.00, 29, False),  # an interval over a handful says nothing, however far apart the shares are
        (1 / 3, 3, False),
        (0.60, None, True),
        (None, 400, False),
    ],
)
def test_a_model_is_above_format_alone_only_where_that_can_be_seen(
    right: float | None, comparisons: int | None, above: bool
) -> None:
    probe: dict[str, Any] = {"accuracy": 0.5, "low": 0.41, "high": 0.59, "comparisons": comparisons}
    found = format_probe(
        {
            "format_probe": {"safety": probe},
            "policies": {"shared": {"safety": {"accuracy": right}}},
        }
    )
    assert found is not None
    assert [row["beaten"] for row in found["rows"]] == [above]


def test_without_a_probe_there_is_nothing_to_show() -> None:
    assert format_probe({"format_probe": {"safety": {"accuracy": None}}}) is None
