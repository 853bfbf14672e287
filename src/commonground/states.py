"""What a frozen language model makes of an answer to a prompt: its states half-way up, averaged.

The last states of such a model are about the next word, those in the middle about what is being said. On
labelled answers that small models wrote (docs/certify.md) a linear reading of the middle ones tells
violations best, and one of sentence embeddings far less well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from commonground.embeddings import Encoder
from commonground.errors import ModelError
from commonground.language_model import packaged_folder

BREAK = "\x1e"  # between prompt and answer, in one text: that is how a cache keeps them apart
VERSION = 1


class StateEncoder(Encoder):
    """Mean states of an answer's tokens, read after its prompt, after half of the layers; not normalised.

    Each answer is read alone, so the same prompt, answer and model give the same bits.

    Args:
        base: folder or hub name of a causal language model; '' is the packaged SmolLM2.
    """

    def __init__(self, base: str = "") -> None:
        super().__init__(base or str(packaged_folder()))
        self.digest = hashlib.sha256(f"states {VERSION} {self.digest}".encode()).hexdigest()

    def _load(self) -> None:
        import torch

        super()._load()
        layers = getattr(self._model, "layers", None)
        if layers is None or not hasattr(self._model, "norm"):
            raise ModelError(
                f"{self.name!r} has no row of layers to stop half-way in",
                hint="point it at a causal language model such as SmolLM2",
            )
        self._model.layers, self._model.norm = layers[: len(layers) // 2], torch.nn.Identity()

    def _embed_one(self, text: str) -> np.ndarray:
        import torch

        prompt, _, answer = text.partition(BREAK)
        asked, said = self._tokens(prompt + "\n"), self._tokens(answer or " ")
        with torch.inference_mode():
            states = self._model(input_ids=torch.tensor([asked + said])).last_hidden_state[0]
        return np.asarray(states[len(asked) :].mean(0).numpy(), dtype=np.float32)

    def _tokens(self, text: str) -> list[int]:
        found: Any = self._tokenizer(text, truncation=True, max_length=256, split_special_tokens=True)[
            "input_ids"
        ]
        return [int(k) for k in found]

    def read(self, prompts: Sequence[str], answers: Sequence[str], *, keep: bool = True) -> np.ndarray:
        """(n, D) float32 states of answers; see `Encoder.embed` for `keep`."""
        return self.embed([p + BREAK + a for p, a in zip(prompts, answers, strict=True)], keep=keep)
