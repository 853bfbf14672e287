"""`commonground bench devices`: a real server under many light devices, all of them in every round.

SuperLink, executor and front door are those of `commonground server up`, on loopback, with TLS, node
authentication and databases. The devices speak the real Fleet API and train nothing: what is measured is the
server, and the time that Flower's looks for messages (every 3 s) cost.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from commonground.errors import CommonGroundError
from commonground.server.state import Study
from commonground.simulations.bench.emulated import POLL, Crowd, LightDevice, honest
from commonground.simulations.bench.machine import machine
from commonground.simulations.bench.measured import Bar, Measured, Row, spread
from commonground.simulations.bench.study import RunningServer, enrolled, serving, wanted

PATIENCE = 900.0  # seconds without a finished round after which the server is taken for stuck


def measure(*, quick: bool, say: Callable[[str], None], size: tuple[int, int] | None = None) -> Measured:
    """Run a study of so many (people, rounds); the default is 200 and 10, or 20 and 2 where `quick`."""
    people, rounds = size or ((20, 2) if quick else (200, 10))
    where, poll = machine(), 1.0 if quick else POLL
    words = [f"people={people}", f"rounds={rounds}", f"cohort={people}"]
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        with serving(Path(folder) / "study", wanted(words, min_online=people, deadline=180.0)) as server:
            up = time.monotonic() - began
            keys = enrolled(server.folder, people)
            say(f"{people} devices are enrolled")
            study = Study(server.folder)
            ca, address = (server.folder / "ca.crt").read_bytes(), study.settings.address
            answer = honest(study.manifest)
            crowd = Crowd([LightDevice(address, ca, key, answer) for key in keys], poll=poll)
            try:
                _until_finished(study, server, say)
            finally:
                found = study.overview()
                crowd.close()
                study.close()
            disk = sum(file.stat().st_size for file in server.folder.glob("superlink.db*")) / 1e6
    done = [row for row in found["rounds"]["list"] if row["ended"] is not None]
    seconds = [row["seconds"] for row in done]
    answered = sum(device.answered for device in crowd.devices)
    notes = [
        f"a device looks for a message every {poll:g} s (Flower's node: every {POLL:g} s), so a round takes "
        "some seconds however quick the server is",
        "a round has two messages a person: shared and private phase",
        "enrolled by the server's own function: the front door lets 60 a minute of one address in",
        f"{answered} messages were answered; errors of the devices' connections: {len(crowd.errors)}",
        *(f"refused: {row['reason']} ({row['count']})" for row in found["refusals"]),
    ]
    mine = psutil.Process().memory_info().rss / 1e6
    load = server.load
    return Measured(
        "devices",
        where,
        {"people": people, "cohort": people, "rounds": rounds, "trust": "local"},
        [
            Row("a round", "s", spread(seconds)),
            Row("until the server answers", "s", spread([up])),
            *(Row(f"memory: {name}", "MB", spread([value])) for name, value in sorted(load.memory.items())),
            Row(f"memory: all {people} light devices", "MB", spread([mine])),
            Row("on disk at the end: the SuperLink's database", "MB", spread([disk])),
            *(
                Row(f"processor time, whole study: {name}", "s", spread([value]))
                for name, value in sorted(load.processor.items())
            ),
        ],
        [
            Bar("rounds that ended", rounds, len(done), "rounds"),
            Bar(
                "updates used, of those asked for",
                people * rounds,
                sum(r["replies"] for r in done),
                "updates",
            ),
            Bar("errors of connections", 0, len(crowd.errors), "errors", at_least=False),
            Bar(
                "requests refused", 0, sum(r["count"] for r in found["refusals"]), "requests", at_least=False
            ),
        ],
        notes,
    )


def _until_finished(study: Study, server: RunningServer, say: Callable[[str], None]) -> None:
    """Wait for the last round; raises `CommonGroundError` where none ends for long."""
    done, since = -1, time.monotonic()
    while study.fact("finished") is None:
        server.look()
        now = study.overview()["rounds"]["done"]
        if now != done:
            done, since = now, time.monotonic()
            say(f"{done} rounds done")
        if time.monotonic() - since > PATIENCE:
            raise CommonGroundError(f"no round ended for {PATIENCE:g} s; {done} were done")
        time.sleep(0.5)
    server.look()
