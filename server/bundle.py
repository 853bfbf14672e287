"""The Flower app of a study: a generated folder without code, so that it can name nothing but installed code.

Flower wants a bundle for every run. Neither side of ours unpacks or imports it: the server's executor takes
only runs of exactly this bundle, and a device's executor takes none of its content at all.
"""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

from commonground import __version__
from commonground.files import write_atomically

_TEXT = """\
[project]
name = "{name}"
version = "{version}"
description = "A study of commonground. There is no code in this bundle."
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "commonground"

[tool.flwr.app.components]
serverapp = "commonground.server.app:app"
clientapp = "commonground.client.app:app"

[tool.flwr.app.config]
"""


def write_bundle(folder: Path, study: str) -> None:
    """Write the folder of a study's bundle; raises `StorageError`."""
    text = _TEXT.format(name=study, version=__version__)
    write_atomically(folder / "pyproject.toml", text.encode())


def build_bundle(folder: Path) -> tuple[bytes, str]:
    """(the bundle, its SHA-256) of a folder that `write_bundle` made; the same bytes each time."""
    from flwr.cli.build import build_fab_from_files

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Flower's, about a package that it uses
        data = build_fab_from_files({"pyproject.toml": (folder / "pyproject.toml").read_bytes()})[0]
    return data, hashlib.sha256(data).hexdigest()
