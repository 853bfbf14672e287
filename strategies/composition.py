"""What a strategy may be combined with: privacy (methods D3), and a model that it can train.

A refusal says why and what to use instead. A rule that compares replies one by one has a sensitivity of the
order of 2C instead of C/m, so central noise of size z*C/m does not cover it; and a claim for one comparison
needs a message in which each comparison is clipped by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from commonground.errors import StrategyError
from commonground.strategies.registry import (
    LINEAR,
    PRODUCTS,
    client_half,
    factory_of,
    implied_settings,
    is_linear,
)

# Why a rule that sees replies one by one cannot meet central noise, and what does the same job there.
WHY = {
    "rfa": "takes several passes over people's updates one by one, each of which would be a release",
    "fltrust": "scores people's updates one by one",
} | dict.fromkeys(PRODUCTS, "needs the product B A of every person, one by one")
FACTORS_INSTEAD = "rolora (exact, and linear), fedsa, or fedit (linear, and inexact)"
INSTEAD = "centred_clipping (robust, and a sum of bounded vectors)"


def check_composition(
    name: str,
    trust: str,
    finite_epsilon: bool,
    unit: str = "person",
    options: Mapping[str, Any] | None = None,
) -> None:
    """Refuse what the composition table of methods D3 refuses.

    Rules that need individual replies do not go where only a noised mean may be seen; a device's half that
    looks at all of a person's comparisons does not go with a claim for one comparison.

    Args:
        name: strategy name.
        trust: "central" (the server adds the noise) or "local" (each device does).
        finite_epsilon: whether there is noise at all.
        unit: what the claim protects: person | comparison.
        options: the strategy's options.

    Raises:
        StrategyError: with the reason and what to use instead.
    """
    if finite_epsilon and trust == "central" and not is_linear(name):
        why = WHY.get(name, "compares people's updates one by one")
        raise StrategyError(
            f"{name} {why}, which noise added to their mean "
            "(privacy.trust=central) does not cover: its sensitivity is about 2C, not C/m",
            key="strategy.name",
            verb="=",
            hint=f"use {_instead(name)}; "
            "or privacy.trust=local, where each device adds its own noise; or "
            "privacy.shared.epsilon=inf, without a privacy claim",
        )
    if unit != "comparison":
        return
    if implied_settings(name, options).get("schedule", "decoupled") != "decoupled":
        raise StrategyError(
            f"{name} passes shared gradients through the private adapter, so that one "
            "comparison moves all of them: a claim for one (privacy.unit=comparison) would be false",
            key="strategy.name",
            verb="=",
            hint="use privacy.unit=person, or a strategy with schedule=decoupled such as ditto",
        )
    if client_half(name, options) is not None:
        raise StrategyError(
            f"{name} has devices that send what depends on all of a person's comparisons at "
            "once: a claim for one of them (privacy.unit=comparison) would be false",
            key="strategy.name",
            verb="=",
            hint="use privacy.unit=person, or fedavg, fedavgm, fedadagrad, fedadam or fedyogi",
        )


def check_model(name: str, kind: str, form: str, tags: Sequence[str]) -> None:
    """Refuse a strategy on a model that it cannot train: `check_factors`, and what it says itself.

    Args:
        name: strategy name.
        kind: `model.kind`.
        form: `model.form`.
        tags: `shared.tags`.

    Raises:
        StrategyError: with the reason and what to use instead.
    """
    check_factors(name, kind, form)
    own = getattr(factory_of(name), "check_model", None)
    if own is not None:
        own(kind, form, tags)


def check_factors(name: str, kind: str, form: str) -> None:
    """Refuse a strategy of both low-rank factors where the shared adapter has no two.

    Args:
        name: strategy name.
        kind: `model.kind`.
        form: `model.form`.

    Raises:
        StrategyError: with the reason and what to use instead.
    """
    factors = _factors(name)
    if not factors or kind != "reward":
        return
    if factors == "product":
        raise StrategyError(
            f"{name} aggregates products B A, changes of a linear map, and model.kind=reward "
            "has none: u . tanh(A x) is not linear in A",
            key="strategy.name",
            verb="=",
            hint="use model.kind=policy; or rolora, fedsa or fedit with model.form=tanh",
        )
    if form != "tanh":
        raise StrategyError(
            f"{name} trains two factors; with model.form={form} there is one",
            key="strategy.name",
            verb="=",
            hint="use model.form=tanh, or model.kind=policy",
        )


def _instead(name: str) -> str:
    """What does the same job on a mean."""
    if _factors(name):
        return FACTORS_INSTEAD
    return f"{INSTEAD}, or another of {', '.join(sorted(LINEAR - {'centred_clipping'}))}"


def _factors(name: str) -> str:
    """What a rule of both low-rank factors looks at: each | product; "" for all other rules."""
    return str(getattr(factory_of(name), "factors", ""))
