"""Run the identity tests once under each of several arithmetic kernels: `make kernels`.

Numbers that are promised to be the same bit for bit (alone and among others, on a device and in its
simulation, before and after a kill) are the same under each of them, not only under the one that this
processor picks. Every setting is a process of its own, with the variables set for it alone. It looks at what
the libraries then say of themselves, and fails where the kernel is not the one that was asked for.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent
MARK = "identity"
ENOUGH = 5  # settings that this machine must be able to take
# What chooses a kernel. Each setting begins without them; `as found` leaves the environment as it is.
VARIABLES = (
    "OPENBLAS_CORETYPE",
    "OPENBLAS_L2_SIZE",
    "ATEN_CPU_CAPABILITY",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
)
QUIET = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


@dataclass(frozen=True)
class Setting:
    """One choice of kernels.

    Attributes:
        name: what to call it.
        variables: set for its process alone.
        accepted: library (`openblas`, `aten`, `mkl`) -> what it may say of itself then. OpenBLAS has several
            names for one kernel, and MKL does not tell which branch it takes on a processor of another make.
        flags: abilities of the processor that it needs, as /proc/cpuinfo has them.
        whole: whether it also runs what takes minutes, marked `identity(once=True)`: whole studies, Ray.
    """

    name: str
    variables: Mapping[str, str] = field(default_factory=dict)
    accepted: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    whole: bool = False


def _blas(core: str, *names: str, flags: tuple[str, ...] = (), whole: bool = False) -> Setting:
    return Setting(
        f"OPENBLAS_CORETYPE={core}", {"OPENBLAS_CORETYPE": core}, {"openblas": names}, flags, whole
    )


SETTINGS = (
    Setting("as found"),
    _blas("Haswell", "Haswell", flags=("avx2", "fma"), whole=True),
    _blas("Zen", "Zen", "Haswell", flags=("avx2", "fma")),
    _blas("SkylakeX", "SkylakeX", flags=("avx512f", "avx512bw", "avx512dq", "avx512vl")),
    _blas("Sandybridge", "Sandybridge", flags=("avx",)),
    _blas("Prescott", "Prescott", "Katmai", "Core2", flags=("pni",)),
    Setting("ATEN_CPU_CAPABILITY=default", {"ATEN_CPU_CAPABILITY": "default"}, {"aten": ("DEFAULT",)}),
    Setting(
        "ATEN_CPU_CAPABILITY=avx2", {"ATEN_CPU_CAPABILITY": "avx2"}, {"aten": ("AVX2",)}, ("avx2", "fma")
    ),
    Setting("MKL_CBWR=COMPATIBLE", {"MKL_CBWR": "COMPATIBLE"}, {"mkl": ("COMPATIBLE",)}, ("sse2",)),
    Setting("MKL_CBWR=AVX2", {"MKL_CBWR": "AVX2"}, {"mkl": ("AVX2", "AUTO")}, ("avx2", "fma")),
)


def processor_flags() -> frozenset[str]:
    """Abilities of this processor; none where the system does not tell."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    found = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    return frozenset(found[1].split()) if found else frozenset()


def usable(flags: frozenset[str]) -> list[Setting]:
    """The settings that a processor with these abilities can take."""
    return [one for one in SETTINGS if flags.issuperset(one.flags)]


def environment(setting: Setting, start: Mapping[str, str]) -> dict[str, str]:
    """The environment of a setting's process; `start` stays as it is."""
    kept = {k: v for k, v in start.items() if not setting.variables or k not in VARIABLES}
    return {**kept, **QUIET, **setting.variables}


def kernels() -> dict[str, str]:
    """What the libraries of this process say of themselves: library -> kernel."""
    import numpy as np
    import scipy.linalg
    import torch
    from threadpoolctl import threadpool_info

    np.ones((2, 2)) @ scipy.linalg.inv(np.eye(2))  # both copies of OpenBLAS are loaded now
    cores = {one["architecture"] for one in threadpool_info() if one.get("internal_api") == "openblas"}
    found = {"openblas": " and ".join(sorted(cores)), "aten": torch.backends.cpu.get_cpu_capability()}
    if torch.backends.mkl.is_available():  # type: ignore[no-untyped-call]
        found["mkl"] = _mkl_branch()
    return found


def _mkl_branch() -> str:
    """MKL's branch of reproducible arithmetic: the word behind `CNR:` in what it prints of a product."""
    import torch

    sys.stdout.flush()
    before = os.dup(1)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 1)
        try:
            with torch.backends.mkl.verbose(torch.backends.mkl.VERBOSE_ON):  # type: ignore[no-untyped-call]
                torch.mm(torch.ones(64, 64), torch.ones(64, 64))
        finally:
            os.dup2(before, 1)
            os.close(before)
        said.seek(0)
        found = re.search(rb"CNR:(\w+)", said.read())
    return found[1].decode() if found else ""


