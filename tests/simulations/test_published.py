"""Class of fault: something computed from people's data without noise stands where no epsilon covers it.

The noise is held fixed (one seed), people's data are changed, and everything of a run's folder outside
`state/` that is not marked `simulation_only` is compared: it may differ only in what was computed from
noised releases.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from toy_runs import Kit, make_kit, receipts
from typer.testing import CliRunner

from commonground.marking import SIMULATION_ONLY, marked, unmarked
from commonground.report.page import render_page
from commonground.report.public import public_result
from commonground.simulations.cli import app
from commonground.simulations.folder import EVENTS, REPORT, read_events

Result = dict[str, Any]
PEOPLE, ANSWERS = 8, 6
HEX = re.compile(r"[0-9a-f]{12,}")


def pairs_file(path: Path, people: int, flipped: set[int], silent: set[int], moved: set[int]) -> Path:
    """Comparisons of many people; some of them the other way round, some said by nobody, some of a group."""
    rows = []
    for person in range(people):
        for k in range(ANSWERS + 4):
            sides = [f"yes {person} {k}", f"no {person} {k}"]
            if person in flipped:
                sides.reverse()
            if person in silent and k:  # one is kept, so that she is one of the people
                continue
            group = "north" if (person % 2 == 0) != (person in moved) else "south"
            rows.append(
                {
                    "prompt": f"question {k}",
                    "chosen": sides[0],
                    "rejected": sides[1],
                    "person": f"id-{person}",
                }
                | {"group": group}
            )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(kit: Kit, out: Path, *overrides: str, people: int = PEOPLE, changed: str = "") -> Result:
    """A run on the same questions; `changed` says what one person, or everybody, said otherwise."""
    who = set(range(people)) if changed == "all flipped" else {3}
    parts = {name: who if changed.endswith(name) else set() for name in ("flipped", "silent", "moved")}
    data = out.parent / "data"  # one place: a path is a part of the configuration
    data.mkdir(exist_ok=True)
    taste = pairs_file(data / "taste.jsonl", people, parts["flipped"], set(), parts["moved"])
    safety = pairs_file(data / "safety.jsonl", people, parts["flipped"], parts["silent"], parts["moved"])
    return kit(
        out,
        f"people={people}",
        *(f"data.{tag}.source=pairs" for tag in ("taste", "safety")),
        *(f"data.{tag}.path={path}" for tag, path in (("taste", taste), ("safety", safety))),
        *overrides,
    )


def differing(a: Any, b: Any, at: str = "") -> Iterator[str]:
    """Dotted places at which two JSON values differ; list places are one place."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(a.keys() | b.keys()):
            yield from differing(a.get(key), b.get(key), f"{at}.{key}".strip("."))
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for one, other in zip(a, b, strict=True):
            yield from differing(one, other, at)
    elif a != b:
        yield at


def visible(page: str) -> list[str]:
    """The parts of a page that do not carry the mark of what a simulation alone can see."""
    page = re.sub(r"<(style|script)\b.*?</\1>", "", page, flags=re.DOTALL)
    page = re.sub(r'<ul class="tiles" data-seen="simulation-only">.*?</ul>', "", page, flags=re.DOTALL)
    parts = re.split(r"(?=<section|<div class=\"summary\")", page)
    return [part for part in parts if 'class="sim"' not in part]


SETTINGS = {
    "plain": (),
    "without noise": ("privacy.shared.epsilon=inf",),
    "local": ("privacy.trust=local", "cohort=3"),
    "fleet": ("runtime=fleet",),
    "groups": ("strategy.name=maxmin",),
    "adapted clip": ("privacy.shared.clip_mode=adaptive", "cohort=50", "rounds=2", "evaluation.people=6"),
    "gate": ("gate.enabled=true", "gate.tolerance=0.0"),
}
RELEASED = {"adapted clip": {"curves.shared.clip"}, "gate": {"gate.shared", "curves.shared.gate"}}


MOVED = [("groups", "one moved"), ("plain", "one silent"), ("gate", "one silent")]


SPARE = ("fleet", "groups", "without noise")  # of one flipped answer: others stand for them, or MOVED does


@pytest.mark.parametrize(
    ("setting", "changed"),
    [
        *(
            pytest.param(name, "one flipped", marks=[pytest.mark.night] if name in SPARE else [])
            for name in SETTINGS
        ),
        *MOVED,
    ],
)
def test_only_what_was_noised_depends_on_a_persons_data(
    kit: Kit, tmp_path: Path, setting: str, changed: str
) -> None:
    people = 52 if setting == "adapted clip" else PEOPLE
    results, pages, events = [], [], []
    for name in ("", changed):
        folder = tmp_path / (name.replace(" ", "-") or "as-it-was")
        results.append(run(kit, folder, *SETTINGS[setting], people=people, changed=name))
        pages.append(visible((folder / REPORT).read_text()))
        events.append([unmarked(event) for event in read_events(folder / EVENTS)])
        results[-1]["reproduce"] = "of another folder"
    found = set(differing(unmarked(results[0]), unmarked(results[1])))
    covered = RELEASED.get(setting, set())
    assert all(any(place.startswith(name) for name in covered) for place in found), found
    assert {f"curves.shared.{place}" for place in differing(events[0], events[1])} <= found
    pages = [[part for part in page if "config.yaml" not in part] for page in pages]
    assert len(pages[0]) > 3
    assert pages[0] == pages[1]
    assert set(differing(public_result(results[0]), public_result(results[1]))) == set()
    # The comparison can fail: what is marked does differ.
    if changed != "one moved":
        assert set(differing(results[0], results[1])) > found


