"""No text becomes code by itself.

The class of fault: a value that somebody else wrote is imported, called, resolved or looked up. Each door
where a text could become an object is tried here with a name whose import leaves a mark.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from commonground.config import Config
from commonground.errors import CommonGroundError, ConfigError, InputError, RunFolderError
from commonground.own_code import (
    FLAG,
    allow_code,
    environment_of_code,
    forget_code,
    import_code,
    is_code,
    named_code,
)
from commonground.settings import config_from, load_config, to_yaml
from commonground.simulations.cli import app
from commonground.simulations.compare.grid import read_grid
from commonground.simulations.folder import RunFolder
from commonground.simulations.settings import read_settings
from commonground.strategies.registry import (
    client_half,
    factory_of,
    get_strategy,
    implied_settings,
    is_linear,
)
from commonground.strategies.safety_gate import SafetyGate

CODE = """
import pathlib
pathlib.Path(__file__).with_name("ran").touch()
from flwr.serverapp.strategy import FedAvg
class Mine(FedAvg):
    pass
def root(shared, round):
    return shared
"""


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], bool]]:
    """Whether the module `stranger` was imported; nothing is allowed before and after."""
    (tmp_path / "stranger.py").write_text(CODE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    forget_code()
    yield (tmp_path / "ran").exists
    sys.modules.pop("stranger", None)
    forget_code()


FILES = {
    "strategy": "strategy: {name: 'stranger:Mine'}",
    "options": "strategy: {name: fltrust, options: {root: 'stranger:root'}}",
    "colon": "strategy: {name: 'stranger:'}",
    "deep": "strategy: {name: fedavg, options: {a: [{b: 'stranger:Mine'}]}}",
    "anchor": "people: &p 20\nstrategy: &s {name: 'stranger:Mine'}\n",
}


@pytest.mark.parametrize("text", FILES.values(), ids=FILES)
@pytest.mark.parametrize(
    "words", [("config", "check"), ("config", "show"), ("simulate",), ("server", "init")]
)
def test_a_configuration_file_runs_nothing(
    text: str, words: tuple[str, ...], ran: Callable[[], bool], tmp_path: Path
) -> None:
    file = tmp_path / "evil.yaml"
    file.write_text(text, encoding="utf-8")
    more = ["--out", str(tmp_path / "out")] if words == ("simulate",) else []
    if words[0] == "server":
        more = [
            str(tmp_path / "out"), "--trust", "local", "--name", "s", "--address", "127.0.0.1:1",
            "--closes", "2099-01-01", "--purpose", "p", "--contact", "c",
        ]  # fmt: skip
    done = CliRunner().invoke(app, [*words, *more, "--config", str(file)])
    assert done.exit_code == 2, done.output
    assert f"{file}:" in done.stderr.replace("\n", "")
    assert "code" in done.stderr
    assert not ran()
    assert not (tmp_path / "out").exists()


def test_compare_reads_a_file_that_runs_nothing(ran: Callable[[], bool], tmp_path: Path) -> None:
    file = tmp_path / "evil.yaml"
    for text in (
        "strategies: [fedavg, 'stranger:Mine']",
        "strategies: [{name: 'stranger:Mine', label: fedavg}]",
        "strategies: [{name: fltrust, options: {root: 'stranger:root'}}]",
    ):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match=r"evil\.yaml:1: strategies: found 'stranger:"):
            read_grid(file)
    assert not ran()


def test_what_the_user_typed_is_imported(ran: Callable[[], bool], tmp_path: Path) -> None:
    grid, _ = read_grid(None, ["strategies=[fedavg,stranger:Mine]", "people=20"])
    assert [one.name for one in grid.strategies] == ["fedavg", "stranger:Mine"]
    assert ran()
    assert read_settings(None, ["strategy.name=stranger:Mine"]).strategy.name == "stranger:Mine"


@pytest.mark.parametrize(
    "override",
    [
        "strategy={name: 'stranger:Mine'}",
        "strategy.options={root: 'stranger:root'}",
        "strategy.name=stranger:Mine",
    ],
)
def test_each_way_to_type_a_name(override: str, ran: Callable[[], bool]) -> None:
    read_settings(None, ["privacy.shared.epsilon=inf", "strategy.name=fltrust", override])
    assert ran()


def test_typing_one_name_allows_no_other(ran: Callable[[], bool], tmp_path: Path) -> None:
    file = tmp_path / "evil.yaml"
    file.write_text(FILES["options"], encoding="utf-8")
    with pytest.raises(ConfigError, match="stranger:root"):
        read_settings(file, ["strategy.name=flwr.serverapp.strategy:FedAvg"])
    assert not ran()


def test_a_file_that_the_user_vouches_for(ran: Callable[[], bool], tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(FILES["strategy"], encoding="utf-8")
    done = CliRunner().invoke(app, ["config", "check", "--config", str(file), FLAG])
    assert (done.exit_code, ran()) == (0, True), done.output


def test_a_run_folder_that_somebody_sent(ran: Callable[[], bool], tmp_path: Path) -> None:
    """A stored run's configuration is a file like any other: going on needs the user's word."""
    folder = tmp_path / "run"
    folder.mkdir()
    config = Config()
    config.strategy.name = "stranger:Mine"
    (folder / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
    for words in (["simulate", "--resume"], ["certify"]):
        done = CliRunner().invoke(app, [*words, str(folder)])
        assert done.exit_code == 2, done.output
        assert FLAG in done.stderr
    assert not ran()
    with pytest.raises(RunFolderError, match="another configuration"):
        RunFolder(folder).check(Config())  # and one that is only compared with is not run either
    assert not ran()
    config.strategy.name = allow_code("stranger:Mine")
    RunFolder(folder).check(config)
    assert RunFolder(folder).config(allow_code=True).strategy.name == "stranger:Mine"


def test_a_tournament_that_somebody_sent(ran: Callable[[], bool], tmp_path: Path) -> None:
    folder = tmp_path / "tournament"
    folder.mkdir()
    (folder / "compare.yaml").write_text("strategies: ['stranger:Mine']\nseeds: [0]\n", encoding="utf-8")
    done = CliRunner().invoke(app, ["compare", "--resume", str(folder)])
    assert (done.exit_code, ran()) == (2, False), done.output


DOORS: dict[str, Callable[[str], Any]] = {
    "get_strategy": get_strategy,
    "client_half": client_half,
    "implied_settings": implied_settings,
    "is_linear": is_linear,
    "factory_of": factory_of,
    "fltrust": lambda name: get_strategy("fltrust", {"root": name}),
    "gate": lambda name: (
        SafetyGate(get_strategy("fedavg"), tolerance=1.0, steps=1, rate=1.0, public=name).public
    ),
    "import_code": lambda name: import_code(name, "x"),
}


@pytest.mark.parametrize(
    "name", ["stranger:Mine", "subprocess:Popen", "os:system", "builtins:exec", "a.b:c.d"]
)
@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
def test_every_door_is_shut_by_itself(door: Callable[[str], Any], name: str, ran: Callable[[], bool]) -> None:
    """Whatever reads a configuration, what makes an object of a name asks whether anybody typed it."""
    with pytest.raises(InputError, match="nobody on this machine asked for"):
        door(name)
    assert not ran()


def test_no_other_module_imports_by_name() -> None:
    """A new `import_module` has to be thought about here."""
    root = Path(__file__).parents[1]
    rooms = [root / "src", root / "strategies", root / "client", root / "server", root / "simulations"]
    users = {
        str(file.relative_to(root))
        for room in rooms
        for file in room.rglob("*.py")
        if not any(part.is_symlink() for part in (file, *file.parents))
        and any(
            word in file.read_text(encoding="utf-8") for word in ("import_module", "__import__(", ".load()")
        )
    }
    known = {
        "src/commonground/own_code.py",  # asks first
        "client/devices.py",  # a variable of this machine's own environment, never a message
        "simulations/bench/commands.py",  # names out of this package's own list
    }
    assert users <= known | {name for name in users if name.endswith("_pb2_grpc.py")}


def test_processes_of_a_run_get_the_names_and_nothing_else(
    ran: Callable[[], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    allow_code("stranger:Mine")
    passed = environment_of_code()
    forget_code()
    with pytest.raises(InputError):
        import_code("stranger:Mine", "x")
    for variable, value in passed.items():
        monkeypatch.setenv(variable, value)
    assert import_code("stranger:Mine", "x").__name__ == "Mine"
    with pytest.raises(InputError):
        import_code("stranger:root", "x")


def test_an_object_in_python() -> None:
    from flwr.serverapp.strategy import FedAvg

    class Mine(FedAvg):  # type: ignore[misc]
        """A class that no import can find."""

    name = allow_code(Mine)
    try:
        assert isinstance(get_strategy(name), Mine)
    finally:
        forget_code()


LOOKUPS = ["${oc.env:HOME}", "${model.base}", "a${", "${", "${x:}"]


@pytest.mark.parametrize("text", LOOKUPS)
def test_nothing_is_looked_up(text: str, tmp_path: Path) -> None:
    """`${` is refused by name, in a file, in what was typed and in plain values, as a key and as a value."""
    file = tmp_path / "file.yaml"
    tries: list[Callable[[], Any]] = [lambda: load_config(None, [f"model.base={text}"])]
    for line in (f"model: {{base: '{text}'}}", f"'{text}': 1", f"strategy: {{options: {{'{text}': 1}}}}"):
        tries.append(lambda line=line: (file.write_text(line), load_config(file)))  # type: ignore[misc]
    tries.append(lambda: config_from({"model": {"base": text}}))
    tries.append(lambda: config_from({"strategy": {"options": {text: [1]}}}))
    for attempt in tries:
        with pytest.raises(ConfigError, match=r"\$\{"):
            attempt()


@pytest.mark.parametrize("missing", ["???", "model.base"])
def test_texts_that_a_library_of_configurations_takes_for_something(missing: str) -> None:
    assert config_from({"model": {"base": missing}}).model.base == missing


def test_a_file_that_grows_is_refused(tmp_path: Path) -> None:
    """Anchors that name each other would make a gigabyte of a kilobyte."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]" for k in range(1, 9)]
    file = tmp_path / "bomb.yaml"
    file.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(ConfigError, match="more than"):
        load_config(file)
    file.write_text("people: " + "[" * 5000, encoding="utf-8")
    with pytest.raises(ConfigError):
        load_config(file)
    file.write_text("# " + "x" * (1 << 20), encoding="utf-8")
    with pytest.raises(ConfigError, match="at most"):
        load_config(file)


def test_where_names_of_code_are_looked_for() -> None:
    assert is_code("a.b:C")
    assert is_code("a:b.c")
    assert not any(map(is_code, ["localhost:8080", "http://x", "C:\\x", "a:b c", ":", "", 3]))
    values = {"strategy": {"name": "a:", "options": {"x": [{"y": "m:n"}], "url": "http://h"}}, "data": "a:b"}
    assert list(named_code(values)) == [("strategy.name", "a:"), ("strategy.options.x.y", "m:n")]


def test_errors_are_of_the_tree() -> None:
    with pytest.raises(CommonGroundError) as caught:
        import_code("os:system", "strategy.name")
    assert caught.value.exit_code == 2
