"""The parts of the demonstration: shipped configurations, run side by side, one process each."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from commonground.errors import CommonGroundError, InputError, InterruptedRunError
from commonground.simulations.folder import RunFolder

PARTS = {
    "reward": "Hundreds of people: a reward model with noise on both adapters",
    "policy": "A handful of people: what each policy writes",
}
GRACE = 3.0  # seconds that the parts get to end by themselves once one of them is interrupted


def run_parts(out: Path) -> dict[str, dict[str, Any]]:
    """Run, or go on with, every part at the same time; their progress goes to this process's stderr.

    Args:
        out: the folder; part NAME lives in out/NAME.

    Returns:
        Name -> the part's result.

    Raises:
        InterruptedRunError: stopped by the user; all parts can be resumed.
        CommonGroundError: a part failed; what was wrong stands in its own line above, and the exit code is
            the part's.
    """
    with ExitStack() as stack:
        running = {}
        for name in PARTS:
            source = files("commonground.simulations") / "configs" / f"demo-{name}.yaml"
            file = stack.enter_context(as_file(source))
            command = [sys.executable, "-m", "commonground.simulations.cli", "simulate"]
            running[name] = subprocess.Popen(
                [*command, "--config", str(file), "--out", str(out / name)],
                stdout=subprocess.DEVNULL,
                env=os.environ | {"OMP_NUM_THREADS": "1"},  # one core a part
            )
        try:
            codes = {name: process.wait() for name, process in running.items()}
        except KeyboardInterrupt as error:
            raise _stopped(out) from error
        finally:
            _end(list(running.values()))
    results = {}
    for name, code in codes.items():
        if code == InterruptedRunError.exit_code:
            raise _stopped(out)
        result = RunFolder(out / name).result() if code == 0 else None
        if result is None:
            failed = CommonGroundError(
                f"part {name} of the demonstration ended with exit code {code}",
                hint=f"go on with: {_again(out)}",
            )
            failed.exit_code = code if code == InputError.exit_code else CommonGroundError.exit_code
            raise failed
        results[name] = result
    return results


def _end(running: list[subprocess.Popen[bytes]]) -> None:
    """Let every part end; Ctrl-C has reached them already, SIGTERM has not."""
    for patience, end in ((GRACE, subprocess.Popen.terminate), (10 * GRACE, subprocess.Popen.kill)):
        deadline = time.monotonic() + patience
        for process in running:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
        for process in running:
            if process.poll() is None:
                end(process)
    for process in running:
        process.wait()


def _stopped(out: Path) -> InterruptedRunError:
    return InterruptedRunError(f"stopped; what is done is kept in {out}", hint=f"go on with: {_again(out)}")


def _again(out: Path) -> str:
    return f"commonground demo --out {shlex.quote(str(out))}"
