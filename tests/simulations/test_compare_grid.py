"""What a tournament is made of, from the command line and files; what is wrong with it, at once."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from commonground.errors import ConfigError, RunFolderError
from commonground.simulations.compare.folder import GRID, TournamentFolder
from commonground.simulations.compare.grid import Grid, read_grid

TWO = "strategies=[fedavg,fedadam]"


def grid(*overrides: str) -> Grid:
    return read_grid(None, overrides)[0]


def faults(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        grid(*overrides)
    return [fault.removeprefix("command line: ") for fault in caught.value.faults]


def test_strategies_times_seeds_times_lists() -> None:
    found = grid(TWO, "seeds=[3,7]", "privacy.shared.epsilon=[8,inf]", "people=[20,30]", "rounds=2")
    assert found.seeds == (3, 7)
    assert len(found.cells) == 2 * 2 * 2 * 2
    assert [dict(one) for one in found.settings] == [
        {"people": people, "privacy.shared.epsilon": epsilon}
        for people in ("20", "30")
        for epsilon in ("8", "inf")
    ]
    last = found.cells[-1]
    assert (last.strategy, last.seed, last.config.seed) == ("fedadam", 7, 7)
    assert (last.config.people, last.config.privacy.shared.epsilon) == (30, math.inf)
    assert last.config.strategy.name == "fedadam"
    assert len({cell.name for cell in found.cells}) == 16
    assert found.cells[0].name == "fedavg_people=20_epsilon=8_seed=3"


def test_a_number_of_seeds_counts_from_0_and_is_3_where_none_is_given() -> None:
    assert grid(TWO, "seeds=5").seeds == (0, 1, 2, 3, 4)
    assert grid(TWO).seeds == (0, 1, 2)


def test_a_list_typed_key_takes_a_list_of_lists() -> None:
    one = grid(TWO, "shared.tags=[safety,taste]")
    assert one.axes == {}
    assert one.cells[0].config.shared.tags == ["safety", "taste"]
    two = grid(TWO, "shared.tags=[[safety],[safety,taste]]")
    assert [cell["shared.tags"] for cell in two.settings] == ["[safety]", "[safety, taste]"]


def test_a_strategy_may_carry_options_and_a_label(tmp_path: Path) -> None:
    file = tmp_path / "grid.yaml"
    file.write_text(
        "strategies:\n- fedadam\n- {name: fedadam, options: {eta: 0.01}}\n"
        "- {name: fedadam, options: {eta: 0.02}, label: slow}\nseeds: [1]\ncompare: {workers: 2}\n"
    )
    found, workers = read_grid(file)
    assert [entry.label for entry in found.strategies] == ["fedadam", "fedadam(eta=0.01)", "slow"]
    assert found.cells[2].config.strategy.options == {"eta": 0.02}
    assert workers == 2


def test_what_may_not_be_composed_is_refused_and_is_no_fault() -> None:
    found = grid("strategies=[fedavg,fedmedian]", "seeds=1", "privacy.shared.epsilon=[8,inf]")
    refused = {(cell.strategy, cell.setting): cell.refusal for cell in found.cells if cell.refusal}
    assert list(refused) == [("fedmedian", 0)]
    assert "its sensitivity is about 2C" in str(refused["fedmedian", 0])


def test_everything_wrong_is_said_at_once() -> None:
    said = faults(
        "strategies=[fedavg,fedavg,nope,{name: fedadam, options: {etta: 1}}]",
        "seeds=[1,1]",
        "privacy.shared.epsilon=[8,8.0,x]",
        "people=[]",
        "seed=3",
        "strategy.name=krum",
        "peeple=[1,2]",
        "compare.workers=0",
        "cohort=[100,500]",
    )
    begins = [
        "strategies: found fedavg twice",
        "seeds: found 1 twice",
        "compare.workers: found 0; accepted: a whole number",
        "seed: compare takes seeds=5",
        "strategy.name: compare takes strategies=",
        "people: found []; accepted: at least one value",
        "peeple: unknown key; did you mean people?",
        "strategies: nope: 'nope'; known strategies: ",
        "strategy.options.etta: unknown to fedadam; accepted: eta",
        "privacy.shared.epsilon: found 'x'; accepted: a number",
        "cohort: found 500; accepted: at most people, which is 200",
        "privacy.shared.epsilon: found 8 twice",
    ]
    assert len(said) == len(begins), said
    for begin in begins:
        assert any(fault.startswith(begin) for fault in said), (begin, said)


@pytest.mark.parametrize("given", ["seeds=0", "seeds=[]", "seeds=[-1]", "seeds=x", "seeds=[1.5]"])
def test_seeds_that_are_none(given: str) -> None:
    assert len(faults(TWO, given)) == 1


@pytest.mark.parametrize(
    "given", ["strategies=fedavg", "strategies=[]", "strategies=[{nam: x}]", "people=20"]
)
def test_strategies_that_are_none(given: str) -> None:
    (said,) = faults(given)
    assert "accepted: a list such as [fedavg,fedadam,module:Class]" in said


def test_a_module_that_cannot_be_imported_and_a_class_that_is_no_strategy() -> None:
    assert "cannot be imported" in faults("strategies=[nowhere.at_all:Mine]")[0]
    assert "a flwr.serverapp.strategy.Strategy is needed" in faults("strategies=[collections:Counter]")[0]


def test_the_text_is_read_back_to_an_equal_grid(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    found = grid(
        "privacy.shared.epsilon=[inf,2]",
        "people=30",
        "strategies=[{name: fedadam, options: {eta: 0.1}}]",
        "shared.tags=[[safety],[safety,taste]]",
    )
    (tmp_path / GRID).write_text(found.text)
    assert TournamentFolder(tmp_path).grid() == found


def test_names_that_no_file_system_takes_are_kept_apart() -> None:
    found = grid("strategies=[{name: fedavg, label: a/b}, {name: fedadam, label: a-b}]", "seeds=1")
    first, second = (cell.name for cell in found.cells)
    assert first != second
    assert "/" not in first


def test_a_folder_of_something_else_is_one_line(tmp_path: Path) -> None:
    folder = TournamentFolder(tmp_path / "t")
    with pytest.raises(RunFolderError, match="holds no tournament"):
        folder.grid()
    with folder.claim(grid(TWO, "seeds=1")):
        pass
    with pytest.raises(RunFolderError, match="a tournament of another grid"):
        folder.check(grid(TWO, "seeds=2"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(RunFolderError, match="is not empty and holds no tournament"):
        TournamentFolder(tmp_path / "full").check(grid(TWO))
    (tmp_path / "t" / GRID).write_text("strategies: [nope]\n")
    with pytest.raises(RunFolderError, match="cannot be used: "):
        folder.grid()
