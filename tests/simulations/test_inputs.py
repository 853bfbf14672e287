"""Class of fault: a result depends on something that a configuration only names, and nobody compares it.

Everything that a run reads and that is no part of its configuration or manifest is changed under a run that
was begun, or is done; each change is refused by name, and nothing is written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from toy_runs import Kit

from commonground.errors import RunFolderError
from commonground.simulations import world as worlds
from commonground.simulations.certify.loading import load_policies
from commonground.simulations.compare.folder import CELLS, TournamentFolder
from commonground.simulations.compare.grid import Cell
from commonground.simulations.compare.run import _refuse_other_data
from commonground.simulations.engine import environment
from commonground.simulations.folder import RESULT, RunFolder
from commonground.simulations.inputs import FILE, code_digests, hold
from commonground.simulations.settings import anchored, read_settings

Rows = list[dict[str, Any]]


def rows() -> Rows:
    return [
        {
            "prompt": f"q{k}",
            "chosen": f"yes {p} {k}",
            "rejected": f"no {p} {k}",
            "person": f"p{p}",
            "group": "a",
        }
        for p in range(6)
        for k in range(8)
    ]


def write(folder: Path, tag: str, made: Rows) -> Path:
    path = folder / f"{tag}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return path


def words(folder: Path) -> list[str]:
    paths = {tag: write(folder, tag, rows()) for tag in ("taste", "safety")}
    sources = [
        f"data.{tag}.{k}={v}" for tag, p in paths.items() for k, v in (("source", "pairs"), ("path", p))
    ]
    return ["people=6", "rounds=2", "privacy.private.steps=2", *sources]


@pytest.fixture(scope="module")
def begun(kit: Kit, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A finished run in `cells/one`, with its overrides; its sources lie beside it."""
    folder = tmp_path_factory.mktemp("inputs")
    asked = words(folder)
    kit(folder / CELLS / "one", *asked)
    return folder, asked


def flipped(made: Rows) -> Rows:
    return [row | {"chosen": row["rejected"], "rejected": row["chosen"]} for row in made]


def shorter(made: Rows) -> Rows:
    return made[:-2]


def regrouped(made: Rows) -> Rows:
    return [row | {"group": "b" if row["person"] == "p3" else "a"} for row in made]


def renamed(made: Rows) -> Rows:
    return [row | {"person": "z3" if row["person"] == "p3" else row["person"]} for row in made]


def worded(made: Rows) -> Rows:
    return [{**made[0], "prompt": "another"}, *made[1:]]


def unreadable(made: Rows) -> Rows:
    return [*made, {"prompt": "q", "chosen": 3, "rejected": "x", "person": "p1"}]


CHANGES = [
    ("safety", flipped, "data.safety: what people said"),
    ("taste", shorter, "data.taste: what people said"),
    ("taste", regrouped, "the people"),
    ("taste", renamed, "the people"),
    ("safety", worded, "data.safety: what people said"),
    ("taste", unreadable, "data.taste: what people said"),
]


@pytest.mark.parametrize("done", [True, False])
@pytest.mark.parametrize(("tag", "change", "said"), CHANGES)
def test_other_data_are_refused_by_name(
    kit: Kit,
    begun: tuple[Path, list[str]],
    tag: str,
    change: Callable[[Rows], Rows],
    said: str,
    done: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, asked = begun
    run = folder / CELLS / "one"
    kept = (run / RESULT).read_bytes()
    write(folder, tag, change(rows()))
    try:
        if not done:
            (run / RESULT).unlink()
        with pytest.raises(RunFolderError, match="was begun with other data") as caught:
            kit(run, *asked)
        assert said in caught.value.message
        assert caught.value.exit_code == 2
        other = "safety" if tag == "taste" else "taste"
        assert f"data.{other}: what" not in caught.value.message or change in (renamed,)
        assert (run / RESULT).exists() == done
        if done:
            with pytest.raises(RunFolderError, match="was begun with other data"):
                _refuse_other_data(
                    [
                        cast(
                            Cell,
                            SimpleNamespace(name="one", config=read_settings(None, [*kit.overrides, *asked])),
                        )
                    ],
                    TournamentFolder(folder),
                )
            monkeypatch.setattr(worlds, "_WORLDS", {})
            with environment(kit.variables), pytest.raises(RunFolderError, match="begun with other data"):
                worlds.world_of(str(run))  # another process of the run reads the sources for itself
    finally:
        write(folder, tag, rows())
        (run / RESULT).write_bytes(kept)


def test_the_same_data_go_on(kit: Kit, begun: tuple[Path, list[str]]) -> None:
    folder, asked = begun
    run = folder / CELLS / "one"
    before = json.loads((run / RESULT).read_text())
    (run / RESULT).unlink()
    os.utime(folder / "taste.jsonl", (1, 1))  # a date is no content
    again = kit(run, *asked)
    assert {k: again[k] for k in ("policies", "egress")} == {k: before[k] for k in ("policies", "egress")}


def test_a_certificate_is_about_the_runs_own_people(kit: Kit, begun: tuple[Path, list[str]]) -> None:
    folder, asked = begun
    write(folder, "taste", flipped(rows()))
    try:
        state = RunFolder(folder / CELLS / "one")
        (state.state / "job-shared.json").touch()
        config = anchored(read_settings(None, [*kit.overrides, *asked]))
        with pytest.raises(RunFolderError, match="begun with other data"):
            load_policies(state, config, 4, lambda *_: None)
    finally:
        write(folder, "taste", rows())


def test_own_code_and_public_pairs_are_part_of_it(tmp_path: Path) -> None:
    config = read_settings(None, ["people=6"])
    hold(tmp_path / "state", {"gate": "a", "strategy.name=m:C": "b"}, config)
    hold(tmp_path / "state", {"gate": "a", "strategy.name=m:C": "b"}, config)
    with pytest.raises(RunFolderError, match=r"the public safety pairs; strategy\.name=m:C"):
        hold(tmp_path / "state", {"gate": "x", "strategy.name=m:C": "y"}, config)
    assert code_digests(config) == {}
    (tmp_path / "state" / FILE).write_text("[")
    with pytest.raises(RunFolderError, match="damaged"):
        hold(tmp_path / "state", {}, config)
