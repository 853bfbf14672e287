"""`device up` with its real parts and no server in reach: the device is its person's all the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from toy_patience import ended
from toy_up import CLI, UNWANTED, Device

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    found = Device(tmp_path_factory.mktemp("device"))
    try:
        found.until(lambda: found.parts["vault"]["up"] and found.parts["page"]["up"])
        yield found
    finally:
        if found.process.poll() is None:
            found.process.kill()
            found.process.wait()


def test_without_a_server_the_device_waits_and_serves_its_person(device: Device) -> None:
    device.until(lambda: device.call("status")["words"].startswith("waiting for the server"))
    found = device.call("status")
    assert found["running"]
    assert found["vault"]["consented"]
    assert "does not answer: Connection refused; the device starts all the same" in device.log.read_text()
    link = found["page"]
    assert link.startswith("http://127.0.0.1:")
    assert httpx.get(link, trust_env=False, follow_redirects=True).status_code == 200
    pids = {name: part["pid"] for name, part in device.parts.items()}
    assert set(pids) == {"vault", "node", "executor", "page"}
    # What each part does not need, it does not load: the node and the supervisor know no model.
    for name in ("node", "page"):
        maps = Path(f"/proc/{pids[name]}/maps").read_text()
        assert "libtorch" not in maps, name
    assert "libtorch" not in Path(f"/proc/{device.process.pid}/maps").read_text()


def test_no_part_inherits_a_secret(device: Device) -> None:
    """Over every process that the device starts, and that those start, as the kernel has it."""
    found = psutil.Process(device.process.pid).children(recursive=True)
    assert len(found) >= 4
    for process in found:
        told = Path(f"/proc/{process.pid}/environ").read_bytes()
        names = {line.partition(b"=")[0].decode() for line in told.split(b"\0")}
        assert b"s3cr3t" not in told
        assert b"words" not in told
        assert not names & {*UNWANTED, "COMMONGROUND_PASSPHRASE_FILE"}, process.cmdline()
        assert "PATH" in names


def test_every_port_is_on_loopback(device: Device) -> None:
    listening = []
    for process in psutil.Process(device.process.pid).children(recursive=True):
        try:
            connections = process.net_connections("inet")
        except psutil.AccessDenied:  # the vault lets nobody but the administrator look
            assert process.pid == device.parts["vault"]["pid"]
            continue
        listening += [found.laddr.ip for found in connections if found.status == psutil.CONN_LISTEN]
    assert len(listening) == 3  # the node's Runtime API, the vault's port for the executor, and the page
    assert {address.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}


def test_pause_and_resume(device: Device) -> None:
    assert device.call("pause")["paused"]
    assert device.call("status")["words"].startswith("paused by you")
    assert not device.call("resume")["paused"]


def test_a_vault_killed_with_9_comes_back_with_its_key(device: Device) -> None:
    device.owner(lambda owner: owner.add("which tea?", "green", "black", "taste"))
    pid = device.parts["vault"]["pid"]
    os.kill(pid, signal.SIGKILL)
    device.until(lambda: device.parts["vault"]["pid"] not in (0, pid) and device.parts["vault"]["up"])
    device.until(lambda: device.owner(lambda owner: owner.status())["comparisons"]["taste"] == 1)
    assert f"the vault was ended by signal {signal.SIGKILL:d}" in device.log.read_text()


def test_a_second_device_on_the_profile_is_one_line(device: Device) -> None:
    done = subprocess.run(
        [*CLI, "up", "--profile", str(device.profile.folder)],
        capture_output=True,
        text=True,
        check=False,
        env=device.environment,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"error: a device already runs on the profile {device.profile.folder}",
        "hint: look at it: commonground device status; end it: commonground device down",
    ]


def failed(device: Device, *words: str, **variables: str) -> list[str]:
    done = subprocess.run(
        [*CLI, *words, "--profile", str(device.profile.folder)],
        capture_output=True,
        text=True,
        check=False,
        env=device.environment | variables,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()


def test_old_votes_are_brought_along_once(device: Device, tmp_path: Path) -> None:
    """A file of an arena, and the device's own export of it: what is here already is not kept again."""
    before = device.owner(lambda owner: owner.status())["comparisons"]
    file = tmp_path / "battles.jsonl"
    rows = [
        {"judge": who, "winner": won, "conversation_a": talk(f"a{n}"), "conversation_b": talk(f"b{n}")}
        for n, (who, won) in enumerate(
            [("me", "model_b"), ("me", "tie"), ("you", "model_a"), ("me", "model_a")]
        )
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "Nobody can be asked here" in " ".join(failed(device, "import", str(file), "--person", "me"))
    assert device.owner(lambda owner: owner.status())["comparisons"] == before
    found = device.call("import", str(file), "--person", "me", "--yes")
    assert (found["kept"], found["left_out"]) == (2, {"ties": 1, "comparisons of other people": 1})
    newest = device.owner(lambda owner: owner.comparisons())["items"][0]
    assert (newest["prompt"], newest["chosen"], newest["rejected"]) == ("Q", "a3", "b3")
    device.owner(lambda owner: owner.tie("T", "left", "right", "tie"))
    device.call("export", str(tmp_path / "mine.zip"))
    again = device.call("import", str(tmp_path / "mine.zip"), "--yes")
    assert (again["kept"], again["bad_rows"]["count"]) == (0, 0)
    assert again["already"] == sum(device.owner(lambda owner: owner.status())["comparisons"][k] for k in
                                   ("taste", "safety", "ties"))  # fmt: skip
    while device.owner(lambda owner: owner.status())["comparisons"] != before:
        device.owner(lambda owner: owner.undo())


def talk(answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": "Q"}, {"role": "assistant", "content": answer}]


def test_the_cap_of_the_private_adapter_is_set_by_command(device: Device) -> None:
    before = device.owner(lambda owner: owner.ledger())["private"]["cap"]
    for words in ("0", "nan", "much"):
        assert "is no number above 0" in " ".join(failed(device, "private-cap", words))
    assert device.owner(lambda owner: owner.ledger())["private"]["cap"] == before
    device.call("private-cap", "3.5")
    assert device.owner(lambda owner: owner.ledger())["private"]["cap"] == 3.5
    device.call("private-cap", "inf")


def test_consent_is_withdrawn_by_command_and_given_again(device: Device) -> None:
    assert "nothing was changed" not in " ".join(map(str, device.call("withdraw", "--yes").values()))
    found = device.call("status")
    assert not found["vault"]["consented"]
    assert "consent" in found["words"]
    device.owner(lambda owner: owner.accept(owner.consent()["offer"]["digest"], 8.0))
    assert device.call("status")["vault"]["consented"]


def test_the_passphrase_is_changed_by_command(device: Device, tmp_path: Path) -> None:
    new = tmp_path / "new"
    new.write_text("five other words that suffice")
    new.chmod(0o600)
    old = device.environment["COMMONGROUND_PASSPHRASE_FILE"]
    told = {"COMMONGROUND_NEW_PASSPHRASE_FILE": str(new)}
    again = {"COMMONGROUND_NEW_PASSPHRASE_FILE": old}
    assert "nothing was changed" in failed(device, "passphrase", **again)[0]
    device.environment |= told
    assert device.call("passphrase")["ways"] == ["passphrase"]
    # The vault that runs was opened with the old one, and goes on; a command needs the new one.
    assert "passphrase" in failed(device, "pause")[0]
    device.environment |= {"COMMONGROUND_PASSPHRASE_FILE": str(new)} | again
    assert device.call("status")["running"]
    assert device.call("pause")["paused"]
    assert device.call("passphrase")["ways"] == ["passphrase"]
    device.environment |= {"COMMONGROUND_PASSPHRASE_FILE": old}
    assert not device.call("resume")["paused"]


def test_everything_is_exported(device: Device, tmp_path: Path) -> None:
    found = device.call("export", str(tmp_path / "mine.zip"))
    assert (tmp_path / "mine.zip").stat().st_size == found["bytes"]


def test_down_ends_it_with_0(device: Device) -> None:
    pids = [part["pid"] for part in device.parts.values()]
    assert device.call("down")["ended"]
    assert ended(device.process) == 0
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert not device.call("down")["ended"]


def test_another_passphrase_is_one_line(device: Device, tmp_path: Path) -> None:
    words = tmp_path / "words"
    words.write_text("four other words here")
    words.chmod(0o600)
    done = subprocess.run(
        [*CLI, "up", "--profile", str(device.profile.folder)],
        capture_output=True,
        text=True,
        check=False,
        env=device.environment | {"COMMONGROUND_PASSPHRASE_FILE": str(words)},
    )
    assert done.returncode == 2
    assert "error: the passphrase is not this store's" in done.stderr.splitlines()
    assert "Traceback" not in done.stderr


def test_leaving_destroys_everything(device: Device) -> None:
    assert device.call("leave", "--yes")["left"]
    left = {file.name for file in device.profile.folder.iterdir()}
    assert left <= {"run", "log", "lock"}
