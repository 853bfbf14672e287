"""The parts of the demonstration: shipped configurations, run side by side, one process each."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from contextlib import ExitStack
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from commonground.errors import CommonGroundError, InterruptedRunError
from commonground.simulations.folder import RunFolder

PARTS = {
    "reward": "Hundreds of people: a reward model with noise on both adapters",
    "policy": "A handful of people: what each policy writes",
}


def run_parts(out: Path) -> dict[str, dict[str, Any]]:
    """Run, or go on with, every part at the same time; their progress goes to this process's stderr.

    Args:
        out: the folder; part NAME lives in out/NAME.

    Returns:
        Name -> the part's result.

    Raises:
        InterruptedRunError: Ctrl-C, which reaches the parts as well; all of them can be resumed.
        CommonGroundError: a part failed; what was wrong stands in its own line above.
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
            for process in running.values():
                process.wait()
            raise _stopped(out) from error
        finally:
            for process in running.values():
                if process.poll() is None:
                    process.terminate()
    results = {}
    for name, code in codes.items():
        if code == InterruptedRunError.exit_code:
            raise _stopped(out)
        result = RunFolder(out / name).result() if code == 0 else None
        if result is None:
            raise CommonGroundError(f"part {name} of the demonstration ended with exit code {code}")
        results[name] = result
    return results


def _stopped(out: Path) -> InterruptedRunError:
    hint = f"go on with: commonground demo --out {shlex.quote(str(out))}"
    return InterruptedRunError(f"stopped; what is done is kept in {out}", hint=hint)
