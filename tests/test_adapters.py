"""The two adapters: every trap of PEFT that the trial met is a test here."""

import copy
import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from toy_models import tiny_gpt2, tiny_llama

from commonground.adapter_targets import find_targets, orthonormal
from commonground.adapters import FORMS, SCALE, WRITTEN, Adapters, ModelCard
from commonground.errors import InputError, ModelError, RunFolderError

IDS = torch.tensor([[1, 4, 2, 6, 3]])
CARD = ModelCard(rounds=3, people=7, epsilon=8.0, delta=1e-3, unit="person", data="starter")


def build(model: Any, form: str = "lora", layers: int = 2, rank: int = 2, factors: str = "one") -> Adapters:
    """The form `styles` gets three random public adapters."""
    styles: list[dict[str, Tensor]] = []
    if form == "styles":
        plain = build(copy.deepcopy(model), "lora", layers, rank)
        styles = [filled(plain, "private", 20 + k) for k in range(3)]
    return Adapters(
        model,
        layers=layers,
        rank=rank,
        form=form,
        factors=factors,
        seed=5,
        base_name="owner/tiny",
        styles=styles,
    )


def filled(adapters: Adapters, part: str, seed: int) -> dict[str, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    return {n: torch.randn(s, generator=draws) * 0.3 for n, s in adapters.spec(part).items()}


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=IDS).logits
    return found


def test_bases_are_orthonormal_public_and_named() -> None:
    one = orthonormal(3, 8, 1, "shared", "x")
    torch.testing.assert_close(one @ one.T, torch.eye(3))
    assert torch.equal(one, orthonormal(3, 8, 1, "shared", "x"))
    assert not torch.equal(one, orthonormal(3, 8, 1, "private", "x"))
    with pytest.raises(InputError, match="rank is 9; at most 8"):
        orthonormal(9, 8, 1, "x")


def test_targets_are_all_linear_maps_of_the_top_layers() -> None:
    names = [t.name for t in find_targets(tiny_llama(), 1)]
    maps = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    assert names == [f"layers.2.{m}" for m in maps]
    assert len(find_targets(tiny_llama(), 0)) == 3 * 7
    # GPT-2 has two maps called c_proj: these keep their path
    assert [t.name for t in find_targets(tiny_gpt2(), 1)] == [
        "layers.1.c_attn",
        "layers.1.attn.c_proj",
        "layers.1.c_fc",
        "layers.1.mlp.c_proj",
    ]
    with pytest.raises(InputError, match=r"layers is 4; this model has 3"):
        find_targets(tiny_llama(), 4)


def test_specs_are_the_named_tensors() -> None:
    adapters = build(tiny_llama(), layers=1)
    assert adapters.spec("shared")["shared.layers.2.q_proj.B"] == (16, 2)
    assert len(adapters.spec("shared")) == 7
    assert adapters.spec("private")["private.layers.2.down_proj.A"] == (2, 24)
    assert len(adapters.spec("private")) == 14
    core = build(tiny_llama(), "core", layers=1)
    assert core.spec("private")["private.layers.2.down_proj.core"] == (2, 2)
    assert build(tiny_llama(), "styles", layers=1).spec("private") == {"private.styles": (3,)}
    with pytest.raises(InputError, match="no public style adapter was given"):
        Adapters(tiny_llama(), layers=1, rank=2, form="styles", seed=5)
    with pytest.raises(InputError, match="known forms: lora, core, styles"):
        build(tiny_llama(), "dora")


def test_coefficients_add_public_adapters_up() -> None:
    """W' - W = s (c_1 B_1 A_1 + c_2 B_2 A_2 + c_3 B_3 A_3), by hand, at one map."""
    model, plain = tiny_llama(), tiny_llama()
    one_form = build(copy.deepcopy(plain), "lora", layers=1)
    adapters = build(model, "styles", layers=1)
    c = torch.tensor([1.5, 0.0, -0.5])
    adapters.load("private", {"private.styles": c})
    adapters.enable(("private",))
    stem, expected = "private.layers.2.down_proj", torch.zeros(16, 24)
    for k in range(3):
        style = filled(one_form, "private", 20 + k)
        expected += SCALE * c[k] * style[f"{stem}.B"] @ style[f"{stem}.A"]
    path, x = "model.layers.2.mlp.down_proj", torch.eye(24)
    with torch.no_grad():
        delta = (model.get_submodule(path)(x) - plain.get_submodule(path)(x)).T
    torch.testing.assert_close(delta, expected, rtol=1e-4, atol=1e-5)
    assert adapters.digest() != one_form.digest()


