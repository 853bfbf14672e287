"""Shards give what one process gives, whatever befalls them, and leave nothing behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import toy_shard
from toy_patience import LIMIT
from toy_runs import Kit
from typer.testing import CliRunner

from commonground import __version__
from commonground.comparisons import TAGS
from commonground.errors import (
    CommonGroundError,
    ConfigError,
    InputError,
    RunFolderError,
    StorageError,
)
from commonground.randomness import normal
from commonground.server.job import Job
from commonground.server.rounds import load_outcome
from commonground.settings import to_yaml
from commonground.simulations import cluster as ray_cluster
from commonground.simulations import shards
from commonground.simulations.cli import app
from commonground.simulations.cluster import ENVIRONMENT, ray_running
from commonground.simulations.devices import STREAM, SimulatedDevice
from commonground.simulations.engine import environment
from commonground.simulations.fleet import Arrays, Fleet
from commonground.simulations.settings import read_settings
from commonground.simulations.shard_actor import PROBE, Shard, SliceStore, slice_of
from commonground.simulations.shards import Shards
from commonground.simulations.store import Store
from commonground.simulations.stores import open_store
from commonground.simulations.world import World, adopt, build_world

SAME = ("policies", "paired", "privacy", "egress")
# One arm, so that Ray is started once a run; two people a chunk, so that a shard has several.
ONE_ARM = ("shared.tags=[safety,taste]", "fleet.chunk=2", "cohort=8")
TWO = (*ONE_ARM, "runtime=fleet", "fleet.shards=2")
Run = tuple[Path, dict[str, Any]]


def world_in(folder: Path, kit: Kit, *overrides: str) -> World:
    """A world, and the folder from which an actor builds the same one."""
    from commonground.recipe import resolve

    config = resolve(read_settings(None, [*kit.overrides, "runtime=fleet", *overrides]))
    (folder / "state").mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(config))
    return build_world(config)


def start(world: World, round: int) -> Arrays:
    spec = world.models["shared"].shared_spec()
    return {name: 0.5 * normal(shape, 7, "u", name, round).numpy() for name, shape in spec.items()}


@contextmanager
def trainer(world: World, folder: Path) -> Iterator[Fleet | Shards]:
    """One process or several, over the folder's store."""
    store = open_store(world.config, folder / "state", world.people)
    many = world.config.fleet.shards > 1
    try:
        with Shards(world, str(folder), "shared", store) if many else nullcontext() as actors:
            yield actors or Fleet(world, "shared", store)
    finally:
        store.close()


def states(world: World, folder: Path) -> Arrays:
    """The private states of everybody, by the driver's own eyes."""
    store = open_store(world.config, folder / "state", world.people)
    found, arrays = store.read_many(STREAM, range(world.people), 9)
    store.close()
    return {**arrays, "found": found}


def ray_children() -> list[psutil.Process]:
    """Ray's processes below this one; those that have ended and only wait to be asked about are none."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if "ray" in " ".join(child.cmdline()):
                found.append(child)
    return found


def gone(told: str, kind: str = "") -> bool:
    """Whether processes of this kind have all ended, or do so soon."""
    processes = []
    pids = [int(pid) for pid, name in json.loads(told).items() if kind in name]
    assert len(pids) >= 2
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            processes.append(psutil.Process(pid))
    return not psutil.wait_procs(processes, timeout=LIMIT)[1]


# A command that ends when the second shard has just been asked for something. It prints number and name of
# Ray's processes: those below it, and its actors on a cluster of its parent's.
ENDED = """
import json, os, signal, sys
import psutil
from commonground.simulations import cluster as ray_cluster
from commonground.simulations import shards
from commonground.simulations.cli import main

send, at, end = shards.Shards._send, sys.argv.pop(1), sys.argv.pop(1)

