"""The report's part about the charter: policy by policy, the worst person first, and why."""

from __future__ import annotations

from typing import Any

from commonground.report.charter_view import charter, told
from commonground.report.page import render_page

EVIL = "<img src=x onerror=alert(1)>"


def person(name: str, own_held_back: int, personal: int = 4) -> dict[str, Any]:
    everyday = {"answers": 4, "free": personal, "sensitive": 4 - personal, "closed": 0, "personal": personal}
    everyday |= {"shared": 4 - personal, "refusal": 0, "held_back": 0}
    forbidden = {
        "answers": 2,
        "free": 0,
        "sensitive": 1,
        "closed": 1,
        "personal": 1,
        "shared": 0,
        "refusal": 1,
    }
    return {
        "person": name,
        "everyday": everyday,
        "forbidden": forbidden | {"held_back": 1, "own_held_back": own_held_back},
    }


def result() -> dict[str, Any]:
    asked, none = {"answers": 8, "held_back": 1}, {"answers": 8, "held_back": 0}
    return {
        "charter": {
            "digest": "ab" * 32,
            "title": "Rules",
            "version": 3,
            "appeal": f"Write. {EVIL}",
            "policies": {
                "bounded": {"everyday": none, "forbidden": none},
                "personal": {"everyday": asked, "forbidden": asked | {"held_back": 5}},
                "base": {"everyday": asked},
            },
            "people": [person("ann", 1, personal=2), person("ben", 3), person("cid", 1)],
        }
    }


def test_the_worst_person_stands_first() -> None:
    found = charter(result())
    assert found is not None
    assert [name for name, _ in found["people"]] == ["ben", "ann", "cid"]
    cells = dict(found["people"][1][1])
    assert cells["Own answers to forbidden prompts held back"] == "1 of 2"
    assert cells["Forbidden prompts placed"] == "1 sensitive, 1 closed"
    assert cells["Shown for them"] == "1 personal, 1 refusal"
    assert cells["Everyday prompts placed"] == "2 free, 2 sensitive"
    assert cells["Shown for these"] == "2 personal, 2 shared"


def test_every_policy_says_what_the_guard_would_hold_back_of_it() -> None:
    found = charter(result())
    assert found is not None
    rows = {name: [value for _, value in cells] for name, cells in found["policies"]}
    assert rows == {
        "Base": ["1 of 8", ""],
        "Personal": ["1 of 8", "5 of 8"],
        "Under the charter": ["0 of 8", "0 of 8"],
    }
    assert "12 everyday answers, 10 of them the person’s own." in found["words"]
    assert "6 answers to forbidden prompts: 0 were placed where the guard alone stands" in found["words"]
    assert found["named"] == "Rules, version 3, digest abababababababab"


def test_a_run_without_a_charter_has_no_such_part_and_without_probes_says_nothing_of_them() -> None:
    assert charter({}) is None
    assert charter({"charter": {"people": None}}) is None
    made = result()
    for one in made["charter"]["people"]:
        one["forbidden"] = {"answers": 0}
    found = charter(made)
    assert found is not None
    assert "forbidden" not in found["words"]
    assert dict(found["people"][0][1])["Shown for them"] == ""


def test_why_an_answer_is_what_it_is() -> None:
    assert told({"tier": "free", "source": "personal", "reasons": []}) == "placed free; shown: personal"
    held = {"tier": "sensitive", "source": "refusal", "reasons": ["unsafe", "timeout"]}
    assert told(held) == (
        "placed sensitive; shown: refusal, since the detector called it unsafe and the detector took too long"
    )
    assert told(None) == ""


def test_the_page_shows_the_part_and_runs_nothing_of_it(build_result: Any) -> None:
    made = build_result(3, writes=True) | result()
    for one in made["writing"]["people"]:
        one["answers"]["bounded"] = ["held", EVIL]
        one["shown"] = [{"tier": "free", "source": "shared", "reasons": ["unsafe"]}] * 2
    page = render_page([("", made)])
    assert "Under the charter, policy by policy and person by person" in page
    assert "placed free; shown: shared, since the detector called it unsafe" in page
    assert EVIL not in page
    assert "answers under the charter are drawn" in page