@pytest.mark.parametrize("factors", ["both", "merged"])
def test_both_factors_of_the_shared_adapter_can_train(tmp_path: Path, factors: str) -> None:
    """Its start is that of one factor, its gradients are right, and disabled there is the base."""
    from peft import PeftModel

    plain, model = tiny_llama(), tiny_llama()
    adapters, one = build(model, layers=1, factors=factors), build(tiny_llama(), layers=1)
    stem = "shared.layers.2.down_proj"
    assert adapters.spec("shared")[f"{stem}.A"] == (2, 24)
    assert (f"{stem}.merged" in adapters.spec("shared")) is (factors == "merged")
    assert torch.equal(adapters.initial("shared")[f"{stem}.A"], one.forms["shared"].public[f"{stem}.A"])
    adapters.enable(("shared", "private"))
    torch.testing.assert_close(logits(model), logits(plain), rtol=0, atol=0)
    given = filled(adapters, "shared", 4)

    def loss(tensors: dict[str, Tensor]) -> Tensor:
        adapters.load("shared", tensors)
        adapters.enable(("shared",), "shared")
        return torch.log_softmax(model(input_ids=IDS).logits[0, :-1], -1)[range(4), IDS[0, 1:]].sum()

    found = adapters.gradients("shared", loss(given))
    assert set(found) == set(given)
    for name, value in given.items():
        if name.endswith("merged"):
            assert (found[name] == 0).all()
            continue
        step = 2e-3 * found[name] / found[name].norm()
        up, down = (loss(given | {name: value + sign * step}).detach() for sign in (1, -1))
        torch.testing.assert_close((up - down) / 4e-3, found[name].norm(), rtol=3e-2, atol=1e-3)
    adapters.load("shared", given)
    adapters.enable(("shared",))
    for target in adapters.targets:  # W' - W = s (B A + merged), by hand
        stem, x = f"shared.{target.name}", torch.eye(target.inputs)
        expected = given[f"{stem}.B"] @ given[f"{stem}.A"] + given.get(f"{stem}.merged", 0)
        with torch.no_grad():
            delta = model.get_submodule(target.module)(x) - plain.get_submodule(target.module)(x)
        torch.testing.assert_close(delta.T, SCALE * expected, rtol=1e-4, atol=1e-5)
    with adapters.disabled():
        assert torch.equal(logits(model), logits(plain))
    adapters.save("shared", given, tmp_path / "out", CARD)
    adapters.enable(("shared",))
    with warnings.catch_warnings():  # PEFT asks transformers a deprecated question
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        loaded = PeftModel.from_pretrained(tiny_llama(), str(tmp_path / "out")).eval()
    torch.testing.assert_close(logits(loaded), logits(model), rtol=0, atol=1e-5)
    with pytest.raises(InputError, match="accepted: one, both, merged"):
        build(tiny_llama(), factors="none")


def test_building_draws_nothing_from_the_global_generator() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    model = tiny_llama()
    build(model)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.identity
@pytest.mark.parametrize("form", ["lora", "core", "styles"])
def test_disabled_and_fresh_adapters_are_the_base_bit_for_bit(form: str) -> None:
    plain, model = tiny_llama(), tiny_llama()
    adapters = build(model, form)
    adapters.enable(("shared", "private"))
    assert torch.equal(logits(model), logits(plain))  # nothing learned yet
    for part in ("shared", "private"):
        adapters.load(part, filled(adapters, part, 1))
    assert not torch.equal(logits(model), logits(plain))
    with adapters.disabled():
        assert torch.equal(logits(model), logits(plain))
    adapters.enable(())
    assert torch.equal(logits(model), logits(plain))


