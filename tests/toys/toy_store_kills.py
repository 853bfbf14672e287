"""Kill a device's process at every step of a round; prints one JSON object. A program: FOLDER.

Three kinds of instant: `steps` (the named ones of `DeviceLedger.once`), `calls` and `torn` (every system call
by which SQLite writes, before it or in the middle of it). A store with one round in it is made first. Then,
for every instant, a forked child lives a second round on a copy of it until it sends itself SIGKILL there;
what it had handed out by then it says through a pipe. Then the store is opened, checked and asked for the
same round again.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from toy_disk import failing
from toy_store import SCOPE, bytes_of, live, local_terms, noisy, open_store, state, upload

from commonground.client.device_ledger import STEPS, DeviceLedger
from commonground.client.store import Store
from commonground.privacy.accounting import epsilon_composed

TERMS = local_terms(9)
MANY = 10_000


class Dying(DeviceLedger):
    """Dies at a named step."""

    at = ""

    def _reached(self, step: str) -> None:
        if step == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def child(folder: Path, what: str, instant: int, out: int) -> bool:
    """Live a round until the instant; True if it never came."""
    with contextlib.ExitStack() as stack:
        Dying.at = STEPS[instant] if what == "steps" and instant < len(STEPS) else ""
        if what != "steps":
            way = "dies before" if what == "calls" else "dies in the middle"
            stack.enter_context(failing(instant + 1, way))  # type: ignore[arg-type]
        store = open_store(folder)
        store.feedback.add("prompt 2", "yes", "no", "taste", "because")
        os.write(out, b"F")
        sent = Dying(store).once(upload(2), TERMS, math.inf, noisy(2))
        os.write(out, b"M" + bytes_of(sent.message))
        store.adapters.save(state(2), offer="o", round=2, shared_version=2)
        os.write(out, b"A")
        store.close()
    return not Dying.at


def lived(folder: Path, what: str, instant: int) -> tuple[bool, bytes]:
    """Whether the child lived, and what it said."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if child(folder, what, instant, write) else 2
        finally:
            os._exit(code)
    os.close(write)
    with open(read, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        if os.WTERMSIG(status) != signal.SIGKILL:
            raise RuntimeError(f"instant {instant}: signal {os.WTERMSIG(status)}")
        return False, said
    if os.WEXITSTATUS(status) != 0:
        raise RuntimeError(f"instant {instant}: exit {os.WEXITSTATUS(status)}")
    return True, said


def faults(store: Store, said: bytes) -> list[str]:
    """What is wrong with the store after a kill."""
    found = []
    store.check()
    ledger = DeviceLedger(store)
    ledger.refuse_if_unaccounted()
    counts, versions = store.feedback.counts(), store.adapters.all()
    message = said[2:38] if said[1:2] == b"M" else None
    if counts["taste"] < said.count(b"F", 0, 1) or counts["safety"] != 1:
        found.append(f"feedback is {counts}")
    if len(versions) < 1 + (said[38:] == b"A") or store.adapters.state() is None:
        found.append(f"{len(versions)} adapters")
    kept = store.outbox.find(SCOPE, "release-2")
    charged = [e["status"] for e in ledger.entries() if e["key"] == "release-2"]
    if len(charged) > 1 or (kept is not None and charged != ["committed"]):
        found.append(f"charged {charged}, kept {kept is not None}")
    if kept is None and charged == ["committed"]:
        found.append("noted as made, and not kept")
    if message is not None and (kept is None or bytes_of(kept.message) != message):
        found.append("what left is not what is kept")
    again = [bytes_of(ledger.once(upload(2), TERMS, math.inf, noisy(2)).message) for _ in range(2)]
    if again[0] != again[1] or (kept is not None and bytes_of(kept.message) != again[0]):
        found.append("another message for the same release")
    wanted = epsilon_composed([TERMS.charge] * 2, TERMS.claim.delta, "gaussian")
    if not math.isclose(ledger.epsilon(TERMS.claim.delta), wanted, rel_tol=1e-9):
        found.append(f"epsilon is {ledger.epsilon(TERMS.claim.delta)}, not {wanted}")
    return found


def killed(first: Path, copy: Path, what: str) -> dict[str, Any]:
    """Every instant of one kind: how many, what was wrong, how much was said before each."""
    bad, said_of = [], []
    for instant in range(MANY):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(first, copy)
        alive, said = lived(copy, what, instant)
        with open_store(copy) as store:
            bad += [f"instant {instant}: {fault}" for fault in faults(store, said)]
        said_of.append(len(said))
        if alive:
            break
    return {"instants": len(said_of) - 1, "bad": bad, "said": said_of}


def main() -> None:
    """See the module's text."""
    folder = Path(sys.argv[1])
    first = folder / "first"
    first.mkdir()
    with open_store(first) as store:
        live(store, TERMS, 1)
    kinds = ("steps", "calls", "torn")
    print(json.dumps({what: killed(first, folder / "copy", what) for what in kinds}))


if __name__ == "__main__":
    main()
