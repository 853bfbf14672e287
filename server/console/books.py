"""What the console reads of a study: the one view that commands show too, and the audit log."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commonground.errors import CommonGroundError
from commonground.server.audit import HEAD, LOG, entries, verify
from commonground.server.state import Study

Document = dict[str, Any]
RECENT = 40  # lines of the audit log on the page; all of them can be downloaded


@dataclass(frozen=True)
class AuditView:
    """The audit log as it stands.

    Attributes:
        lines: how many there are; 0 where it cannot be read.
        last: digest of the last.
        fault: what is wrong with it, or None where every line follows from the one before.
        recent: the newest lines, the newest first.
    """

    lines: int
    last: str
    fault: str | None
    recent: list[Document]


class Books:
    """The books of one study; reads only.

    Args:
        folder: the study's.

    Raises:
        RunFolderError: it is no study.
    """

    def __init__(self, folder: Path) -> None:
        self.study = Study(folder)

    def overview(self) -> Document:
        """As `Study.overview` says."""
        return self.study.overview()

    def audit(self) -> AuditView:
        """Check the log from its first line to its last, as `commonground server audit verify` does."""
        try:
            found = verify(self.study.folder, self.study.signer)
        except CommonGroundError as error:
            return AuditView(0, "", error.message, self._recent())
        return AuditView(int(found["lines"]), str(found["last"]), None, self._recent())

    def file(self, name: str) -> bytes | None:
        """The bytes of the log or of its signed head; None for any other name, or where it is not there."""
        path = self.study.folder / name
        return path.read_bytes() if name in (LOG, HEAD) and path.is_file() else None

    def close(self) -> None:
        """Close the database."""
        self.study.close()

    def _recent(self) -> list[Document]:
        try:
            return entries(self.study.folder)[-RECENT:][::-1]
        except ValueError:  # a damaged log has no lines to show; the fault is said
            return []