def test_the_public_result_holds_nothing_of_single_people(kit: Kit, tmp_path: Path) -> None:
    result = run(kit, tmp_path / "run", "seed=48151623")
    text = json.dumps(public_result(result))
    assert "id-" not in text
    assert "48151623" not in text
    assert str(tmp_path) not in text
    for key in ("per_person", "policies", "people_drawn", "replies", "seconds", "writing", "left_out"):
        assert f'"{key}"' not in text


def test_several_runs_are_not_published_together(kit: Kit, tmp_path: Path) -> None:
    """Their epsilons add up, and noise of one seed cancels between them."""
    run(kit, tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    before = sorted(tmp_path.rglob("*"))
    words = ["report", str(tmp_path / "one"), str(tmp_path / "two"), "--publish"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2
    assert "--publish takes one run, not 2" in done.stderr
    assert sorted(tmp_path.rglob("*")) == before
    assert CliRunner().invoke(app, [*words[:2], "--publish"]).exit_code == 0
    assert (tmp_path / "one" / "result.public.json").is_file()


def test_what_an_epsilon_covers_is_published_only_with_it() -> None:
    line = marked({"arm": "shared", "round": 1, "epsilon": 3.0, "clip": 0.25, "people": 7}, {"people"})
    result: Result = {
        "config": {"privacy": {"noise": "os"}, "data": {"path": "/home/ana"}, "people": 500},
        "privacy": {"statement": "words", "shared": {"epsilon": 8.0, "meaningful": True}},
        "curves": {"shared": [line], "pooled": [marked({"round": 1, "clip": 2.0}, {"clip"})]},
    }
    found = public_result(result)
    assert found["covered"]
    assert found["rounds"] == [{"round": 1, "epsilon": 3.0, "clip": 0.25}]
    assert found["config"] == {"privacy": {"noise": "os"}, "people": 500}
    for other, words in (
        ({"epsilon": "inf"}, "without noise"),
        ({"epsilon": None, "meaningful": False}, "too few people"),
    ):
        found = public_result(result | {"privacy": {"shared": other}})
        assert not found["covered"]
        assert words in found["says"][0]
        assert "clip" not in found["rounds"][0]
    seeded = public_result(result | {"config": {"privacy": {"noise": "seeded"}}})
    assert not seeded["covered"]
    assert "guesses the seed" in seeded["says"][0]


def test_marks_take_away_what_they_name() -> None:
    value = {"a": 1, "b": [marked({"c": 2, "d": 3}, {"c"})], "e": {"f": 4}, SIMULATION_ONLY: ["e"]}
    assert unmarked(value) == {"a": 1, "b": [{"d": 3}]}
    assert unmarked({"simulation_only": "words", "a": 1}) == {"a": 1}
    assert unmarked({"simulation_only": True, "a": 1}) == {}


def recovered(texts: str, true: dict[int, str], other: dict[int, str]) -> int:
    """People whose answers are told from their opposites by digests that stand in published texts.

    Whoever knows the questions computes each hypothesis's message with this very software, from the public
    first adapter, and compares digests (or any 12 characters in a row of one).
    """
    stand = {word[at : at + 12] for word in HEX.findall(texts) for at in range(len(word) - 11)}

    def stands(digest: str) -> bool:
        return any(digest[at : at + 12] in stand for at in range(len(digest) - 11))

    return sum(stands(true[person]) and not stands(other[person]) for person in true)


def test_no_answer_can_be_recovered_from_what_a_run_writes(tmp_path: Path) -> None:
    """200 people, all asked in round 1; the hypotheses are what each said, and the opposite of all of it."""
    people = 200
    kit = make_kit(tmp_path / "kit")
    asked = (f"cohort={people}", "rounds=1", "runtime=fleet", "evaluation.people=9", "data.test_pairs=2")
    texts, kept, results = [], [], []
    for name in ("", "all flipped"):
        folder = tmp_path / (name.replace(" ", "-") or "as-it-was")
        results.append(run(kit, folder, *asked, people=people, changed=name))
        kept.append({person: digest for arm, _, person, digest in receipts(folder) if arm == "shared"})
        files = [file for file in folder.rglob("*") if file.is_file() and "state" not in file.parts]
        assert {"result.json", "report.html", "events.jsonl"} <= {file.name for file in files}
        texts.append("\n".join(file.read_text() for file in files))
    true, other = kept
    assert len(true) == len(other) == people
    assert all(true[person] != other[person] for person in true)
    assert recovered(texts[0], true, other) == 0
    assert recovered(render_page([("", results[0])]), true, other) == 0
    # Nor by any number: what is not marked is the same whichever hypothesis is true.
    first, second = (unmarked(result | {"reproduce": ""}) for result in results)
    assert set(differing(first, second)) == set()
    # The attack works where there is something to compare with.
    assert recovered(texts[0] + json.dumps(list(true.values())), true, other) == people
    assert recovered(texts[0] + " ".join(d[:12] for d in true.values()), true, other) == people
