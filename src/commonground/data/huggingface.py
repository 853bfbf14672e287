"""The library `datasets`, kept quiet: the only file that touches it, and it is imported only when needed."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from commonground.data.containers import ENDINGS, PACKINGS, Placed
from commonground.errors import DataError
from commonground.hub import FLAG, permitted

PATIENCE = 5.0  # seconds to reach the hub; its own client would retry for half a minute
_HUB_NAME = re.compile(r"(?P<name>[\w.-]+(?:/[\w.-]+)?)(?::(?P<config>[\w.-]+))?")


@contextmanager
def quiet_datasets() -> Iterator[Any]:
    """The module `datasets`, without progress bars and without its count of downloads (it phones home)."""
    import datasets

    bars = not datasets.are_progress_bars_disabled()
    counts = datasets.config.HF_UPDATE_DOWNLOAD_COUNTS
    datasets.disable_progress_bars()
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    try:
        yield datasets
    finally:
        datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = counts
        if bars:
            datasets.enable_progress_bars()


def reachable(endpoint: str) -> bool:
    """Whether a connection to the hub opens; a configured proxy is trusted to answer for itself."""
    if getproxies().get("https"):
        return True
    address = urlsplit(endpoint)
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname or "", port), timeout=PATIENCE).close()
    except OSError:
        return False
    return True


@contextmanager
def offline_where_unreachable(datasets: Any, name: str) -> Iterator[None]:
    """Offline mode while the hub cannot be reached, or nobody asked for `name` to be fetched.

    What is in the cache loads then, and the rest fails at once.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    if not any(before) and not (permitted(name) and reachable(constants.ENDPOINT)):
        constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


def _numbered(name: str, table: Iterable[Mapping[str, Any]]) -> list[Placed]:
    return [(f"{name}[{number}]", dict(row)) for number, row in enumerate(table, start=1)]


def saved_rows(path: Path) -> Sequence[Placed]:
    """Rows of a folder written by `save_to_disk`: its split `train`, or its first."""
    with quiet_datasets() as datasets:
        try:
            table = datasets.load_from_disk(str(path), keep_in_memory=True)
        except Exception as error:
            raise DataError(f"{path} cannot be read as a saved data set: {_line(error)}") from error
        if isinstance(table, datasets.DatasetDict):
            table = table["train"] if "train" in table else next(iter(table.values()))
        return _numbered(path.name, table)


def hub_rows(name: str, place: str, config: str = "", data_dir: str = "") -> Sequence[Placed]:
    """Rows of the split `train` of a data set on the hub (kept in Hugging Face's own cache).

    Args:
        name: ``owner/name`` or ``owner/name:config``.
        place: the config section, for the hint.
        config: the configuration when the name has none.
        data_dir: a folder of the repository.

    Raises:
        DataError: no network, no such data set or configuration; the hint says how to use a local copy.
    """
    match = _HUB_NAME.fullmatch(name)
    if match is None or Path(name).suffix.lower() in (*ENDINGS, *PACKINGS.values()):
        raise DataError(
            f"{name} does not exist", hint="give a local file or folder, or a hub name owner/name"
        )
    with quiet_datasets() as datasets, offline_where_unreachable(datasets, match["name"]):
        try:
            table = datasets.load_dataset(
                match["name"], match["config"] or config or None, data_dir=data_dir or None, split="train"
            )
        except Exception as error:
            asked = permitted(match["name"])
            why = "" if asked else f" (nobody asked for it: type {place}.path={name}, or give {FLAG})"
            raise DataError(
                f"the data set {name!r} is no local path and could not be fetched{why}: {_line(error)}",
                hint=f"where there is no network, set {place}.path to a local copy: a folder or file of "
                f"parquet, jsonl or csv (hf download {match['name']} --repo-type dataset --local-dir DIR)",
            ) from error
        return _numbered(f"{name}[train]", table)


def _line(error: Exception) -> str:
    """The first line of a foreign error, with its kind."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__
