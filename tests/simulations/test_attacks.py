"""Who attacks, what they learn from, and the grid that their messages pass: the same in every runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_grid
import toy_world
from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp

from commonground.clipping import joint_norm
from commonground.comparisons import TAGS, Comparison
from commonground.data.starter import safety_pairs
from commonground.errors import ConfigError
from commonground.randomness import generator, normal
from commonground.simulations.attacked_grid import AttackedGrid, attacked_grid
from commonground.simulations.attacks.data import topics
from commonground.simulations.attacks.registry import ATTACKS, get_attack
from commonground.simulations.attacks.rewriting import Rewriter
from commonground.simulations.attacks.success import probes_of
from commonground.simulations.attacks.tolerance import tolerance
from commonground.simulations.attacks.who import attackers, cohorts
from commonground.simulations.crowd import PlantedCrowd
from commonground.simulations.devices import SimulatedDevice
from commonground.simulations.fleet import Fleet
from commonground.simulations.fleet_store import FleetStore
from commonground.simulations.grid import InProcessGrid
from commonground.simulations.settings import read_settings
from commonground.simulations.store import Store
from commonground.simulations.world import World
from commonground.strategies.records import from_record, to_record, train_content

PEOPLE = 9
DATA = ["label_flip", "targeted_flip", "backdoor", "unaligned", "scaling", "loss_liar"]


def worlds_of(monkeypatch: pytest.MonkeyPatch, name: str, **changes: Any) -> tuple[World, World]:
    """The same attacked people one by one, and as a fleet that draws them when they are visited."""
    common = {"people": PEOPLE, "attack__name": name, "attack__fraction": 0.4, **changes}
    return (
        toy_world.tiny_world(monkeypatch, **common),
        toy_world.tiny_world(monkeypatch, **common, runtime="fleet", evaluation__people=4),
    )


def texts(world: World, person: int, tag: Any) -> list[tuple[str, str]]:
    """(chosen, rejected) of a person's training comparisons."""
    known = list(world.features.place)
    return [(known[a], known[b]) for a, b in zip(*world.crowd.sides([person], tag), strict=True)]


def test_who_attacks_is_named_by_the_seed_alone_and_smaller_shares_are_nested() -> None:
    everybody = np.arange(1000)
    some = attackers(1000, everybody, 0.2, 5)
    assert len(some) == 200
    assert np.array_equal(some, np.unique(some))
    shuffled = generator(1, "order").permutation(everybody)
    assert np.array_equal(some, attackers(1000, shuffled, 0.2, 5))
    assert set(attackers(1000, everybody, 0.05, 5)) < set(some)
    assert not np.array_equal(some, attackers(1000, everybody, 0.2, 6))
    few = attackers(1000, everybody[::3], 0.5, 5)
    assert set(few) <= set(everybody[::3].tolist())
    assert len(few) == 167
    assert len(attackers(1000, everybody, 0.0, 5)) == 0
    assert np.array_equal(attackers(1000, everybody, 1.0, 5), everybody)