def ended(self, shard, method, words):
    found = send(self, shard, method, words)
    if shard == 1 and f"{method} {words[0] if words else ''}".startswith(at):
        mine = psutil.Process().children(recursive=True)
        theirs = psutil.Process(os.getppid()).children(recursive=True)
        all = mine + [one for one in theirs if "ray::Shard" in one.name()]
        print(json.dumps({one.pid: one.name() for one in all}), flush=True)
        os.killpg(0, signal.SIGINT) if end == "ctrl-c" else os.kill(os.getpid(), signal.SIGKILL)
    return found

shards.Shards._send = ended
main()
"""


def command(kit: Kit, folder: Path, at: str, end: str, *more: str) -> subprocess.CompletedProcess[str]:
    """Run such a command, in a process group of its own as a terminal would."""
    return subprocess.run(
        [sys.executable, "-c", ENDED, at, end, "simulate", *kit.overrides, *TWO, *more, "--out", "run"],
        cwd=folder,
        env={**os.environ, **kit.variables, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
        timeout=LIMIT,
    )


# --- without Ray ---


@pytest.mark.parametrize(("number", "people"), [(1, 5), (2, 5), (3, 10), (7, 7), (3, 100_000)])
def test_slices_are_contiguous_and_of_nearly_one_length(number: int, people: int) -> None:
    slices = [slice_of(shard, number, people) for shard in range(number)]
    assert [person for own in slices for person in own] == list(range(people))
    assert max(map(len, slices)) - min(map(len, slices)) <= 1


def test_a_shard_writes_nobody_elses_state_and_hands_its_receipts_back(tmp_path: Path) -> None:
    inner = Store(tmp_path)
    store = SliceStore(inner, range(2, 5))
    store.write_many("private", [2, 4], 1, {"v": np.ones((2, 3))})
    assert store.has_many("private", [2, 3, 4], 1).tolist() == [True, False, True]
    with pytest.raises(ValueError, match="person 5 is asked of the shard of range"):
        store.write_many("private", [4, 5], 1, {"v": np.ones((2, 3))})
    with pytest.raises(ValueError, match="person 1"):
        store.read_many("private", [1], 2)
    store.keep_receipts("shared", 1, [2, 3], ["a", "b"], 12, ["u"], "1")
    assert inner.totals("shared") == (0, 0)
    (kept,) = store.taken()
    assert (kept.people, kept.digests) == ([2, 3], ["a", "b"])
    assert store.taken() == ()
    store.close()


def test_a_shard_answers_with_what_is_wrong(kit: Kit, tmp_path: Path) -> None:
    """Here without Ray; a person of another shard is a fault of the program and is raised."""
    folder = tmp_path / "run"
    with environment(kit.variables):
        world = world_in(folder, kit, *TWO)
    adopt(str(folder), world)
    shard = Shard(str(folder), "shared", 1, 2)
    told = shard.check("token", __version__).error
    assert isinstance(told, RunFolderError)
    assert f"does not see the run folder {folder} (No such file or directory)" in told.message
    (folder / "state" / PROBE).write_text("another run's")
    assert isinstance(shard.check("token", __version__).error, RunFolderError)
    (folder / "state" / PROBE).write_text("token")
    assert shard.check("token", __version__).error is None
    told = shard.check("token", "0.0.1").error
    assert isinstance(told, InputError)
    assert "0.0.1 here; one version is needed" in told.message

    own, u = list(slice_of(1, 2, world.people)), start(world, 1)
    answer = shard.train(1, u, own, True)
    assert answer.reply is not None
    assert answer.reply.answered == [p for receipts in answer.receipts for p in receipts.people] == own
    with pytest.raises(ValueError, match="person 0 is asked"):
        shard.train_private(1, u, [0], False)
    assert shard.train_private(1, u, own, False).error is None
    os.truncate(folder / "state" / "fleet" / "private.slots", 10)
    late = Shard(str(folder), "shared", 1, 2)
    assert isinstance(late.train_private(2, u, own, False).error, RunFolderError)


def test_more_shards_than_people_and_words_that_are_no_address_are_faults() -> None:
    with pytest.raises(ConfigError, match="found 13; accepted: at most people, which is 12"):
        read_settings(None, ["people=12", "runtime=fleet", "fleet.shards=13"])
    for word in ("head", "ray://head:10001", "head:port", ":6379", "head:70000"):
        with pytest.raises(ConfigError, match="accepted: HOST:PORT of a Ray head"):
            read_settings(None, ["runtime=fleet", "fleet.shards=2", f"fleet.address={word}"])
    read_settings(None, ["runtime=fleet", "fleet.shards=2", "fleet.address=head.example:6379"])


def answer_otherwise(server: socket.socket) -> None:
    with server.accept()[0] as connection:
        connection.sendall(b"SSH-2.0\r\n")


@pytest.mark.parametrize("kind", ["closed", "silent", "another"])
def test_an_address_that_does_not_answer_is_one_line(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Nobody listens there, somebody who never answers, somebody who answers otherwise."""
    out = tmp_path / "deep" / "run"
    monkeypatch.setattr(ray_cluster, "ANSWER", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as server, environment(kit.variables):
        address = f"127.0.0.1:{server.getsockname()[1]}"
        if kind == "closed":
            server.close()
        if kind == "another":
            threading.Thread(target=answer_otherwise, args=[server], daemon=True).start()
        words = ["simulate", *kit.overrides, *TWO, f"fleet.address={address}", "--out", str(out)]
        done = CliRunner().invoke(app, words)
    assert done.exit_code == 2, done.output
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert f"fleet.address: no Ray cluster answers at '{address}'" in line
    assert not out.parent.exists()


# --- one Ray of three CPUs ---


@pytest.fixture(scope="class")
def cluster(kit: Kit, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of its head; actors find fates in its environment."""
    fates = tmp_path_factory.mktemp("fates")
    with environment({**ENVIRONMENT, **kit.variables, "TOY_FATES": str(fates)}):
        with ray_running("a test", 3):
            import ray

            again = pytest.raises(InputError, match="Ray is already running in this process")
            with again, ray_running("a test", 3):
                pass
            yield str(ray.get_runtime_context().gcs_address)
        assert ray_children() == []


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
class TestOnOneCluster:
    @pytest.mark.night
    def test_shards_agree_with_one_another_and_with_devices(self, kit: Kit, tmp_path: Path) -> None:
        """Bit for bit where every person is a chunk; a sum in another order differs in its last bits."""
        people, found = [0, 1, 2, 3, 5, 7, 8, 11], []
        for number in (1, 3):  # two are in the whole runs below
            folder = tmp_path / str(number)
            world = world_in(folder, kit, *ONE_ARM, "fleet.chunk=1", f"fleet.shards={number}")
            with trainer(world, folder) as trained:
                u, again = start(world, 1), start(world, 2)
                each = trained.train(1, u, people, each=True)
                trained.train_private(1, u, people, final=False)
                total = trained.train(2, again, people[:3], each=False)  # one slice is empty, or two
                trained.train_private(2, again, people, final=True)
            assert each.answered == people
            assert total.answered == people[:3]
            found.append((each.arrays, total.arrays, states(world, folder)))
            store = open_store(world.config, folder / "state", world.people)
            rows = [(row["round"], row["person"]) for row in store.receipts("shared", 99)]
            assert rows == [(1, person) for person in people] + [(2, person) for person in people[:3]]
            store.close()
        for here, there in zip(*found, strict=True):
            for name, value in here.items():
                assert np.allclose(value, there[name], atol=1e-5)
        for place in (0, 2):  # what is no sum
            for name, value in found[0][place].items():
                assert value.tobytes() == found[1][place][name].tobytes()
        one, store = world_in(tmp_path / "device", kit, *ONE_ARM), Store(tmp_path / "device" / "state")
        for place, person in enumerate(people):
            if person in one.train_rows:
                sealed = SimulatedDevice(one, store, "shared", person).shared_update(1, start(one, 1))
                for name, value in sealed.tensors.items():
                    assert np.allclose(value, found[1][0][name][place], atol=1e-5)
        store.close()

    @pytest.mark.night
    def test_errors_come_out_as_themselves(
        self, kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        fates = Path(os.environ["TOY_FATES"])
        monkeypatch.setattr(shards, "Shard", toy_shard.MortalShard)
        monkeypatch.setattr(shards, "RESTARTS", 0)
        folder, people = tmp_path / "run", list(range(12))
        world = world_in(folder, kit, *TWO)
        toy_shard.name_fate(fates, "train_private-1-1-full", "train-2-0-before")
        with trainer(world, folder) as trained:
            with pytest.raises(StorageError, match=r"cannot use private\.slots: No space left") as caught:
                trained.train_private(1, start(world, 1), people, final=False)
            assert "Traceback" not in str(caught.value)
            trained.train_private(1, start(world, 1), people, final=False)  # there is room again
            assert isinstance(trained, Shards)
            with monkeypatch.context() as patch:
                patch.setattr(trained, "_token", "of a folder that shard 1 does not see")
                with pytest.raises(RunFolderError, match=r"shard 1 on .* does not see the run folder"):
                    trained._check(1, [1])
            with pytest.raises(CommonGroundError, match="round 2: shard 0 of 2 was lost 1 times") as lost:
                trained.train(2, start(world, 1), people, each=False)
            assert lost.value.message.count("\n") == 0
        assert states(world, folder)["found"].all()
        assert not (folder / "state" / PROBE).exists()
        captured = capfd.readouterr()
        assert captured.out + captured.err == ""

        big = world_in(tmp_path / "big", kit, *ONE_ARM, "fleet.shards=4")
        few = pytest.raises(InputError, match="found 4; accepted: at most the 3 CPUs of the cluster")
        with few, trainer(big, tmp_path / "big"):
            pass

    @pytest.mark.night
    def test_a_run_on_a_cluster_by_its_address(self, kit: Kit, tmp_path: Path, cluster: str) -> None:
        """Joined by its address, and stopped by Ctrl-C: the actors end, the cluster stays."""
        done = command(kit, tmp_path, "train 2", "ctrl-c", f"fleet.address={cluster}")
        assert done.returncode == 130
        lines = [line for line in done.stderr.splitlines() if not line.startswith("[")]
        assert lines == [
            "stopped; what is done is kept in run; go on with: commonground simulate --resume run"
        ]
        events = (tmp_path / "run" / "events.jsonl").read_text().splitlines()
        assert [json.loads(line)["round"] for line in events] == [1]
        assert gone(done.stdout)
        assert not (tmp_path / "run" / "state" / PROBE).exists()


# --- whole runs ---


@pytest.fixture(scope="module")
def two(kit: Kit, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Folder and result of a run of two shards that nothing disturbed."""
    folder = tmp_path_factory.mktemp("two") / "run"
    return folder, kit(folder, *TWO)


def adapter(folder: Path) -> Arrays:
    return load_outcome(Job.load(folder / "state" / "job-shared.json")).arrays


def ledger(folder: Path) -> dict[str, Any]:
    """Every table of the ledger, times apart."""
    database = sqlite3.connect(folder / "state" / "ledger.sqlite")
    names = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type='table'")]
    found = {name: database.execute(f"SELECT * FROM {name}").fetchall() for name in sorted(names)}
    database.close()
    return found


def receipts(folder: Path) -> list[Any]:
    database = sqlite3.connect(folder / "state" / "fleet" / "receipts.sqlite")
    found = database.execute("SELECT arm, round, person, digest FROM receipt ORDER BY 1, 2, 3").fetchall()
    database.close()
    return found


def check_same(run: Run, two: Run) -> None:
    """Adapters bit for bit, figures, receipts, and what was charged."""
    assert {key: run[1][key] for key in SAME} == {key: two[1][key] for key in SAME}
    for name, value in adapter(two[0]).items():
        assert value.tobytes() == adapter(run[0])[name].tobytes()
    found = receipts(run[0])
    assert found == receipts(two[0])
    assert len({row[:3] for row in found}) == len(found) == run[1]["egress"]["messages"]
    mine, other = ledger(run[0]), ledger(two[0])
    assert {name: len(rows) for name, rows in mine.items()} == {n: len(rows) for n, rows in other.items()}
    assert ray_children() == []


@pytest.mark.night
def test_a_run_of_two_shards_is_that_of_one_process(kit: Kit, two: Run, tmp_path: Path) -> None:
    plain = kit(tmp_path / "plain", *ONE_ARM)
    one = kit(tmp_path / "one", *ONE_ARM, "runtime=fleet")
    for folder, result in ((tmp_path / "plain", plain), (tmp_path / "one", one)):
        for name, value in adapter(two[0]).items():
            assert np.allclose(value, adapter(folder)[name], atol=1e-5)
        for policy, found in result["policies"].items():
            for tag in TAGS:
                assert found[tag]["accuracy"] == pytest.approx(two[1]["policies"][policy][tag]["accuracy"])
        assert result["privacy"] == two[1]["privacy"]
        assert result["egress"]["messages"] == two[1]["egress"]["messages"]
    assert ray_children() == []


def test_ray_that_is_too_slow_to_start_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits 30 seconds for its own parts, whatever else the machine does."""
    import ray

    tries: list[int] = []

    def start(fails: int, words: str) -> Callable[..., None]:
        def init(**how: object) -> None:
            tries.append(1)
            if len(tries) <= fails:
                raise Exception(words)

        return init

    slow = "The current node timed out during startup. This could happen because"
    monkeypatch.setattr(ray, "init", start(1, slow))
    ray_cluster._start(num_cpus=1)
    assert len(tries) == 2
    tries.clear()
    monkeypatch.setattr(ray, "init", start(9, slow))
    with pytest.raises(InputError, match="did not start within its half minute, 2 times"):
        ray_cluster._start(num_cpus=1)
    tries.clear()
    monkeypatch.setattr(ray, "init", start(9, "something else"))
    with pytest.raises(Exception, match="something else"):
        ray_cluster._start(num_cpus=1)
    assert len(tries) == 1


@pytest.mark.night
def test_kill_9_and_lost_shards_change_nothing_and_cost_nothing(
    kit: Kit, two: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The run is killed while shards write and resumed; then one shard is lost with its answer unsaid, and
    another, in the same round, with half of its people written.
    """
    done = command(kit, tmp_path, "train_private 2", "kill -9")
    assert done.returncode == -signal.SIGKILL
    assert gone(done.stdout, "ray::Shard")  # two agents of Ray's look for its head for a minute more
    folder, fates = tmp_path / "run", tmp_path / "fates"
    assert not (folder / "result.json").exists()
    named = ("train-3-1-after", "train_private-3-0-half")
    toy_shard.name_fate(fates, *named)
    monkeypatch.setenv("TOY_FATES", str(fates))
    monkeypatch.setattr(shards, "Shard", toy_shard.MortalShard)
    check_same((folder, kit(folder, *TWO)), two)
    assert [file.read_text() for file in fates.iterdir()] == ["done"] * len(named)  # all of it has happened
    lines = (folder / "devices.log").read_text().splitlines()
    assert sum("is started again" in line for line in lines) == len(named)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


@pytest.mark.night
def test_ctrl_c_ends_the_ray_of_this_machine(kit: Kit, tmp_path: Path) -> None:
    done = command(kit, tmp_path, "check", "ctrl-c")
    assert done.returncode == 130, done.stderr
    assert "stopped" in done.stderr
    assert "Traceback" not in done.stderr
    assert gone(done.stdout)
