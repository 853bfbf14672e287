"""What keeps a device up: restarts with waits, order, ends, and one device on a profile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from toy_node import environment
from toy_patience import LIMIT, a_while, all_gone, joined, until
from toy_profile import make_profile

from commonground.client import child as children
from commonground.client import supervisor as room
from commonground.client.child import Backoff, Child, Part
from commonground.client.node import Link
from commonground.client.parts import EXECUTOR, Port
from commonground.client.profile import Profile
from commonground.client.supervisor import STATE, Supervisor, only_device
from commonground.errors import InputError, TrustError


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "FIRST", 0.05)


@pytest.fixture
def profile(tmp_path: Path) -> Profile:
    return make_profile(tmp_path / "profile")


def part(name: str, folder: Path, *words: str, line: Callable[[str], None] | None = None) -> Part:
    file = folder / name
    return Part(
        name,
        lambda: ["toy_part", str(file), *words],
        toys_path,
        ready=file.with_suffix(".ready").exists,
        line=line or (lambda text: None),
    )


def toys_path() -> dict[str, str]:
    return {"PYTHONPATH": environment()["PYTHONPATH"]}


def pids(folder: Path, name: str) -> list[int]:
    file = folder / name
    return [int(line) for line in file.read_text().splitlines()] if file.exists() else []


class Running:
    """A supervisor in a thread."""

    def __init__(
        self, profile: Profile, *parts: Part, link: Link | None = None, port: Port | None = None
    ) -> None:
        self.said: list[str] = []
        self.link = link or Link()
        self.supervisor = Supervisor(profile, parts, self.link, port or Port(), self.said.append)
        self.stop, self.error = threading.Event(), None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.supervisor.run(self.stop)
        except InputError as error:
            self.error = error  # type: ignore[assignment]

    def until(self, holds: Callable[[], object]) -> None:
        until(holds, lambda: (self.said, self.error), alive=self.thread)

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        joined(self.thread)


def alive(pid: int) -> bool:
    return bool(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)


def test_parts_start_in_order_and_end_in_order(profile: Profile, tmp_path: Path) -> None:
    vault = part("vault", tmp_path, "stay")
    with Running(profile, vault, part("node", tmp_path, "ready", "stay")) as running:
        running.until(lambda: len(pids(tmp_path, "vault")) == 1)
        a_while(0.5)
        assert pids(tmp_path, "node") == []  # the vault does not answer yet
        (tmp_path / "vault.ready").touch()
        running.until(lambda: len(pids(tmp_path, "node")) == 1)
        running.until(lambda: any("the device is up" in line for line in running.said))
        state = json.loads((profile.run / STATE).read_text())
        assert state["pid"] == os.getpid()
        assert state["parts"]["vault"]["pid"] == pids(tmp_path, "vault")[0]
        assert state["parts"]["node"] | {"pid": 0} == {
            "pid": 0, "up": True, "starts": 1, "code": 0, "next": None,
        }  # fmt: skip
    assert not any(alive(pid) for name in ("vault", "node") for pid in pids(tmp_path, name))
    assert not (profile.run / STATE).exists()


def test_a_part_that_is_killed_comes_back(profile: Profile, tmp_path: Path) -> None:
    parts = [part(name, tmp_path, "ready", "stay") for name in ("vault", "node", "executor")]
    with Running(profile, *parts) as running:
        for name in ("executor", "node", "vault"):
            running.until(lambda name=name: len(pids(tmp_path, name)) == 1)  # type: ignore[misc]
            os.kill(pids(tmp_path, name)[0], signal.SIGKILL)
            running.until(lambda name=name: len(pids(tmp_path, name)) == 2)  # type: ignore[misc]
            assert any(f"the {name} was ended by signal 9" in line for line in running.said)
    assert [len(pids(tmp_path, name)) for name in ("vault", "node", "executor")] == [2, 2, 2]


def test_a_part_that_keeps_ending_is_started_ever_more_rarely(profile: Profile, tmp_path: Path) -> None:
    flaky = part("node", tmp_path, "exit=1")
    with Running(profile, part("vault", tmp_path, "ready", "stay"), flaky) as running:
        running.until(lambda: len(pids(tmp_path, "node")) >= 4)
    assert all("the node ended with code 1; it is started again in" in line for line in running.said)


def test_waits_double_to_a_minute_and_vary_by_half(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "FIRST", 1.0)
    low, high = Backoff(lambda: 1.0), Backoff(lambda: 0.0)
    assert [high.next() for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert [low.next() for _ in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    high.reset()
    assert high.next() == 1
    # Flower forgets a node that was killed after 60 s: by then it has been tried again, even with luck.
    assert sum((0.5, 1, 2, 4, 8, 16, 30)) > 60


def test_what_a_part_says_of_its_input_ends_the_device(profile: Profile, tmp_path: Path) -> None:
    words = ["say=error:_the_passphrase_is_not_this_store's", "say=hint:_try_again", "exit=2"]
    with Running(profile, part("vault", tmp_path, *words)) as running:
        running.until(lambda: not running.thread.is_alive())
    assert isinstance(running.error, InputError)
    assert running.error.message == "the passphrase is not this store's"
    assert running.error.hint == "try again"
    assert len(pids(tmp_path, "vault")) == 1


def test_a_vault_that_erased_itself_is_not_started_again(profile: Profile, tmp_path: Path) -> None:
    with Running(profile, part("vault", tmp_path, "ready", "exit=0")) as running:
        running.until(lambda: not running.thread.is_alive())
    assert running.error is None
    assert running.supervisor.left
    assert len(pids(tmp_path, "vault")) == 1


def test_a_vault_that_ends_with_its_store_in_place_comes_back(profile: Profile, tmp_path: Path) -> None:
    (profile.folder / "store.db").touch()
    with Running(profile, part("vault", tmp_path, "ready", "once=0", "stay")) as running:
        running.until(lambda: len(pids(tmp_path, "vault")) == 2)


def test_a_part_that_does_not_hear_is_killed_within_ten_seconds(
    profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert room.GRACE < 8
    monkeypatch.setattr(room, "GRACE", 0.5)
    parts = [part("vault", tmp_path, "ready", "stay"), part("node", tmp_path, "deaf", "ready", "stay")]
    with Running(profile, *parts) as running:
        running.until(lambda: any("the device is up" in line for line in running.said))
    assert not any(alive(pid) for name in ("vault", "node") for pid in pids(tmp_path, name))


def test_a_node_that_nobody_answers_is_freed(
    profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its executor was killed between claiming a task and taking its message: Flower waits for good then."""
    monkeypatch.setattr(room, "STUCK", 0.3)
    link = Link()
    (profile.run / EXECUTOR).parent.mkdir(parents=True)
    (profile.run / EXECUTOR).write_text('{"doing": "shared"}')
    node = part("node", tmp_path, "ready", "say=INFO:_Receiving:_train_message", "stay", line=link.read)
    with Running(profile, part("vault", tmp_path, "ready", "stay"), node, link=link) as running:
        running.until(lambda: link.waits)
        a_while(1)
        assert len(pids(tmp_path, "node")) == 1  # the executor works on it: a local update takes minutes
        (profile.run / EXECUTOR).write_text('{"doing": "idle"}')
        running.until(lambda: len(pids(tmp_path, "node")) == 2)
        assert any("nobody works on" in line for line in running.said)


