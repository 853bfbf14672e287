"""Tiny random language models with a tiny tokenizer: the base of every quick test of `policy`."""

from __future__ import annotations

from typing import Any

import torch

from commonground.language_model import LanguageModel

_TEXT = """
<unk> <s> </s> how do I boil an egg what is a tide say more please hot water moon sea rises falls
it the and because yes no maybe never soon user assistant . ? ! :
"""
WORDS = _TEXT.split()
TEMPLATE = (
    "{% for m in messages %}<s> {{ m['role'] }} : {{ m['content'] }} </s> {% endfor %}"
    "{% if add_generation_prompt %}<s> assistant :{% endif %}"
)


def tiny_tokenizer(*, chat: bool = True) -> Any:
    """A word-level tokenizer, with or without a chat template."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(WORDS))}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    if chat:
        tokenizer.chat_template = TEMPLATE
    return tokenizer


def tiny_llama(seed: int = 0, layers: int = 3) -> Any:
    """A random Llama of width 16."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(set(WORDS)),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval().requires_grad_(False)


def tiny_gpt2(seed: int = 0) -> Any:
    """A random GPT-2 of width 16: another layout (Conv1D, learned positions)."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=len(set(WORDS)), n_embd=16, n_layer=2, n_head=2, n_positions=64, initializer_range=0.2
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return GPT2LMHeadModel(config).eval().requires_grad_(False)


def tiny_base(model: Any = None, *, chat: bool = True) -> LanguageModel:
    """A base model to build a `PolicyModel` on."""
    return LanguageModel(model or tiny_llama(), tiny_tokenizer(chat=chat), "0" * 64, "owner/tiny")
