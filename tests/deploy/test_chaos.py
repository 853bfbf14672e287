"""kill -9 of every part at seeded random instants of a study: nothing is lost, uncounted, or said twice.

`make test` kills one of each in one study; `make chaos` kills KILLS (5) of each, a study for every kind of
part. SEED is printed and gives the same kills again, as instants after a round began.

Afterwards: every store opens and holds every version and receipt that was ever seen in it; every message that
a proxy saw has one receipt and a charge; no round has two messages, and no version two contents; the last
round was reached.
"""

from __future__ import annotations

import os
import random
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from fleet_traffic import sealed_digests
from real_parts import Device, Site, comparisons, kill_part, until
from toy_patience import a_while

from commonground.client.device_ledger import DeviceLedger
from commonground.errors import CommonGroundError
from commonground.server.audit import verify
from commonground.server.deployed import study_job
from commonground.server.rounds import load_outcome
from commonground.simulations.bench.study import part_of

KILLS = int(os.environ.get("KILLS", "0"))
SEED = int(os.environ.get("SEED", "") or random.SystemRandom().randrange(10**6))
VICTIMS = ("node", "executor", "vault", "server")
CASES = {victim: (victim,) * KILLS for victim in VICTIMS} if KILLS else {"one of each": VICTIMS}
PEOPLE = 3 if KILLS else 2
WITHIN = 5.0 if KILLS else 3.0  # seconds after a round's beginning in which a kill falls
ROUND = 120.0  # seconds for a round to begin, after whatever was killed
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@dataclass
class Seen:
    """What was ever seen in a device's store or in the server's tables.

    Attributes:
        adapters, receipts: name of the device -> number -> content.
        charges: name of the device -> keys.
        releases: version -> (round, digest).
    """

    adapters: dict[str, dict[int, Any]] = field(default_factory=dict)
    receipts: dict[str, dict[int, Any]] = field(default_factory=dict)
    charges: dict[str, set[str]] = field(default_factory=dict)
    releases: dict[int, Any] = field(default_factory=dict)

    def look(self, site: Site) -> None:
        """Note what is there; a vault that is being started says nothing."""
        for device in site.devices:
            with suppress(CommonGroundError):
                for row in device.ask(lambda owner: owner.adapters()):
                    kept = row["time"], row["release"], row["steps"]
                    assert self.adapters.setdefault(device.name, {}).setdefault(row["version"], kept) == kept
                for row in device.ask(lambda owner: owner.receipts()):
                    what = row["round"], row["digest"]
                    assert self.receipts.setdefault(device.name, {}).setdefault(row["id"], what) == what
                found = {row["key"] for row in device.ask(lambda owner: owner.ledger())["entries"]}
                self.charges.setdefault(device.name, set()).update(found)
        for row in site.overview()["releases"]:
            what = row["round"], row["tensors"]
            assert self.releases.setdefault(row["version"], what) == what


@pytest.mark.night
@pytest.mark.parametrize("case", CASES)
def test_kills(case: str, tmp_path: Path) -> None:
    kills = CASES[case]
    print(f"\nSEED={SEED} KILLS={KILLS} ({case})")
    draw = random.Random(f"{SEED} {case}")
    rounds = 2 * len(kills) + 2  # some pass while a part that is to be killed is away
    sizes = [f"people={PEOPLE}", f"cohort={PEOPLE}", f"rounds={rounds}"]
    with Site(tmp_path, sizes, min_online=PEOPLE, minimum=1, deadline=12.0) as site:
        site.study().change(patience=8.0)  # a killed node is away for a minute: the study goes on without it
        seen = started(site)
        done = 0
        for number, victim in enumerate(kills, 1):
            done = wait_for_round(site, done + 1)
            assert done, f"the study was over before kill {number}"
            instant = draw.uniform(0.0, WITHIN)
            a_while(instant)
            seen.look(site)
            what = kill_server(site, draw) if victim == "server" else kill_of(site, victim, draw)
            print(f"kill {number}: {what}, {instant:.2f} s after round {done} began")
        try:
            site.finished(len(kills) * ROUND)
        except AssertionError:
            print(site.logs)
            raise
        seen.look(site)
        check(site, seen, rounds)


