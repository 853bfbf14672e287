"""How a device stands, in words, and what the command line says where nothing runs."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import Result
from toy_profile import make_profile
from typer.testing import CliRunner

from commonground.client import commands, supervisor
from commonground.client.profile import CERTIFICATE, Profile, find_profile, profiles_home
from commonground.client.standing import in_words, standing, supervisor_of
from commonground.client.supervisor import STATE, only_device
from commonground.client.tally import Tally
from commonground.errors import InputError, TrustError
from commonground.simulations.cli import app
from commonground.study.public_parts import FILE as PARTS

NOW = datetime(2027, 1, 1, tzinfo=UTC)
LATER = (NOW + timedelta(seconds=20)).isoformat()
UP = {name: {"up": True, "next": None} for name in ("vault", "node", "executor", "page")}
READY = {"state": "ready", "words": "."}


def state(link: str = "online", **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {"parts": UP, "link": link, "refused": 0, "retry": LATER}
    return values | changes


def waiting(name: str) -> dict[str, Any]:
    return {**UP, name: {"up": False, "next": LATER}}


CASES = [
    ({}, {}, None, "not running; start it: commonground device up"),
    (state(parts=waiting("vault")), {}, None, "the vault is starting; next try in 20 s"),
    (state("offline"), {}, READY, "waiting for the server; next try in 20 s"),
    (state("starting"), {}, READY, "connecting to the server"),
    (state("refused", parts=waiting("node"), refused=1), {}, READY,
     "the server does not let this device in; next try in 20 s"),
    (state("refused", parts=waiting("node"), refused=10), {}, READY,
     "the server does not let this device in for long: you may have been revoked; ask the operator; "
     "next try in 20 s"),
    (state(), {"doing": "shared", "round": 3}, READY, "training round 3"),
    (state(), {"doing": "private", "round": 3}, READY,
     "learning your taste (nothing leaves), after round 3"),
    (state(), {"doing": "idle", "round": 0}, READY, "ready: connected, and waiting for the next round"),
    (state(parts=waiting("page")), {}, READY, "the page is starting; next try in 20 s"),
    (state(), {}, {"state": "paused", "words": "."},
     "paused by you: it stays connected and joins no round; go on: commonground device resume"),
    (state(), {}, {"state": "consent", "words": "."},
     "waiting for your consent: read the offer on the page, and accept it or leave"),
    (state(), {}, {"state": "spent", "words": "The budget is spent."}, "The budget is spent."),
]  # fmt: skip


@pytest.mark.parametrize(("found", "doing", "vault", "words"), CASES)
def test_every_state_has_words(
    found: dict[str, Any], doing: dict[str, Any], vault: dict[str, Any] | None, words: str
) -> None:
    assert in_words(found, doing, vault, NOW) == words


@pytest.fixture
def profile(tmp_path: Path) -> Profile:
    return make_profile(tmp_path / "profile")


def call(*words: str) -> Result:
    return CliRunner().invoke(app, ["device", *words])


def envelope(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_status_of_a_device_that_does_not_run(profile: Profile) -> None:
    Tally(profile.log / "refusals.json").add({"foreign code": 2})
    result = call("status", "--profile", str(profile.folder))
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "toys: not running; start it: commonground device up",
        "refused: foreign code 2",
    ]
    found = envelope(call("status", "--profile", str(profile.folder), "--format", "json"))["data"]
    assert (found["running"], found["vault"], found["refusals"]) == (False, None, {"foreign code": 2})


def test_a_state_that_outlived_its_supervisor_counts_for_nothing(profile: Profile) -> None:
    mine = {"pid": os.getpid(), "created": psutil.Process().create_time()}
    assert supervisor_of(mine) is not None
    for stale in ({**mine, "created": 1.0}, {**mine, "pid": 2**22 + 1}, {}, {"pid": "x", "created": "y"}):
        assert supervisor_of(stale) is None
        (profile.run / STATE).write_text(json.dumps(stale))
        assert standing(profile)["words"].startswith("not running")
        assert envelope(call("down", "--profile", str(profile.folder), "--format", "json"))["data"] == {
            "profile": str(profile.folder),
            "ended": False,
        }


@pytest.mark.parametrize("command", [["pause"], ["resume"], ["export", "x.zip"], ["reset", "--yes"]])
def test_commands_that_need_a_running_vault_say_so(profile: Profile, command: list[str]) -> None:
    result = call(*command, "--profile", str(profile.folder))
    assert result.exit_code == 2
    assert "no vault runs on the profile" in result.stderr
    assert "hint: start it: commonground device up" in result.stderr


def test_which_study_is_meant(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    with pytest.raises(InputError, match=r"device profiles in .*: none") as none:
        find_profile(None)
    assert "device join" in str(none.value.hint)
    first = make_profile(profiles_home() / "toys")
    assert find_profile(None) == first
    make_profile(profiles_home() / "more")
    with pytest.raises(InputError, match=r"more, .*toys") as both:
        find_profile(None)
    assert "--profile DIR" in str(both.value.hint)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"study": 3}', "no json"])
def test_a_damaged_profile_is_one_line(profile: Profile, text: str) -> None:
    (profile.folder / "profile.json").write_text(text)
    with pytest.raises(InputError, match=r"is damaged: profile\.json is no profile"):
        find_profile(profile.folder)
    with pytest.raises(InputError, match=r"no device profile: there is no profile\.json"):
        find_profile(profile.folder.parent)


def test_an_invitation_that_somebody_changed_is_not_believed(profile: Profile) -> None:
    text = profile.invitation.read_text()
    profile.invitation.write_text(text.replace("operator@example.org", "evil@example.org"))
    with pytest.raises(TrustError, match="changed after it was signed"):
        profile.terms()
    profile.invitation.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        profile.terms()


def test_up_says_what_is_wrong_before_anything_starts(profile: Profile, tmp_path: Path) -> None:
    at = ["--profile", str(profile.folder)]
    with only_device(profile):
        result = call("up", *at)
    assert (result.exit_code, "already runs on the profile" in result.stderr) == (2, True)
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        result = call("up", *at, "--page-port", port)
    assert result.exit_code == 2
    assert f"--page-port {port} cannot be opened: Address already in use" in result.stderr
    result = call("up", *at)
    assert result.exit_code == 2
    assert "store.json is missing" in result.stderr
    assert "restore store.json and store.db" in result.stderr


def test_who_leaves_on_the_page_leaves_nothing_to_start_again(
    profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the node key in its place, a service would take a device up again whose person has left."""

    class Left:
        """A supervisor whose vault has erased itself."""

        left = True

        def __init__(self, *given: object) -> None:
            pass

        def run(self, stop: object) -> None:
            pass

    monkeypatch.setattr(supervisor, "Supervisor", Left)
    monkeypatch.setattr(supervisor, "first_contact", lambda *given: None)
    monkeypatch.setattr(commands, "passphrase_of", lambda profile: None)
    for name in ("node.key", "ca.crt", PARTS, *CERTIFICATE):
        (profile.folder / name).write_text("x")
    result = call("up", "--profile", str(profile.folder), "--no-page")
    assert result.exit_code == 0, result.stderr
    assert {file.name for file in profile.folder.iterdir()} <= {"run", "log", "lock"}


def test_leaving_needs_a_yes(profile: Profile) -> None:
    result = call("leave", "--profile", str(profile.folder))
    assert result.exit_code == 2
    assert "cannot be called back" in result.stderr
    assert "--yes" in result.stderr
    assert (profile.folder / "profile.json").exists()
    result = call("leave", "--profile", str(profile.folder), "--yes")
    assert result.exit_code == 0, result.stderr
    assert "tell them (operator@example.org)" in result.stdout.replace("\n", " ")
    left = {file.name for file in profile.folder.iterdir()}
    assert left <= {"run", "log", "lock"}
