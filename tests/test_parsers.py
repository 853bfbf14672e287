"""Whatever reads another party's bytes raises its own error and no other, and keeps nothing of them.

The class of fault: an exception that nobody caught, out of a library that was given a stranger's bytes.
Documents are changed as values (a leaf replaced, taken away, renamed) and as bytes; what is signed is signed
again, so that the inside is reached. The inputs are the same in every run.
"""

from __future__ import annotations

import gc
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import psutil
import pytest
from toy_fuzz import Parser, fuzz, parsers

ROOT = Path(__file__).parents[1]
HUNG = 120  # seconds that one parser's inputs may take on a machine ten times slower than usual, in the suite
GROWTH = 64 << 20  # bytes that a process may be larger by after tens of thousands of inputs
SUITE, NIGHT = 100_000, 1_000_000

# Every file with a call that turns bytes into values, and what of the table covers it, or why nothing does.
READING = re.compile(
    r"json\.loads|np\.load\b|read_array_header|yaml\.(compose|load|safe_load)\(|tomllib\.load|zipfile\.ZipFile\("
    r"|load_ssh_public_key|load_pem_|np\.frombuffer|FromString|csv\.reader|gzip\.open|reply\.json\(|b64decode"
    r"|OmegaConf\.create|load_from_disk|ParquetFile|pyarrow\.ipc|literal_eval|json\.load\(|BZ2File|LZMAFile"
)
SEEN_ELSEWHERE = (  # what a bench wrote itself, and rooms by their other names
    "simulations/bench/", "src/commonground/client/", "src/commonground/server/",
    "src/commonground/strategies/", "src/commonground/simulations/",
)  # fmt: skip
OWN = "written by this program on this machine, and held by its digest or by the store's encryption"
COVERED = {
    "client/arrays.py": "arrays",
    "client/charter_words.py": OWN,
    "client/confined.py": OWN,
    "client/executor.py": "bundle",
    "client/invited.py": "enrolment's answer",
    "client/keys.py": OWN,
    "client/lives.py": OWN,
    "client/noise.py": "random numbers",
    "client/outbox.py": OWN,
    "client/owner.py": "answers of this person's own vault, over a socket of hers",
    "client/parts.py": OWN,
    "client/private_ledger.py": OWN,
    "client/profile.py": OWN,
    "client/takeout.py": "written, never read",
    "client/tally.py": OWN,
    "client/vault_device.py": "manifest",
    "client/wire.py": "tensor",
    "server/audit.py": OWN,
    "server/careful_grid.py": "objects of a reply: tests/server/test_careful_grid.py feeds them",
    "server/checkpoint.py": OWN,
    "server/enrolment.py": "enrolment",
    "server/front_door.py": "front door's line",
    "server/job.py": OWN,
    "server/releases.py": OWN,
    "server/state.py": "study's settings",
    "simulations/certify/state_judge.py": "shipped",
    "simulations/folder.py": "result",
    "simulations/fleet_store.py": OWN,
    "simulations/inputs.py": OWN,
    "simulations/kept_lines.py": OWN,
    "src/commonground/bounds/charter_files.py": "head",
    "src/commonground/bounds/detectors.py": "head",
    "src/commonground/bounds/probes.py": "probes",
    "src/commonground/bounds/tiers.py": "shipped",
    "src/commonground/data/huggingface.py": "the library's readers: every error becomes a DataError",
    "src/commonground/data/columns.py": "shapes",
    "src/commonground/data/containers.py": "file of another form",
    "client/brought.py": "export",
    "src/commonground/data/ratings_files.py": "ratings",
    "src/commonground/data/starter.py": "shipped",
    "src/commonground/embeddings.py": OWN,
    "src/commonground/hub.py": "model's settings",
    "src/commonground/keystream.py": "random numbers",
    "src/commonground/language_model.py": "model's settings",
    "src/commonground/overrides.py": "what the user typed",
    "src/commonground/randomness.py": "random numbers",
    "src/commonground/settings.py": "configuration file",
    "src/commonground/study/carried.py": "carried charter",
    "src/commonground/study/enrolment.py": "enrolment",
    "src/commonground/study/public_parts.py": "public parts",
    "src/commonground/study/signing.py": "paper",
    "strategies/records.py": "record",
}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Parser]:
    return parsers(tmp_path_factory.mktemp("fuzz"))


