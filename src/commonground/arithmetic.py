"""Which arithmetic this process computes with: what may be kept between runs is kept under its name.

The same sum has other last bits on another processor, with another version of torch, or under a variable
such as MKL_CBWR. A value that is promised to have the bits of one that is computed afresh must not come out
of a cache that another arithmetic filled: a home folder on a network, a container, an upgrade.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute in one thread: several add in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@functools.cache
def arithmetic() -> str:
    """Return a digest of torch's version, the processor's abilities, and the bits of some sums in one thread.

    The sums are what a transformer does, in shapes small and large enough for different kernels.
    """
    digest = hashlib.sha256(f"{torch.__version__} {torch.backends.cpu.get_cpu_capability()}".encode())
    with torch.inference_mode(), one_thread():
        for rows, inputs, outputs in ((1, 384, 384), (7, 384, 1536), (61, 576, 192)):
            x, w = _numbers(rows, inputs), _numbers(outputs, inputs)
            y = functional.linear(functional.layer_norm(x, (inputs,)), w)
            heads = y.reshape(1, rows, -1, 64).transpose(1, 2)
            mixed = functional.scaled_dot_product_attention(heads, heads, heads)
            for value in (y, mixed, functional.gelu(y), y.softmax(1), x.mean(0), x @ x.mT, x.norm(dim=1)):
                digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _numbers(rows: int, columns: int) -> Tensor:
    """(rows, columns) float32 in [-1, 1), scattered and exact on every machine."""
    count = torch.arange(rows * columns, dtype=torch.int64)
    scattered = (count * 2654435761 + 12345) % (1 << 24)
    return (scattered.float() / (1 << 23) - 1).reshape(rows, columns)