def started(site: Site) -> Seen:
    """Enrol the devices, teach them, and let the first round begin."""
    site.server.start()
    devices = [site.device(f"person-{person}", recorded=True) for person in range(PEOPLE)]
    for device in devices:
        device.up(wait=False)
    for person, device in enumerate(devices):
        device.wait()
        device.teach(comparisons(person))
    return Seen()


def wait_for_round(site: Site, least: int) -> int:
    """Wait until a round from `least` on is under way, or none will be; the round's number."""
    found: list[int] = []

    def begun() -> bool:
        rows = site.overview()["rounds"]
        now = rows["under_way"] or 0
        found[:] = [now]
        return now >= least or rows["done"] == rows["of"]

    until(f"round {least}", begun, ROUND)
    return found[0]


def kill_of(site: Site, part: str, draw: random.Random) -> str:
    """SIGKILL of a part of one device, as soon as that part runs."""
    device = draw.choice(site.devices)
    until(f"{part} of {device.name}", lambda: kill_part(device.parts.get(part)), ROUND)
    return f"{part} of {device.name}"


def kill_server(site: Site, draw: random.Random) -> str:
    """SIGKILL of one of the server's processes; its supervisor is started again by hand, as systemd would."""
    wanted = draw.choice(("superlink", "rounds", "front door", "supervisor"))
    if wanted == "supervisor":
        children = psutil.Process(site.server.pid).children(recursive=True)
        kill_part(site.server.pid)
        _, left = psutil.wait_procs(children, 20)
        assert not left, f"parts outlive their supervisor: {left}"
        site.server.start()
        return wanted

    def killed() -> bool:
        for process in psutil.Process(site.server.pid).children():
            with suppress(psutil.Error):
                if part_of(process) == wanted:
                    return kill_part(process.pid)
        return False

    until(wanted, killed, ROUND)
    return wanted


def check(site: Site, seen: Seen, rounds: int) -> None:
    """Everything that must hold after all of it; see the module's text."""
    found = site.overview()
    assert found["rounds"]["done"] == rounds
    assert not found["health"] or {row["state"] for row in found["health"]} <= {"up", "waiting", "starting"}
    study = site.study()
    outcome = load_outcome(study_job(study))
    assert outcome.finished
    assert outcome.round == rounds
    manifest = study.manifest
    verify(study.folder, study.signer)
    study.close()
    opened = [row["round"] for row in found["releases"]]
    assert len(set(opened)) == len(opened) == rounds + 1
    everything = set[str]()
    for device in site.devices:
        sent = sealed_digests(site.proxies[device.name].recording.device(), manifest)
        device.down()
        check_device(device, seen, sent, rounds)
        everything |= sent
    useful = [row["round"] for row in found["rounds"]["list"] if not row["void"]]
    assert useful
    assert len(everything) >= len(useful)


def check_device(device: Device, seen: Seen, sent: set[str], rounds: int) -> None:
    """What one device's store holds, against what was seen of it and what it sent."""
    with device.store() as store:
        store.check()
        versions = [v.version for v in store.adapters.all()]
        assert versions == sorted(set(versions))
        assert set(seen.adapters.get(device.name, {})) <= set(versions)
        for version in versions:
            assert store.adapters.state(version)
        receipts = {one.id: one for one in store.outbox.receipts()}
        for number, (round, digest) in seen.receipts.get(device.name, {}).items():
            assert (receipts[number].receipt.round, receipts[number].receipt.digest) == (round, digest)
        by_round = [one.receipt.round for one in receipts.values()]
        assert len(set(by_round)) == len(by_round) <= rounds
        charges = {(entry["scope"], entry["key"]): entry["status"] for entry in DeviceLedger(store).entries()}
        assert seen.charges.get(device.name, set()) <= {key for _, key in charges}
        for one in receipts.values():
            assert charges[one.scope, one.key] in {"reserved", "committed"}
        assert sent <= {one.receipt.digest for one in receipts.values()}
