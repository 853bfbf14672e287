"""One file that holds a run's state, replaced atomically.

The file is a numpy archive: the arrays, and a JSON text that says where they belong. A new state is
written beside the old one, forced to disk and renamed over it, so that a kill at any instant leaves the
old state or the new one. Nothing is pickled.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from commonground.errors import RunFolderError
from commonground.files import write_atomically

# What reading an archive that is none, or not whole, can raise.
DAMAGE = (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
_ARRAY = "__array__"
_TEXT = "__state__"


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write `state` to `path` so that it is there wholly or not at all.

    Args:
        path: the file; its folder is made if it is missing.
        state: nested dictionaries (text keys) and lists of numbers, texts, None and arrays.

    Raises:
        StorageError: the disk refused; the old state is still there.
    """
    arrays: dict[str, np.ndarray] = {}
    text = json.dumps(_pack(state, arrays))
    buffer = BytesIO()
    np.savez(buffer, **{_TEXT: np.frombuffer(text.encode(), np.uint8)}, **arrays)  # type: ignore[arg-type]
    write_atomically(path, buffer.getvalue())


def load_state(path: Path) -> dict[str, Any] | None:
    """The state in `path`, or None where there is no such file; raises `RunFolderError` if it is damaged."""
    if not path.exists():
        return None
    try:
        # From memory: numpy leaves a file open that turns out to be no archive.
        with np.load(BytesIO(path.read_bytes()), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        state: dict[str, Any] = _unpack(json.loads(arrays[_TEXT].tobytes()), arrays)
    except DAMAGE as error:
        raise RunFolderError(
            f"checkpoint {path} cannot be read: {damage(error)}", hint="delete it to start the run over"
        ) from error
    return state


def damage(error: BaseException) -> str:
    """Why an archive cannot be read; what numpy and zipfile say about one that is none means little."""
    return error.strerror or str(error) if isinstance(error, OSError) else "it is damaged"


def _pack(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, np.ndarray):
        name = f"a{len(arrays)}"
        arrays[name] = value
        return {_ARRAY: name}
    if isinstance(value, dict):
        return {str(key): _pack(inner, arrays) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_pack(inner, arrays) for inner in value]
    return value


def _unpack(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, dict):
        if set(value) == {_ARRAY}:
            return arrays[value[_ARRAY]]
        return {key: _unpack(inner, arrays) for key, inner in value.items()}
    if isinstance(value, list):
        return [_unpack(inner, arrays) for inner in value]
    return value
