"""Numbers as pages write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commonground.web.figures import at_least, many, number, share, size, when


@pytest.mark.parametrize(
    ("value", "text"),
    [(7.998, "8"), (0.0, "0"), (1e-5, "1 × 10⁻⁵"), (2.5e-12, "2.5 × 10⁻¹²"), ("inf", "no limit"), (4, "4")],
)
def test_a_number_is_typeset(value: float | str, text: str) -> None:
    assert number(value) == text


@given(st.floats(1e-9, 1e9))
def test_a_suggested_cap_is_never_below_what_is_needed(value: float) -> None:
    assert value <= float(at_least(value)) <= value * 1.0012


@pytest.mark.parametrize(
    ("value", "text"), [(7.9980123, "7.999"), (4.0, "4"), ("inf", "inf"), (0.00123456, "0.001235")]
)
def test_a_suggested_cap_is_short(value: float | str, text: str) -> None:
    assert at_least(value) == text


def test_sizes_shares_counts_and_times() -> None:
    assert [size(n) for n in (0, 999, 1536, 2_500_000)] == ["0 bytes", "999 bytes", "1.5 kB", "2.5 MB"]
    assert share(0.583) == "58 %"
    assert [many(1, "message"), many(1204, "message"), many(2, "reply", "replies")] == [
        "1 message",
        "1,204 messages",
        "2 replies",
    ]
    assert when("no time") == "no time"
    assert when("2026-11-28T09:30:00+00:00").startswith(("28 November 2026", "27 November", "29 November"))
