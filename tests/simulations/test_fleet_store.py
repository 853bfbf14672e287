"""The fleet's private states: the same meaning as the SQLite store, sparse, and whole after any mishap."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_fleet_kills
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from commonground.errors import RunFolderError, StorageError
from commonground.simulations.fleet_store import FleetStore
from commonground.simulations.slots import Layout
from commonground.simulations.store import PrivateStore, Store

FEW = 6
BASE = 10_000_000  # above any person number
STREAMS = ("private", "local")
Arrays = dict[str, np.ndarray]


def version(people: Sequence[int], mark: int) -> Arrays:
    """Arrays in which every row is its person's and its write's own, and no last byte is a zero."""
    codes = np.array([float(BASE * mark + person) for person in people])
    wide = codes[:, None, None] + np.arange(6).reshape(2, 3) / 10
    return {
        "adapter/v": wide.astype(np.float32),
        "moments/m": -codes[:, None],
        "steps": codes.astype(np.int64),
        "tail": np.full(len(people), 1 + mark % 255, np.uint8),
    }


SLOT = 12 + 2 * 3 * 4 + 8 + 8 + 1  # head, adapter/v, moments/m, steps, tail


def same(left: tuple[np.ndarray, Arrays], right: tuple[np.ndarray, Arrays]) -> None:
    assert left[0].dtype == right[0].dtype == bool
    np.testing.assert_array_equal(left[0], right[0])
    assert set(left[1]) == set(right[1])
    for name, value in left[1].items():
        assert (value.dtype, value.shape) == (right[1][name].dtype, right[1][name].shape)
        assert value.tobytes() == right[1][name].tobytes()


def marks(
    store: PrivateStore, people: Sequence[int], before: int, stream: str = "private"
) -> list[int | None]:
    """Which write each person's version before a round is of."""
    found, arrays = store.read_many(stream, people, before)
    for place, person in enumerate(people):
        if found[place]:
            row = {name: value[place : place + 1] for name, value in arrays.items()}
            mark = int(row["steps"][0]) // BASE
            same((found[:1], row), (found[:1], version([person], mark)))
    return [int(code) // BASE if there else None for code, there in zip(arrays["steps"], found, strict=True)]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FleetStore]:
    opened = FleetStore(tmp_path / "fleet", FEW, "run")
    yield opened
    opened.close()


def reopen(store: FleetStore) -> FleetStore:
    store.close()
    return FleetStore(store.folder, store.people, store.run)


crowds = st.lists(st.integers(0, FEW - 1), max_size=8)
rounds = st.integers(0, 7)


class BesideTheOracle(RuleBasedStateMachine):
    """Whatever is done to both stores in whatever order, they answer the same."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.writes = 0

    @initialize()
    def open(self) -> None:
        self.sqlite = Store(self.folder / "sqlite")
        self.fleet = FleetStore(self.folder / "fleet", FEW, "run")
        self.both: list[PrivateStore] = [self.sqlite, self.fleet]

    @rule(stream=st.sampled_from(STREAMS), people=crowds, round=rounds)
    def write(self, stream: str, people: list[int], round: int) -> None:
        self.writes += 1
        arrays = version(people, self.writes)
        arrays["steps"] += np.arange(len(people))  # of one named twice the last row counts
        for store in self.both:
            store.write_many(stream, people, round, arrays)

    @rule(stream=st.sampled_from(STREAMS), people=crowds, before=rounds)
    def read(self, stream: str, people: list[int], before: int) -> None:
        same(self.sqlite.read_many(stream, people, before), self.fleet.read_many(stream, people, before))

    @rule(stream=st.sampled_from(STREAMS), round=rounds)
    def has(self, stream: str, round: int) -> None:
        sqlite, fleet = (store.has_many(stream, range(FEW), round) for store in self.both)
        assert sqlite.dtype == fleet.dtype == bool
        assert sqlite.tolist() == fleet.tolist()

    @rule(people=crowds, round=rounds, arm=st.sampled_from(["shared", "pooled"]), limit=rounds)
    def receipts(self, people: list[int], round: int, arm: str, limit: int) -> None:
        digests = [f"{self.writes}-{person}" for person in people]
        for store in self.both:
            store.keep_receipts(arm, round, people, digests, 96, ["u", "A"], "1.5")
        assert self.sqlite.receipts(arm, limit) == self.fleet.receipts(arm, limit)
        assert self.sqlite.totals(arm) == self.fleet.totals(arm)

    @rule()
    def come_back(self) -> None:
        for store in self.both:
            store.close()
        self.open()

    def teardown(self) -> None:
        for stream in STREAMS:
            for round in range(9):
                self.read(stream, list(range(FEW)), round)
                self.has(stream, round)
        for store in self.both:
            store.close()
        shutil.rmtree(self.folder)


TestBesideTheOracle = BesideTheOracle.TestCase
TestBesideTheOracle.settings = settings(max_examples=20, stateful_step_count=20, deadline=None)


def test_both_serve_single_people_and_many_alike(tmp_path: Path) -> None:
    store = Store(tmp_path)
    one = version([3], 7)
    store.write("private", 3, 4, one)
    assert store.has_many("private", [2, 3], 4).tolist() == [False, True]
    found, arrays = store.read_many("private", [2, 3], 5)
    assert found.tolist() == [False, True]
    same((found[1:], {name: value[1:] for name, value in arrays.items()}), (found[1:], one))
    store.write_many("private", [0, 3], 5, version([0, 3], 8))
    kept = store.read("private", 0, 6)
    assert kept is not None
    same((found[1:], kept), (found[1:], version([0], 8)))
    assert store.has("private", 3, 5)
    store.close()


def test_a_stream_of_which_nothing_was_written_has_no_names(store: FleetStore) -> None:
    found, arrays = store.read_many("private", [0, 4], 9)
    assert (found.tolist(), arrays) == ([False, False], {})
    assert store.has_many("private", [0, 4], 0).tolist() == [False, False]
    store.write_many("private", [], 1, version([], 1))  # nobody
    assert store.read_many("private", [0], 9)[1] == {}
    store.write_many("private", [4], 1, version([4], 1))
    found, arrays = store.read_many("private", [], 9)
    assert found.shape == (0,)
    assert {name: value.shape for name, value in arrays.items()} == {
        "adapter/v": (0, 2, 3),
        "moments/m": (0, 1),
        "steps": (0,),
        "tail": (0,),
    }


def test_a_round_asked_for_again_reads_the_version_from_before_it(store: FleetStore) -> None:
    for round in (2, 5, 6, 6, 9):
        store.write_many("private", [1], round, version([1], round))
    assert [marks(store, [1], before)[0] for before in (6, 7, 9, 10)] == [None, 6, 6, 9]
    store.write_many("private", [1], 9, version([1], 99))
    assert [marks(store, [1], before)[0] for before in (9, 10)] == [6, 99]


@pytest.mark.parametrize("kept", [(4,), (4, 6), (6, 7), (6,), (3, 4)])
def test_a_write_forgets_what_later_rounds_left(store: FleetStore, kept: tuple[int, ...]) -> None:
    """The run was set back to round 5: what is there of 6 and 7 will be computed again."""
    for round in kept:
        store.write_many("private", [0, 2], round, version([0, 2], round))
    store.write_many("private", [2], 5, version([2], 5))
    assert [bool(store.has_many("private", [2], round)[0]) for round in (3, 4, 5, 6, 7)] == [
        False,
        4 in kept,
        True,
        False,
        False,
    ]
    assert marks(store, [0, 2], 99) == [kept[-1], 5]
    assert marks(store, [2], 5) == [4 if 4 in kept else None]


class Killed(BaseException):
    """The process is gone."""


def cut_at(monkeypatch: pytest.MonkeyPatch, bytes: int, end: Callable[[], None], calls: int = 0) -> None:
    """After `calls` whole writes, the next one is `bytes` long and the one after it ends in `end`."""
    whole, left = os.pwrite, [calls, 1]

    def pwrite(file: int, data: memoryview, start: int) -> int:
        if left[0]:
            left[0] -= 1
            return whole(file, data, start)
        if left[1] and bytes:
            left[1] -= 1
            return whole(file, data[:bytes], start)
        end()
        raise AssertionError("the write should have ended")

    monkeypatch.setattr(os, "pwrite", pwrite)


def die() -> None:
    raise Killed


@pytest.mark.parametrize("kept", [(), (1,), (1, 2), (1, 3), (2, 3)])
def test_a_record_torn_at_any_byte_is_absent(
    store: FleetStore, monkeypatch: pytest.MonkeyPatch, kept: tuple[int, ...]
) -> None:
    """Over an empty slot, an older one, and its own (round 3 repeated); then the round is repeated."""
    assert Layout.of(version([0], 1)).slot.itemsize == SLOT
    store.write_many("private", [5], 9, version([5], 9))  # so that there is a stream
    for round in kept:
        store.write_many("private", range(5), round, version(range(5), round))
    path = store.folder / "private.slots"
    whole = path.read_bytes()
    before = max((round for round in kept if round < 3), default=None)
    untouched = 3 if 3 in kept else before
    for bytes in range(SLOT):
        path.write_bytes(whole)
        with monkeypatch.context() as patch, pytest.raises(Killed):
            cut_at(patch, bytes, die)
            store.write_many("private", [1, 4], 3, version([1, 4], 33))
        torn = untouched if bytes == 0 else before
        assert marks(store, range(5), 4) == [untouched, torn, untouched, untouched, untouched]
        assert marks(store, range(5), 3) == [before] * 5
        assert store.has_many("private", [1], 3)[0] == (bytes == 0 and 3 in kept)
        store.write_many("private", [1, 4], 3, version([1, 4], 33))
        assert marks(store, range(5), 4) == [untouched, 33, untouched, untouched, 33]
        assert marks(store, range(5), 3) == [before] * 5


@pytest.mark.parametrize("bytes", range(13))
def test_forgetting_a_later_round_can_be_cut_off_too(
    store: FleetStore, monkeypatch: pytest.MonkeyPatch, bytes: int
) -> None:
    for round in (6, 7):
        store.write_many("private", [0], round, version([0], round))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        cut_at(patch, bytes, die)
        store.write_many("private", [0], 5, version([0], 5))
    assert marks(store, [0], 5) == [None]
    store.write_many("private", [0], 5, version([0], 5))
    assert marks(store, [0], 99) == [5]
    assert store.has_many("private", [0], 6).tolist() == [False]


def test_a_damaged_byte_is_found(store: FleetStore) -> None:
    """The version before it answers, and the next write goes over the damaged one, not over that."""
    for round in (1, 2):
        store.write_many("private", [0, 1], round, version([0, 1], round))
    path = store.folder / "private.slots"
    whole = path.read_bytes()
    newest = whole.find(version([1], 2)["adapter/v"].tobytes()) - 12
    for byte in range(newest, newest + SLOT):
        path.write_bytes(whole[:byte] + bytes([whole[byte] ^ 0x10]) + whole[byte + 1 :])
        assert marks(store, [0, 1], 3) == [2, 1]
        assert store.has_many("private", [0, 1], 2).tolist() == [True, False]
        store.write_many("private", [0, 1], 3, version([0, 1], 3))
        assert marks(store, [0, 1], 4) == [3, 3]
        assert marks(store, [0, 1], 3) == [2, 1]


def test_kill_9_at_random_instants_leaves_whole_versions(tmp_path: Path) -> None:
    """A real process, really killed: nothing acknowledged is lost, nothing half-written is ever read."""
    done = subprocess.run(
        [sys.executable, toy_fleet_kills.__file__, str(tmp_path / "fleet"), "20"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["kills"] == 20
    assert told["rounds"] > 0
    assert told["cut_between_people"] > 0  # else the instants say nothing


def full() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("part", [0, 5, 30])
@pytest.mark.parametrize("calls", range(4))
def test_a_full_disk_is_one_clear_line_and_loses_nothing(
    store: FleetStore, monkeypatch: pytest.MonkeyPatch, calls: int, part: int
) -> None:
    everybody = range(4)
    for round in (1, 2):
        store.write_many("private", everybody, round, version(everybody, round))
    with monkeypatch.context() as patch, pytest.raises(StorageError) as caught:
        cut_at(patch, part, full, calls)
        store.write_many("private", everybody, 3, version(everybody, 3))
    wanted = f"cannot write {store.folder / 'private.slots'}: No space left on device"
    assert (caught.value.message, caught.value.exit_code) == (wanted, 2)
    assert caught.value.hint
    store = reopen(store)
    assert marks(store, everybody, 3) == [2] * 4
    assert marks(store, everybody, 4) == [3] * calls + [2] * (4 - calls)
    store.write_many("private", everybody, 3, version(everybody, 3))
    assert marks(store, everybody, 4) == [3] * 4
    store.close()


LIMIT = """
import resource, sys
from pathlib import Path
import numpy as np
from commonground.errors import StorageError
from commonground.simulations.fleet_store import FleetStore

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

def write(round):
    try:
        store.write_many("private", range(100), round, {"v": np.full((100, 250), round)})
    except StorageError as error:
        print(error)

store = FleetStore(Path(sys.argv[1]), 100, "run")
limit(50_000)
write(1)  # the file cannot be made at its full length of 402,400 bytes
print(store.read_many("private", [0], 9)[0].tolist())
limit(resource.RLIM_INFINITY)
write(1)
write(2)
limit(200_000)  # inside a slot of person 49
write(3)
limit(resource.RLIM_INFINITY)
for before in (3, 4):
    found, arrays = store.read_many("private", range(100), before)
    assert found.all() and (arrays["v"] == arrays["v"][:, :1]).all()
    print(*np.unique(arrays["v"][:, 0], return_counts=True))
write(3)
print(np.unique(store.read_many("private", range(100), 4)[1]["v"]))
"""


def test_a_file_that_may_not_grow_is_a_full_disk(tmp_path: Path) -> None:
    """The system's own refusal, with a short write before it."""
    words = [sys.executable, "-c", LIMIT, str(tmp_path / "fleet")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    refusal = f"cannot write {tmp_path / 'fleet' / 'private.slots'}: File too large"
    assert done.stdout.splitlines() == [refusal, "[False]", refusal, "[2] [100]", "[2 3] [51 49]", "[3]"]


def test_refused_receipts_are_not_kept(store: FleetStore) -> None:
    store.keep_receipts("shared", 1, [0], ["a"], 4, ["u"], "1")
    with pytest.raises(ValueError, match="shorter"):
        store.keep_receipts("shared", 2, [0, 1], ["a"], 4, ["u"], "1")
    assert store.totals("shared") == (1, 4)
    assert store.receipts("shared", 9) == [
        {"round": 1, "person": 0, "digest": "a", "bytes": 4, "names": ["u"], "epsilon": "1"}
    ]


def test_people_never_drawn_cost_nothing(tmp_path: Path) -> None:
    store = FleetStore(tmp_path / "fleet", 1_000_000, "run")
    people = np.linspace(0, 999_999, 10, dtype=np.int64)
    store.write_many("private", people.tolist(), 1, version(people.tolist(), 1))
    told = (store.folder / "private.slots").stat()
    assert told.st_size == 1_000_000 * 2 * SLOT
    assert told.st_blocks * 512 <= 10 * 2 * 4096
    assert marks(store, people.tolist(), 2) == [1] * 10
    assert not store.has_many("private", range(100, 5_000), 1).any()
    store.close()


def test_asking_after_people_never_drawn_takes_no_room() -> None:
    """On tmpfs a mapped read of a hole would allocate it, and kill the process where there is no room."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        store = FleetStore(Path(folder), 1_000_000, "run")
        store.write_many("private", [0], 1, version([0], 1))
        path = store.folder / "private.slots"
        before = path.stat().st_blocks
        found, _ = store.read_many("private", range(0, 1_000_000, 500), 2)
        assert found.sum() == 1
        assert path.stat().st_blocks == before
        store.close()


MEMORY = """
import resource, sys
from pathlib import Path
import numpy as np
from commonground.simulations.fleet_store import FleetStore

def rounds(people, numbers, cohort, chunk):
    store = FleetStore(Path(sys.argv[1]) / f"{people}-{numbers}", people, "run")
    drawn = np.linspace(0, people - 1, cohort, dtype=np.int64)
    for round in (1, 2):
        for first in range(0, cohort, chunk):
            mine = drawn[first : first + chunk].tolist()
            store.read_many("private", mine, round)
            store.write_many("private", mine, round, {"v": np.ones((len(mine), numbers))})
            assert store.has_many("private", mine, round).all()
    store.close()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

first = rounds(1_000, 16, 500, 500)
print(rounds(10_000_000, 16, 500, 500) - first, rounds(10_000, 1_000, 3_000, 64) - first)
"""


def test_memory_grows_neither_with_people_nor_with_rounds(tmp_path: Path) -> None:
    """Twenty million slots, then 48 MB of states in chunks of 64 people: a few MB each."""
    words = [sys.executable, "-c", MEMORY, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(int(grown) < 16 for grown in done.stdout.split())


@pytest.mark.parametrize(("people", "run"), [(FEW, "other"), (FEW + 1, "run"), (FEW - 1, "other")])
def test_the_store_of_another_run_is_refused(store: FleetStore, people: int, run: str) -> None:
    store.write_many("private", [0], 1, version([0], 1))
    with pytest.raises(RunFolderError) as caught:
        FleetStore(store.folder, people, run)
    assert caught.value.message == (
        f"{store.folder} holds private states of configuration run with {FEW} people (format 1); "
        f"accepted: {run} with {people} people (format 1)"
    )
    assert str(store.folder) in str(caught.value.hint)
    assert marks(reopen(store), [0], 2) == [1]


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def spoil(path: Path) -> None:
    path.write_text("{")


def empty(path: Path) -> None:
    path.write_text("{}")


@pytest.mark.parametrize(
    ("name", "mishap", "says"),
    [
        ("fleet.json", spoil, "is damaged"),
        ("fleet.json", empty, "configuration None"),
        ("fleet.json", Path.unlink, "fleet.json is missing"),
        ("private.json", spoil, "is damaged"),
        ("private.json", empty, "is damaged"),
        ("private.slots", cut, f"it has {FEW * 2 * SLOT - 1} bytes; {FEW * 2 * SLOT} are needed"),
        ("private.slots", Path.unlink, "is missing"),
    ],
)
def test_a_damaged_store_is_one_clear_line(
    store: FleetStore, name: str, mishap: Callable[[Path], Any], says: str
) -> None:
    store.write_many("private", [0], 1, version([0], 1))
    mishap(store.folder / name)
    with pytest.raises(RunFolderError, match=says) as caught:
        reopen(store).read_many("private", [0], 2)
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_a_file_cut_short_under_an_open_store_is_an_error(store: FleetStore) -> None:
    store.write_many("private", [5], 1, version([5], 1))
    cut(store.folder / "private.slots")
    with pytest.raises(RunFolderError, match="could be read"):
        store.read_many("private", [5], 2)


def test_a_kill_between_the_file_and_its_header_is_no_obstacle(store: FleetStore) -> None:
    (store.folder / "private.slots").write_bytes(bytes(77))
    assert store.read_many("private", [0], 2)[1] == {}
    store.write_many("private", [0], 1, version([0], 1))
    assert marks(reopen(store), [0], 2) == [1]


def test_processes_that_make_a_stream_at_once_share_it(tmp_path: Path) -> None:
    """Shards open the same folder; each writes its own people, whoever was first."""
    shards = [FleetStore(tmp_path / "fleet", 40, "run") for _ in range(4)]
    at_once = threading.Barrier(len(shards))

    def work(number: int) -> None:
        mine = list(range(number, 40, len(shards)))
        at_once.wait()
        shards[number].write_many("private", mine, 1, version(mine, number))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(shards))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for shard in shards:
        assert marks(shard, range(40), 2) == [0, 1, 2, 3] * 10
        shard.close()


def test_a_process_that_comes_second_leaves_the_layout_alone(store: FleetStore) -> None:
    """Its own look at the folder was before the other one's write."""
    second = FleetStore(store.folder, FEW, "run")
    store.write_many("private", [5], 1, version([5], 1))
    wider = Layout.of({"v": np.zeros((1, 100))})
    assert second._create("private", wider).layout == Layout.of(version([5], 1))
    second.close()
    assert marks(reopen(store), [5], 2) == [1]


def test_what_no_store_can_take_is_refused(store: FleetStore) -> None:
    store.write_many("private", [0], 1, version([0], 1))
    good = version([1, 2], 5)
    faults: list[tuple[dict[str, Any], str]] = [
        ({"people": [1, FEW]}, f"person {FEW} of {FEW}"),
        ({"people": [1, -1]}, f"person -1 of {FEW}"),
        ({"people": [1, 2, 3]}, "arrays of 2 people for 3 people"),
        ({"round": -1}, "round -1; 0 or above"),
        ({"stream": "../private"}, "small letters"),
        ({"arrays": {"steps": good["steps"]}}, "holds adapter/v <f4 "),
        ({"arrays": good | {"steps": good["steps"].astype(np.int32)}}, "given: .* steps <i4"),
        ({"arrays": good | {"steps": good["steps"][:, None]}}, r"given: .* steps <i8 \(1,\)"),
        ({"arrays": good | {"steps": np.array(3)}}, "people first"),
        ({"arrays": good | {"steps": np.array([None, None])}}, "object"),
    ]
    for fault, says in faults:
        given: dict[str, Any] = {"stream": "private", "people": [1, 2], "round": 2, "arrays": good} | fault
        with pytest.raises(ValueError, match=says):
            store.write_many(**given)
    assert marks(store, range(FEW), 9) == [1, None, None, None, None, None]
    with pytest.raises(ValueError, match="person 6"):
        store.read_many("private", [6], 1)


def test_arrays_come_back_bit_for_bit(store: FleetStore) -> None:
    """Not-a-numbers, infinities, other byte orders, views, flags, and arrays of no number at all."""
    bits = np.random.default_rng(0).integers(0, 2**32, (3, 5), dtype=np.uint32).view(np.float32)
    arrays = {
        "bits": bits,
        "swapped": np.arange(6, dtype=">i4").reshape(3, 2),
        "view": np.arange(24.0).reshape(3, 8)[:, ::-2],
        "flag": np.array([True, False, True]),
        "none": np.zeros((3, 0)),
        "special": np.array([np.nan, np.inf, -0.0]),
    }
    store.write_many("private", [4, 0, 2], 1, arrays)
    found, back = reopen(store).read_many("private", [2, 4, 0], 2)
    assert found.all()
    for name, value in arrays.items():
        wanted = np.ascontiguousarray(value[[2, 0, 1]].astype(value.dtype.newbyteorder("<")))
        assert back[name].dtype == wanted.dtype
        assert back[name].tobytes() == wanted.tobytes()
        assert back[name].flags.writeable
        assert back[name].flags.c_contiguous
