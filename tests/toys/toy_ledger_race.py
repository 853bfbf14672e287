"""One of two processes that want the same release, then each the last unit. A program: FOLDER NAME.

Before each it says that it is ready by a file and waits for another; what came of it is printed, a line each.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from toy_patience import a_while, until
from toy_store import bytes_of, cap_for, local_terms, noisy, open_store, upload

from commonground.client.database import Database
from commonground.client.device_ledger import DeviceLedger
from commonground.errors import PrivacyError


class Slow(Database):
    """Holds each transaction open for a while: without the lock, two would read before either writes."""

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        """As in `Database`."""
        with super().transaction() as run:
            yield run
            a_while(0.2)


def main() -> None:
    """See the module's text."""
    folder, name = Path(sys.argv[1]), sys.argv[2]
    terms = local_terms(9)
    store = open_store(folder)
    store.database.__class__ = Slow
    ledger = DeviceLedger(store)
    cap = cap_for(terms, 3)
    ledger.epsilon(1e-3)  # everything is imported before the start
    for race, version in (("same", 2), ("last", 3 + (name == "b"))):
        (folder / f"{race}-{name}").touch()
        until((folder / f"{race}-go").exists)
        try:
            found = ledger.once(upload(version), terms, cap, noisy(version))
            print("sent", bytes_of(found.message).hex())
        except PrivacyError:
            print("refused")
    store.close()


if __name__ == "__main__":
    main()
