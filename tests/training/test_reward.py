"""The reward model against autograd and a python loop over pairs; what each part can and cannot touch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import toy_reward
from torch import Tensor

from commonground.comparisons import TAGS, Tag
from commonground.errors import InputError
from commonground.losses import LossSettings, get_loss, reward_scores
from commonground.randomness import normal
from commonground.training.model import Part, Rows, Tensors
from commonground.training.reward import Form, RewardModel

FORMS: tuple[Form, ...] = ("linear", "tanh", "basis")
SETTINGS = LossSettings(beta=0.7, flip=0.1)


def adapters(model: RewardModel, people: int) -> tuple[Tensors, Tensors]:
    """Adapters far from their start, another one for each person."""
    return (
        {k: normal((people, *s), 1, "shared", k) for k, s in model.shared_spec().items()},
        {k: normal((people, *s), 1, "private", k) for k, s in model.private_spec().items()},
    )


def some_rows() -> Rows:
    """Three people, four columns: both tags, a masked entry in the middle, flips."""
    index = torch.tensor([[0, 3, 1, 4], [7, 12, 9, 11], [14, 15, 19, 20]])
    mask = torch.tensor([[1.0, 0, 1, 1], [1, 1, 1, 0], [0, 1, 1, 1]])
    flip = torch.tensor([[0.0, 0, 1, 0], [1, 0, 0, 1], [0, 0, 0, 1]])
    return Rows(index, mask, flip)


def naive_reward(model: RewardModel, text: int, row: int, shared: Tensors | None, v: Tensor | None) -> Tensor:
    """The equation in the module's text for one answer, written out."""
    tag = TAGS[int(model.features.tag[row])]
    total = torch.zeros(())
    if shared is not None and tag in model.tags:
        values = model.features.block[tag][text]
        if model.form == "tanh":
            values = torch.tanh(shared[f"shared.{tag}.A"] @ values)
        total = total + shared[f"shared.{tag}.u"] @ values
    if v is not None and model.form == "basis":
        basis = model.initial_shared() if shared is None else shared
        total = total + v @ (basis["shared.taste.R"] @ model.features.block["taste"][text])
    elif v is not None:
        total = total + v @ model.features.private[text]
    return total


@pytest.mark.parametrize("loss", ["bradley_terry", "ipo", "rdpo"])
@pytest.mark.parametrize("part", ["shared", "private"])
@pytest.mark.parametrize("form", FORMS)
def test_pair_gradients_are_autograd_of_one_pair_at_a_time(form: Form, part: Part, loss: str) -> None:
    model, rows = toy_reward.model(form), some_rows()
    shared, private = adapters(model, 3)
    losses, gradients = model.pair_gradients(rows, shared, private, part, get_loss(loss), SETTINGS)
    spec = model.shared_spec() if part == "shared" else model.private_spec()
    assert {k: tuple(g.shape) for k, g in gradients.items()} == {k: (3, 4, *s) for k, s in spec.items()}
    seen = 0
    for p in range(3):
        for b in range(4):
            own = {k: v[p].clone().requires_grad_(part == "shared") for k, v in shared.items()}
            v = private["private.v"][p].clone().requires_grad_(part == "private")
            row = int(rows.index[p, b])
            sides = [int(model.features.chosen[row]), int(model.features.rejected[row])]
            if rows.flip[p, b]:
                sides.reverse()
            chosen, rejected = (naive_reward(model, side, row, own, v) for side in sides)
            zero = torch.zeros(())
            value = get_loss(loss)(reward_scores(chosen, rejected, zero, zero), SETTINGS)
            trained = own if part == "shared" else {"private.v": v}
            slopes = torch.autograd.grad(value, list(trained.values()), allow_unused=True)
            assert losses[p, b].item() == pytest.approx(value.item() * float(rows.mask[p, b]), rel=1e-5)
            for (name, tensor), slope in zip(trained.items(), slopes, strict=True):
                wanted = torch.zeros_like(tensor) if slope is None else slope * rows.mask[p, b]
                assert torch.allclose(gradients[name][p, b], wanted, atol=1e-6)
                seen += int(wanted.abs().max() > 1e-3)
    assert seen > 6  # not zeros against zeros


