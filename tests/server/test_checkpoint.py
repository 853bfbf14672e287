"""The state file: whole or not at all, and nothing pickled."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from commonground.errors import RunFolderError, StorageError
from commonground.files import write_atomically
from commonground.server.checkpoint import load_state, save_state

STATE = {
    "round": 3,
    "text": "é",
    "none": None,
    "deep": [{"w": np.arange(4, dtype=np.float32)}, 0.1, True],
    "scalar": np.ones((), np.float64),
    "big": np.array([2**62], np.int64),
}


def test_round_trip_is_exact(tmp_path: Path) -> None:
    save_state(tmp_path / "new" / "state.npz", STATE)
    back = load_state(tmp_path / "new" / "state.npz")
    assert back is not None
    assert (back["round"], back["text"], back["none"]) == (3, "é", None)
    assert back["deep"][1:] == [0.1, True]
    assert back["deep"][0]["w"].dtype == np.float32
    np.testing.assert_array_equal(back["deep"][0]["w"], np.arange(4))
    assert back["scalar"].shape == ()
    assert back["big"][0] == 2**62
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["state.npz"]


def test_no_file_is_no_state(tmp_path: Path) -> None:
    assert load_state(tmp_path / "state.npz") is None


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04 cut short"])
def test_a_damaged_file_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state.npz").write_bytes(content)
    with pytest.raises(RunFolderError, match=r"state\.npz cannot be read") as caught:
        load_state(tmp_path / "state.npz")
    assert caught.value.hint


def test_a_full_disk_leaves_the_old_state_and_no_half_file(tmp_path: Path) -> None:
    path = tmp_path / "state.npz"
    save_state(path, {"round": 1})

    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StorageError, match="No space left") as caught:
        write_atomically(path, b"new", replace=full)
    assert caught.value.exit_code == 2
    assert load_state(path) == {"round": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["state.npz"]


def test_a_kill_while_writing_leaves_the_old_state(tmp_path: Path) -> None:
    """The process dies by SIGKILL with the new file written and not yet renamed."""
    path = tmp_path / "state.npz"
    save_state(path, {"round": 1})
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from commonground.files import write_atomically\n"
        "write_atomically(Path(sys.argv[1]), b'new', lambda a, b: os.kill(os.getpid(), signal.SIGKILL))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False, env=os.environ)
    assert done.returncode == -9
    assert (tmp_path / "state.npz.part").read_bytes() == b"new"
    assert load_state(path) == {"round": 1}
    save_state(path, {"round": 2})  # the rest of a killed run is no obstacle
    assert load_state(path) == {"round": 2}
    assert [p.name for p in tmp_path.iterdir()] == ["state.npz"]