def test_a_node_whose_answers_come_too_late_is_started_anew(profile: Profile, tmp_path: Path) -> None:
    """It keeps an answer to a message that it gave up, and sends it in place of the next one."""
    link = Link()
    late = "say=ERROR:_Cannot_get_processing_duration:_Message_ID_1_not_found."
    node = part("node", tmp_path, "ready", late, "stay", line=link.read)
    with Running(profile, part("vault", tmp_path, "ready", "stay"), node, link=link) as running:
        running.until(lambda: len(pids(tmp_path, "node")) >= 2)


def test_a_taken_port_is_changed_for_both(profile: Profile, tmp_path: Path) -> None:
    link = Link()
    first = part("node", tmp_path, "ready", "say=[Errno_98]_address_already_in_use", "once=1", "stay")
    node = Part(first.name, first.command, toys_path, ready=first.ready, line=link.read)
    parts = [part("vault", tmp_path, "ready", "stay"), node, part("executor", tmp_path, "ready", "stay")]
    port = Port()
    before = port.number
    with Running(profile, *parts, link=link, port=port) as running:
        running.until(lambda: len(pids(tmp_path, "node")) == 2)
        # Counted by who starts it: the first may be ended before it has written down that it was there.
        running.until(lambda: running.supervisor.children[2].starts == 2)
        assert port.number != before