def refused(setting: Setting, found: Mapping[str, str]) -> str:
    """Why these are not the kernels of a setting; empty where they are."""
    for library, names in setting.accepted.items():
        if found.get(library) not in names:
            return f"{library} says {found.get(library)!r}; asked for {' or '.join(names)}"
    return ""


def marked(folder: Path = TESTS) -> list[Path]:
    """The test files that hold identity tests."""
    return [file for file in sorted(folder.rglob("test_*.py")) if f"mark.{MARK}" in file.read_text()]


class _Counter:
    """Chooses tests and counts outcomes; a pytest plugin."""

    def __init__(self, whole: bool) -> None:
        self._whole = whole
        self.counts = {"passed": 0, "failed": 0, "skipped": 0}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        marks = {item: item.get_closest_marker(MARK) for item in items}
        items[:] = [i for i in items if marks[i] and (self._whole or not marks[i].kwargs.get("once"))]

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.counts[report.outcome] += 1


def inside(setting: Setting, result: Path, arguments: list[str]) -> int:
    """In a setting's own process: look at the kernels, run the tests, write down what came of it."""
    found = kernels()
    why = refused(setting, found)
    counter, code = _Counter(setting.whole), 2
    if not why:
        import pytest

        options = ["-m", f"{MARK} and not night", "-q", "--timeout=1800", "-p", "no:cacheprovider"]
        code = int(pytest.main([*options, *arguments], plugins=[counter]))
    result.write_text(json.dumps({"kernels": found, "why": why, "code": code, **counter.counts}))
    return code


def run(setting: Setting, arguments: list[str], folder: Path) -> tuple[Setting, dict[str, Any]]:
    """One setting in a process of its own; its output is in `folder`."""
    own = folder / re.sub(r"\W+", "-", setting.name)
    own.mkdir()
    begun = time.monotonic()
    command = [sys.executable, __file__, "--inside", setting.name, "--result", str(own / "result.json")]
    cache = {"COMMONGROUND_CACHE": str(own / "cache")}  # nothing that another kernel computed
    with (own / "output.txt").open("wb") as output:
        code = subprocess.run(
            [*command, *arguments],
            env=environment(setting, os.environ) | cache,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=TESTS.parent,
            check=False,
        ).returncode
    file = own / "result.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"why": "it broke off"}
    text = (own / "output.txt").read_text(errors="replace")
    return setting, {**found, "code": code, "seconds": time.monotonic() - begun, "output": text}


def line(setting: Setting, found: Mapping[str, Any]) -> str:
    """The summary of one setting."""
    said = ", ".join(f"{library} {name}" for library, name in found.get("kernels", {}).items())
    what = (
        found.get("why") or f"{found['passed']} passed, {found['failed']} failed, {found['skipped']} skipped"
    )
    word = "ok  " if good(found) else "FAIL"
    return f"{word} {setting.name:<30} {what}, {found['seconds']:.0f} s ({said})"


def good(found: Mapping[str, Any]) -> bool:
    """Whether a setting passed: something ran, and nothing failed."""
    return found["code"] == 0 and not found.get("failed") and found.get("passed", 0) > 0


def main() -> int:
    """The command: a line a setting; 1 where one fails, or where this machine can take too few."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--only", action="append", help="a setting's name; several times for several")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="settings at a time")
    given, rest = parser.parse_known_args()
    named = {one.name: one for one in SETTINGS}
    if given.inside:
        return inside(named[given.inside], given.result, rest)
    chosen = usable(processor_flags())
    for one in SETTINGS:
        if one not in chosen:
            missing = " ".join(sorted(set(one.flags) - processor_flags()))
            print(f"left out {one.name:<26} this processor lacks {missing}")
    if given.only:
        chosen = [named[name] for name in given.only]
    elif len(chosen) < ENOUGH:
        print(f"this machine can take {len(chosen)} settings; {ENOUGH} are needed")
        return 1
    arguments = rest or [str(file) for file in marked()]
    failed = 0
    with tempfile.TemporaryDirectory(prefix="kernels-") as folder, ThreadPoolExecutor(given.jobs) as pool:
        for setting, found in pool.map(lambda one: run(one, arguments, Path(folder)), chosen):
            print(line(setting, found), flush=True)
            if not good(found):
                failed += 1
                print("\n".join(found["output"].splitlines()[-40:]), flush=True)
    print(f"{len(chosen) - failed} of {len(chosen)} settings passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
