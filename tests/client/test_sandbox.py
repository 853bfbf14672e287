"""A node or an executor that was taken over, on a running device: what is left to it.

The class: a process that reads what strangers send, and runs as the person herself. The attack is run in a
process that stands behind the same walls as the part, with the profile's path and the port of everything
that listens. Without Landlock, or without any wall, it still is not the owner: no token lies in any file.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from toy_patience import LIMIT
from toy_up import Device

from commonground.child_environment import child_environment
from commonground.client import confined, sandbox

pytestmark = pytest.mark.slow

ATTACK = r"""
import ctypes, json, os, socket, sys
from pathlib import Path

given = json.loads(sys.argv[1])
from commonground.client import confined, sandbox

if given["lacks"] == "landlock":
    sandbox.landlock_version = lambda: 0
if given["lacks"] != "everything":
    confined.enter(given["module"], given["words"])
profile, got = Path(given["profile"]), {}


def attempt(name, work):
    try:
        got[name] = work()
    except BaseException as error:
        got[name] = None


def files():
    found = {}
    for folder, _, names in os.walk(profile):
        for name in names:
            try:
                found[name] = (Path(folder) / name).read_bytes()
            except OSError:
                pass
    return found


read = {}
for name in given["names"]:
    try:
        read[name] = Path(name).read_bytes()
    except OSError:
        pass
known = files()
got["listed"] = sorted(known)
got["read"] = sorted(Path(name).name for name in read)


def connects():
    with socket.socket(socket.AF_UNIX) as found:
        found.connect(given["owner"])
        return True


def owns():
    '''Every run of bytes of every file that can be read, as the owner's token.'''
    import grpc
    from commonground.client import vault_pb2 as pb
    from commonground.client.vault_pb2_grpc import OwnerStub

    with grpc.insecure_channel("unix:" + given["owner"]) as channel:
        stub = OwnerStub(channel)
        for data in {**known, **read}.values():
            text = data.decode("latin1").strip()
            for word in {text, *text.split(), *text.split('"')}:
                if 20 <= len(word) <= 200 and word.isascii() and word.isprintable():
                    try:
                        stub.Status(pb.Nothing(), metadata=(("owner-token", word),), timeout=900)
                        return True
                    except grpc.RpcError as error:
                        if error.code() is not grpc.StatusCode.UNAUTHENTICATED:
                            raise
    return None


def page():
    links = [v for v in known.values() if v.startswith(b"http://127.0.0.1")]
    return len(links) or None


def reaches(port):
    with socket.create_connection(("127.0.0.1", port), 20):
        return True


def runs():
    pid = os.fork()
    if not pid:
        try:
            os.execv("/bin/true", ["true"])
        finally:
            os._exit(9)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0 or None


def traces(pid):
    libc = ctypes.CDLL(None, use_errno=True)
    found = libc.ptrace(16, pid, 0, 0)
    if found == 0:
        os.waitpid(pid, 0)
        libc.ptrace(17, pid, 0, 0)
    return found == 0 or None


attempt("connects", connects)
attempt("owns", owns)
attempt("page", page)
for port in given["ports"]:
    attempt(f"reaches {port}", lambda: reaches(port))
attempt("runs", runs)
attempt("writes", lambda: (profile / "evil").write_text("x"))
attempt("links", lambda: os.symlink("/", profile / "run" / "evil") or True)
for name, pid in given["pids"].items():
    attempt(f"environment of {name}", lambda: len(Path(f"/proc/{pid}/environ").read_bytes()) or None)
    attempt(f"memory of {name}", lambda: open(f"/proc/{pid}/mem", "rb").close() or True)
    attempt(f"signal to {name}", lambda: os.kill(pid, 0) or True)
    if given["lacks"] != "everything":
        attempt(f"trace of {name}", lambda: traces(pid))