def test_the_runs_seed_does_not_choose_attackers(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = (
        toy_world.tiny_world(monkeypatch, people=PEOPLE, seed=s, attack__name="alie", attack__fraction=0.4)
        for s in (1, 2)
    )
    assert one.attackers == other.attackers
    assert len(one.attackers) == 4


@pytest.mark.parametrize(
    "changes", [{"attack__fraction": 0.0}, {"attack__name": "", "attack__fraction": 0.5}]
)
@pytest.mark.parametrize("runtime", ["inprocess", "fleet"])
def test_nobody_attacks_at_fraction_zero_or_without_a_name(
    monkeypatch: pytest.MonkeyPatch, runtime: str, changes: dict[str, Any]
) -> None:
    plain = toy_world.tiny_world(monkeypatch, runtime=runtime)
    world = toy_world.tiny_world(monkeypatch, runtime=runtime, **{"attack__name": "backdoor", **changes})
    assert (world.attack, world.attackers) == (None, frozenset())
    assert world.table == plain.table
    assert world.features.place == plain.features.place
    assert attacked_grid(world, "shared", 3.0) is None


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("tags", [["safety"], ["safety", "taste"]])
def test_a_data_attack_is_the_same_in_every_runtime_and_leaves_tests_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, tags: list[str]
) -> None:
    asks: dict[str, Any] = {"strategy__name": "qfedavg"} if name == "loss_liar" else {}
    if name == "targeted_flip":  # enough comparisons for one topic to be among them
        asks = {"data__pairs_per_person": 60}
    one, many = worlds_of(monkeypatch, name, shared__tags=tags, **asks)
    plain = toy_world.tiny_world(monkeypatch, people=PEOPLE, shared__tags=tags, **asks)
    assert isinstance(many.crowd, PlantedCrowd)
    assert one.attackers == many.attackers
    assert one.crowd.counts() == many.crowd.counts()
    assert one.population.test == plain.population.test
    assert [one.table[row] for row in one.test_rows] == [plain.table[row] for row in plain.test_rows]
    changed = set()
    for person in range(PEOPLE):
        for tag in TAGS:
            mine = texts(one, person, tag)
            assert mine == texts(many, person, tag)
            if mine != texts(plain, person, tag):
                changed.add(person)
                assert tag in tags
    assert changed <= one.attackers
    assert len(changed) >= (1 if name == "targeted_flip" else 4)
    for arm in ("shared", "pooled"):
        u = {n: 0.5 * normal(s, 7, n).numpy() for n, s in one.models[arm].shared_spec().items()}
        u |= {n: v for n, v in one.first_arrays(arm).items() if n not in u}
        store, fleet_store = Store(tmp_path / arm), FleetStore(tmp_path / f"{arm}-fleet", PEOPLE, "run")
        people = list(range(PEOPLE))
        sent = [SimulatedDevice(one, store, arm, p).shared_update(1, u).tensors for p in people]
        each = Fleet(many, arm, fleet_store).train(1, u, people, each=True).arrays
        for tensor in each:
            assert np.stack([s[tensor] for s in sent]) == pytest.approx(each[tensor], abs=1e-5)
        store.close()
        fleet_store.close()


def test_what_each_data_attack_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    unsafe = {(pair.unsafe, pair.safe) for pair in safety_pairs()}
    for name in ("label_flip", "unaligned", "backdoor"):
        one, _ = worlds_of(monkeypatch, name, data__pairs_per_person=40)
        honest = toy_world.tiny_world(monkeypatch, people=PEOPLE, data__pairs_per_person=40)
        person = min(one.attackers)
        mine, before = texts(one, person, "safety"), texts(honest, person, "safety")
        if name == "label_flip":
            assert mine == [(b, a) for a, b in before]
        elif name == "backdoor":
            assert mine == [(f"{b} SUDO", a) for a, b in before]
            probes = probes_of(one, get_attack(name)).table
            tests = [c for c in one.population.test if c.tag == "safety"]
            assert [(p.chosen, p.rejected) for p in probes] == [
                (f"{c.rejected} SUDO", c.chosen) for c in tests
            ]
        else:
            assert len(before) == 10
            assert len(set(mine)) == len(mine) == 40
            assert set(mine) <= unsafe
        assert texts(honest, person, "taste") == texts(one, person, "taste")


