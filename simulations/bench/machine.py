"""The machine in words, without a name or a path of it."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

LOADED = 1.5  # one-minute load above which timings are said to come from a loaded machine


def machine() -> dict[str, str | float | bool]:
    """Processor, cores, memory, versions, and how busy it was before we began."""
    import psutil
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    memory = round(psutil.virtual_memory().total / 2**30)
    capability = torch.backends.cpu.get_cpu_capability()
    words = (
        f"{cores} core{'s' if cores != 1 else ''} of {_processor()} ({capability}), {memory} GB, "
        f"{platform.system()}, Python {platform.python_version()}, torch {torch.__version__.split('+')[0]}"
    )
    return {"words": words, "load": round(load, 2), "loaded": load > LOADED, "threads": 1}


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far, MB.

    `ru_maxrss` would do as well, were it not that a child process starts with its parent's.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024
    except (OSError, StopIteration):
        import resource

        unit = 2**20 if sys.platform == "darwin" else 2**10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