def test_effects_differ_so_both_really_act() -> None:
    model = tiny_llama()
    adapters = build(model)
    for seed, part in enumerate(("shared", "private")):
        adapters.load(part, filled(adapters, part, seed))
    seen = []
    for parts in ((), ("shared",), ("private",), ("shared", "private")):
        adapters.enable(parts)
        seen.append(logits(model))
    assert all((a - b).abs().max() > 1e-3 for i, a in enumerate(seen) for b in seen[:i])


@pytest.mark.parametrize("form", ["lora", "core", "styles"])
@pytest.mark.parametrize("train", [None, "shared", "private"])
def test_exactly_one_adapter_is_trainable(form: str, train: str | None) -> None:
    model = tiny_llama()
    adapters = build(model, form)
    both = ("shared", "private")

    def trainable() -> set[tuple[str, str]]:
        return {(n.split(".")[-2], n.split(".")[-3]) for n, p in model.named_parameters() if p.requires_grad}

    sides = {
        None: set(),
        "shared": {("shared", "lora_B")},  # A stays fixed: FFA-LoRA
        "private": {("private", "lora_B")} | ({("private", "lora_A")} if form == "lora" else set()),
    }[train]
    adapters.enable(both, train)
    assert trainable() == sides
    with adapters.disabled():  # leaving PEFT's own context makes everything active trainable
        assert trainable() == set()
    assert trainable() == sides
    adapters.enable(both, "private")
    adapters.enable(both, train)
    assert trainable() == sides


def test_training_what_does_not_act_is_refused() -> None:
    with pytest.raises(InputError, match="cannot train 'private'"):
        build(tiny_llama()).enable(("shared",), "private")


@pytest.mark.parametrize("form", ["lora", "core", "styles"])
@pytest.mark.parametrize("part", ["shared", "private"])
def test_what_is_read_is_what_was_loaded_and_no_alias(form: str, part: str) -> None:
    adapters = build(tiny_llama(), form)
    given = filled(adapters, part, 2)
    adapters.load(part, given)
    read = adapters.read(part)
    assert list(read) == list(adapters.spec(part))
    assert all(torch.equal(read[n], given[n]) for n in read)
    for value in read.values():
        value.add_(100)
    for value in given.values():
        value.add_(100)
    again = adapters.read(part)
    assert all((again[n] - given[n]).abs().max() > 50 for n in again)


def test_names_carry_the_adapter_and_a_wrong_one_is_refused() -> None:
    adapters = build(tiny_llama())
    assert not set(adapters.spec("shared")) & set(adapters.spec("private"))
    with pytest.raises(ModelError, match="unknown or missing in the shared adapter"):
        adapters.load("shared", filled(adapters, "private", 1))
    short = {n: v[:1] for n, v in filled(adapters, "shared", 1).items()}
    with pytest.raises(ModelError, match="has shape"):
        adapters.load("shared", short)