@pytest.mark.parametrize("part", ["shared", "private"])
@pytest.mark.parametrize("form", FORMS)
def test_masked_entries_are_exactly_zero(form: Form, part: Part) -> None:
    model, rows = toy_reward.model(form), some_rows()
    losses, gradients = model.pair_gradients(
        rows, *adapters(model, 3), part, get_loss("bradley_terry"), SETTINGS
    )
    hidden = rows.mask == 0
    assert torch.count_nonzero(losses[hidden]) == 0
    assert all(torch.count_nonzero(value[hidden]) == 0 for value in gradients.values())
    assert torch.count_nonzero(losses[~hidden]) == int(rows.mask.sum())


@pytest.mark.parametrize("form", FORMS)
def test_a_flip_swaps_the_pair(form: Form) -> None:
    model, rows = toy_reward.model(form), some_rows()
    chosen, rejected = model.scores(rows, *adapters(model, 3))
    swapped = model.scores(replace(rows, flip=1 - rows.flip), *adapters(model, 3))
    assert torch.equal(chosen, swapped[1])
    assert torch.equal(rejected, swapped[0])
    assert not torch.equal(chosen, rejected)


@pytest.mark.parametrize("part", ["shared", "private"])
@pytest.mark.parametrize("form", FORMS)
def test_people_at_once_are_people_one_at_a_time(form: Form, part: Part) -> None:
    model, rows = toy_reward.model(form), some_rows()
    shared, private = adapters(model, 3)
    loss = get_loss("bradley_terry")
    losses, gradients = model.pair_gradients(rows, shared, private, part, loss, SETTINGS)
    scores = torch.stack(model.scores(rows, shared, private))
    for p in range(3):
        one = Rows(rows.index[p : p + 1], rows.mask[p : p + 1], rows.flip[p : p + 1])
        own = [{k: v[p : p + 1] for k, v in tensors.items()} for tensors in (shared, private)]
        alone, found = model.pair_gradients(one, own[0], own[1], part, loss, SETTINGS)
        assert torch.allclose(alone[0], losses[p], atol=1e-6)
        assert torch.allclose(torch.stack(model.scores(one, *own))[:, 0], scores[:, p], atol=1e-6)
        for name, value in found.items():
            assert torch.allclose(value[0], gradients[name][p], atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_the_base_policy_scores_zero_however_it_is_written(form: Form) -> None:
    model, rows = toy_reward.model(form), some_rows()
    shared = {k: v.expand(3, *v.shape) for k, v in model.initial_shared().items()}
    private = {k: v.expand(3, *v.shape) for k, v in model.initial_private().items()}
    for pair in (model.scores(rows, None, None), model.scores(rows, shared, private)):
        assert all(torch.count_nonzero(side) == 0 for side in pair)
        assert pair[0].shape == (3, 4)


@pytest.mark.parametrize("form", FORMS)
def test_a_broadcast_adapter_is_the_same_as_one_each(form: Form) -> None:
    """The contract allows a leading axis of 1 in `scores`."""
    model, rows = toy_reward.model(form), some_rows()
    shared, private = adapters(model, 1)
    wide = [{k: v.expand(3, *v.shape[1:]) for k, v in tensors.items()} for tensors in (shared, private)]
    for narrow, full in zip(model.scores(rows, shared, private), model.scores(rows, *wide), strict=True):
        assert torch.allclose(narrow, full, atol=1e-6)


def test_the_private_adapter_reaches_answers_about_safety_and_the_shared_one_keeps_to_its_tags() -> None:
    model = toy_reward.model(tags=("safety",))
    shared, private = adapters(model, 3)
    rows = some_rows()
    safety = model.features.tag[rows.index] == TAGS.index("safety")
    assert safety.any()
    assert not safety.all()
    own, _ = model.scores(rows, None, private)
    assert (own != 0).all()
    common, _ = model.scores(rows, shared, None)
    assert torch.count_nonzero(common[~safety]) == 0
    assert (common[safety] != 0).all()
    _, gradients = model.pair_gradients(rows, shared, None, "shared", get_loss("dpo"), SETTINGS)
    assert torch.count_nonzero(gradients["shared.safety.u"][~safety]) == 0


def test_the_private_adapter_lives_in_the_leading_directions() -> None:
    model = toy_reward.model()
    block = model.features.block["taste"]
    assert torch.allclose(model.features.private, block[:, : toy_reward.DIMS], atol=1e-6)


@pytest.mark.parametrize(
    ("form", "tags", "spec"),
    [
        ("linear", ("safety",), {"shared.safety.u": (6,)}),
        ("linear", ("taste", "safety"), {"shared.safety.u": (6,), "shared.taste.u": (6,)}),
        ("tanh", ("safety",), {"shared.safety.A": (6, 6), "shared.safety.u": (6,)}),  # 8 do not fit into 6
        (
            "basis",
            ("safety", "taste"),
            {"shared.safety.u": (6,), "shared.taste.u": (6,), "shared.taste.R": (3, 6)},
        ),
    ],
)
def test_names_and_shapes(form: Form, tags: tuple[Tag, ...], spec: dict[str, tuple[int, ...]]) -> None:
    model = toy_reward.model(form, tags)
    assert list(model.shared_spec().items()) == list(spec.items())
    assert {k: tuple(v.shape) for k, v in model.initial_shared().items()} == spec
    assert model.private_spec() == {"private.v": (3,)}
    assert tuple(model.initial_private()["private.v"].shape) == (3,)


def test_what_is_handed_out_is_nobodys_alias() -> None:
    model = toy_reward.model("tanh")
    for value in (*model.initial_shared().values(), *model.initial_private().values()):
        value.add_(1)
    assert torch.count_nonzero(model.initial_shared()["shared.taste.u"]) == 0
    assert torch.count_nonzero(model.initial_private()["private.v"]) == 0
    assert model.public_digests() == toy_reward.model("tanh").public_digests()


def test_another_basis_or_another_start_is_another_digest() -> None:
    first = RewardModel(toy_reward.features(), TAGS, "tanh").public_digests()
    assert set(first) == {"basis.safety", "basis.taste", "initial.shared"}
    assert RewardModel(toy_reward.features(), TAGS, "tanh").public_digests() == first
    moved = RewardModel(toy_reward.features(basis=1), TAGS, "tanh").public_digests()
    assert {key for key in first if moved[key] != first[key]} == {"basis.safety", "basis.taste"}
    seeded = RewardModel(toy_reward.features(), TAGS, "tanh", seed=1).public_digests()
    assert {key for key in first if seeded[key] != first[key]} == {"initial.shared"}


def test_a_model_is_not_made_of_anybodys_comparisons() -> None:
    """Public means public: other comparisons over the same public texts change no digest."""
    few, many = toy_reward.features(people=1), toy_reward.features({"safety": 9, "taste": 2}, people=4)
    assert RewardModel(few, TAGS).public_digests() == RewardModel(many, TAGS).public_digests()


@pytest.mark.parametrize("dims", [0, 7, -1])
def test_dims_outside_the_basis_are_one_clear_error(dims: int) -> None:
    with pytest.raises(InputError, match=rf"model\.dims is {dims}; accepted: 1 to 6"):
        toy_reward.features(dims=dims)


def test_all_dims_are_accepted() -> None:
    assert toy_reward.features(dims=6).private.shape[1] == 6
