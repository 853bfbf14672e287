"""Real processes: two that race for the last unit, and one that is killed wherever a round can be cut."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from toy_patience import LIMIT, until
from toy_store import cap_for, local_terms, noisy, open_store, upload

from commonground.client.device_ledger import STEPS, DeviceLedger

TOYS = Path(__file__).parents[1] / "toys"
TERMS = local_terms(9)


def start_together(folder: Path, race: str) -> None:
    """Let two processes go on at the same instant."""
    until(lambda: all((folder / f"{race}-{name}").exists() for name in "ab"))
    (folder / f"{race}-go").touch()


@pytest.mark.slow
def test_two_processes_answer_one_release_once_and_cannot_both_take_the_last_unit(tmp_path: Path) -> None:
    cap = cap_for(TERMS, 3)
    with open_store(tmp_path) as store:
        DeviceLedger(store).once(upload(1), TERMS, cap, noisy(1))
    command = [sys.executable, str(TOYS / "toy_ledger_race.py"), str(tmp_path)]
    racers = [
        subprocess.Popen([*command, name], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for name in "ab"
    ]
    for race in ("same", "last"):
        start_together(tmp_path, race)
    answers = [racer.communicate(timeout=LIMIT) for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0], answers
    (same, last), (other_same, other_last) = (out.splitlines() for out, _ in answers)
    assert same.startswith("sent ")
    assert same == other_same  # release 2, charged once, the same bytes to both
    assert sorted([last.split()[0], other_last.split()[0]]) == ["refused", "sent"]
    with open_store(tmp_path) as store:
        assert DeviceLedger(store).spent() == (TERMS.charge._replace(steps=3),)
        assert DeviceLedger(store).epsilon(TERMS.claim.delta) == pytest.approx(cap, rel=1e-9)
        assert len(store.outbox.receipts()) == 3


@pytest.mark.slow
def test_killed_anywhere_nothing_is_uncounted_and_nothing_said_twice(tmp_path: Path) -> None:
    command = [sys.executable, str(TOYS / "toy_store_kills.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {what: kind["bad"] for what, kind in found.items()} == {"steps": [], "calls": [], "torn": []}
    assert found["steps"]["instants"] == len(STEPS)
    for what, sides in (("steps", {1, 39}), ("calls", {0, 1, 38, 39}), ("torn", {0, 1, 38, 39})):
        said = found[what]["said"]
        # kills lie before and after the feedback, the message and the adapter, in that order
        assert said == sorted(said)
        assert set(said) >= sides
    assert min(found["calls"]["instants"], found["torn"]["instants"]) >= 40
