"""The policy model against plain forwards, and against what its interface promises."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from toy_models import tiny_base, tiny_gpt2, tiny_llama

from commonground.comparisons import Comparison
from commonground.language_model import load_base
from commonground.losses import LossSettings, get_loss
from commonground.training.gated import GatedDecoder
from commonground.training.model import PreferenceModel, Rows, Tensors
from commonground.training.policy import PolicyModel
from commonground.training.writing import Request

TABLE = [
    Comparison("how do I boil an egg ?", "hot water please", "no never .", "taste", "a"),
    Comparison("what is a tide ?", "the sea rises and falls because moon !", "the sea .", "taste", "a"),
    Comparison("what is a tide ?", "the sea .", "maybe more water", "taste", "b"),
    Comparison("", "yes", "no no no", "safety", "b"),
]
DPO, SETTINGS = get_loss("dpo"), LossSettings(beta=0.1, sft=0.0)


def build(base: Any = None, **options: Any) -> PolicyModel:
    return PolicyModel(base or tiny_base(), TABLE, **{"layers": 2, "rank": 2, "seed": 1} | options)


def rows(index: list[list[int]], mask: list[list[float]] | None = None, flip: Any = None) -> Rows:
    table = torch.tensor(index)
    return Rows(
        table,
        torch.tensor(mask) if mask else torch.ones(table.shape),
        torch.tensor(flip) if flip else torch.zeros(table.shape),
    )


def filled(spec: dict[str, tuple[int, ...]], seed: int, people: int = 1, size: float = 0.3) -> Tensors:
    draws = torch.Generator().manual_seed(seed)
    return {n: torch.randn(people, *s, generator=draws) * size for n, s in spec.items()}


@contextmanager
def token_gate(model: Any, adapters: Any, first: int) -> Iterator[None]:
    """Adapters act on positions >= first of one plain forward over the whole text."""

    def gate(_: Any, __: Any, out: Tensor) -> Tensor:
        keep = torch.arange(out.shape[1]) >= first
        return out * keep[:, None]

    handles = [
        model.get_submodule(t.module).lora_B[part].register_forward_hook(gate)
        for t in adapters.targets
        for part in ("shared", "private")
    ]
    yield
    for handle in handles:
        handle.remove()


def plain_logp(model: PolicyModel, row: Any, parts: tuple[str, ...]) -> float:
    """One whole forward of the transformers model, log-probabilities summed over the answer."""
    prompt, answer = row
    ids = torch.tensor([[*prompt, *answer]])
    model.adapters.enable(parts)
    with torch.no_grad(), token_gate(model.decoder.model, model.adapters, len(prompt) - 1):
        logp = torch.log_softmax(model.decoder.model(input_ids=ids).logits[0].float(), -1)
    places = range(len(prompt) - 1, ids.shape[1] - 1)
    return float(logp[places, ids[0, len(prompt) :]].sum())


BASES: dict[str, Callable[[], Any]] = {
    "llama": tiny_base,
    "llama without template": lambda: tiny_base(chat=False),
    "gpt2": lambda: tiny_base(tiny_gpt2()),
}


@pytest.mark.parametrize("name", sorted(BASES))
@pytest.mark.parametrize("layers", [1, 0])
@pytest.mark.parametrize("form", ["lora", "core"])
def test_scores_equal_plain_gated_forwards(name: str, layers: int, form: str) -> None:
    model = build(BASES[name](), layers=layers, adapter=form)
    assert model.decoder.short_path == (name != "gpt2")
    shared, private = filled(model.shared_spec(), 1), filled(model.private_spec(), 2)
    index = rows([[0, 1, 2, 3]])
    for s, v in ((None, None), (shared, None), (None, private), (shared, private)):
        chosen, rejected = model.scores(index, s, v)
        parts = tuple(n for n, t in (("shared", s), ("private", v)) if t is not None)
        for b in range(4):
            good, bad = model._pair(b, False)
            assert float(chosen[0, b]) == pytest.approx(plain_logp(model, good, parts), abs=1e-4)
            assert float(rejected[0, b]) == pytest.approx(plain_logp(model, bad, parts), abs=1e-4)


def test_the_gate_matters_and_the_prompt_is_read_by_the_base() -> None:
    """With the adapter on the prompt as well the score is another one: the gate is no decoration."""
    model = build()
    private = filled(model.private_spec(), 2)
    good = model._pair(0, False)[0]
    gated = float(model.scores(rows([[0]]), None, private)[0])
    model.adapters.enable(("private",))
    ids = torch.tensor([[*good[0], *good[1]]])
    with torch.no_grad():
        logp = torch.log_softmax(model.decoder.model(input_ids=ids).logits[0], -1)
    ungated = float(logp[range(len(good[0]) - 1, ids.shape[1] - 1), ids[0, len(good[0]) :]].sum())
    assert abs(gated - ungated) > 1e-2


def test_base_scores_are_those_of_the_untouched_base() -> None:
    base = tiny_base()
    model = build(base)
    model.scores(rows([[0]]), filled(model.shared_spec(), 1), None)
    good = model._pair(1, False)[0]
    ids = torch.tensor([[*good[0], *good[1]]])
    with torch.no_grad():
        logp = torch.log_softmax(base.model(input_ids=ids).logits[0], -1)
    expected = logp[range(len(good[0]) - 1, ids.shape[1] - 1), ids[0, len(good[0]) :]].sum()
    assert float(model.scores(rows([[1]]), None, None)[0]) == pytest.approx(float(expected), abs=1e-4)
    assert not any("lora" in name for name, _ in base.model.named_modules())


def test_answers_end_with_the_end_token_and_are_cut_without_it() -> None:
    model = build(max_answer_tokens=3, max_prompt_tokens=4)
    (prompt, whole), (_, cut) = model._pair(2, False)[0], model._pair(2, True)[0]
    end = tiny_base().tokenizer.eos_token_id
    assert len(prompt) == 4
    assert whole[-1] != end  # "the sea ." fills the three
    assert len(cut) == 3
    short = build()._pair(0, False)[1][1]
    assert short[-1] == end
    assert len(short) == 4


def test_prompts_are_cut_from_their_start() -> None:
    full, cut = build()._pair(0, False)[0][0], build(max_prompt_tokens=4)._pair(0, False)[0][0]
    assert full[-4:] == cut


@pytest.mark.parametrize("part", ["shared", "private"])
def test_loss_is_ln2_at_the_reference_exactly(part: Any) -> None:
    model = build()
    shared = {n: v[None] for n, v in model.initial_shared().items()}
    if part == "private":
        shared = filled(model.shared_spec(), 3)
    private = {n: v[None] for n, v in model.initial_private().items()} if part == "private" else None
    losses, gradients = model.pair_gradients(rows([[0, 1]]), shared, private, part, DPO, SETTINGS)
    assert losses.tolist() == [[pytest.approx(math.log(2), abs=1e-7)] * 2]
    spec = model.shared_spec() if part == "shared" else model.private_spec()
    assert {n: tuple(g.shape) for n, g in gradients.items()} == {n: (1, 2, *s) for n, s in spec.items()}
    assert any(g.abs().max() > 0 for g in gradients.values())


@pytest.mark.parametrize("part", ["shared", "private"])
def test_the_reference_is_base_for_shared_and_shared_for_private(part: Any) -> None:
    model = build()
    shared, private = filled(model.shared_spec(), 1), filled(model.private_spec(), 2)
    index = rows([[0, 1]])
    reference = model.scores(index, None if part == "shared" else shared, None)
    own = None if part == "shared" else private
    policy = model.scores(index, shared, own)
    margin = (policy[0] - reference[0]) - (policy[1] - reference[1])
    losses, _ = model.pair_gradients(index, shared, own, part, DPO, SETTINGS)
    torch.testing.assert_close(losses, -torch.nn.functional.logsigmoid(0.1 * margin), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("form", "part"), [("lora", "shared"), ("lora", "private"), ("core", "private")])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_gradients_are_those_of_the_loss(name: str, form: str, part: Any) -> None:
    model = build(BASES[name](), adapter=form)
    shared, private = filled(model.shared_spec(), 1, size=0.1), filled(model.private_spec(), 2, size=0.1)
    anchored = LossSettings(beta=0.1, sft=1.0)

    def loss(own: Tensors) -> tuple[Tensor, Tensors]:
        s, v = (own, None) if part == "shared" else (shared, own)
        return model.pair_gradients(rows([[1]]), s, v, part, DPO, anchored)

    own = shared if part == "shared" else private
    gradients = {n: g[0, 0] for n, g in loss(own)[1].items()}
    norm = torch.stack([g.norm() for g in gradients.values()]).norm()
    step = 3e-3
    up, down = (
        loss({n: own[n] + sign * step * gradients[n] / norm for n in own})[0].item() for sign in (1, -1)
    )
    assert (up - down) / (2 * step) == pytest.approx(float(norm), rel=2e-2)


def test_a_masked_row_gives_exact_zeros_and_no_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build()
    private = filled(model.private_spec(), 2, people=2)
    whole, gradients = model.pair_gradients(rows([[0, 1], [2, 3]]), None, private, "private", DPO, SETTINGS)
    seen: list[Any] = []
    original = GatedDecoder.logps

    def counted(self: GatedDecoder, asked: Any) -> Tensor:
        seen.append(asked)
        return original(self, asked)

    monkeypatch.setattr(GatedDecoder, "logps", counted)
    index = rows([[0, 1], [2, 3]], [[1.0, 0.0], [0.0, 0.0]])
    losses, found = model.pair_gradients(index, None, private, "private", DPO, SETTINGS)
    assert len(seen) == 1  # its reference is kept from before
    assert losses.tolist() == [[whole[0, 0].item(), 0.0], [0.0, 0.0]]
    for name, value in found.items():
        assert torch.equal(value[0, 0], gradients[name][0, 0])
        assert not value[0, 1].any()
        assert not value[1].any()


def test_an_empty_poisson_batch_gives_zeros_and_the_next_one_works() -> None:
    model = build()
    private = filled(model.private_spec(), 2)
    nothing = rows([[0, 1]], [[0.0, 0.0]])
    losses, gradients = model.pair_gradients(nothing, None, private, "private", DPO, SETTINGS)
    assert not losses.any()
    assert not any(g.any() for g in gradients.values())
    chosen, rejected = model.scores(nothing, None, private)
    assert not chosen.any()
    assert not rejected.any()
    _, gradients = model.pair_gradients(rows([[0, 1]]), None, private, "private", DPO, SETTINGS)
    assert all(g.any() for g in gradients.values())


def test_flip_swaps_the_answers() -> None:
    model = build()
    private = filled(model.private_spec(), 2)
    straight, flipped = rows([[0, 1]]), rows([[0, 1]], flip=[[1.0, 0.0]])
    one, other = model.scores(straight, None, private), model.scores(flipped, None, private)
    torch.testing.assert_close(other[0], torch.stack([one[1][:, 0], one[0][:, 1]], 1))
    plain, _ = model.pair_gradients(straight, None, private, "private", DPO, SETTINGS)
    swapped, _ = model.pair_gradients(flipped, None, private, "private", DPO, SETTINGS)
    # -log sigma(x) and -log sigma(-x): exp(-a) + exp(-b) = 1
    assert math.exp(-plain[0, 0]) + math.exp(-swapped[0, 0]) == pytest.approx(1, abs=1e-5)
    assert plain[0, 1] == swapped[0, 1]


def test_people_are_independent_and_a_leading_one_is_broadcast() -> None:
    model = build()
    shared, private = filled(model.shared_spec(), 1), filled(model.private_spec(), 2, people=2)
    index = rows([[0, 1], [2, 3]])
    both = model.pair_gradients(index, shared, private, "private", DPO, SETTINGS)
    scores = model.scores(index, shared, private)
    for p in range(2):
        alone = {n: v[p : p + 1] for n, v in private.items()}
        one = rows([index.index[p].tolist()])
        losses, gradients = model.pair_gradients(one, shared, alone, "private", DPO, SETTINGS)
        assert torch.equal(losses[0], both[0][p])
        assert all(torch.equal(gradients[n][0], both[1][n][p]) for n in gradients)
        torch.testing.assert_close(model.scores(one, shared, alone)[0][0], scores[0][p])


@pytest.mark.identity
def test_evicted_trunks_change_no_bit_and_neither_does_the_order() -> None:
    """A resumed run reads texts in another order than an uninterrupted one; its results are the same."""
    kept, evicted, other_order = build(), build(cache_bytes=0), build()
    private = filled(kept.private_spec(), 2)
    index = rows([[0, 1, 2, 3]])
    other_order.scores(rows([[2, 3]]), None, None)
    other_order.scores(rows([[1]]), None, None)
    for _ in range(2):
        found = [m.scores(index, None, private) for m in (kept, evicted, other_order)]
        for other in found[1:]:
            assert torch.equal(found[0][0], other[0])
            assert torch.equal(found[0][1], other[1])
    assert evicted.decoder._held == 0
    assert kept.decoder._held == sum(t.bytes() for t in kept.decoder._trunks.values()) > 0


def test_nothing_is_left_trainable_or_enabled_and_inputs_are_not_changed() -> None:
    model = build()
    private = filled(model.private_spec(), 2)
    before = {n: v.clone() for n, v in private.items()}
    model.pair_gradients(rows([[0]]), None, private, "private", DPO, SETTINGS)
    assert not any(p.requires_grad for p in model.decoder.model.parameters())
    assert all(torch.equal(private[n], before[n]) for n in private)
    torch.testing.assert_close(model.scores(rows([[0]]), None, None), build().scores(rows([[0]]), None, None))


def test_initial_adapters_change_nothing_and_digests_follow_their_sources() -> None:
    model: PreferenceModel = build()
    start = {n: v[None] for n, v in model.initial_shared().items()}
    mine = {n: v[None] for n, v in model.initial_private().items()}
    index = rows([[0, 1, 2, 3]])
    assert torch.equal(model.scores(index, start, mine)[0], model.scores(index, None, None)[0])
    assert model.public_digests() == build().public_digests()
    assert model.public_digests() != build(seed=2).public_digests()


def greedy(model: PolicyModel, prompt: Any, parts: tuple[str, ...], tokens: int) -> list[int]:
    """Greedy writing by whole gated forwards, one token at a time."""
    ids = list(prompt)
    end = model._texts.end
    for _ in range(tokens):
        model.adapters.enable(parts)
        with torch.no_grad(), token_gate(model.decoder.model, model.adapters, len(prompt) - 1):
            ids.append(int(model.decoder.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == end:
            return ids[len(prompt) : -1]
    return ids[len(prompt) :]


@pytest.mark.parametrize("name", sorted(BASES))
def test_writing_equals_whole_gated_forwards_in_mixed_batches(name: str) -> None:
    model = build(BASES[name]())
    shared = {n: v[0] for n, v in filled(model.shared_spec(), 1).items()}
    mine = {n: v[0] for n, v in filled(model.private_spec(), 2).items()}
    yours = {n: v[0] for n, v in filled(model.private_spec(), 3).items()}
    policies: list[tuple[Any, Any]] = [(None, None), (shared, None), (None, mine), (shared, yours)]
    requests = [Request(t, *own) for t in ("what is a tide ?", "", "say more") for own in policies]
    found = model.generate_each(requests, tokens=6)
    for request, text in zip(requests, found, strict=True):
        for part, tensors in (("shared", request.shared), ("private", request.private)):
            if tensors is not None:
                model.adapters.load(part, dict(tensors))
        acting = [("shared", request.shared), ("private", request.private)]
        parts = tuple(n for n, t in acting if t is not None)
        ids = greedy(model, model._texts.prompt(request.prompt), parts, 6)
        assert text == model._texts.decode(ids)
    assert len(set(found)) > 3
    assert model.generate(["say more"], shared, yours, tokens=6) == [found[-1]]


def test_sampling_is_reproducible_and_independent_of_the_batch() -> None:
    model = build()
    prompts = ["what is a tide ?", "say more"]
    both = model.generate(prompts, None, None, tokens=6, temperature=1.0, seed=1)
    assert both == model.generate(prompts, None, None, tokens=6, temperature=1.0, seed=1)
    assert both != model.generate(prompts, None, None, tokens=6, temperature=1.0, seed=2)
    assert both[1:] == model.generate(prompts[1:], None, None, tokens=6, temperature=1.0, seed=1)
    assert model.generate(prompts, None, None, tokens=0) == ["", ""]
    assert model.generate([], None, None, tokens=3) == []


def test_nats_per_token_is_the_mean_of_the_base() -> None:
    model = build()
    good = model._pair(1, False)[0]
    found = model.nats_per_token([TABLE[1].prompt], [TABLE[1].chosen])
    assert found == [pytest.approx(-plain_logp(model, good, ()) / len(good[1]), abs=1e-4)]


def test_scoring_and_training_learn_a_preference() -> None:
    model = build(tiny_base(tiny_llama(layers=2)))
    mine = {n: v[None] for n, v in model.initial_private().items()}
    index = rows([[1, 1]], flip=[[0.0, 0.0]])
    for _ in range(20):
        _, gradients = model.pair_gradients(index, None, mine, "private", DPO, SETTINGS)
        mine = {n: v - 0.5 * gradients[n].mean(1) for n, v in mine.items()}
    chosen, rejected = model.scores(rows([[1]]), None, mine)
    start, other = model.scores(rows([[1]]), None, None)
    assert float(chosen - rejected) > float(start - other) + 0.1


@pytest.mark.model
def test_smollm2_scores_equal_the_plain_forward() -> None:
    base = load_base()
    model = build(base, layers=8, rank=8)
    assert model.decoder.short_path
    private = {n: v * 0.02 for n, v in filled(model.private_spec(), 2).items()}
    for parts, own in (((), None), (("private",), private)):
        chosen, rejected = model.scores(rows([[0, 1, 2, 3]]), None, own)
        for b in range(4):
            good, bad = model._pair(b, False)
            assert float(chosen[0, b]) == pytest.approx(plain_logp(model, good, parts), abs=1e-3)
            assert float(rejected[0, b]) == pytest.approx(plain_logp(model, bad, parts), abs=1e-3)
