"""A private file is nobody else's from its first byte on."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from commonground.files import write_atomically


@pytest.fixture(autouse=True)
def open_handed() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_private_files_are_private_before_they_are_renamed(tmp_path: Path) -> None:
    seen = []

    def look(part: Path, target: Path) -> None:
        seen.append((mode(part), part.read_bytes()))
        os.replace(part, target)

    write_atomically(tmp_path / "key", b"secret", look, private=True)
    write_atomically(tmp_path / "page", b"public", look)
    assert seen == [(0o600, b"secret"), (0o666, b"public")]
    assert mode(tmp_path / "key") == 0o600


def test_the_rest_of_a_killed_writer_gives_its_mode_to_nobody(tmp_path: Path) -> None:
    (tmp_path / "key.part").write_bytes(b"half")
    write_atomically(tmp_path / "key", b"secret", private=True)
    assert mode(tmp_path / "key") == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["key"]
