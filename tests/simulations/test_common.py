"""What cells of one worker have in common is made once, and no byte of a result tells."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_runs import Kit

from commonground.simulations import world as worlds
from commonground.simulations.common import Common, common_of, keep_common, key_of
from commonground.simulations.population import populate_some
from commonground.simulations.settings import read_settings

RUNS: tuple[tuple[str, ...], ...] = (
    (),
    ("strategy.name=fedadam", "strategy.options.eta=0.03"),
    ("strategy.name=maxmin", "privacy.shared.epsilon=4"),
    ("strategy.name=lore", "shared.tags=[safety,taste]"),
    ("strategy.name=ditto", "shared.tags=[safety,taste]"),
    ("model.form=tanh", "shared.tags=[safety,taste]", "strategy.name=rolora"),
    ("attack.name=label_flip", "attack.fraction=0.3", "shared.tags=[safety,taste]"),
    ("privacy.private.epsilon=2", "shared.tags=[safety,taste]"),
    ("seed=2",),
    (),
)
OF_THE_CLOCK = ("seconds", "peak_memory_mb", "reproduce")


@pytest.fixture(autouse=True)
def _no_traces() -> Iterator[None]:
    yield
    keep_common(False)


def found(folder: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Result without what the clock and the folder's name say, and the adapters' bytes."""
    result = json.loads((folder / "result.json").read_text())
    for key in OF_THE_CLOCK:
        del result[key]
    for events in result["curves"].values():
        for event in events:
            del event["seconds"]
    with np.load(folder / "state" / "pooled_central.npz") as kept:
        return result, {name: kept[name].tobytes() for name in kept.files}


@pytest.mark.slow
def test_no_byte_tells_that_cells_shared_anything(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def counted(*words: Any) -> Any:
        made.append(1)
        return populate_some(*words)

    monkeypatch.setattr(worlds, "populate_some", counted)
    for place, words in enumerate(RUNS):
        kit(tmp_path / f"alone-{place}", "runtime=fleet", *words)
    assert len(made) == len(RUNS)
    keep_common()
    for place, words in enumerate(RUNS):
        kit(tmp_path / f"kept-{place}", "runtime=fleet", *words)
    # rounds of people: the plain ones; tastes shared too; attacked; as before the attack; seed 2; the first
    assert len(made) == len(RUNS) + 6
    for place in range(len(RUNS)):
        assert found(tmp_path / f"kept-{place}") == found(tmp_path / f"alone-{place}"), RUNS[place]


def test_everything_is_made_once_and_only_where_it_is_wanted() -> None:
    config = read_settings(None, ["people=4"])
    assert common_of(config) is not common_of(config)
    keep_common()
    common = common_of(config)
    assert common_of(read_settings(None, ["people=4", "privacy.shared.epsilon=1"])) is common
    calls: list[int] = []

    def make() -> int:
        calls.append(1)
        return len(calls)

    assert [common.once("a", make), common.once("a", make), common.once("b", make)] == [1, 1, 2]
    assert common_of(read_settings(None, ["people=5"])) is not common
    assert common_of(config) is not common  # only the newest people are kept
    keep_common(False)
    assert common_of(config) is not common_of(config)
    assert [Common().once("a", make), Common().once("a", make)] == [3, 4]


@pytest.mark.parametrize(
    ("word", "same"),
    [
        ("people=5", False),
        ("seed=2", False),
        ("runtime=fleet", False),
        ("data.test_pairs=7", False),
        ("evaluation.resamples=200", False),
        ("model.dims=4", False),
        ("model.basis=planted", False),
        ("attack.name=alie", False),
        ("shared.tags=[safety,taste]", False),
        ("strategy.name=fedadam", True),
        ("privacy.shared.epsilon=2", True),
        ("rounds=7", True),
        ("schedule=joint", True),
        ("model.form=tanh", True),
    ],
)
def test_what_people_and_features_depend_on_is_in_the_key(word: str, same: bool) -> None:
    assert (key_of(read_settings(None, [word])) == key_of(read_settings(None, []))) is same
