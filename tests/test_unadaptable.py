"""Class: a language model of an unknown layout ends in a traceback, or is scored a little wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from toy_models import tiny_tokenizer

from commonground.adapters import Adapters
from commonground.errors import ModelError
from commonground.language_model import load_base, refuse_unadaptable
from commonground.simulations.settings import read_settings
from commonground.simulations.world import build_world
from commonground.training.gated import GatedDecoder

SMALL: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
    "intermediate_size": 32, "vocab_size": 64, "head_dim": 16,
}  # fmt: skip
UNADAPTABLE: dict[str, dict[str, Any]] = {
    "mamba": {"state_size": 8},
    "deepseek_v3": {
        "q_lora_rank": 8,
        "kv_lora_rank": 8,
        "qk_rope_head_dim": 8,
        "v_head_dim": 8,
        "qk_nope_head_dim": 8,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
    },
    "falcon_h1": {"mamba_d_ssm": 32, "mamba_n_heads": 2, "mamba_d_head": 16, "mamba_d_state": 8},
}
MIXTURES: dict[str, dict[str, Any]] = {
    "mixtral": {}, "qwen3_moe": {"num_experts": 4, "moe_intermediate_size": 16, "num_experts_per_tok": 2},
}  # fmt: skip
PROBE = ((1, 5, 7, 9), (3, 4, 6))


def saved(kind: str, folder: Path, **more: Any) -> Any:
    """A model of random weights in a folder, and the model."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SMALL, **more))
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return model


@pytest.mark.parametrize("kind", UNADAPTABLE)
def test_what_cannot_be_adapted_is_refused_before_any_data_is_read(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(kind, tmp_path / "model", **UNADAPTABLE[kind])
    with pytest.raises(ModelError, match=r"^a \w+ForCausalLM cannot be adapted: \S") as raised:
        refuse_unadaptable(str(tmp_path / "model"), 0)
    assert "\n" not in raised.value.message
    monkeypatch.setattr("commonground.simulations.world._lazy", lambda config: pytest.fail("data were read"))
    asked = ["model.kind=policy", "model.layers=1", f"model.base={tmp_path / 'model'}", "people=10"]
    with pytest.raises(ModelError, match="cannot be adapted"):
        build_world(read_settings(None, asked))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen3"])
def test_what_can_be_adapted_is_let_through(kind: str, tmp_path: Path) -> None:
    saved(kind, tmp_path)
    before = torch.get_default_device()
    refuse_unadaptable(str(tmp_path), 1)
    assert torch.get_default_device() == before
    model = load_base(str(tmp_path)).model
    adapters = Adapters(model, layers=1, rank=2, form="lora", seed=0)
    GatedDecoder(model, adapters, lowest=1, common=(), cache_bytes=1 << 20, probe=PROBE)


@pytest.mark.parametrize("kind", MIXTURES)
def test_experts_that_are_not_adapted_are_said(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved(kind, tmp_path / "mixture", **MIXTURES[kind])
    refuse_unadaptable(str(tmp_path / "mixture"), 0)
    (line,) = [one.getMessage() for one in caplog.records if one.name == "commonground.language_model"]
    assert line.startswith("the experts of model mixture are not adapted (2 groups of them): k_proj, o_proj")


def test_a_model_that_forgets_its_prompt_is_refused_at_load(tmp_path: Path) -> None:
    """Its recurrent state is not in the cache of keys and values, so an answer would be scored without it."""
    model = saved("recurrent_gemma", tmp_path, lru_width=32, attention_window_size=8).eval()
    adapters = Adapters(model, layers=1, rank=2, form="lora", seed=0)
    with pytest.raises(ModelError, match=r"another probability|cannot be read in two parts"):
        GatedDecoder(model, adapters, lowest=1, common=(), cache_bytes=1 << 20, probe=PROBE)