print("GOT" + json.dumps(got))
"""


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    found = Device(tmp_path_factory.mktemp("walls"))
    try:
        found.until(lambda: all(part["up"] for part in found.parts.values()))
        yield found
    finally:
        if found.process.poll() is None:
            found.process.kill()
            found.process.wait()


def attacked(device: Device, module: str, lacks: str = "") -> dict[str, Any]:
    """What an attacker gets who is in the place of a part of a running device."""
    profile, parts = device.profile.folder, device.parts
    part = {"commonground.client.node": "node", "commonground.client.executor": "executor"}[module]
    line = psutil.Process(parts[part]["pid"]).cmdline()
    words = line[line.index(module) + 1 :]
    page = psutil.Process(parts["page"]["pid"]).net_connections("inet")
    names = [profile / name for name in ("store.db", "store.json", "run/owner.locked", "run/page.url")]
    given = {
        "module": module,
        "words": words,
        "lacks": lacks,
        "profile": str(profile),
        "owner": str(profile / "run" / "owner.sock"),
        "names": [str(name) for name in (*names, profile.parent / "words")],
        "ports": [c.laddr.port for c in page if c.status == psutil.CONN_LISTEN],
        "pids": {
            "vault": parts["vault"]["pid"],
            "supervisor": device.process.pid,
            "page": parts["page"]["pid"],
        },
    }
    vault = psutil.Process(parts["vault"]["pid"]).cmdline()
    port = vault[vault.index("--node-port") + 1]
    done = subprocess.run(
        [sys.executable, "-P", "-c", ATTACK, json.dumps(given)],
        env=child_environment({"COMMONGROUND_VAULT": f"127.0.0.1:{port}"}),
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    line_of = [text for text in done.stdout.splitlines() if text.startswith("GOT")]
    assert line_of, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(line_of[0].removeprefix("GOT"))
    return {name: value for name, value in found.items() if value}


@pytest.mark.parametrize("module", [confined.NODE, confined.EXECUTOR])
def test_behind_its_walls_a_part_reads_lists_and_reaches_nothing_of_its_persons(
    device: Device, module: str
) -> None:
    if not confined.possible().whole:
        pytest.skip(f"this kernel: {confined.possible().words}")
    assert attacked(device, module) == {}


def test_without_landlock_there_is_still_no_door(device: Device) -> None:
    if not sandbox.knows_seccomp():
        pytest.skip("this kernel has no seccomp")
    got = attacked(device, confined.NODE, "landlock")
    assert "connects" not in got
    assert not {name for name in got if name.startswith(("owns", "page", "runs", "trace"))}


def test_without_any_wall_no_file_makes_it_the_owner(device: Device) -> None:
    """Tokens are handed over by each part's input; what lies on the disk opens with the store's key."""
    got = attacked(device, confined.NODE, "everything")
    assert got["connects"]  # any process of the same user does
    assert {"store.db", "owner.locked", "page.url"} <= set(got["listed"])
    assert "owns" not in got
    assert "page" not in got
    assert "owner.token" not in got["listed"]


def test_each_part_says_which_walls_stand(device: Device) -> None:
    found = device.call("status")
    assert set(found["sandbox"]) == {"node", "executor"}
    assert set(found["sandbox"].values()) == {confined.possible().words}


@pytest.mark.parametrize(("landlock", "seccomp"), [(0, True), (3, False), (0, False)])
def test_what_a_system_lacks_is_one_clear_line(landlock: int, seccomp: bool) -> None:
    found = sandbox.Confined(landlock, seccomp)
    assert not found.whole
    assert found.words.startswith("not confined: this system has no ")
    assert ("Landlock" in found.words, "seccomp" in found.words) == (not landlock, not seccomp)


def test_walls_that_are_required_and_missing_end_a_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(confined, "confine", lambda walls: sandbox.Confined(0, False))
    words = ["--profile", str(tmp_path), "--port", "1", "--secret", str(tmp_path / "s")]
    assert confined.enter(confined.NODE, words)
    monkeypatch.setenv(confined.REQUIRED, "1")
    assert not confined.enter(confined.NODE, words)
    assert "--require-sandbox" in capsys.readouterr().err
    assert confined.enter("commonground.client.vault", [])  # which has the store: nothing to keep it from


def test_no_folder_that_holds_the_profile_is_left_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    open_places = sandbox.code_of(confined.PACKAGES, tmp_path / "profile")
    assert tmp_path not in open_places
    assert Path(sys.prefix) in open_places
