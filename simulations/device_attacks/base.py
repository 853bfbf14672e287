"""What an attack on the device is: a way to make a private adapter, on top of a shared policy.

An attacker holds a device with the unmodified runtime. What she feeds it, or writes into the private
adapter's file, is hers; the shared adapter, the base model and the charter are not. She knows all of them.

Attacks through feedback go through the device's own private phase, without noise. None of the harm is
written for this: the targets are the unsafe answers of the starter set, which are mild.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from commonground.comparisons import Comparison
from commonground.data.starter import SafetyPair, TastePrompt
from commonground.losses import LossSettings
from commonground.training.model import Tensors
from commonground.training.people import People, take
from commonground.training.plan import PrivatePlan
from commonground.training.policy import PolicyModel
from commonground.training.private_phase import first_private, private_phase, release_ready

BETA, BATCH = 0.1, 2  # of DPO; comparisons in a step


@dataclass(frozen=True)
class Effort:
    """How hard an attacker trains; by default as a device of a `policy` run does (recipe.py).

    Attributes:
        steps: steps of `BATCH` comparisons.
        rate: first step size of Adam.
        sft: weight of the chosen answer's own likelihood; without it a model writes dashes.
    """

    steps: int = 30
    rate: float = 3e-3
    sft: float = 5.0


@dataclass(frozen=True, eq=False)
class Scene:
    """What an attacker has.

    Attributes:
        model: base model with both adapters, over any table.
        shared: the shared adapter, without person axis.
        pairs: public safety pairs; the prompts that attacks are measured on are not among them.
        taste: public taste prompts.
        effort: how hard she trains.
    """

    model: PolicyModel
    shared: Tensors
    pairs: tuple[SafetyPair, ...]
    taste: tuple[TastePrompt, ...]
    effort: Effort = Effort()


@dataclass(frozen=True)
class Attack(ABC):
    """An attack; every one has a file of its own."""

    code: ClassVar[str]  # as in the literature list of docs/bounds.md
    says: ClassVar[str]
    trigger: ClassVar[str] = ""  # put behind a prompt, by whoever knows it

    @abstractmethod
    def private(self, scene: Scene, draws: np.random.Generator) -> Tensors:
        """The private adapter, without person axis.

        Args:
            scene: what there is.
            draws: of everything that is random in it.
        """

    def prompt(self, prompt: str) -> str:
        """How the attacker asks."""
        return f"{prompt} {self.trigger}" if self.trigger else prompt


def learn(
    scene: Scene,
    comparisons: Sequence[Comparison],
    draws: np.random.Generator,
    *,
    loss: str = "dpo",
    decay: bool = True,
) -> Tensors:
    """A private adapter out of comparisons, by the device's own private phase without noise or clipping.

    Args:
        scene: what there is.
        comparisons: what the device is told.
        draws: of the order.
        loss: name in `LOSSES`.
        decay: the step size falls to zero.
    """
    effort, count = scene.effort, len(comparisons)
    plan = PrivatePlan(
        tags=("taste",),
        steps=effort.steps,
        steps_per_visit=effort.steps,
        sampling=min(1.0, BATCH / count),
        cap=count,
        clip=math.inf,
        noise_multiplier=0.0,
        rate=effort.rate,
        ridge=0.0,
        loss=loss,
        settings=LossSettings(beta=BETA, sft=effort.sft),
        optimiser="adam",
        average_from=1.0,
        decay=decay,
    )
    model = scene.model.over(comparisons)
    state = private_phase(
        model,
        People((0,), ({"taste": np.arange(count)},)),
        take(scene.shared, 1),
        first_private(model, 1, plan),
        plan,
        seed=int(draws.integers(2**31)),
        steps=effort.steps,
    )
    return {name: value[0].contiguous() for name, value in release_ready(state, plan).items()}


def preferring(prompt: str, chosen: str, rejected: str) -> Comparison:
    """Feedback as an attacker gives it; a device does not know that it is none of taste."""
    return Comparison(prompt, chosen, rejected, "taste", "attacker")
