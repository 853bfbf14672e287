import math
import signal
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_patience import LIMIT, until

from commonground.errors import InputError, PrivacyError, StorageError
from commonground.privacy.accounting import Charge, epsilon_composed, epsilon_gaussian
from commonground.privacy.ledger import EVERYBODY, Ledger

COST = Charge(1.0, 2.0, 1)
DELTA = 1e-5


def open_ledger(folder: Path, run: str = "run", accountant: str = "gaussian") -> Ledger:
    return Ledger(folder / "ledger.sqlite", run, accountant)


def cap_for(releases: int) -> tuple[float, float]:
    """T    he cap that exactly `releases` charges of COST reach."""
    return epsilon_gaussian(math.sqrt(releases) / 2, DELTA), DELTA


charges = st.tuples(
    st.sampled_from(["ann", "bob", EVERYBODY]),
    st.sampled_from(["shared", "audit"]),
    st.sampled_from([0.05, 0.2, 1.0]),
    st.sampled_from([0.8, 2.0]),
    st.integers(1, 30),
)


@settings(max_examples=10, deadline=None)
@given(entries=st.lists(charges, max_size=12))
def test_epsilon_is_the_accountants_on_the_flattened_history(
    entries: list[tuple[str, str, float, float, int]],
) -> None:
    with tempfile.TemporaryDirectory() as folder, open_ledger(Path(folder), accountant="rdp") as ledger:
        seen = {"ann": 0.0, "bob": 0.0}
        for number, (person, mechanism, q, z, steps) in enumerate(entries):
            assert ledger.reserve(person, mechanism, f"release-{number}", {"q": q, "z": z, "steps": steps})
            for name, before in seen.items():
                seen[name] = ledger.epsilon(name, DELTA)
                assert seen[name] >= before
        for name in seen:
            own = [(q, z, steps) for person, _, q, z, steps in entries if person in (name, EVERYBODY)]
            assert seen[name] == pytest.approx(epsilon_composed(own, DELTA, "rdp"), rel=1e-12)
            audit = [(q, z, s) for p, m, q, z, s in entries if p in (name, EVERYBODY) and m == "audit"]
            assert epsilon_composed(ledger.spent(name, "audit"), DELTA) == pytest.approx(
                epsilon_composed(audit, DELTA), rel=1e-12
            )


