"""A socket's folder is short and private wherever the temporary folder lies."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from pathlib import Path

import pytest

from commonground.errors import InputError
from commonground.short_paths import LONGEST, short_folder


def deep(folder: Path, length: int) -> Path:
    """A folder whose path has at least that many bytes."""
    while len(os.fsencode(folder)) < length:
        folder = folder / "deeper"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)  # it remembers the folder of the first call
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)


@pytest.mark.parametrize("length", [20, 80, 103, 150])
def test_a_socket_fits_and_nobody_else_looks_in(
    length: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Class: a part works only where the temporary folder has a short path."""
    monkeypatch.setenv("TMPDIR", str(deep(tmp_path, length)))
    made = short_folder(40)
    try:
        assert stat.S_IMODE(made.stat().st_mode) == 0o700
        where = made / ("s" * 39)
        assert len(os.fsencode(where)) <= LONGEST
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(str(where))
            where.unlink()
    finally:
        made.rmdir()


def test_where_no_folder_is_short_enough_that_is_one_line() -> None:
    with pytest.raises(InputError, match=r"^no temporary folder has a path short enough .*: tried \S+"):
        short_folder(95)
