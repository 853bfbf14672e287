"""What the vault costs beside the local update that it guards: two processes, gRPC, encryption, receipts.

A person of a `policy` study on SmolLM2 (top four layers, as the default recipe has it) with 40 comparisons of
each tag. One visit is what a round asks of her device: the shared and the private phase. It is timed in a
vault process of its own through its socket, and in this process without store, socket and ledger: in
seconds, and in processor seconds of all processes together, which other work on the machine does not stretch.
The goal: the vault adds less than 5 %.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
import toy_profile
import toy_vault
from pytest_benchmark.fixture import BenchmarkFixture

from commonground.client.learner import Insecure, Learner, Understood, seal_answer, understand
from commonground.client.owner import OwnerClient
from commonground.client.profile import read_profile
from commonground.client.sockets import NODE, socket_folder
from commonground.client.vault_device import VaultDevice
from commonground.comparisons import Comparison
from commonground.data.starter import safety_pairs, taste_prompts
from commonground.study.offer import Offer
from commonground.training.update import PrivateState

PAIRS, ROUNDS, SEED = 40, 4, 1  # one seed: both read the same texts in the same visit
BAR = 0.05


def comparisons() -> list[Comparison]:
    """What a person said: 40 of each tag, of shipped texts."""
    taste = [
        Comparison(p.prompt, p.answers["emoji"], p.answers["formal"], "taste", "owner")
        for p in taste_prompts()[:PAIRS]
    ]
    return taste + [Comparison(p.prompt, p.safe, p.unsafe, "safety", "owner") for p in safety_pairs()[:PAIRS]]


@pytest.fixture(scope="module")
def offer() -> Offer:
    torch.set_num_threads(1)
    model = {"kind": "policy", "adapter": "lora"}
    config = toy_vault.study_config(model=model, rounds=2 * ROUNDS, data={"pairs_per_person": PAIRS})
    return toy_vault.offer_of(config)


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory, offer: Offer) -> Iterator[tuple[Path, psutil.Process]]:
    """A vault process with these comparisons, and its profile."""
    folder = tmp_path_factory.mktemp("vault") / "p"
    toy_profile.make_profile(folder, offer)
    with toy_vault.process(folder, seed=str(SEED)) as child:
        with OwnerClient(folder) as owner:
            for c in comparisons():
                owner.add(c.prompt, c.chosen, c.rejected, c.tag)
            owner.accept(offer.digest, float("inf"))
        yield folder, psutil.Process(child.pid)


@pytest.fixture(scope="module")
def meant(offer: Offer, beside: tuple[Path, psutil.Process]) -> Understood:
    return understand(offer, None, read_profile(beside[0]).charter())


def visit(
    learner: Learner,
    meant: Understood,
    round: int,
    arrays: toy_vault.Arrays,
    before: PrivateState | None,
) -> PrivateState:
    """The same visit in this process; its private phase goes on from the one before, as a device's does."""
    found = learner.answer(round, arrays, meant.manifest.clip, {}, None)
    seal_answer(meant, found, round, None, Insecure(SEED, 0))
    return learner.private(arrays, before, {}, meant.plan.private.steps_per_visit)


@pytest.mark.timeout(1800)
def test_a_visit_through_the_vault_costs_little_more_than_without(
    benchmark: BenchmarkFixture, beside: tuple[Path, psutil.Process], meant: Understood, offer: Offer
) -> None:
    """Rounds alternate between both, so that what else the machine does meets both alike."""
    folder, process = beside
    operator = toy_vault.Operator(offer)
    device = VaultDevice(str(socket_folder(folder) / NODE))
    learner = Learner(meant, comparisons(), SEED)
    assert device.manifest.digest == meant.manifest.digest
    seen: list[tuple[float, float, float, float]] = []
    state: PrivateState | None = None

    def clocks() -> tuple[float, float]:
        return time.perf_counter(), sum(process.cpu_times()[:2]) + time.process_time()

    def both(round: int) -> None:
        nonlocal state
        arrays = operator.arrays(0.001 * round)
        release = operator.release(round, arrays)
        began, used = clocks()
        device.shared_update(round, arrays, release=release)
        device.private_update(round, arrays, False, release=release)
        middle, used_then = clocks()
        state = visit(learner, meant, round, arrays, state)
        ended, used_last = clocks()
        seen.append((middle - began, ended - middle, used_then - used, used_last - used_then))

    both(1)  # texts are read for the first time, in either process
    seen.clear()
    rounds = iter(range(2, ROUNDS + 2))
    benchmark.pedantic(lambda: both(next(rounds)), rounds=ROUNDS)  # type: ignore[no-untyped-call]
    wall, cpu = (statistics.median(row[k] / row[k + 1] - 1 for row in seen) for k in (0, 2))
    names = ("with the vault, s", "without, s", "with, processor s", "without, processor s")
    benchmark.extra_info |= {
        name: round(statistics.median(row[k] for row in seen), 3) for k, name in enumerate(names)
    } | {"overhead": round(wall, 4), "overhead in processor seconds": round(cpu, 4)}
    print(f"\noverhead of the vault: {wall:+.1%} in seconds, {cpu:+.1%} in processor seconds; {seen}")
    assert cpu < BAR


def test_what_the_socket_alone_costs(
    benchmark: BenchmarkFixture, beside: tuple[Path, psutil.Process], offer: Offer
) -> None:
    """A release that is answered already: gRPC both ways, checks, the store, and nothing trained."""
    operator = toy_vault.Operator(offer)
    operator.version = 100
    arrays = operator.arrays(0.5)
    at = 2 * ROUNDS
    release = operator.release(at, arrays)
    device = VaultDevice(str(socket_folder(beside[0]) / NODE))
    first = device.shared_update(at, arrays, release=release).tensors
    again = benchmark(lambda: device.shared_update(at, arrays, release=release).tensors)
    assert all(np.array_equal(again[name], first[name]) for name in first)
