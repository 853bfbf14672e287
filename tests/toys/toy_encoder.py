"""A small random encoder on disk that tells every two texts apart: for runs in processes of their own."""

from __future__ import annotations

import json
from pathlib import Path

import torch

SIZE = 16


def save_encoder(folder: Path) -> Path:
    """A random BERT of width 16 that reads letters, as a model folder; returns the folder."""
    from tokenizers import Regex, Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    letters = {chr(code): place for place, code in enumerate(range(32, 127), start=1)}
    backend = Tokenizer(WordLevel({"<unk>": 0, **letters}, unk_token="<unk>"))
    backend.pre_tokenizer = Split(Regex("."), "isolated")
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>").save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(letters) + 1,
        hidden_size=SIZE,
        intermediate_size=SIZE,
        num_hidden_layers=1,
        num_attention_heads=2,
        initializer_range=0.5,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config).eval().save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["hidden_size"] == SIZE
    return folder
