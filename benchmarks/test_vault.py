"""What the vault costs beside the local update that it guards: two processes, gRPC, encryption, receipts.

A person of a `policy` study on SmolLM2 (top four layers, as the default recipe has it) with 40 comparisons of
each tag. One visit is what a round asks of her device: the shared and the private phase. It is timed in a
vault process of its own through its socket, and in this process without store, socket and ledger. The goal:
the vault adds less than 5 %.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_profile
import toy_vault
from pytest_benchmark.fixture import BenchmarkFixture

from commonground.client.learner import Learner, Understood, seal_answer, understand
from commonground.client.owner import OwnerClient
from commonground.client.sockets import NODE, socket_folder
from commonground.client.vault_device import VaultDevice
from commonground.comparisons import Comparison
from commonground.data.starter import safety_pairs, taste_prompts
from commonground.study.offer import Offer

PAIRS, ROUNDS = 40, 5
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
def meant(offer: Offer) -> Understood:
    return understand(offer)


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory, offer: Offer) -> Iterator[Path]:
    """A vault process with these comparisons."""
    from commonground.client.sockets import TOKEN

    folder = tmp_path_factory.mktemp("vault") / "p"
    toy_profile.make_profile(folder, offer)
    with toy_vault.process(folder):
        assert (folder / "run" / TOKEN).exists()
        with OwnerClient(folder) as owner:
            for c in comparisons():
                owner.add(c.prompt, c.chosen, c.rejected, c.tag)
            owner.accept(offer.digest, float("inf"))
        yield folder


def visit(learner: Learner, meant: Understood, round: int, arrays: toy_vault.Arrays) -> None:
    """The same visit in this process."""
    found = learner.answer(round, arrays, meant.manifest.clip, {}, None)
    seal_answer(meant, found, round, None, None)
    learner.private(arrays, None, {}, meant.plan.private.steps_per_visit)


def test_a_visit_through_the_vault_costs_little_more_than_without(
    benchmark: BenchmarkFixture, beside: Path, meant: Understood, offer: Offer
) -> None:
    """Rounds alternate between both, so that what else the machine does meets both alike."""
    operator = toy_vault.Operator(offer)
    device = VaultDevice(str(socket_folder(beside) / NODE))
    learner = Learner(meant, comparisons(), 1)
    assert device.manifest.digest == meant.manifest.digest
    with_vault, without = list[float](), list[float]()

    def both(round: int) -> None:
        arrays = operator.arrays(0.001 * round)
        release = operator.release(round, arrays)
        began = time.perf_counter()
        device.shared_update(round, arrays, release=release)
        device.private_update(round, arrays, False, release=release)
        middle = time.perf_counter()
        visit(learner, meant, round, arrays)
        with_vault.append(middle - began)
        without.append(time.perf_counter() - middle)

    both(1)  # texts are read for the first time, in either process
    with_vault.clear()
    without.clear()
    rounds = iter(range(2, ROUNDS + 2))
    benchmark.pedantic(lambda: both(next(rounds)), rounds=ROUNDS)  # type: ignore[no-untyped-call]
    shares = [a / b - 1 for a, b in zip(with_vault, without, strict=True)]
    ratio = statistics.median(shares)
    benchmark.extra_info |= {
        "with the vault, s": round(statistics.median(with_vault), 3),
        "without, s": round(statistics.median(without), 3),
        "overhead": round(ratio, 4),
    }
    print(f"\noverhead of the vault: {ratio:+.1%} ({[f'{s:+.1%}' for s in shares]})")
    assert ratio < BAR


def test_what_the_socket_alone_costs(benchmark: BenchmarkFixture, beside: Path, offer: Offer) -> None:
    """A release that is answered already: gRPC both ways, checks, the store, and nothing trained."""
    operator = toy_vault.Operator(offer)
    operator.version = 100
    arrays = operator.arrays(0.5)
    at = 2 * ROUNDS
    release = operator.release(at, arrays)
    device = VaultDevice(str(socket_folder(beside) / NODE))
    first = device.shared_update(at, arrays, release=release).tensors
    again = benchmark(lambda: device.shared_update(at, arrays, release=release).tensors)
    assert all(np.array_equal(again[name], first[name]) for name in first)
