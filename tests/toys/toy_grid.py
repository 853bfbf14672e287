"""Drive the person-level wrapper over the in-process grid with updates written down in a test."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp

from commonground.manifest import Manifest, TensorSpec
from commonground.simulations.grid import InProcessGrid
from commonground.strategies.person_dp import Arrays, PersonLevel
from commonground.strategies.records import from_record, to_record, train_content
from commonground.strategies.registry import get_strategy, is_linear

SPECS = (TensorSpec("a", (3,)), TensorSpec("b", (2, 2)), TensorSpec("c", ()))
Updates = Callable[[int, int, Arrays], Mapping[str, np.ndarray] | None]


def manifest(clip: float = 1.0, *, noise_on_device: bool = False, grid: float = 0.0) -> Manifest:
    """Three tensors, one of them a scalar; eight numbers."""
    return Manifest(SPECS, clip, noise_on_device, {}, grid=grid)


def constant(value: float) -> Arrays:
    """The same number everywhere."""
    return {spec.name: np.full(spec.shape, value, np.float32) for spec in SPECS}


def random(seed: int, size: float = 0.3) -> Arrays:
    """An update of norm `size`."""
    draws = {s.name: np.random.default_rng([seed, i]).standard_normal(s.shape) for i, s in enumerate(SPECS)}
    norm = np.sqrt(sum(float(np.square(v).sum()) for v in draws.values()))
    return {name: np.asarray(value * size / norm, np.float32) for name, value in draws.items()}


def flat(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """All numbers in the manifest's order, float64."""
    return np.concatenate([np.asarray(arrays[spec.name], np.float64).ravel() for spec in SPECS])


def wrap(name: str = "fedavg", options: dict[str, float] | None = None, **changes: object) -> PersonLevel:
    """A wrapper with everybody drawn, no noise, and whatever a test changes."""
    people = int(str(changes.get("people", 4)))
    settings: dict[str, object] = {
        "people": people,
        "q": 1.0,
        "m": float(people),
        "noise_multiplier": 0.0,
        "seed": 3,
        "rounds": 4,
        "individual": not is_linear(name),
    }
    kept = changes.pop("manifest", manifest())
    assert isinstance(kept, Manifest)
    return PersonLevel(get_strategy(name, options), kept, **{**settings, **changes})  # type: ignore[arg-type]


def run_round(
    wrapper: PersonLevel,
    round: int,
    shared: Arrays,
    updates: Updates,
    order: Callable[[list[Message]], object] = list,
) -> Arrays:
    """One round: `updates(round, person, shared)` is a person's answer, None an error."""
    app = ClientApp()

    @app.train()  # type: ignore[untyped-decorator]
    def answer(message: Message, context: Context) -> Message:
        person = int(message.content["config"]["person"])
        update = updates(round, person, from_record(message.content["arrays"]))
        if update is None:
            return Message(Error(1001, "constant"), reply_to=message)
        return Message(train_content(update), reply_to=message)

    grid = InProcessGrid(app, wrapper.people)
    replies = list(grid.send_and_receive(wrapper.configure_train(round, to_record(shared), {}, grid)))
    order(replies)
    record, _ = wrapper.aggregate_train(round, replies)
    return from_record(record)