def test_stdin_reaches_a_part_at_each_start_and_its_lines_are_kept(profile: Profile, tmp_path: Path) -> None:
    seen: list[str] = []
    made = part("vault", tmp_path, "stdin", "say=http://127.0.0.1/secret", "once=1", "ready", "stay")
    vault = Part(
        "vault",
        made.command,
        toys_path,
        stdin="open sesame",
        ready=made.ready,
        line=seen.append,
        kept=lambda line: not line.startswith("http"),
    )
    with Running(profile, vault) as running:
        running.until((tmp_path / "vault.ready").exists)
    assert seen.count("read 'open sesame\\n'") == 2
    log = (profile.log / "vault.log").read_text()
    assert "open sesame" in log
    assert "http" not in log
    assert (profile.log).stat().st_mode & 0o077 == 0


def test_a_log_has_an_end(profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "LOG_BYTES", 2000)
    child = Child(part("vault", tmp_path, *["say=" + "x" * 100] * 200), profile.log / "vault.log")
    child.start()
    last = time.monotonic() + LIMIT
    assert child.wait(last)
    child.close()
    sizes = [file.stat().st_size for file in profile.log.iterdir()]
    assert len(sizes) == 1 + children.LOGS
    assert max(sizes) <= 2000


def test_parts_do_not_outlive_a_supervisor_that_is_killed(profile: Profile, tmp_path: Path) -> None:
    code = (
        "import sys, threading; from pathlib import Path; sys.path[:0] = sys.argv[2:3]\n"
        "from commonground.client.child import Child, Part\n"
        "toys = lambda: {'PYTHONPATH': sys.argv[2]}\n"
        "part = Part('node', lambda: ['toy_part', sys.argv[1], 'ready', 'stay'], toys)\n"
        "child = Child(part, Path('log'))\n"
        "child.start(); print('up', flush=True); threading.Event().wait()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "node"), toys_path()["PYTHONPATH"]],
        stdout=subprocess.PIPE,
        env=environment(),
        cwd=tmp_path,
        text=True,
    )
    assert process.stdout is not None
    with process, process.stdout:
        assert process.stdout.readline() == "up\n"
        until((tmp_path / "node.ready").exists, alive=process)
        process.kill()
    (pid,) = pids(tmp_path, "node")
    assert all_gone([pid])


def test_two_devices_on_one_profile_are_one_line(profile: Profile) -> None:
    already = pytest.raises(InputError, match="already runs on the profile")
    with only_device(profile), already as caught, only_device(profile):
        pass
    assert "device status" in str(caught.value.hint)
    with only_device(profile):
        pass


LINES = [
    ("INFO :      SuperNode ID: 123", "online"),
    ("\x1b[93mWARNING \x1b[0m:   Connection attempt failed, retrying in 19.53 seconds", "offline"),
    ("INFO :      Connection successful after 20.00 seconds and 3 tries.", "online"),
    ("ERROR :     Exit Code: 305", "online"),
    ("[code: 2004] Failed to activate SuperNode", "refused"),
]


def test_a_node_s_lines_say_how_its_link_stands() -> None:
    link = Link()
    assert link.state == "starting"
    for line, state in LINES:
        link.read(line)
        assert link.state == state
    assert link.refused == 1
    assert 0 < link.retry - time.time() < 20
    link.ended()
    assert link.state == "refused"
    link.read(LINES[0][0])
    assert link.refused == 0
    for line in ("INFO : Receiving: train message (ID: 1)", "INFO : Received successfully"):
        link.read(line)
        assert link.waits
    link.read("INFO : Sent successfully")
    assert not link.waits
    link.read("INFO : Receiving: train message (ID: 2)")
    link.ended()
    assert not link.waits
    link.read("INFO : Receiving: train message (ID: 3)")
    link.read("ERROR : Failed to receive message 3: out of memory")
    assert not link.waits


@pytest.fixture(autouse=True)
def no_child_is_left() -> Iterator[None]:
    yield
    left = [child for child in psutil.Process().children() if "toy_part" in " ".join(child.cmdline())]
    assert left == []


def test_another_version_than_the_offer_s_is_one_line(tmp_path: Path) -> None:
    from toy_profile import toy_offer

    profile = make_profile(tmp_path / "other", toy_offer(software="9.9.9"))
    with pytest.raises(TrustError, match=r"runs commonground 9\.9\.9; installed is") as caught:
        profile.check_software()
    assert "pip install commonground==9.9.9" in str(caught.value.hint)
