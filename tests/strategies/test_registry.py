"""Names, options, and which rules may meet central noise."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from flwr.serverapp.strategy import FedAdam, FedAvgM

from commonground import own_code
from commonground.errors import ConfigError, InputError, StrategyError
from commonground.own_code import allow_code, forget_code
from commonground.simulations.settings import read_settings
from commonground.strategies.composition import check_composition, check_factors, check_model
from commonground.strategies.registry import (
    LINEAR,
    STRATEGIES,
    accepted_options,
    client_half,
    get_strategy,
    implied_settings,
    is_linear,
    rule_of,
)
from commonground.training.client_half import ClientHalf


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(
        InputError, match=r"'fedavgg'; known strategies: alpha_fair, bulyan, .*utilitarian"
    ) as caught:
        get_strategy("fedavgg")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(("name", "why"), [("ffa", "one factor"), ("afl", "maxmin")])
def test_left_out_strategies_say_why(name: str, why: str) -> None:
    with pytest.raises(InputError) as caught:
        get_strategy(name)
    assert why in str(caught.value.hint)


def test_options_reach_the_strategy() -> None:
    built = get_strategy("fedadam", {"eta": 0.03, "beta_1": 0.8})
    assert isinstance(built, FedAdam)
    assert (built.eta, built.beta_1, built.beta_2) == (0.03, 0.8, 0.99)


def test_fedavgm_has_momentum_unless_told_otherwise() -> None:
    assert get_strategy("fedavgm").server_momentum == 0.9
    assert get_strategy("fedavgm", {"server_momentum": 0.0}).server_momentum == 0.0


def test_unknown_option_names_the_accepted_ones() -> None:
    with pytest.raises(
        InputError, match=r"options.momentum is unknown to fedavgm; accepted: server_learning_rate, "
    ):
        get_strategy("fedavgm", {"momentum": 0.9})


@pytest.mark.parametrize("option", ["fraction_train", "min_available_nodes", "weighted_by_key", "eta_l"])
def test_sampling_and_weights_are_no_options(option: str) -> None:
    with pytest.raises(InputError, match="unknown"):
        get_strategy("fedadam", {option: 1})


@pytest.mark.parametrize("value", ["0.1", None, True])
def test_an_option_that_is_no_number_is_refused(value: object) -> None:
    with pytest.raises(InputError, match="a number is needed"):
        get_strategy("fedadam", {"eta": value})


@pytest.fixture
def toys() -> Iterator[None]:
    """Names of code that a user typed."""
    for name in ("Middle", "Doubled", "NoHalf"):
        allow_code(f"toy_strategies:{name}")
    allow_code("flwr.serverapp.strategy:FedAvg")
    yield
    forget_code()


def test_dotted_class() -> None:
    forget_code()
    with pytest.raises(InputError, match="code that nobody on this machine asked for"):
        get_strategy("flwr.serverapp.strategy:FedAvgM")
    assert allow_code(FedAvgM) in own_code._ALLOWED
    allow_code("flwr.serverapp.strategy:FedAvgM")
    assert isinstance(get_strategy("flwr.serverapp.strategy:FedAvgM", {"server_momentum": 0.5}), FedAvgM)


@pytest.mark.parametrize(
    "name", ["no.such.module:X", "flwr.serverapp.strategy:Nope", "os:getcwd", "os:sep", ":"]
)
def test_dotted_nonsense_is_one_clear_error(name: str) -> None:
    with pytest.raises(InputError):
        get_strategy(name)
    allow_code(name)
    try:
        with pytest.raises(InputError, match=r"cannot be imported|is needed"):
            get_strategy(name)
    finally:
        forget_code()


def test_building_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        get_strategy("fedavg")
    assert caplog.text == ""


@pytest.mark.usefixtures("toys")
def test_linear_rules() -> None:
    assert {name for name in STRATEGIES if is_linear(name)} == LINEAR
    assert is_linear("flwr.serverapp.strategy:FedAvg")
    assert not is_linear("toy_strategies:Middle")


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_composition(name: str) -> None:
    check_composition(name, "local", finite_epsilon=True)
    check_composition(name, "central", finite_epsilon=False)
    if name in LINEAR:
        check_composition(name, "central", finite_epsilon=True)
        return
    with pytest.raises(StrategyError, match=rf"name={name} .* one by one.*trust=central.*2C") as caught:
        check_composition(name, "central", finite_epsilon=True)
    factors = hasattr(STRATEGIES[name], "factors")
    assert ("rolora" if factors else "centred_clipping") in str(caught.value.hint)
    assert "local" in str(caught.value.hint)


def test_a_claim_for_one_comparison_needs_devices_that_do_nothing_else() -> None:
    for name in ("fedavg", "fedadam", "ditto", "krum"):
        check_composition(name, "central", finite_epsilon=False, unit="comparison")
    for name, why in (
        ("scaffold", "at once"),
        ("nash", "at once"),
        ("fedalt", "moves all"),
        ("fedsim", "all"),
        ("lore", "passes shared gradients through the private adapter"),
    ):
        with pytest.raises(StrategyError, match=why):
            check_composition(name, "central", finite_epsilon=False, unit="comparison")


@pytest.mark.usefixtures("toys")
def test_device_halves() -> None:
    with_half = {name for name in STRATEGIES if client_half(name) is not None}
    fair = {"alpha_fair", "nash", "egalitarian", "utilitarian", "maxmin", "qfedavg"}
    factors = {"rolora", "fedsa", "fedex", "flora", "hetlora"}
    assert with_half == fair | factors | {"scaffold", "fednova", "fedprox", "centred_clipping"}
    assert isinstance(client_half("toy_strategies:Doubled", {"times": 3}), ClientHalf)
    with pytest.raises(InputError, match=r"client_half\(\) gives a int"):
        client_half("toy_strategies:NoHalf")


def test_names_that_are_settings() -> None:
    assert implied_settings("ditto", {"lam": 0.5}) == {"schedule": "decoupled", "privacy.private.ridge": 0.5}
    assert implied_settings("fedrep") == {"schedule": "alternating", "shared.steps": 1}
    assert implied_settings("lore") == {"schedule": "alternating", "model.form": "basis"}
    assert implied_settings("fedavg") == {}
    assert implied_settings("rolora") == {"model.shared_factors": "both", "strategy.average": False}
    assert implied_settings("flora") == {"model.shared_factors": "merged"}


def test_rules_of_two_factors_need_two() -> None:
    for name in ("rolora", "fedsa", "fedit"):
        check_factors(name, "policy", "linear")
        check_factors(name, "reward", "tanh")
        with pytest.raises(
            StrategyError, match=rf"name={name} trains two factors; with model.form=linear"
        ) as no:
            check_factors(name, "reward", "linear")
        assert "model.form=tanh" in str(no.value.hint)
    for name in ("flexlora", "fedex", "flora", "hetlora"):
        check_factors(name, "policy", "linear")
        for form in ("linear", "tanh"):
            with pytest.raises(StrategyError, match=r"has none: u \. tanh") as refused:
                check_factors(name, "reward", form)
            assert "rolora" in str(refused.value.hint)
    check_factors("fedavg", "reward", "linear")


def test_a_basis_is_learned_together_from_tastes() -> None:
    both = ["safety", "taste"]
    check_model("lore", "reward", "linear", both)
    check_model("lore", "reward", "basis", both)
    check_model("fedadam", "reward", "basis", both)
    for kind, form, tags, why in (
        ("policy", "linear", both, r"model\.kind=policy has none"),
        ("reward", "tanh", both, r"model\.form=tanh is another model"),
        ("reward", "linear", ["safety"], r"shared\.tags=\[safety\] no taste is learned together"),
    ):
        with pytest.raises(StrategyError, match=why):
            check_model("lore", kind, form, tags)
    with pytest.raises(StrategyError, match="trains two factors"):
        check_model("rolora", "reward", "basis", both)
    lore = ["strategy.name=lore", "shared.tags=[safety,taste]"]
    read_settings(None, lore)
    with pytest.raises(ConfigError, match=r"moves all of them.*privacy\.unit=person"):
        read_settings(None, [*lore, "privacy.unit=comparison"])
    with pytest.raises(ConfigError, match="no taste is learned together"):
        read_settings(None, ["strategy.name=lore"])
    basis = ["model.form=basis", "shared.tags=[safety,taste]"]
    read_settings(None, [*basis, "schedule=joint", "strategy.name=fedadam"])
    with pytest.raises(ConfigError, match=r"'basis' with schedule=decoupled; accepted: with alternating"):
        read_settings(None, basis)
    with pytest.raises(ConfigError, match=r"'basis' with shared\.tags=\['safety'\]"):
        read_settings(None, ["model.form=basis", "schedule=joint"])


def test_a_merged_matrix_is_for_strategies_that_fill_it() -> None:
    with pytest.raises(ConfigError, match=r"'merged' with strategy\.name=fedavg; accepted: one, both"):
        read_settings(None, ["model.kind=policy", "model.shared_factors=merged"])
    words = ["model.kind=policy", "model.shared_factors=merged", "privacy.shared.epsilon=inf"]
    read_settings(None, [*words, "strategy.name=flora"])
    with pytest.raises(ConfigError, match="flexlora aggregates products"):
        read_settings(None, ["strategy.name=flexlora", "privacy.shared.epsilon=inf"])
    with pytest.raises(ConfigError, match=r"needs the product B A .*rolora"):
        read_settings(None, ["model.kind=policy", "strategy.name=flexlora"])


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("nash", {"cap": 0.5}),
        ("qfedavg", {"q": -1.0}),
        ("maxmin", {"memory": 1.0}),
        ("rfa", {"iterations": 0}),
    ],
)
def test_options_out_of_range(name: str, option: dict[str, float]) -> None:
    with pytest.raises(InputError, match=rf"strategy.options.{next(iter(option))} is .*; accepted: "):
        get_strategy(name, option)


@pytest.mark.parametrize("root", ["nowhere:x", "commonground.simulations.root:nothing", 3])
def test_a_root_set_that_is_none(root: object) -> None:
    with pytest.raises(InputError, match=r"strategy\.options\.root is"):
        get_strategy("fltrust", {"root": root})


def test_options_shown_are_the_rules_own() -> None:
    assert sorted(accepted_options(STRATEGIES["fedadam"])) == ["beta_1", "beta_2", "eta", "tau"]
    assert accepted_options(STRATEGIES["fedavg"]) == {}


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("toy_competitors:Mine", "fedavg"),  # a name and a text
        ("toy_competitors:Broken", "toy_competitors:Broken"),  # acts
        ("fedavg", "fedavg"),
        ("fedavgm", "fedavgm"),
        ("median", None),
    ],
)
def test_a_class_that_adds_nothing_is_the_rule_that_it_derives_from(name: str, rule: str | None) -> None:
    if ":" in name:
        allow_code(name)
    if rule is None:
        with pytest.raises(InputError, match="known strategies"):
            rule_of(name)
    else:
        assert rule_of(name) == rule
