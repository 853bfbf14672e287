"""What left, under which promise, from which data: in words."""

from typing import Any

from commonground.report.devices_view import cost, data_rows, egress, rows, statement


def test_data_in_lines() -> None:
    shown = dict(
        data_rows(
            {
                "people": 1200,
                "taking_part": None,
                "train": {"taste": 40000},
                "left_out": {"taste": {"all ratings equal": 3, "no pair": 1}, "safety": {}},
                "unit": {"safety": "one comparison: an answer preferred"},
                "bad_rows": {
                    "taste": {
                        "count": 2,
                        "reasons": {"not a number": 2},
                        "first": ["r.csv:17: not a number"],
                    },
                    "safety": {"count": 0, "reasons": {}, "first": []},
                },
            }
        )
    )
    assert shown["people"] == "1,200"
    assert shown["taking part"] == "–"
    assert shown["train"] == "taste: 40,000"
    left_out = [line for _, line in shown["left out"]]
    assert left_out == ["taste, all ratings equal: 3", "taste, no pair: 1", "safety: none"]
    assert shown["unit"] == "safety: one comparison: an answer preferred"
    bad = [line for _, line in shown["bad rows"]]
    assert bad == ["taste: 2 bad rows, not a number (2)", "taste: r.csv:17: not a number", "safety: none"]


def test_budgets_say_what_they_do_not_claim() -> None:
    shown = dict(rows({"epsilon": None, "delta": 0.001, "epsilon_prv": "inf", "clip": None, "list": [1, {}]}))
    assert shown["epsilon"] == "not claimed"
    assert shown["delta"] == "1.0e−3"
    assert shown["epsilon prv"] == "unlimited (no guarantee)"
    assert "clip" not in shown
    assert shown["list"] == [("", "1"), ("", "none")]


def result(meaningful: bool) -> dict[str, Any]:
    return {
        "egress": {
            "messages": 2,
            "bytes": 3072,
            "tensors": ["shared.a", "shared.b"],
            "private_tensors": 0,
            "refused": 1,
            "manifest": {
                "tensors": [{"name": "shared.a", "shape": [8, 4]}],
                "clip": 0.5,
                "noise_on_device": True,
            },
            "receipts": [
                {"round": 1, "manifest": "ab", "bytes": 1536, "names": ["shared.a"], "epsilon": "4.10"}
            ]
            * 12,
        },
        "privacy": {"shared": {"meaningful": meaningful}},
    }


def test_egress() -> None:
    found = egress(result(True))
    assert found is not None
    assert found["tensors"] == [("shared.a", "8 × 4"), ("shared.b", "")]
    assert (found["clip"], found["noise"], found["refused"]) == ("0.5", "on each device", "1")
    assert len(found["receipts"]) == 10
    assert found["receipts"][0][2] == "4.1"
    assert egress({}) is None


def test_receipts_show_no_epsilon_where_none_is_claimed() -> None:
    few = result(False)
    for number in ("4.10", 4.1, "not claimed", None):
        few["egress"]["receipts"][0]["epsilon"] = number
        found = egress(few)
        assert found is not None
        assert found["receipts"][0][2] == "not claimed"
    few["egress"]["receipts"][0]["epsilon"] = "inf"
    found = egress(few)
    assert found is not None
    assert found["receipts"][0][2] == "unlimited (no guarantee)"


def test_statement_and_cost() -> None:
    assert statement({"privacy": {"statement": " one \n\n two"}}) == ["one", "two"]
    assert statement({}) == []
    assert cost({"seconds": 75, "peak_memory_mb": 1830.0}).startswith("1 min 15 s, 1.8")
    assert cost({}) == ""
