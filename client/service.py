"""A systemd user unit that keeps a device up from log-in on (or from boot, with lingering)."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from commonground.client.profile import FILE, Profile
from commonground.client.sockets import fits
from commonground.errors import InputError
from commonground.files import write_atomically

UNIT = """\
# Written by `commonground device install-service`; writing it again replaces it.
[Unit]
Description=commonground device of study {study}
StartLimitIntervalSec=0
# Once its person has left the study, it is not started again.
ConditionPathExists={joined}

[Service]
Type=exec
ExecStart={command}
Environment=PYTHONUNBUFFERED=1{environment}
Restart=always
RestartSec=15
TimeoutStopSec=20
KillMode=mixed
UMask=0077
NoNewPrivileges=yes
ProtectSystem=strict
# The whole device, its model included: what a server sends must not take the machine.
MemoryMax=75%
MemorySwapMax=0
TasksMax=512
ProtectHome=read-only
ReadWritePaths={writable}
PrivateTmp={private}
ProtectControlGroups=yes
ProtectKernelTunables=yes
RestrictSUIDSGID=yes
RestrictRealtime=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
LockPersonality=yes
SystemCallArchitectures=native

[Install]
WantedBy=default.target
"""


def unit_name(profile: Profile) -> str:
    """The unit's file name."""
    return f"commonground-{profile.study}.service"


def unit_text(profile: Profile, passphrase_file: Path | None = None) -> str:
    """The unit.

    Args:
        profile: of the device; a path with characters that systemd reads otherwise is quoted for it.
        passphrase_file: for a store behind a passphrase: systemd cannot type.
    """
    command = [sys.executable, "-m", "commonground.simulations.cli", "device", "up"]
    command += ["--profile", str(profile.folder)]
    # Sockets of a profile deep in a file system are in /tmp, where the person's own commands look for them.
    here = fits(profile.folder)
    writable = [str(profile.folder), *([] if here else ["/tmp"])]
    given = "" if passphrase_file is None else f"COMMONGROUND_PASSPHRASE_FILE={passphrase_file}"
    return UNIT.format(
        study=profile.study,
        joined=str(profile.folder / FILE).replace("%", "%%"),  # to the end of the line: nothing is quoted
        command=" ".join(_quoted(word, command=True) for word in command),
        environment=f" {_quoted(given)}" if given else "",
        writable=" ".join(_quoted(path) for path in writable),
        private="yes" if here else "no",
    )


def install(profile: Profile, folder: Path | None = None, passphrase_file: Path | None = None) -> Path:
    """Write the unit where systemd looks for a user's own; returns the file.

    Args:
        profile: of the device.
        folder: None takes `~/.config/systemd/user`.
        passphrase_file: see `unit_text`.

    Raises:
        InputError: the store is behind a passphrase and no file with it is named, or it cannot be read.
        StorageError: the disk refused.
    """
    from commonground.client.keys import ways

    if passphrase_file is None and ways(profile.folder) == ("passphrase",):
        raise InputError(
            "the store's key is behind a passphrase, which a service cannot type",
            hint="put it into a file of mode 0600 and name it: --passphrase-file FILE",
        )
    if passphrase_file is not None:
        passphrase_file = passphrase_file.absolute()
        read_passphrase(passphrase_file)
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    file = (folder or home / "systemd" / "user") / unit_name(profile)
    write_atomically(file, unit_text(profile, passphrase_file).encode())
    return file


def read_passphrase(file: Path) -> str:
    """The first line of a file that nobody else can read.

    Raises:
        InputError: it cannot be read, is empty, or others can read it.
    """
    try:
        if file.stat().st_mode & 0o077:
            raise InputError(
                f"passphrase file {file} can be read by others", hint=f"close it: chmod 600 {file}"
            )
        words = file.read_text(encoding="utf-8").split("\n")[0].rstrip("\r")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"passphrase file {file} cannot be read: {reason}") from error
    if not words:
        raise InputError(f"passphrase file {file} is empty")
    return words


def _quoted(word: str, command: bool = False) -> str:
    """A word as systemd reads it back: % and, in a command line, $ are its own signs."""
    word = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("\n", "\\n")
    if command:
        word = word.replace("$", "$$")
    return f'"{word}"'
