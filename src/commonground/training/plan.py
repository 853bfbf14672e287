"""What a local update is told to do: plain numbers, resolved once for the whole run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from commonground.comparisons import Tag
from commonground.losses import LossSettings
from commonground.training.optimiser import Name as OptimiserName

Schedule = Literal["decoupled", "alternating", "joint"]


@dataclass(frozen=True)
class SharedPlan:
    """The shared phase.

    Attributes:
        tags: the tags it learns from; every tag's mean loss counts the same.
        steps: local steps of one round.
        rate: step size.
        batch: comparisons of each tag in a step; None = all the person has.
        loss: name in `LOSSES`.
        settings: the loss's numbers.
        optimiser: fresh in every round, as the person may be anybody in the next.
        pair_clip: None for a person-level claim. A number makes the phase ONE Poisson step whose pairs
            are clipped one by one, for a comparison-level claim.
        pair_sampling: Poisson rate of that step.
        expected_batch: its public denominator, rate x cap.
    """

    tags: tuple[Tag, ...]
    steps: int
    rate: float
    batch: int | None
    loss: str
    settings: LossSettings
    optimiser: OptimiserName = "sgd"
    pair_clip: float | None = None
    pair_sampling: float = 1.0
    expected_batch: float = 1.0


@dataclass(frozen=True)
class ConstraintPlan:
    """Constrained DPO in the private phase; see `training.constrained`.

    Attributes:
        tolerance: what may be lost of the shared policy's mean probability of the safe answer.
        beta: of that probability, sigma(beta D).
        rate: step size of the price, eta.
        batch: public pairs in a step; None = all.
        most: largest price.
        memory: weight of what was before in the running means of the probability and of the price.
    """

    tolerance: float
    beta: float
    rate: float = 0.1
    batch: int | None = None
    most: float = 20.0
    memory: float = 0.9


@dataclass(frozen=True)
class CapPlan:
    """A finished private adapter is scaled back to a KL; see `training.kl_cap`. Infinity = no cap.

    Attributes:
        mean: nats an answer, over the public probes.
        worst: nats an answer, of the probe where it is largest.
        beta: a reward model only, of its choice between two answers.
        probes: public probes; None = all.
        tokens: a policy only, tokens of an answer.
    """

    mean: float
    worst: float
    beta: float = 1.0
    probes: int | None = None
    tokens: int = 24


@dataclass(frozen=True)
class PrivatePlan:
    """The private phase, over a person's whole life.

    Attributes:
        tags: what the private adapter learns from.
        steps: lifetime steps; the adapter freezes when they are spent.
        steps_per_visit: steps in a round in which the person takes part; the rest is done at the end.
        sampling: Poisson rate of every step, of the public cap.
        cap: most training comparisons a person may have; public, so that it may be the denominator.
        clip: L2 bound on each pair's gradient (infinity without DP).
        noise_multiplier: noise std on the sum of clipped gradients is `noise_multiplier * clip`.
        rate: step size.
        decay: True lets the step size fall linearly to zero over the lifetime.
        ridge: pull towards zero.
        average_from: fraction of the lifetime after which iterates are averaged; 1 = last iterate.
        flip_probability: of randomised response on each label (mechanism `label`), else 0.
        constraint: on public safety pairs, or None.
        kl: most that a finished adapter may differ from the shared policy, or None.
    """

    tags: tuple[Tag, ...]
    steps: int
    steps_per_visit: int
    sampling: float
    cap: int
    clip: float
    noise_multiplier: float
    rate: float
    ridge: float
    loss: str
    settings: LossSettings
    optimiser: OptimiserName = "sgd"
    average_from: float = 0.5
    decay: bool = False
    flip_probability: float = 0.0
    constraint: ConstraintPlan | None = None
    kl: CapPlan | None = None


@dataclass(frozen=True)
class Plan:
    """Both phases, their order, and the seeds of every draw.

    Attributes:
        shared, private: the phases.
        schedule: their order.
        seed: of coins and batches.
        noise_seed: of the noise of private adapters; None is `seed`.
    """

    shared: SharedPlan
    private: PrivatePlan
    schedule: Schedule = "decoupled"
    seed: int = 0
    noise_seed: int | None = None
    stream: str = field(default="run")