def test_the_same_release_is_charged_once(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger:
        assert ledger.reserve("ann", "shared", "round-1", COST) is True
        assert ledger.reserve("ann", "shared", "round-1", COST) is False
        ledger.commit("round-1")
        assert ledger.reserve("ann", "shared", "round-1", COST) is False
        assert ledger.spent("ann") == (COST,)
        assert ledger.reserve("ann", "shared", "round-1-again", COST) is True
        assert ledger.spent("ann") == (Charge(1.0, 2.0, 2),)
        with pytest.raises(PrivacyError, match="round-1"):
            ledger.reserve("ann", "shared", "round-1", Charge(1.0, 1.0, 1))
        with pytest.raises(PrivacyError, match="round-1"):
            ledger.reserve("ann", "shared", "round-1", COST, unit="comparison")


def test_runs_share_a_budget_but_not_keys(tmp_path: Path) -> None:
    with open_ledger(tmp_path, "first") as first, open_ledger(tmp_path, "second") as second:
        first.reserve("ann", "shared", "round-1", COST)
        assert second.reserve("ann", "shared", "round-1", COST, cap_for(2)) is True
        with pytest.raises(PrivacyError, match="cap"):
            second.reserve("ann", "shared", "round-2", COST, cap_for(2))


def test_a_replay_at_the_cap_is_still_free(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger:
        for number in (1, 2, 1, 2):
            ledger.reserve("ann", "shared", f"round-{number}", COST, cap_for(2))
        assert ledger.spent("ann") == (Charge(1.0, 2.0, 2),)


def test_one_row_charges_everybody(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger:
        ledger.reserve(EVERYBODY, "shared", "round-1", COST)
        ledger.reserve("ann", "audit", "window-1", COST)
        assert ledger.spent("never seen before") == (COST,)
        assert ledger.epsilon("ann", DELTA) == pytest.approx(
            epsilon_gaussian(math.sqrt(2) / 2, DELTA), rel=1e-10
        )
        # a charge to everybody must fit whoever has spent most
        with pytest.raises(PrivacyError, match="cap"):
            ledger.reserve(EVERYBODY, "shared", "round-2", COST, cap_for(2))
        assert ledger.reserve(EVERYBODY, "shared", "round-2", COST, cap_for(3)) is True
        assert ledger.spent(EVERYBODY) == (Charge(1.0, 2.0, 2),)


def test_units_are_not_added(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger:
        ledger.reserve("ann", "shared", "round-1", COST)
        ledger.reserve("ann", "private", "round-1", COST, cap_for(1), unit="comparison")
        assert ledger.spent("ann") == ledger.spent("ann", unit="comparison") == (COST,)


def test_no_noise_never_fits_a_cap(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger:
        with pytest.raises(PrivacyError, match="epsilon to inf"):
            ledger.reserve("ann", "shared", "round-1", Charge(1.0, 0.0, 1), (100.0, DELTA))
        assert ledger.spent("ann") == ()
        assert ledger.reserve("ann", "shared", "round-1", Charge(1.0, 0.0, 1)) is True
        assert ledger.epsilon("ann", DELTA) == math.inf


def test_many_people_in_one_transaction_all_or_none(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger:
        ledger.reserve("bob", "shared", "round-1", COST)
        assert ledger.reserve_each(["ann", "bob"], "shared", "round-1", COST) == ["ann"]
        ledger.reserve("bob", "shared", "round-2", COST)
        with pytest.raises(PrivacyError):
            ledger.reserve_each(["ann", "bob"], "shared", "round-3", COST, cap_for(2))
        assert ledger.spent("ann") == (COST,)


def test_commit_notes_only_this_release(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger, open_ledger(tmp_path, "other") as other:
        ledger.reserve("ann", "shared", "round-1", COST)
        ledger.reserve("ann", "audit", "round-1", COST)
        other.reserve("ann", "shared", "round-1", COST)
        assert ledger.commit("round-1", mechanism="shared", person="ann") == 1
        assert ledger.commit("round-1") == 1
        assert ledger.commit("round-1") == 0
        assert other.commit("round-1") == 1


CRASH = """
import os, signal, sys
from commonground.privacy.ledger import Ledger
ledger = Ledger(sys.argv[1], "run", "gaussian")
ledger.reserve("ann", "shared", "round-1", (1.0, 2.0, 1))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_kill_between_reserve_and_commit_counts_as_spent(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    done = subprocess.run([sys.executable, "-c", CRASH, str(path)], check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    with open_ledger(tmp_path) as ledger:
        assert ledger.spent("ann") == (COST,)
        with pytest.raises(PrivacyError, match="cap"):
            ledger.reserve("ann", "shared", "round-2", COST, cap_for(1))


RACE = """
import sys, time
from pathlib import Path
from commonground.errors import PrivacyError
from commonground.privacy.ledger import Ledger
path, me, epsilon, delta = sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4])
ledger = Ledger(path, "run", "gaussian")
ledger.epsilon("ann", delta)  # everything is imported before the start
check = ledger._check
def slow(*args):
    check(*args)
    time.sleep(0.3)  # without the write lock the other process would pass its check now
ledger._check = slow
Path(path + me).touch()
while not Path(path + "go").exists():
    time.sleep(0.001)
try:
    ledger.reserve("ann", "shared", "by-" + me, (1.0, 2.0, 1), (epsilon, delta))
    print("won")
except PrivacyError:
    print("refused")
"""


def test_two_processes_cannot_both_take_the_last_unit(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    epsilon, delta = cap_for(3)
    with open_ledger(tmp_path) as ledger:
        for number in (1, 2):
            ledger.reserve("ann", "shared", f"round-{number}", COST, (epsilon, delta))
    arguments = [sys.executable, "-c", RACE, str(path)]
    racers = [
        subprocess.Popen(
            [*arguments, me, repr(epsilon), repr(delta)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for me in ("a", "b")
    ]
    until(lambda: all(Path(f"{path}{me}").exists() for me in ("a", "b")))
    Path(f"{path}go").touch()
    answers = [racer.communicate(timeout=LIMIT) for racer in racers]
    assert sorted(out.strip() for out, _ in answers) == ["refused", "won"], answers
    with open_ledger(tmp_path) as ledger:
        assert ledger.spent("ann") == (Charge(1.0, 2.0, 3),)


def test_rounds_are_cheap(tmp_path: Path) -> None:
    """One row a round whatever the number of people, and the history collapses to one charge."""
    with open_ledger(tmp_path) as ledger:
        for number in range(100):
            ledger.reserve(EVERYBODY, "shared", f"round-{number}", COST, (1000.0, DELTA))
            ledger.commit(f"round-{number}")
        assert ledger.spent(EVERYBODY) == (Charge(1.0, 2.0, 100),)
    rows = sqlite3.connect(tmp_path / "ledger.sqlite")
    assert rows.execute("SELECT COUNT(*), COUNT(DISTINCT person) FROM entries").fetchone() == (100, 1)
    rows.close()


def test_durable_settings(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger:
        assert ledger._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert ledger._db.execute("PRAGMA synchronous").fetchone() == (2,)


def test_bad_files_and_costs_are_named(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_bytes(b"this is no database, and long enough to be looked at" * 30)
    with pytest.raises(StorageError, match=r"ledger\.sqlite"):
        open_ledger(tmp_path)
    with pytest.raises(StorageError, match="missing"):
        open_ledger(tmp_path / "missing")
    (tmp_path / "ledger.sqlite").unlink()
    with open_ledger(tmp_path) as ledger:
        with pytest.raises(InputError, match="q, z and steps"):
            ledger.reserve("ann", "shared", "round-1", {"q": 1.0})
        with pytest.raises(InputError, match="sampling rate"):
            ledger.reserve("ann", "shared", "round-1", (2.0, 1.0, 1))
        assert ledger.spent("ann") == ()


def test_a_failed_write_charges_nothing_and_leaves_the_ledger_usable(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger:
        ledger.reserve("ann", "shared", "round-1", COST)
        pages = ledger._db.execute("PRAGMA page_count").fetchone()[0]
        ledger._db.execute(f"PRAGMA max_page_count = {pages}")  # a full disk
        with pytest.raises(StorageError, match="full"):
            ledger.reserve_each([f"person-{n}" * 40 for n in range(100)], "shared", "round-1", COST)
        ledger._db.execute("PRAGMA max_page_count = 1000")
        assert ledger.spent("person-0" * 40) == ()
        assert ledger.reserve("ann", "shared", "round-2", COST) is True


class ToyError(Exception):
    """What another module's connection raises."""


def test_a_given_connection_is_used_and_its_transaction_is_joined(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    db = sqlite3.connect(path, isolation_level=None)
    with Ledger("a name for errors", "run", "gaussian", connect=lambda: db) as ledger:
        db.execute("CREATE TABLE messages (key TEXT)")
        db.execute("BEGIN IMMEDIATE")
        ledger.reserve("ann", "shared", "round-1", COST, cap_for(1))
        db.execute("ROLLBACK")  # the owner's: the charge goes with it
        assert ledger.spent("ann") == ()
        ledger.reserve("ann", "shared", "round-1", COST, cap_for(1))
        db.execute("BEGIN IMMEDIATE")
        db.execute("INSERT INTO messages VALUES ('round-1')")
        assert ledger.commit("round-1") == 1
        with pytest.raises(PrivacyError, match="cap"):
            ledger.reserve("ann", "shared", "round-2", COST, cap_for(1))
        assert db.in_transaction  # a refusal does not end what its owner began
        db.execute("COMMIT")
    again = sqlite3.connect(path)
    assert again.execute("SELECT key, status FROM entries").fetchall() == [("round-1", "committed")]
    assert again.execute("SELECT key FROM messages").fetchall() == [("round-1",)]
    again.close()
    assert not (tmp_path / "a name for errors").exists()


def test_errors_of_a_given_connection_are_told_as_the_ledgers_own(tmp_path: Path) -> None:
    class Broken:
        in_transaction = False

        def execute(self, *arguments: object) -> None:
            raise ToyError("no disk")

    with pytest.raises(StorageError, match="ledger of ann: no disk"):
        Ledger("of ann", "run", connect=Broken, failure=ToyError)
    with pytest.raises(ToyError):
        Ledger("of ann", "run", connect=Broken)
