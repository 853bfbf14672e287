"""Strategies by name.

The server step of every strategy here is Flower's own class; `commonground.strategies.person_dp` wraps
it. Two kinds:

* LINEAR rules work on the mean update alone. The mean is clipped, noised and formed before the rule sees
  it, so the rule is post-processing and costs no privacy (methods D3).
* The others compare people's replies with each other (median, Krum and kin). Their sensitivity is of
  the order of 2C instead of C/m, so central noise of size z*C/m does not cover them.

Left out, because half an algorithm is none: `fedprox` (its proximal term is in the device's loss, which
our local update does not have; a few clipped steps from u_t bound the drift instead) and `qfedavg` (each
device would have to send its training loss, which is a second release outside the clip).
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import Strategy

from commonground.errors import InputError, StrategyError
from commonground.strategies.quiet import quiet_flower

LINEAR = frozenset({"fedavg", "fedavgm", "fedadagrad", "fedadam", "fedyogi"})
STRATEGIES: dict[str, Callable[..., Strategy]] = {
    "fedavg": flower.FedAvg,
    "fedavgm": flower.FedAvgM,
    "fedadagrad": flower.FedAdagrad,
    "fedadam": flower.FedAdam,
    "fedyogi": flower.FedYogi,
    "fedmedian": flower.FedMedian,
    "fedtrimmedavg": flower.FedTrimmedAvg,
    "krum": flower.Krum,
    "multikrum": flower.MultiKrum,
    "bulyan": flower.Bulyan,
}
LEFT_OUT = {
    "fedprox": "its client half, the proximal term, is missing; use fedavg with fewer shared.steps",
    "qfedavg": "it needs every person's loss, a release outside the clip; use fedavg",
}
# Flower's own default of 0 makes fedavgm the same as fedavg; 0.9 is the paper's (arXiv 1909.06335).
DEFAULTS: dict[str, dict[str, Any]] = {
    "fedavgm": {"server_momentum": 0.9},
    "multikrum": {"num_nodes_to_select": 3},
}
# The wrapper draws the cohort and weighs everybody alike; these options would do nothing or harm.
_OURS = ("fraction_", "min_", "weighted_by_key", "arrayrecord_key", "configrecord_key", "eta_l")
_OWN_SAMPLING = {"fraction_train": 0.0, "fraction_evaluate": 0.0, "min_available_nodes": 0}


def get_strategy(name: str, options: Mapping[str, Any] | None = None) -> Strategy:
    """Build the Flower strategy called `name`.

    Args:
        name: a name in `STRATEGIES`, or "package.module:Class" of an installed Flower `Strategy`.
        options: keyword arguments of its constructor, except those about sampling and weights.

    Returns:
        A strategy that samples nobody itself: the cohort is drawn by the wrapper.

    Raises:
        InputError: unknown name (the known ones are listed), unknown option or a value of a wrong type.
    """
    factory = _factory(name)
    accepted = accepted_options(factory)
    given = {**DEFAULTS.get(name, {}), **dict(options or {})}
    for key, value in given.items():
        if key not in accepted:
            raise InputError(
                f"strategy.options.{key} is unknown to {name}; accepted: {', '.join(accepted) or 'none'}"
            )
        default = accepted[key]
        number = isinstance(default, int | float) and not isinstance(default, bool)
        if number and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise InputError(f"strategy.options.{key} is {value!r}; a number is needed (default {default})")
    takes = inspect.signature(factory).parameters
    with quiet_flower():
        try:
            built = factory(**{k: v for k, v in _OWN_SAMPLING.items() if k in takes}, **given)
        except (TypeError, ValueError) as error:
            raise InputError(f"strategy {name} refuses its options {given}: {error}") from error
    if not isinstance(built, Strategy):
        raise InputError(
            f"{name} gives a {type(built).__name__}; a flwr.serverapp.strategy.Strategy is needed"
        )
    return built


def accepted_options(factory: Callable[..., Strategy]) -> dict[str, Any]:
    """Option -> default value of a strategy's constructor, without those that the wrapper decides."""
    return {
        key: parameter.default
        for key, parameter in inspect.signature(factory).parameters.items()
        if not key.startswith(_OURS) and not key.endswith("_fn")
    }


def is_linear(name: str) -> bool:
    """Whether the rule works on the mean alone.

    A dotted class counts as linear (it is given one reply, the mean) unless it says `individual = True`.
    """
    if ":" in name:
        return not getattr(_factory(name), "individual", False)
    _factory(name)
    return name in LINEAR


def check_composition(name: str, trust: str, finite_epsilon: bool) -> None:
    """Refuse rules that need individual replies where only a noised mean may be seen (methods D3).

    Args:
        name: strategy name.
        trust: "central" (the server adds the noise) or "local" (each device does).
        finite_epsilon: whether there is noise at all.

    Raises:
        StrategyError: with the reason and what to use instead.
    """
    if finite_epsilon and trust == "central" and not is_linear(name):
        raise StrategyError(
            f"strategy.name={name} compares people's updates one by one, which noise added to their mean "
            "(privacy.trust=central) does not cover: its sensitivity is about 2C, not C/m",
            hint=f"use one of {', '.join(sorted(LINEAR))}; or privacy.trust=local, where each device adds "
            "its own noise; or privacy.shared.epsilon=inf, without a privacy claim",
        )


def _factory(name: str) -> Callable[..., Strategy]:
    if name in STRATEGIES:
        return STRATEGIES[name]
    if ":" in name:
        module, _, attribute = name.partition(":")
        try:
            found = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise InputError(f"strategy.name is {name!r}, which cannot be imported: {error}") from error
        if not callable(found):
            raise InputError(
                f"strategy.name is {name!r}, a {type(found).__name__}; a Strategy class is needed"
            )
        return found  # type: ignore[no-any-return]  # checked by get_strategy once it is built
    raise InputError(
        f"strategy.name is {name!r}; known strategies: {', '.join(sorted(STRATEGIES))}, "
        "or package.module:Class",
        hint=f"{name} is left out: {LEFT_OUT[name]}" if name in LEFT_OUT else None,
    )
