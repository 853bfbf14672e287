"""`bench roof`: what this machine can do in one thread, and how much of it the fleet's kernel reaches.

The bound is serial: a step must move its bytes and must draw its normals, one after the other, since one
thread does both. The arithmetic is left out of it, which makes the bound higher than anything can reach.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from commonground.simulations.bench.client_step import (
    CHUNK,
    HIDDEN,
    PAIRS,
    SIZE,
    STEPS,
    WIDTH,
    by_fleet,
    step_task,
)
from commonground.simulations.bench.machine import machine
from commonground.simulations.bench.measured import Bar, Measured, Row, Spread, paired, spread
from commonground.simulations.bench.timing import Work, alternate

BAR = 0.60
COPY, SMALL, LARGE, NORMALS, FLEET = "copy", "matrices, small", "matrices, large", "normals", "fleet kernel"
FLOAT = 4  # bytes
# Features are read forwards and backwards; the adapter is read and written, the gradient and the noise are
# written and read.
BYTES = FLOAT * (2 * 2 * PAIRS * WIDTH + 6 * SIZE)
FLOPS = (
    2 * 2 * (2 * PAIRS) * WIDTH * HIDDEN
)  # A x for both answers of each pair, and the sum of outer products


def measure(*, quick: bool, say: Callable[[str], None]) -> Measured:
    """Time the machine and the kernel in turn."""
    where = machine()
    people, repetitions = (128, 5) if quick else (256, 15)
    say("timing copies, matrix products, normal draws and the fleet's kernel in turn")
    rates = alternate(_candidates(people, 64 if quick else 256), repetitions)
    memory = [rate / BYTES for rate in rates[COPY]]
    noise = [rate / SIZE for rate in rates[NORMALS]]
    arithmetic = [rate / FLOPS for rate in rates[SMALL]]
    serial = [1 / (1 / m + 1 / n) for m, n in zip(memory, noise, strict=True)]
    every = [1 / (1 / s + 1 / a) for s, a in zip(serial, arithmetic, strict=True)]
    reached = spread(paired(rates[FLEET], serial))
    rows = [
        Row("copy bandwidth, bytes read plus bytes written", "GB/s", _in(rates[COPY], 1e9)),
        Row(f"float32 products at the kernel's shapes, {CHUNK} at a time", "GFLOP/s", _in(rates[SMALL], 1e9)),
        Row("float32 product of 1024 x 1024 matrices", "GFLOP/s", _in(rates[LARGE], 1e9)),
        Row("normal draws, Philox, float32", "M/s", _in(rates[NORMALS], 1e6)),
        Row("bound by memory", "client-steps/s", spread(memory)),
        Row("bound by noise", "client-steps/s", spread(noise)),
        Row("bound by arithmetic at the kernel's shapes", "client-steps/s", spread(arithmetic)),
        Row("serial bound, memory + noise", "client-steps/s", spread(serial)),
        Row("fleet kernel", "client-steps/s", spread(rates[FLEET])),
        Row("fleet / serial bound", "x", reached),
        Row("fleet / serial bound with the arithmetic", "x", spread(paired(rates[FLEET], every))),
    ]
    return Measured(
        "roof",
        where,
        {"parameters": SIZE, "pairs": PAIRS, "steps a visit": STEPS, "chunk": CHUNK},
        rows,
        [Bar("fleet kernel against the serial bound (memory + noise)", BAR, reached.median, "x")],
        [
            f"a client-step moves at least {BYTES:,} bytes, takes {FLOPS:,} float operations in matrix "
            f"products and draws {SIZE:,} normals",
        ],
    )


def _candidates(people: int, copied_mb: int) -> dict[str, Work]:
    source, target = torch.ones(copied_mb << 18), torch.zeros(copied_mb << 18)
    square, product = torch.randn(1024, 1024), torch.empty(1024, 1024)
    adapters, features = torch.randn(CHUNK, HIDDEN, WIDTH), torch.randn(CHUNK, 2 * PAIRS, WIDTH)
    activations, repeats = torch.randn(CHUNK, HIDDEN, 2 * PAIRS), 20
    draws, normals = np.random.Generator(np.random.Philox(1)), np.empty((CHUNK, SIZE), np.float32)
    task = step_task(people)

    def copy() -> float:
        target.copy_(source)
        return 2.0 * FLOAT * source.numel()

    def small() -> float:
        for _ in range(repeats):
            torch.bmm(adapters, features.mT)
            torch.bmm(activations, features)
        return float(repeats * CHUNK * FLOPS)

    def large() -> float:
        torch.mm(square, square, out=product)
        return 2.0 * 1024**3

    def normal() -> float:
        for _ in range(repeats):
            draws.standard_normal(dtype=np.float32, out=normals)
        return float(repeats * normals.size)

    def fleet() -> float:
        by_fleet(task, range(people))
        return float(people * STEPS)

    return {COPY: copy, SMALL: small, LARGE: large, NORMALS: normal, FLEET: fleet}


def _in(values: list[float], unit: float) -> Spread:
    return spread([value / unit for value in values])
