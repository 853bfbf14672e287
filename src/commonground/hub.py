"""Models out of folders, and what is fetched from the hub: safetensors alone, and nothing unasked.

Every model is loaded from a folder of this machine, with the hub closed meanwhile, so that no file in it can
fetch or run anything: no pickled weights, no code, no adapter of another base, no kernel from the hub. A hub
name is such a folder in Hugging Face's cache. Where it is not there yet it is fetched only if the user typed
the name on this command line, gave `--allow-download`, or was asked first (`device join`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commonground.errors import ModelError
from commonground.plain import shown

FLAG = "--allow-download"
VARIABLE = "COMMONGROUND_DOWNLOADS"  # for processes that a run starts: the names that were typed for it
ANY = "*"
NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)
KINDS = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")  # weights, settings, tokenizers
LARGEST_SETTINGS = 1 << 22  # bytes of a config.json
ATTENTIONS = frozenset({"eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"})
_WANTED: set[str] = set()


@dataclass(frozen=True)
class Download:
    """What would be fetched.

    Attributes:
        name: on the hub.
        digest: what it is held to once it is here.
        bytes: at most; None where nobody said.
    """

    name: str
    digest: str
    bytes: int | None = None

    def words(self) -> str:
        """What the person reads before she decides."""
        size = "a size that nobody says" if self.bytes is None else f"{self.bytes / 1e6:,.0f} MB"
        return f"{self.name}, {size}, digest {self.digest[:16]}, from {endpoint()}"


def permit(name: str) -> None:
    """Let a name (`ANY`: every name) be fetched by this process and those that a run of it starts."""
    _WANTED.add(name)


def forbid() -> None:
    """Let nothing be fetched any more."""
    _WANTED.clear()


def permitted(name: str) -> bool:
    """Whether a name may be fetched."""
    return bool({name, ANY} & (_WANTED | set(os.environ.get(VARIABLE, "").split("\n"))))


def environment_of_downloads() -> dict[str, str]:
    """What a process that this one starts needs in its environment to fetch the same names."""
    handed = set(os.environ.get(VARIABLE, "").split("\n")) - {""}
    return {VARIABLE: "\n".join(sorted(_WANTED | handed))}


def endpoint() -> str:
    """The hub's address, as this machine has it."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def is_hub_name(name: str) -> bool:
    """Whether a name is one of the hub, and no folder or file of this machine."""
    return NAME.fullmatch(name) is not None and local_path(name) is None


def local_path(place: str) -> Path | None:
    """Return what a text names on this machine; None where that is nothing, or it is no path."""
    try:
        path = Path(place).expanduser()
        return path if path.exists() else None
    except (OSError, ValueError, RuntimeError):  # too long, NUL, half a surrogate pair, nobody's home
        return None


