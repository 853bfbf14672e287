"""Timing in turn: A B C A B C ..., so that whatever else the machine does falls on all of them alike."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

Work = Callable[[], float]  # does something and says how many units of it were done


def alternate(candidates: Mapping[str, Work], repetitions: int) -> dict[str, list[float]]:
    """Units a second of each candidate, once a repetition; the k-th of all were taken next to each other.

    Every candidate is run once before anything is timed.
    """
    for work in candidates.values():
        work()
    rates: dict[str, list[float]] = {name: [] for name in candidates}
    with _no_collection():
        for _ in range(repetitions):
            for name, work in candidates.items():
                began = time.perf_counter()
                units = work()
                rates[name].append(units / (time.perf_counter() - began))
    return rates


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for everything numerical in this process, for a while."""
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _no_collection() -> Iterator[None]:
    """A garbage collection must not fall on one candidate and not on another."""
    was = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
