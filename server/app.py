"""The Flower app of the server: `commonground.server.app:app`.

Flower finds it by syntax, so it is a plain assignment. The job is a file named in the run config, or,
where a runtime offers no way to give one (`flwr.simulation.run_simulation`), in COMMONGROUND_JOB.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from commonground.errors import InputError
from commonground.server.job import Job
from commonground.server.rounds import Observer, run_rounds

VARIABLE = "COMMONGROUND_JOB"
OBSERVERS: dict[str, Observer] = {}  # job path -> who is told of its rounds, in this process
GRIDS: dict[str, Callable[[Grid], Grid]] = {}  # job path -> what is put around its grid, in this process
STOPS: dict[str, threading.Event] = {}  # job path -> set it to stop the run between messages

app = ServerApp()


@app.main()  # type: ignore[untyped-decorator]  # flwr is not followed by mypy here
def main(grid: Grid, context: Context) -> None:
    """Run the job; raises `InputError` where none is named."""
    path = str(context.run_config.get("job") or os.environ.get(VARIABLE, ""))
    if not path:
        raise InputError(f"no job: neither the run config's 'job' nor {VARIABLE} names a job file")
    grid = GRIDS[path](grid) if path in GRIDS else grid
    run_rounds(grid, Job.load(Path(path)), OBSERVERS.get(path), STOPS.get(path))
