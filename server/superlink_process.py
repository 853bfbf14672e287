"""`python -m commonground.server.superlink_process DIR ...`: Flower's SuperLink behind a guard."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from commonground.server.fleet_guard import FleetGuard, PlainLines, Refusals
from commonground.server.limits import limits
from commonground.server.places import refuse, refuse_node
from commonground.server.state import Study
from commonground.strategies.records import METRICS, train_content


def guard(study: Study) -> FleetGuard:
    """Put the guard before Flower's handlers in this process.

    Args:
        study: whose manifest bounds a reply, and where refusals are counted.
    """
    from flwr.superlink.servicer.fleet import fleet_handlers

    def write(reason: str, node: int | None, count: int) -> None:
        if node is None:
            refuse(study, reason, count=count)
        else:
            refuse_node(study, reason, node, count)

    refusals = Refusals(write)
    leaves = frozenset({train_content({})[METRICS].object_id})
    found = FleetGuard(fleet_handlers, limits(study.manifest), refusals, leaves)
    found.install(fleet_handlers)
    refusals.start()
    return found


def main() -> None:
    """Start it; what follows the folder are Flower's own arguments."""
    from flwr.superlink.cli.flower_superlink import flower_superlink

    study = Study(Path(sys.argv[1]))
    guard(study)
    for handler in (*logging.getLogger("flwr").handlers, *logging.getLogger().handlers):
        handler.addFilter(PlainLines())
    sys.argv = ["flower-superlink", *sys.argv[2:]]
    flower_superlink()


if __name__ == "__main__":
    main()
