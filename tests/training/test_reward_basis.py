"""Directions that are learned together: where they begin, when they move, what planted truth they find."""

from __future__ import annotations

import numpy as np
import torch
import toy_reward
from scipy.special import expit

from commonground.comparisons import Comparison, Tag
from commonground.losses import LossSettings, get_loss
from commonground.randomness import generator, normal
from commonground.training.basis import PublicBasis
from commonground.training.model import Tensors, person_rows
from commonground.training.people import People, take
from commonground.training.plan import Plan, PrivatePlan, SharedPlan
from commonground.training.reward import RewardFeatures, RewardModel
from commonground.training.reward_basis import BASIS, BasisRewardModel
from commonground.training.update import PrivateState, first_private, private_phase, visit

SETTINGS = LossSettings(beta=1.0, flip=0.1)
SIZE, RANK = 12, 2  # numbers of a text's features, directions in which people really differ
PEOPLE, LEARN, TEST = 80, 24, 40  # pairs a person


def test_it_begins_as_the_model_with_public_directions() -> None:
    plain, learned = toy_reward.model("linear"), toy_reward.model("basis")
    rows = person_rows([np.arange(p * 7, p * 7 + 7) for p in range(3)])
    shared = {k: normal((3, *s), 1, k) for k, s in plain.shared_spec().items()}
    private = {"private.v": normal((3, 3), 2, "v")}
    first = {BASIS: learned.initial_shared()[BASIS].expand(3, -1, -1)}
    for left, right in zip(
        plain.scores(rows, shared, private), learned.scores(rows, shared | first, private), strict=True
    ):
        assert torch.allclose(left, right, atol=1e-6)
    alone = plain.scores(rows, None, private), learned.scores(rows, None, private)
    assert torch.allclose(torch.stack(alone[0]), torch.stack(alone[1]), atol=1e-6)


def test_it_moves_only_through_private_weights() -> None:
    model = toy_reward.model("basis")
    rows = person_rows([np.arange(p * 7, p * 7 + 7) for p in range(3)])
    shared = take(model.initial_shared(), 3)
    loss = get_loss("bradley_terry")
    v = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.5, -2.0, 0.0]])
    for frozen in (None, {"private.v": v}):
        batch = model.batch(rows, "shared", frozen)
        moved = model.gradient_sums(batch, shared, loss, SETTINGS, rows.mask)[BASIS]
        still = frozen is None
        assert (moved.abs().sum(dim=(1, 2)) > 0).tolist() == [False, not still, not still]
        assert torch.count_nonzero(moved[:, 2]) == 0  # a direction that has no weight
    # one person's gradient is a matrix of rank one: her weights times one direction
    assert int(torch.linalg.matrix_rank(moved[2].double(), tol=1e-5)) == 1


def truth() -> tuple[np.ndarray, np.ndarray]:
    """(RANK, SIZE) orthonormal directions, oblique to the public ones; (PEOPLE, RANK) people's weights."""
    draws = generator(0, "directions").standard_normal((SIZE, RANK))
    return np.linalg.qr(draws)[0].T, 3.0 * generator(0, "weights").standard_normal((PEOPLE, RANK))


def planted() -> tuple[RewardFeatures, People, np.ndarray, np.ndarray]:
    """Features of everybody's pairs, who learns, and the tests: (P, TEST) rows, (P, TEST) margins."""
    directions, weights = truth()
    each = LEARN + TEST
    x = generator(0, "texts").standard_normal((PEOPLE, each, 2, SIZE)).astype(np.float32) / np.sqrt(SIZE)
    margins = np.einsum("pk,kd,pbd->pb", weights, directions, x[:, :, 0] - x[:, :, 1])
    first = generator(0, "answers").random((PEOPLE, each)) < expit(margins)
    table: list[Comparison] = []
    vectors: dict[str, np.ndarray] = {}
    for p in range(PEOPLE):
        for b in range(each):
            sides = [f"{p} {b} {side}" for side in (0, 1)]
            vectors |= dict(zip(sides, x[p, b], strict=True))
            better, worse = sides if first[p, b] or b >= LEARN else sides[::-1]
            table.append(Comparison("", better, worse, "taste", str(p)))
    own = PublicBasis(np.eye(SIZE, dtype=np.float32), 1.0, "the axes")
    bases: dict[Tag, PublicBasis] = {"taste": own, "safety": own}
    rows = np.arange(PEOPLE * each).reshape(PEOPLE, each)
    none = np.zeros(0, np.int64)
    crowd = People(tuple(range(PEOPLE)), tuple({"safety": none, "taste": mine[:LEARN]} for mine in rows))
    return RewardFeatures(table, vectors, bases, RANK), crowd, rows[:, LEARN:], margins[:, LEARN:]


def plan() -> Plan:
    """Everybody comes every round; nothing is noised or clipped."""
    shared = SharedPlan(("safety", "taste"), 2, 2.0, None, "bradley_terry", SETTINGS)
    private = PrivatePlan(
        ("taste",), 400, 4, 1.0, LEARN, float("inf"), 0.0, 1.0, 0.03, "bradley_terry", SETTINGS,
        average_from=1.0,
    )  # fmt: skip
    return Plan(shared, private, "alternating")


def learned(model: RewardModel, crowd: People, rounds: int) -> tuple[Tensors, PrivateState]:
    """Plain averages of what people send; private weights are then fitted once more."""
    own, shared = plan(), model.initial_shared()
    state = first_private(model, PEOPLE, own.private)
    for round in range(1, rounds + 1):
        update, after = visit(model, crowd, shared, state, own, round)
        assert after is not None
        shared, state = {name: value + update[name].mean(0) for name, value in shared.items()}, after
    return shared, private_phase(model, crowd, take(shared, 1), state, own.private, seed=0, steps=100)


def right(
    model: RewardModel, rows: np.ndarray, margins: np.ndarray, shared: Tensors, v: Tensors | None
) -> float:
    """Mean probability that a person would have answered as the model says."""
    better, worse = model.scores(person_rows(list(rows)), take(shared, PEOPLE), v)
    agrees = (better > worse).numpy()
    return float(np.where(agrees, expit(margins), expit(-margins)).mean())


def angle(r: torch.Tensor) -> float:
    """Largest principal angle between the rows of R and the planted directions, degrees."""
    basis = np.linalg.qr(r.double().numpy().T)[0]
    return float(np.degrees(np.arccos(np.linalg.svd(truth()[0] @ basis, compute_uv=False).min())))


def test_it_finds_the_planted_directions_and_serves_people_better_than_public_ones_or_one_model() -> None:
    features, crowd, rows, margins = planted()
    model, fixed = BasisRewardModel(features), RewardModel(features, ("safety", "taste"))
    found, state = learned(model, crowd, 45)
    assert angle(model.initial_shared()[BASIS]) > 75
    assert angle(found[BASIS]) < 15
    common, other = learned(fixed, crowd, 45)
    together = right(model, rows, margins, found, state.adapter)
    public, pooled = (right(fixed, rows, margins, common, v) for v in (other.adapter, None))
    best = float(np.maximum(expit(margins), expit(-margins)).mean())
    assert best - 0.05 < together < best
    assert together > public + 0.1 > pooled + 0.1