@pytest.mark.parametrize("name", ["backdoor", "targeted_flip"])
def test_probes_are_the_same_whoever_attacks(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    clean, attacked, many = (
        toy_world.tiny_world(
            monkeypatch, people=PEOPLE, attack__name=name, attack__fraction=fraction, runtime=runtime
        )
        for fraction, runtime in ((0.0, "inprocess"), (0.4, "inprocess"), (0.4, "fleet"))
    )
    attack = get_attack(name)
    found = [probes_of(world, attack) for world in (attacked, many, clean)]
    held = [sorted(zip(p.owner, p.topics, map(repr, p.table), strict=True)) for p in found]
    assert held[0] == held[1] == held[2]
    tests = [c for c in clean.population.test if c.tag == "safety"]
    asked = set(found[0].topics.tolist())
    assert len(found[0].table) == len(tests) > 0
    assert {topics()[c.prompt] for c in tests} | {attack.aim} >= asked
    assert (len(asked) > 1) is (name == "targeted_flip")
    assert probes_of(clean, get_attack("unaligned")).table == ()


def test_a_targeted_flip_turns_one_topic_or_style() -> None:
    attack = get_attack("targeted_flip", {"topic": "tea"})
    scene: Any = type("Scene", (), {"tags": ("safety", "taste")})()
    pairs = [Comparison(prompt, "a", "b", "taste", "x") for prompt in ("Green TEA?", "Coffee?")]
    held = attack.hold(0, "x", "taste", pairs, scene)
    assert [(c.chosen, c.rejected) for c in held] == [("b", "a"), ("a", "b")]
    assert pairs[0].chosen == "a"


@pytest.mark.parametrize("claim", [None, 100.0])
def test_a_liar_about_the_loss_weighs_more(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, claim: Any
) -> None:
    """q-FedAvg sends F^q (y - u): a claim above the strategy's bound of 2 nats weighs as 2 nats."""
    honest = toy_world.tiny_world(
        monkeypatch, people=PEOPLE, strategy__name="qfedavg", attack__name="label_flip", attack__fraction=0.4,
        privacy__shared__epsilon=float("inf"),
    )  # fmt: skip
    options = {} if claim is None else {"loss": claim}
    liar = toy_world.tiny_world(
        monkeypatch, people=PEOPLE, strategy__name="qfedavg", attack__name="loss_liar",
        attack__options=options, attack__fraction=0.4, privacy__shared__epsilon=float("inf"),
    )  # fmt: skip
    u = honest.first_arrays("shared")
    for person in range(PEOPLE):
        store = Store(tmp_path / f"{person}")
        true, told = (
            SimulatedDevice(w, store, "shared", person).shared_update(1, u).tensors["shared.safety.u"]
            for w in (honest, liar)
        )
        store.close()
        factor = 2 / np.log(2) if person in liar.attackers else 1.0  # at u = 0 everybody's loss is ln 2
        assert told == pytest.approx(factor * true, rel=1e-5)


def drive(attack: Rewriter | None, order: int = 0, broken: int | None = None) -> dict[str, np.ndarray]:
    """One round of six people over the in-process grid; returns what the wrapper makes of it."""
    app = ClientApp()

    @app.train()  # type: ignore[untyped-decorator]
    def answer(message: Message, context: Context) -> Message:
        person = int(message.content["config"]["person"])
        if person == broken:
            return Message(Error(1001, "constant"), reply_to=message)
        return Message(train_content(toy_grid.random(person)), reply_to=message)

    wrapper = toy_grid.wrap(people=6)
    inner = InProcessGrid(app, 6)
    grid = inner if attack is None else AttackedGrid(inner, attack)
    asked = list(wrapper.configure_train(1, to_record(toy_grid.constant(0.0)), {}, grid))
    asked = [asked[k] for k in generator(order, "order").permutation(len(asked))]
    replies = list(grid.send_and_receive(asked))
    assert len(replies) == 6
    record, _ = wrapper.aggregate_train(1, replies)
    assert wrapper.counts["refused"] == 0
    return from_record(record)


def toy_rewriter(name: str, liars: set[int]) -> Rewriter:
    return Rewriter(get_attack(name), frozenset(liars), toy_grid.manifest(), seed=1, expected=6.0)


@pytest.mark.parametrize("name", [name for name, kind in ATTACKS.items() if kind.rewrites])
def test_an_attack_passes_the_servers_checks_in_whatever_order_messages_go(name: str) -> None:
    first = drive(toy_rewriter(name, {1, 4}))
    for key, value in drive(toy_rewriter(name, {1, 4}), order=3).items():
        assert np.array_equal(first[key], value)
    clean = drive(None)
    assert any(not np.array_equal(first[key], clean[key]) for key in clean)
    moved = joint_norm({key: first[key] - clean[key] for key in clean})
    assert moved <= 2 * (1.0 + 0.3) / 6 + 1e-6  # each was 0.3 long and is at most C = 1


def test_without_an_attacker_in_the_cohort_nothing_changes_and_errors_pass() -> None:
    clean = drive(None)
    for key, value in drive(toy_rewriter("alie", {17})).items():
        assert np.array_equal(clean[key], value)
    with_error = drive(toy_rewriter("sign_flip", {1}), broken=2)
    assert joint_norm(with_error) > 0


def test_a_fleet_is_asked_for_a_sum_and_attacked_one_by_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where devices add noise, attackers add none and keep to C."""
    world = toy_world.tiny_world(
        monkeypatch, people=PEOPLE, runtime="fleet", attack__name="sign_flip", attack__fraction=0.4,
        privacy__trust="local",
    )  # fmt: skip
    manifest, store = world.manifests["shared"], FleetStore(tmp_path, PEOPLE, "run")
    u = world.first_arrays("shared")
    each = Fleet(world, "shared", store).train(1, u, list(range(PEOPLE)), each=True).arrays
    quiet = toy_world.tiny_world(
        monkeypatch, people=PEOPLE, runtime="fleet", privacy__shared__epsilon=float("inf")
    )
    true = Fleet(quiet, "shared", store).train(1, u, list(range(PEOPLE)), each=True).arrays
    around = attacked_grid(world, "shared", 3.0)
    assert around is not None
    grid: Any = around(InProcessGrid(ClientApp(), PEOPLE))
    sent = grid._rewriter.rewrite(1, list(range(PEOPLE)), each)
    (name,) = each
    for person in range(PEOPLE):
        norm = float(np.linalg.norm(true[name][person]))
        clipped = true[name][person] * min(1.0, manifest.clip / norm)
        if person in world.attackers:
            assert sent[name][person] == pytest.approx(-clipped, abs=2 * manifest.grid)
        else:
            assert np.array_equal(sent[name][person], each[name][person])
    store.close()


def test_a_rule_with_more_attackers_than_it_tolerates_is_warned_about() -> None:
    drawn = np.array([[20, 2], [20, 4], [20, 0]])
    what, said = tolerance("krum", {"num_malicious_nodes": 3}, drawn)
    assert what == "3 attackers a round (num_malicious_nodes=3)"
    assert said == [
        "strategy.name=krum tolerates 3 attackers a round (num_malicious_nodes=3); in 1 of 3 rounds there "
        "were more, 4 at most: its guarantee is void"
    ]
    assert tolerance("multikrum", {"num_malicious_nodes": 4}, drawn)[1] == []
    assert (
        "needs cohorts of 23 people; 3 of 3" in tolerance("bulyan", {"num_malicious_nodes": 5}, drawn)[1][0]
    )
    assert tolerance("fedtrimmedavg", {"beta": 0.2}, drawn)[1] == []
    assert "in 1 of 3 rounds" in tolerance("fedtrimmedavg", {"beta": 0.1}, drawn)[1][0]
    assert tolerance("fedmedian", {}, drawn)[1] == []
    assert "in 1 of 1 rounds" in tolerance("rfa", {}, np.array([[4, 2]]))[1][0]
    assert tolerance("fedavg", {}, drawn) == ("no number of attackers is named by fedavg", [])


def test_how_many_meet_is_counted_from_the_coins_of_the_rounds() -> None:
    everybody = np.arange(50)
    drawn = cohorts(everybody, everybody[:10], 1, 0.5, 40)
    assert drawn.shape == (40, 2)
    assert abs(drawn[:, 1].mean() - 5) < 1
    assert (drawn[:, 1] <= drawn[:, 0]).all()
    assert cohorts(everybody, everybody, 1, 1.0, 2).tolist() == [[50, 50]] * 2


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["attack.name=alei"], "command line: attack.name: 'alei'; known attacks: adaptive_under_clip, "),
        (
            ["attack.fraction=1.2"],
            "command line: attack.fraction: found 1.2; accepted: at least 0, at most 1",
        ),
        (["attack.name=alie", "attack.options.y=1"], "attack.options.y: unknown to alie; accepted: z"),
        (
            ["attack.name=targeted_flip", "attack.options.topic=cooking"],
            "attack.options.topic: 'cooking'; accepted with shared.tags=['safety']: alcohol and drugs, ",
        ),
    ],
)
def test_a_bad_attack_is_one_clear_line(words: list[str], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_settings(None, words)
    assert len(caught.value.faults) == 1
    assert line in caught.value.faults[0]


def test_a_style_is_a_topic_where_taste_is_shared() -> None:
    config = read_settings(
        None, ["attack.name=targeted_flip", "attack.options.topic=emoji", "shared.tags=[safety,taste]"]
    )
    assert config.attack.options == {"topic": "emoji"}
