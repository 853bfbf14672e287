"""Strategies by name.

Server steps that Flower has are Flower's own classes; the others are ours, each with both halves of its
algorithm in one file. `commonground.strategies.person_dp` wraps all of them. Two kinds:

* LINEAR rules work on the mean of what people send. It is clipped, noised and formed before the rule sees
  it, so the rule is post-processing and costs no privacy (methods D3). What an algorithm needs beside the
  update (control variates, weights, losses) is part of that clip.
* The others compare people's replies with each other (median, Krum and kin). Their sensitivity is of the
  order of 2C instead of C/m, so central noise of size z*C/m does not cover them.

A strategy class may have: `individual = True` (it must see replies one by one), `client_half()` (its
device's half), `settings()` (keys of the configuration that its name stands for), `factors` (it trains both
low-rank factors of the shared adapter, and looks at each of them or at their product), `check_model()` (what
else it needs of the model). A class of somebody else's, named as module:Class, may have the same.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import Strategy

from commonground.errors import InputError
from commonground.own_code import import_code
from commonground.strategies.alpha_fair import AlphaFair, egalitarian, nash, utilitarian
from commonground.strategies.centred_clipping import CentredClipping
from commonground.strategies.fedex import FedEx
from commonground.strategies.fedit import FedIT
from commonground.strategies.fednova import FedNova
from commonground.strategies.fedprox import FedProx
from commonground.strategies.fedsa import FedSA
from commonground.strategies.flexlora import FlexLoRA
from commonground.strategies.flora import FLoRA
from commonground.strategies.fltrust import FLTrust
from commonground.strategies.hetlora import HetLoRA
from commonground.strategies.lore import LoRe
from commonground.strategies.maxmin import MaxMin
from commonground.strategies.personal import Ditto, FedAlt, FedRep, FedSim
from commonground.strategies.qfedavg import QFedAvg
from commonground.strategies.quiet import quiet_flower
from commonground.strategies.rfa import Rfa
from commonground.strategies.rolora import RoLoRA
from commonground.strategies.scaffold import Scaffold
from commonground.strategies.server_half import OWN_SAMPLING
from commonground.training.client_half import ClientHalf

STRATEGIES: dict[str, Callable[..., Strategy]] = {
    "alpha_fair": AlphaFair,
    "bulyan": flower.Bulyan,
    "centred_clipping": CentredClipping,
    "ditto": Ditto,
    "egalitarian": egalitarian,
    "fedadagrad": flower.FedAdagrad,
    "fedadam": flower.FedAdam,
    "fedalt": FedAlt,
    "fedavg": flower.FedAvg,
    "fedavgm": flower.FedAvgM,
    "fedex": FedEx,
    "fedit": FedIT,
    "fedmedian": flower.FedMedian,
    "fednova": FedNova,
    "fedprox": FedProx,
    "fedrep": FedRep,
    "fedsa": FedSA,
    "fedsim": FedSim,
    "fedtrimmedavg": flower.FedTrimmedAvg,
    "fedyogi": flower.FedYogi,
    "flexlora": FlexLoRA,
    "flora": FLoRA,
    "fltrust": FLTrust,
    "hetlora": HetLoRA,
    "krum": flower.Krum,
    "lore": LoRe,
    "maxmin": MaxMin,
    "multikrum": flower.MultiKrum,
    "nash": nash,
    "qfedavg": QFedAvg,
    "rfa": Rfa,
    "rolora": RoLoRA,
    "scaffold": Scaffold,
    "utilitarian": utilitarian,
}
PRODUCTS = frozenset({"fedex", "flexlora", "flora", "hetlora"})
INDIVIDUAL = PRODUCTS | {"bulyan", "fedmedian", "fedtrimmedavg", "fltrust", "krum", "multikrum", "rfa"}
LINEAR = frozenset(STRATEGIES) - INDIVIDUAL
LEFT_OUT = {
    "afl": "it is called maxmin here; use maxmin",
    "fedper": "without layers it is fedsim; use fedsim",
    "ffa": "it is fedavg here, over one factor (model.shared_factors=one); use fedavg",
}
# Flower's own default of 0 makes fedavgm the same as fedavg; 0.9 is the paper's (arXiv 1909.06335).
DEFAULTS: dict[str, dict[str, Any]] = {
    "fedavgm": {"server_momentum": 0.9},
    "multikrum": {"num_nodes_to_select": 3},
}
# What the body of a class that adds nothing has all the same.
_OF_ANY_CLASS = frozenset(
    {
        *("__module__", "__qualname__", "__doc__", "__abstractmethods__", "_abc_impl", "__firstlineno__"),
        *("__static_attributes__", "__parameters__", "__orig_bases__"),
    }
)
# The wrapper draws the cohort and weighs everybody alike; these options would do nothing or harm.
_OURS = ("fraction_", "min_", "weighted_by_key", "arrayrecord_key", "configrecord_key", "eta_l")


def get_strategy(name: str, options: Mapping[str, Any] | None = None) -> Strategy:
    """Build the Flower strategy called `name`.

    Args:
        name: a name in `STRATEGIES`, or "package.module:Class" of a Flower `Strategy` that the user asked for
            (see `commonground.own_code`).
        options: keyword arguments of its constructor, except those about sampling and weights.

    Returns:
        A strategy that samples nobody itself: the cohort is drawn by the wrapper.

    Raises:
        InputError: unknown name (the known ones are listed), unknown option or a value of a wrong type.
    """
    factory = factory_of(name)
    accepted = accepted_options(factory)
    given = {**DEFAULTS.get(name, {}), **dict(options or {})}
    for key, value in given.items():
        if key not in accepted:
            raise InputError(
                f"unknown to {name}; accepted: {', '.join(accepted) or 'none'}", key=f"strategy.options.{key}"
            )
        default = accepted[key]
        number = isinstance(default, int | float) and not isinstance(default, bool)
        if isinstance(default, str) and not isinstance(value, str):
            raise InputError(
                f"{value!r}; a text is needed (default {default!r})", key=f"strategy.options.{key}"
            )
        if number and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise InputError(
                f"{value!r}; a number is needed (default {default})", key=f"strategy.options.{key}"
            )
    takes = inspect.signature(factory).parameters
    with quiet_flower():
        try:
            built = factory(**{k: v for k, v in OWN_SAMPLING.items() if k in takes}, **given)
        except InputError:
            raise
        except Exception as error:  # a constructor can raise anything over a value that it did not expect
            raise InputError(f"strategy {name} refuses its options {given!r:.200}: {error}") from error
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


def client_half(name: str, options: Mapping[str, Any] | None = None) -> ClientHalf | None:
    """The device's half of a strategy, built with the same options; None where it sends the plain update.

    Raises:
        InputError: as `get_strategy`; or a class of somebody else's gives something that is no `ClientHalf`.
    """
    built = get_strategy(name, options)
    if not hasattr(built, "client_half"):
        return None
    half = built.client_half()
    if half is not None and not isinstance(half, ClientHalf):
        raise InputError(
            f"{name}.client_half() gives a {type(half).__name__}; a "
            "commonground.training.client_half.ClientHalf is needed"
        )
    return half


def implied_settings(name: str, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Dotted key -> value of the configuration that a strategy's name stands for (`ditto`, `fedalt`, ...)."""
    built = get_strategy(name, options)
    return dict(built.settings()) if hasattr(built, "settings") else {}


