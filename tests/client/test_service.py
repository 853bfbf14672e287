"""The unit file, checked by systemd itself where it is there."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from toy_profile import make_profile

from commonground.client import keys, sockets
from commonground.client.profile import Profile
from commonground.client.service import install, read_passphrase, unit_name, unit_text
from commonground.errors import InputError

WORDS = "four words that suffice"


@pytest.fixture
def profile(tmp_path: Path) -> Profile:
    # a path that systemd would read otherwise: a space, a specifier, a variable
    return make_profile(tmp_path / "my 100% $HOME profile")


@pytest.fixture
def behind_passphrase(profile: Profile, monkeypatch: pytest.MonkeyPatch) -> Profile:
    monkeypatch.setitem(keys.SCRYPT, "n", 2**10)
    keys.make_key(profile.folder, WORDS, keyring=False)
    return profile


def test_systemd_takes_the_unit(behind_passphrase: Profile, tmp_path: Path) -> None:
    words = tmp_path / "words"
    words.write_text(f"{WORDS}\n")
    words.chmod(0o600)
    file = install(behind_passphrase, tmp_path / "units", words)
    assert file == tmp_path / "units" / "commonground-toys.service"
    assert verified(file) == (0, "")
    broken = tmp_path / "units" / "broken.service"
    broken.write_text(file.read_text().replace("Restart=always", "Restart=perhaps"))
    assert "restart specifier" in verified(broken)[1]  # the check sees what it should


def verified(file: Path) -> tuple[int, str]:
    analyze = shutil.which("systemd-analyze")
    assert analyze, "systemd-analyze is needed: apt-get install systemd (make test does it where it can)"
    environment = os.environ | {"XDG_RUNTIME_DIR": str(file.parent), "SYSTEMD_LOG_COLOR": "0"}
    command = [analyze, "--user", "verify", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    return done.returncode, done.stderr + done.stdout


def test_what_is_in_the_unit(profile: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "LONGEST", 1000)  # wherever tests keep their files
    text = unit_text(profile, Path("/etc/words"))
    for line in (
        "Restart=always",
        f"ConditionPathExists={str(profile.folder).replace('%', '%%')}/profile.json",
        "RestartSec=15",
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        "PrivateTmp=yes",
        f'ReadWritePaths="{str(profile.folder).replace("%", "%%")}"',
        "WantedBy=default.target",
    ):
        assert line in text.splitlines()
    (command,) = (line for line in text.splitlines() if line.startswith("ExecStart="))
    assert command.endswith('"device" "up" "--profile" "' + escaped(profile.folder) + '"')
    assert '"COMMONGROUND_PASSPHRASE_FILE=/etc/words"' in text
    assert "COMMONGROUND_PASSPHRASE_FILE" not in unit_text(profile)
    assert unit_name(profile) == "commonground-toys.service"


def escaped(path: Path) -> str:
    return str(path).replace("%", "%%").replace("$", "$$")


def test_a_profile_deep_in_a_file_system_keeps_its_sockets_where_commands_look(tmp_path: Path) -> None:
    """They are in /tmp then: in one of the service's own nobody could pause the device."""
    deep = make_profile(tmp_path / ("d" * 60) / ("e" * 60)).folder
    assert "PrivateTmp=no" in (text := unit_text(make_profile(deep / "p"))).splitlines()
    assert text.splitlines().count(f'ReadWritePaths="{deep}/p" "/tmp"') == 1


def test_a_service_cannot_type_a_passphrase(behind_passphrase: Profile, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="which a service cannot type") as caught:
        install(behind_passphrase, tmp_path / "units")
    assert "--passphrase-file" in str(caught.value.hint)
    assert not (tmp_path / "units").exists()


@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [("", 0o600, "is empty"), ("words", 0o644, "can be read by others"), (None, 0, "No such file")],
)
def test_a_passphrase_file_that_cannot_be_used(
    tmp_path: Path, content: str | None, mode: int, words: str
) -> None:
    file = tmp_path / "words"
    if content is not None:
        file.write_text(content)
        file.chmod(mode)
    with pytest.raises(InputError, match=words):
        read_passphrase(file)