NAMES = sorted(
    """
    paper|offer|invitation|invitation's bytes|release|enrolment|enrolment's answer|manifest|configuration|
    configuration file|configuration file, whole|tournament|charter|charter file|carried charter|public parts|
    tensor|arrays|record|probes|head|front door's line|bundle|ratings|rows of JSON|rows of CSV|packed rows|
    study's settings|model's settings|result|file of another form|rows in bz2|rows in xz|rows in zip|
    rows in zstd|rows in utf-16|rows in parquet|rows in arrow|shapes|export
    """.replace("\n    ", "").split("|")
)


def test_every_file_that_reads_bytes_is_in_the_list(table: dict[str, Parser]) -> None:
    """A new reader has to be named here, and be in the table of `toy_fuzz` where it reads from outside."""
    assert sorted(table) == NAMES
    found = set()
    for room in ("src/commonground", "client", "server", "strategies", "simulations"):
        for file in (ROOT / room).rglob("*.py"):
            name = str(file.relative_to(ROOT))
            if any(part.is_symlink() for part in file.relative_to(ROOT).parents if str(part) != "."):
                continue
            outside = not name.startswith(
                ("simulations/bench", "src/commonground/client", "src/commonground/server")
            )
            outside &= not name.startswith(("src/commonground/strategies", "src/commonground/simulations"))
            if (
                outside
                and not name.endswith(("_pb2.py", "_pb2_grpc.py"))
                and READING.search(file.read_text(encoding="utf-8"))
            ):
                found.add(name)
    assert found - set(COVERED) == set()
    assert {why for why in COVERED.values() if why in NAMES} | {"charter"} <= set(NAMES)


class HungError(BaseException):
    """A parser was still at it; a base exception, so that no parser takes it for a fault of its input."""


@contextmanager
def ends(seconds: int) -> Iterator[None]:
    """A parser that hangs ends the test rather than the night."""

    def hung(number: int, frame: FrameType | None) -> None:
        raise HungError(f"a parser was still at it after {seconds} s")

    before = signal.signal(signal.SIGALRM, hung)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _fed(table: dict[str, Parser], name: str, total: int, patience: int) -> None:
    whole = sum(parser.share for parser in table.values())
    parser = table[name]
    count = max(40, round(total * parser.share / whole))
    assert fuzz(name, parser, max(20, count // 10)) == []  # caches are full now
    gc.collect()
    before = psutil.Process().memory_info().rss
    with ends(patience):
        assert fuzz(f"{name}, again", parser, count) == []
    gc.collect()
    assert psutil.Process().memory_info().rss - before < GROWTH


@pytest.mark.parametrize("name", NAMES)
def test_a_stranger_s_bytes_are_refused_by_our_own_errors(name: str, table: dict[str, Parser]) -> None:
    _fed(table, name, SUITE, HUNG)


@pytest.mark.night
@pytest.mark.parametrize("name", NAMES)
def test_a_million_of_them(name: str, table: dict[str, Parser]) -> None:
    _fed(table, name, NIGHT, 20 * HUNG)


def test_the_fuzz_finds_what_is_planted() -> None:
    """A reader that lets an exception through, or hangs, is found."""

    def leaks(data: bytes) -> None:
        if b"os:system" in data:
            raise AttributeError("planted")

    assert fuzz("planted", Parser(leaks, b'{"a": {"b": ["x", "y"]}}', 1), 2000)[0].startswith("planted")

    def hangs(data: bytes) -> None:
        signal.pause()

    read: Callable[[bytes], None] = hangs
    with pytest.raises(HungError), ends(1):
        read(b"")
