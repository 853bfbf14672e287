"""Public style adapters: made from public texts alone, the same bits each time, kept whole or not at all."""

import multiprocessing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_models import tiny_base, tiny_gpt2
from toy_patience import LIMIT

from commonground.comparisons import Comparison
from commonground.data.splits import normalise
from commonground.data.starter import STYLES, safety_pairs, taste_prompts
from commonground.errors import StorageError
from commonground.losses import LossSettings, get_loss
from commonground.simulations.writing import PROMPTS
from commonground.training import styles as module
from commonground.training.model import Rows, Tensors
from commonground.training.policy import PolicyModel
from commonground.training.styles import StyleRecipe, public_prompts, public_styles, train_style

SHORT = StyleRecipe(steps=2, answer_tokens=6)
TABLE = [
    Comparison("how do I boil an egg ?", "hot water please", "no never .", "taste", "a"),
    Comparison("what is a tide ?", "the sea rises and falls because moon !", "the sea .", "taste", "a"),
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COMMONGROUND_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def made(**options: Any) -> dict[str, Tensors]:
    settings: dict[str, Any] = {"layers": 1, "rank": 2, "names": ("emoji", "brief"), "recipe": SHORT}
    base = options.pop("base", None) or tiny_base()
    return public_styles(base, **settings | options)


def same(one: dict[str, Tensors], other: dict[str, Tensors]) -> bool:
    return list(one) == list(other) and all(
        torch.equal(value, other[style][name]) for style in one for name, value in one[style].items()
    )


def kept(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*.safetensors"))


def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> Tensors:
        raise AssertionError("trained although it was kept")

    monkeypatch.setattr(module, "train_style", never)


def test_a_third_of_the_prompts_is_public_and_nothing_is_written_about_it() -> None:
    public = {p.prompt for p in public_prompts()}
    assert len(public) == 24
    assert len(taste_prompts()) == 72
    assert public == {p.prompt for p in public_prompts()}
    known = {normalise(p.prompt) for p in taste_prompts()} | {normalise(p.prompt) for p in safety_pairs()}
    assert not known & {normalise(prompt) for prompt in PROMPTS}  # what policies are asked to write on
    assert len(set(PROMPTS)) == len(PROMPTS)


def test_training_comparisons_are_public_and_choose_the_style() -> None:
    public = {p.prompt: p.answers for p in public_prompts()}
    comparisons = module._comparisons()
    assert len(comparisons) == 8 * 24 * 7
    for place, comparison in enumerate(comparisons):
        assert comparison.person == STYLES[place // (24 * 7)]
        assert comparison.chosen == public[comparison.prompt][comparison.person]


def test_each_style_is_trained_on_its_own_comparisons(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    model = module._model(tiny_base(), 1, 2, SHORT)
    honest = model.pair_gradients

    def watched(rows: Rows, *rest: Any) -> Any:
        seen.extend(rows.index.flatten().tolist())
        return honest(rows, *rest)

    monkeypatch.setattr(model, "pair_gradients", watched)
    train_style(model, "casual", StyleRecipe(steps=24, answer_tokens=2))
    own = [module._comparisons()[row] for row in seen]
    assert {comparison.person for comparison in own} == {"casual"}
    assert len({comparison.prompt for comparison in own}) == 24  # every public prompt once


@pytest.mark.identity
def test_styles_are_the_same_bits_each_time_and_in_any_order(cache: Path) -> None:
    first = made()
    for file in kept(cache):
        file.unlink()
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        again = made(names=("brief", "emoji"))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert list(first) == ["emoji", "brief"]  # the order of the coefficients is that of the names
    assert same(first, {name: again[name] for name in first})
    assert any(value.any() for name, value in first["emoji"].items() if name.endswith(".B"))
    assert not torch.equal(*(one["private.layers.2.q_proj.B"] for one in first.values()))


def test_what_is_kept_is_not_trained_again(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, int, int]] = []
    first = made(progress=lambda *told_: told.append(told_))
    assert told[0] == ("public style adapters", 0, 2)
    assert told[-1] == ("public style adapters", 2, 2)
    untrained(monkeypatch)
    told.clear()
    assert same(first, made(progress=lambda *told_: told.append(told_)))
    assert told == []


@pytest.mark.parametrize("damage", ["cut", "turned", "empty", "garbage", "gone", "other style"])
def test_a_damaged_file_is_trained_again_and_only_that(
    monkeypatch: pytest.MonkeyPatch, cache: Path, damage: str
) -> None:
    first = made()
    file = next(f for f in kept(cache) if f.stem == "emoji")
    content = file.read_bytes()
    if damage == "gone":
        file.unlink()
    elif damage == "other style":  # whole, but of another recipe
        made(recipe=StyleRecipe(steps=1, answer_tokens=6))
        strange = next(f for f in kept(cache) if f.stem == "emoji" and f.parent != file.parent)
        file.write_bytes(strange.read_bytes())
    else:
        turned = content[:-1] + bytes([content[-1] ^ 1])
        file.write_bytes({"cut": content[:-40], "turned": turned, "empty": b"", "garbage": b"x" * 99}[damage])
    trained: list[str] = []
    honest = train_style

    def counted(model: PolicyModel, name: str, recipe: StyleRecipe) -> Tensors:
        trained.append(name)
        return honest(model, name, recipe)

    monkeypatch.setattr(module, "train_style", counted)
    assert same(first, made())
    assert trained == ["emoji"]
    assert file.read_bytes() == content


def test_another_base_rank_depth_or_recipe_is_another_entry(cache: Path) -> None:
    made(names=("emoji",))
    for options in (
        {"rank": 3},
        {"layers": 2},
        {"recipe": StyleRecipe(steps=1, answer_tokens=6)},
    ):
        made(names=("emoji",), **options)
    assert len(kept(cache)) == 4
    other = replace(tiny_base(tiny_gpt2()), digest="1" * 64)
    assert any("c_attn" in name for name in made(names=("emoji",), base=other)["emoji"])
    assert len(kept(cache)) == 5


def test_an_interrupted_training_keeps_what_was_done(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    honest = train_style

    def stopped(model: PolicyModel, name: str, recipe: StyleRecipe) -> Tensors:
        if name == "brief":
            raise KeyboardInterrupt
        return honest(model, name, recipe)

    monkeypatch.setattr(module, "train_style", stopped)
    with pytest.raises(KeyboardInterrupt):
        made()
    assert [file.name for file in cache.rglob("*.*") if file.suffix != ".lock"] == ["emoji.safetensors"]


def test_a_cache_that_cannot_be_written_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("commonground.training.styles.os.replace", full)
    with pytest.raises(StorageError, match=r"cannot write public style adapters to .*: No space left"):
        made()


def other_process(cache: str, ready: Any, out: Any) -> None:
    import os

    torch.set_num_threads(1)  # a pool of threads does not survive the fork, and would be waited for
    os.environ["COMMONGROUND_CACHE"] = cache
    ready.wait()
    out.put({s: {n: v.numpy() for n, v in one.items()} for s, one in made().items()})


def test_two_processes_at_once_get_the_same_and_leave_one_of_each(cache: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready, out = context.Barrier(2), context.Queue()
    both = [context.Process(target=other_process, args=(str(cache), ready, out)) for _ in range(2)]
    for process in both:
        process.start()
    found = [out.get(timeout=LIMIT) for _ in both]
    for process in both:
        process.join(LIMIT)
        assert process.exitcode == 0
    for style, one in found[0].items():
        assert all((value == found[1][style][name]).all() for name, value in one.items())
    assert sorted(f.name for f in cache.rglob("*") if f.is_file() and f.suffix != ".lock") == [
        "brief.safetensors",
        "emoji.safetensors",
    ]


def mixed(base: Any = None, **options: Any) -> PolicyModel:
    base = base or tiny_base()
    settings: dict[str, Any] = {"layers": 2, "rank": 2, "seed": 1, "adapter": "styles"}
    return PolicyModel(base, TABLE, styles=made(base=base, layers=2), **settings | options)


def test_one_coefficient_of_one_is_the_style_itself() -> None:
    base = tiny_base()
    styles = made(base=base, layers=2)
    model = PolicyModel(base, TABLE, layers=2, rank=2, seed=1, adapter="styles", styles=styles)
    plain = PolicyModel(base, TABLE, layers=2, rank=2, seed=1)
    assert model.private_spec() == {"private.styles": (2,)}
    index = Rows(torch.tensor([[0, 1]]), torch.ones(1, 2), torch.zeros(1, 2))
    for place, style in enumerate(styles):
        own = {"private.styles": torch.eye(2)[place][None]}
        whole = {name: value[None] for name, value in styles[style].items()}
        for one, other in zip(model.scores(index, None, own), plain.scores(index, None, whole), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
        written = model.generate(["say more", "why"], None, own, tokens=6)
        assert written == plain.generate(["say more", "why"], None, whole, tokens=6)
        assert written != plain.generate(["say more", "why"], None, None, tokens=6)


def test_the_manifest_knows_which_styles() -> None:
    digests = mixed().public_digests()
    assert set(digests) == {"base", "adapter_bases", "styles"}
    assert digests == mixed().public_digests()
    other = made(recipe=StyleRecipe(steps=1, answer_tokens=6), layers=2)
    model = PolicyModel(tiny_base(), TABLE, layers=2, rank=2, seed=1, adapter="styles", styles=other)
    assert model.public_digests()["styles"] != digests["styles"]
    assert "styles" not in PolicyModel(tiny_base(), TABLE, layers=2, rank=2).public_digests()


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_every_pair_has_its_own_exact_gradient(name: str) -> None:
    """Against differences of each pair's own loss, coefficient by coefficient; a pair alone has the same."""
    model = mixed(tiny_base(tiny_gpt2()) if name == "gpt2" else None)
    start = torch.tensor([[0.8, -0.5]])
    settings = LossSettings(beta=0.1, sft=1.0)

    def run(values: torch.Tensor, index: list[int]) -> tuple[torch.Tensor, Tensors]:
        rows = Rows(torch.tensor([index]), torch.ones(1, len(index)), torch.zeros(1, len(index)))
        return model.pair_gradients(
            rows, None, {"private.styles": values}, "private", get_loss("dpo"), settings
        )

    _, both = run(start, [0, 1])
    found = both["private.styles"][0]
    assert found.shape == (2, 2)
    assert not torch.allclose(found[0], found[1])
    for pair in range(2):
        _, alone = run(start, [pair])
        assert torch.equal(alone["private.styles"][0, 0], found[pair])
        for k in range(2):
            step = 0.05 * torch.eye(2)[k]
            up, down = (run(start + sign * step, [pair])[0].item() for sign in (1, -1))
            assert (up - down) / 0.1 == pytest.approx(float(found[pair, k]), rel=2e-2, abs=2e-4)
