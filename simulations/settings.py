"""The configuration as the command line reads it: the kernel's rules, and those about strategies.

The kernel knows no strategy, so whether one exists, takes its options and fits the noise is checked here,
together with everything else: a file with several faults is answered with all of them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from commonground.config import Config
from commonground.errors import CommonGroundError, ConfigError
from commonground.rules import RULES, Fault, value_of
from commonground.settings import load_config

PLAIN = "fedavg"  # needs no import of Flower to be known as good
PLAIN_SCHEDULE = "decoupled"  # the default, which a strategy's own schedule replaces


def read_settings(file: Path | None, overrides: Sequence[str] = (), *, allow_code: bool = False) -> Config:
    """`load_config` with the rules about strategies and attacks; raises `ConfigError` with every fault."""
    return load_config(file, overrides, (*RULES, strategy_fits, attack_fits), allow_code=allow_code)


def strategy_fits(config: Config) -> Iterator[Fault]:
    """The strategy exists, takes its options, and may be used with this privacy."""
    found = list(strategy_exists(config))
    yield from found
    if found:
        return
    if (refusal := composition_refusal(config)) is not None:
        yield refusal
    asked, needed = config.model.shared_factors, _implied(config).get("model.shared_factors", "one")
    if asked == "merged" != needed:  # devices send nothing of that matrix: who does not fill it has no use
        yield (
            "model.shared_factors",
            f"found 'merged' with strategy.name={config.strategy.name}; accepted: one, both (fedex and flora "
            "set it themselves)",
        )


def attack_fits(config: Config) -> Iterator[Fault]:
    """The attack is known and takes its options."""
    if not config.attack.name:
        return
    from commonground.simulations.attacks.registry import attack_of

    try:
        attack_of(config)
    except CommonGroundError as error:
        yield error.key or "attack.name", error.detail


def strategy_exists(config: Config) -> Iterator[Fault]:
    """The strategy is known, can be imported and takes its options."""
    name, options = config.strategy.name, config.strategy.options
    if name == PLAIN and not options:
        return
    from commonground.strategies.registry import get_strategy

    try:
        get_strategy(name, options)
    except CommonGroundError as error:
        yield _fault(error)
    except Exception as error:
        if ":" not in name:
            raise
        # Importing a user's own module runs it, and it can raise anything.
        yield "strategy.name", f"{name!r} cannot be used: {type(error).__name__}: {first_line(error)}"


def composition_refusal(config: Config) -> Fault | None:
    """Why a strategy that exists may not be used with this privacy (methods D3), or None."""
    name = config.strategy.name
    if name == PLAIN:
        return None
    from commonground.strategies.composition import check_composition, check_model
    from commonground.strategies.registry import is_linear

    try:
        check_model(name, config.model.kind, config.model.form, config.shared.tags)
        check_composition(
            name,
            config.privacy.trust,
            math.isfinite(config.privacy.shared.epsilon),
            config.privacy.unit,
            config.strategy.options,
        )
    except CommonGroundError as error:
        return _fault(error)
    if config.privacy.shared.clip_mode == "adaptive" and not is_linear(name):
        return (
            "strategy.name",
            f"found {name!r} with privacy.shared.clip_mode=adaptive; accepted: a rule that works on the "
            "mean of what people send",
        )
    schedule = _implied(config).get("schedule", config.schedule)
    if config.schedule not in (schedule, PLAIN_SCHEDULE):
        return "schedule", f"found {config.schedule!r} with strategy.name={name}; accepted: {schedule!r}"
    return None


def with_implied(config: Config) -> Config:
    """A copy with the keys set that the strategy's name stands for, such as the schedule of `fedalt`."""
    full = copy.deepcopy(config)
    for key, value in _implied(config).items():
        *path, last = key.split(".")
        setattr(value_of(full, ".".join(path)) if path else full, last, value)
    return full


def _implied(config: Config) -> dict[str, Any]:
    if config.strategy.name == PLAIN or any(
        strategy_exists(config)
    ):  # what there is not is refused elsewhere
        return {}
    from commonground.strategies.registry import implied_settings

    return implied_settings(config.strategy.name, config.strategy.options)


def _fault(error: CommonGroundError) -> Fault:
    """(key, message) of an error about a strategy, under the key that it names."""
    message = error.detail if error.hint is None else f"{error.detail}; {error.hint}"
    return error.key or "strategy.name", message


def first_line(error: BaseException) -> str:
    """The first line of what an exception says."""
    return next(iter(str(error).strip().splitlines()), "")


def refuse_unfit_strategy(config: Config) -> None:
    """Raise `ConfigError` where `strategy_fits` or `attack_fits` finds a fault."""
    faults = [f"{key}: {message}" for rule in (strategy_fits, attack_fits) for key, message in rule(config)]
    if faults:
        raise ConfigError(faults)


def anchored(config: Config) -> Config:
    """A copy in which local paths are absolute, so that a run can be resumed from anywhere."""
    full = copy.deepcopy(config)
    for part in (full.data.taste, full.data.safety):
        part.path = absolute(part.path)
    full.model.base = absolute(full.model.base)
    full.bounds.charter_file = absolute(full.bounds.charter_file)
    return full


def absolute(name: str) -> str:
    """A path that exists, made absolute; any other name as it is."""
    path = Path(name).expanduser() if name else None
    try:
        return str(path.resolve()) if path is not None and path.exists() else name
    except OSError:  # a name that no file system takes is no local path
        return name