def is_linear(name: str) -> bool:
    """Whether the rule works on the mean alone.

    A dotted class counts as linear (it is given one reply, the mean) unless it says `individual = True`.
    """
    if ":" in name:
        return not getattr(factory_of(name), "individual", False)
    factory_of(name)
    return name in LINEAR


def rule_of(name: str) -> str:
    """Return the known name of the rule that `name` stands for; `name` itself where it is a rule of its own.

    A class that adds nothing to a known one but a name or a text is that rule: it takes part in everything
    that is keyed by the rule, the noise of a simulated run among it, and ties with it exactly.
    """
    built = factory_of(name)
    while isinstance(built, type) and not _adds_something(built) and len(built.__bases__) == 1:
        built = built.__bases__[0]
        for known, factory in STRATEGIES.items():
            if factory is built and not DEFAULTS.get(known):
                return known
    return name


def _adds_something(built: type) -> bool:
    """Whether the body of a class holds anything that can act."""
    return any(name not in _OF_ANY_CLASS for name in vars(built))


def factory_of(name: str) -> Callable[..., Strategy]:
    """What builds the strategy called `name`: a class, or a function of its options.

    Raises:
        InputError: unknown name (the known ones are listed), or nothing that can be called.
    """
    if name in STRATEGIES:
        return STRATEGIES[name]
    if ":" in name:
        found = import_code(name, "strategy.name")
        if not callable(found):
            raise InputError(
                f"{name!r}, a {type(found).__name__}; a Strategy class is needed", key="strategy.name"
            )
        return found  # type: ignore[no-any-return]  # checked by get_strategy once it is built
    raise InputError(
        f"{name!r:.80}; known strategies: {', '.join(sorted(STRATEGIES))}, or package.module:Class",
        key="strategy.name",
        hint=f"{name} is left out: {LEFT_OUT[name]}" if name in LEFT_OUT else None,
    )