def cached(name: str) -> Path | None:
    """The folder of a hub name in the cache; None where it is not there wholly. Asks nobody."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, allow_patterns=list(KINDS), local_files_only=True))
    except Exception:  # not there; the hub raises a dozen types
        return None
    return folder if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")) else None


def model_folder(place: str, key: str = "model.base") -> Path:
    """The folder that a model is loaded from.

    Args:
        place: a folder, or a hub name.
        key: what names it, for messages.

    Raises:
        ModelError: there is no such folder; or it would have to be fetched, and nobody asked for that; or it
            cannot be fetched.
    """
    path = local_path(place)
    if path is not None and path.is_dir():
        return path
    if not is_hub_name(place):
        raise ModelError(
            f"{key} {shown(place)} cannot be loaded: it is no model folder on this machine and no hub name",
            hint="point it at a local model folder with config.json, safetensors weights and a tokenizer",
        )
    if (folder := cached(place)) is not None:
        return folder
    if not permitted(place):
        raise ModelError(
            f"{key} {place!r} cannot be loaded: it is neither a folder nor in this machine's cache, and is "
            f"fetched from {endpoint()} only where you ask for it; accepted: {key}={place} that you type "
            f"yourself, or {FLAG}",
            hint="or give a local folder, or leave it at its default",
        )
    return fetch(place, key)


def fetch(name: str, key: str = "model.base", most: int | None = None) -> Path:
    """Fetch a model; returns its folder.

    Args:
        name: on the hub.
        key: what names it, for messages.
        most: bytes that it may have; None is no limit.

    Raises:
        ModelError: it cannot be fetched, is larger, or has no safetensors weights.
    """
    from huggingface_hub import HfApi, snapshot_download

    try:
        if most is not None:
            siblings = HfApi().model_info(name, files_metadata=True).siblings or []
            size = sum(
                int(one.size or 0)
                for one in siblings
                if any(Path(one.rfilename).match(kind) for kind in KINDS)
            )
            if size > most:
                raise ModelError(
                    f"{key} {name!r} has {size:,} bytes on the hub; accepted: at most {most:,}, as was said"
                )
        folder = Path(snapshot_download(name, allow_patterns=list(KINDS)))
    except ModelError:
        raise
    except Exception as error:  # the hub raises dozens of types
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        raise ModelError(
            f"{key} {name!r} cannot be loaded: it cannot be fetched from the hub: {first}",
            hint="give a local folder, or leave it at its default",
        ) from error
    check_folder(folder, name)
    return folder


def check_folder(folder: Path, name: str) -> None:
    """Refuse a model folder that asks for more than its own safetensors weights.

    Raises:
        ModelError: it has other weights, code, an adapter of another base, or a kernel to be fetched.
    """
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"model {name!r} cannot be loaded: it has no weights as safetensors, the only kind accepted"
        )
    if (folder / "adapter_config.json").exists():
        raise ModelError(
            f"model {name!r} cannot be loaded: it has an adapter_config.json; accepted: a whole model"
        )
    for file in ("config.json", "tokenizer_config.json", "generation_config.json", "processor_config.json"):
        for key, value in _settings(folder / file, name):
            last = key.rpartition(".")[2]
            if last in ("auto_map", "custom_pipelines", "quantization_config", "custom_generate") and value:
                fault = f"{key} would load what is no weight of it"
            elif last.endswith("attn_implementation") and value and value not in ATTENTIONS:
                fault = f"{key} names a kernel to be fetched"
            else:
                continue
            raise ModelError(f"model {name!r} cannot be loaded: in {file}, {fault}; accepted: a plain model")


def folder_digest(folder: Path) -> str:
    """SHA-256 over the names and contents of everything that `KINDS` has."""
    digest = hashlib.sha256()
    for file in sorted({file for kind in KINDS for file in folder.glob(kind)}):
        with file.open("rb") as handle:
            digest.update(file.name.encode() + b"\0" + hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()


def folder_bytes(folder: Path) -> int:
    """Bytes of everything that `KINDS` has."""
    return sum(file.stat().st_size for file in {file for kind in KINDS for file in folder.glob(kind)})


@contextmanager
def closed_hub() -> Iterator[None]:
    """Nothing is asked of the hub meanwhile, whatever a model's files name."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


PLAIN: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}  # of every `from_pretrained`
WEIGHTS: dict[str, Any] = {**PLAIN, "use_safetensors": True}


def _settings(file: Path, name: str) -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every setting in a JSON file, nested ones too."""
    if not file.is_file():
        return
    try:
        if file.stat().st_size > LARGEST_SETTINGS:
            raise ValueError("it is too large")
        values = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"model {name!r} cannot be loaded: {file.name} is no JSON: {error}") from error
    waiting: list[tuple[str, Any]] = [("", values)]
    while waiting:
        at, value = waiting.pop()
        if isinstance(value, dict):
            waiting += [(f"{at}.{key}" if at else str(key), inner) for key, inner in value.items()]
        if at:
            yield at, value