def test_fixed_a_has_a_norm_meaning_and_scale() -> None:
    """||dW||_F = s ||B||_F, because the rows of A are orthonormal."""
    model, plain = tiny_llama(), tiny_llama()
    adapters = build(model, layers=1)
    given = filled(adapters, "shared", 4)
    adapters.load("shared", given)
    adapters.enable(("shared",))
    x = torch.eye(16)
    path = "model.layers.2.self_attn.q_proj"
    with torch.no_grad():
        delta = model.get_submodule(path)(x) - plain.get_submodule(path)(x)
    expected = SCALE * given["shared.layers.2.q_proj.B"].norm()
    torch.testing.assert_close(delta.norm(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("form", "part"), [("lora", "shared"), *((form, "private") for form in FORMS)])
def test_gradients_agree_with_finite_differences(form: str, part: str) -> None:
    model = tiny_llama()
    adapters = build(model, form, layers=1)
    start = filled(adapters, part, 3)

    def loss(tensors: dict[str, Tensor]) -> Tensor:
        adapters.load(part, tensors)
        adapters.enable((part,), part)
        return torch.log_softmax(model(input_ids=IDS).logits[0, :-1], -1)[range(4), IDS[0, 1:]].sum()

    found = adapters.gradients(part, loss(start))
    for name, value in list(start.items())[:4]:
        step = 2e-3 * found[name] / found[name].norm()
        up = loss(start | {name: value + step}).detach()
        down = loss(start | {name: value - step}).detach()
        torch.testing.assert_close((up - down) / 4e-3, found[name].norm(), rtol=2e-2, atol=0)


@pytest.mark.parametrize(
    ("form", "part"),
    [
        ("lora", "shared"),
        *((form, "private") for form in FORMS),
        ("gpt2", "private"),
        ("gpt2 styles", "private"),
    ],
)
def test_a_saved_adapter_loads_in_peft_with_the_same_logits(tmp_path: Path, form: str, part: str) -> None:
    from peft import PeftModel

    fresh = tiny_gpt2 if "gpt2" in form else tiny_llama
    model = fresh()
    adapters = build(model, "lora" if form == "gpt2" else form.removeprefix("gpt2 "))
    secret = filled(adapters, "private", 8)
    adapters.load("private", secret)
    given = filled(adapters, part, 6)
    adapters.save(part, given, tmp_path / "out", CARD)
    assert all(torch.equal(adapters.read("private")[n], secret[n]) for n in secret)  # saving changes nothing
    adapters.load(part, given)
    adapters.enable((part,))
    with warnings.catch_warnings():  # PEFT asks transformers a deprecated question
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        loaded = PeftModel.from_pretrained(fresh(), str(tmp_path / "out")).eval()
    torch.testing.assert_close(logits(loaded), logits(model), rtol=0, atol=1e-6)


def test_saving_writes_one_adapter_only_and_a_card(tmp_path: Path) -> None:
    adapters = build(tiny_llama())
    adapters.save("shared", filled(adapters, "shared", 1), tmp_path / "out", CARD)
    files = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file())
    assert files == ["out/README.md", "out/adapter_config.json", "out/adapter_model.safetensors"]
    card = (tmp_path / "out" / "README.md").read_text()
    for text in ("owner/tiny", "| rounds | 3 |", "| people | 7 |", "8, 0.001 per person", "starter"):
        assert text in card
    assert "from the last prompt token on" in card
    assert str(tmp_path) not in (tmp_path / "out" / "adapter_config.json").read_text()
    adapters.save("private", filled(adapters, "private", 1), tmp_path / "mine", CARD)
    assert "must not leave" in (tmp_path / "mine" / "README.md").read_text()
    assert "must not leave" not in card


def test_adapters_stay_in_eval_mode_and_without_dropout() -> None:
    model = tiny_llama()
    adapters = build(model)
    adapters.enable(("shared", "private"), "private")
    assert not any(m.training for m in model.modules())
    assert not any(isinstance(m, torch.nn.Dropout) and m.p > 0 for m in model.modules())


@pytest.mark.parametrize(("epsilon", "words"), [(8.0, "8, 0.001 per person"), (None, "not claimed")])
def test_a_model_card_quotes_no_epsilon_that_is_not_claimed(
    tmp_path: Path, epsilon: float | None, words: str
) -> None:
    adapters = build(tiny_llama())
    adapters.save("shared", adapters.initial("shared"), tmp_path / "shared", replace(CARD, epsilon=epsilon))
    text = (tmp_path / "shared" / "README.md").read_text()
    assert f"| epsilon, delta | {words}" in text


def test_saving_takes_nobody_elses_folder_away(tmp_path: Path) -> None:
    """Class of fault: a folder is removed because something else is to stand in its place."""
    adapters = build(tiny_llama())
    thesis = tmp_path / "mine" / "thesis.txt"
    thesis.parent.mkdir()
    thesis.write_text("three years")
    private = filled(adapters, "private", 1)
    with pytest.raises(RunFolderError, match=r"holds 'thesis\.txt', which this run did not write"):
        adapters.save("private", private, tmp_path / "mine", CARD, "../../ana")
    assert thesis.read_text() == "three years"
    for _ in range(2):  # an earlier adapter of ours is replaced
        adapters.save("private", private, tmp_path / "p0001", CARD, "../../ana\n")
    assert json.loads((tmp_path / "p0001" / "person.json").read_text()) == {"person": "../../ana\n"}
    assert "ana" not in (tmp_path / "p0001" / "README.md").read_text()
    assert {path.name for path in (tmp_path / "p0001").iterdir()} == set(WRITTEN)
