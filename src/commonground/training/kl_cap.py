"""A finished private adapter, scaled back until it is near the shared policy on public probes (methods F3).

    v <- c v,   c the largest of 1, 0.8, 0.6, 0.4, 0.2, 0 with mean KL(pi_cv || pi_s) <= kappa

over public probes, in nats an answer, and with the largest over the probes within a cap of its own. A reward
model chooses between the two answers of a probe, so its KL is exact. A policy writes one answer a probe at
temperature 1, y ~ pi_cv, and the KL is estimated by k3 = (q - 1) - ln q with q = pi_s(y) / pi_cv(y), which is
never negative and has the right mean (Schulman, 2020).

`guarantee: average`. A cap on a mean log-ratio is no safety bound: at 0.1 nats a violation rate of 0.1 % may
still reach 3.7 % (data processing). With a policy the mean itself is only estimated, from few answers.

Privacy: the factor is computed from the finished adapter and public probes alone. That is post-processing:
the claim of the private phase is as it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from commonground.randomness import generator
from commonground.training.model import PreferenceModel, Rows, Tensors
from commonground.training.people import along
from commonground.training.plan import CapPlan

if TYPE_CHECKING:
    from commonground.training.policy import PolicyModel
    from commonground.training.public_models import PublicModels

FACTORS = (1.0, 0.8, 0.6, 0.4, 0.2, 0.0)


@dataclass(frozen=True)
class Held:
    """What was kept of people's private adapters.

    Attributes:
        factor: (P,) float64, one of `FACTORS`.
        mean: (P,) float64, KL over the probes at that factor, nats an answer.
        worst: (P,) float64, of the probe where it is largest.
    """

    factor: Tensor
    mean: Tensor
    worst: Tensor


def held_back(
    public: PublicModels, shared: Tensors, private: Tensors, plan: CapPlan, *, seed: int, people: list[int]
) -> Held:
    """The largest factors that keep to the cap.

    Args:
        public: the model over public pairs; its probes are used.
        shared: the shared adapter, leading axis P or 1.
        private: finished private adapters, leading axis P; numbers that are not finite are held back wholly.
        plan: the caps.
        seed: of a policy's draws.
        people: P person numbers, which name the draws.
    """
    count = len(people)
    factor, mean, worst = (torch.zeros(count, dtype=torch.float64) for _ in range(3))
    open_ = list(range(count))
    for c in FACTORS[:-1]:
        if not open_:
            break
        own = scaled(public.probes, _of(private, open_), torch.full((len(open_),), c))
        found = divergences(
            public, _of(shared, open_), own, plan, seed=seed, people=[people[p] for p in open_]
        )
        average, most = found.mean(1), found.amax(1)
        fits = ((average <= plan.mean) & (most <= plan.worst)).tolist()  # false for what is no number
        for at, place in enumerate(open_):
            if fits[at]:
                factor[place], mean[place], worst[place] = c, average[at], most[at]
        open_ = [place for at, place in enumerate(open_) if not fits[at]]
    return Held(factor, mean, worst)


def scaled(model: PreferenceModel, private: Tensors, factor: Tensor) -> Tensors:
    """Adapters whose effect is `factor` (P,) times theirs: what starts at zero is multiplied, bases stay.

    A factor of 0 is the public start, whatever the numbers were.
    """
    found = {}
    for name, start in model.initial_private().items():
        value = private[name]
        if not start.any():
            value = torch.where(along(factor, value) == 0, 0.0, along(factor, value).to(value.dtype) * value)
        found[name] = torch.where(along(factor, value) == 0, start, value)
    return found


def divergences(
    public: PublicModels, shared: Tensors, private: Tensors, plan: CapPlan, *, seed: int, people: list[int]
) -> Tensor:
    """(P, probes) float64 KL from the shared to the personal policy, nats an answer; nan where it is none."""
    rows = public.rows(public.probes, len(people), plan.probes)
    if public.probes.kind == "reward":
        return _of_choices(public.probes, rows, shared, private, plan.beta)
    model = cast("PolicyModel", public.probes)
    prompts = public.probe_prompts[: rows.index.shape[1]]
    ratios = [
        model.answer_ratios(
            prompts,
            _one(shared, p),
            _one(private, p),
            tokens=plan.tokens,
            seed=int(generator(seed, "kl cap", person).integers(1 << 62)),
        )
        for p, person in enumerate(people)
    ]
    return k3(torch.stack(ratios))


def k3(log_ratio: Tensor) -> Tensor:
    """(q - 1) - ln q with ln q = ln pi_s(y) - ln pi_i(y), y drawn from pi_i; at least 0."""
    return torch.expm1(log_ratio.double()) - log_ratio.double()


def binary_kl(personal: Tensor, shared: Tensor) -> Tensor:
    """KL of choices between two answers, sigma(personal) from sigma(shared), nats; margins of any shape."""
    a, b = personal.double(), shared.double()
    return torch.sigmoid(a) * (logsigmoid(a) - logsigmoid(b)) + torch.sigmoid(-a) * (
        logsigmoid(-a) - logsigmoid(-b)
    )


def _of_choices(model: PreferenceModel, rows: Rows, shared: Tensors, private: Tensors, beta: float) -> Tensor:
    margins = []
    for own in (private, None):
        chosen, rejected = model.scores(rows, shared, own)
        margins.append(beta * (chosen - rejected))
    return binary_kl(*margins)


def _of(tensors: Tensors, places: list[int]) -> Tensors:
    """The adapters of some people; one that is everybody's stays as it is."""
    return {name: value if len(value) == 1 else value[places] for name, value in tensors.items()}


def _one(tensors: Tensors, place: int) -> Tensors:
    return {name: value[0 if len(value) == 1 else place] for name, value in tensors.items()}
