"""The audit log: what an operator's server did, in lines that hang together.

Each line of `audit.jsonl` holds the SHA-256 of the line before it; `audit.head` is a signed paper with the
number and the digest of the last line, and the line itself. The head is written first: a kill between the two
loses nothing, since the line stands in the head. Whoever has no signing key can neither change, drop, reorder
nor add a line without its being seen; whoever has it can write the whole log anew, so that a copy of the head
in other hands is what binds an operator.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from filelock import FileLock

from commonground.errors import StorageError, TrustError
from commonground.files import write_atomically
from commonground.server.tables import now
from commonground.study.signing import Paper, canonical, public_hex, sign

KIND = "audit-head"
LOG, HEAD = "audit.jsonl", "audit.head"
FIRST = "0" * 64
FIELDS = {"n", "time", "event", "values", "previous"}


class Audit:
    """The log of a study.

    Args:
        folder: the study's.
        key: the study's signing key.
    """

    def __init__(self, folder: Path, key: Ed25519PrivateKey) -> None:
        self.log, self.head, self._key = folder / LOG, folder / HEAD, key
        self._lock = FileLock(folder / "run" / "audit.lock")
        self._digest = hashlib.sha256()
        self._mark: tuple[int, int, int] | None = None  # of the file, and when it was so

    def add(self, event: str, **values: Any) -> None:
        """Append a line and force it to disk; raises `StorageError`, or `TrustError` for a damaged log.

        Args:
            event: what happened, a constant of the program.
            values: JSON values; never anything that a person's device sent.
        """
        with self._lock:
            found = self._held()
            if found is None:
                found = verify(self.folder, public_hex(self._key))
                self._digest = hashlib.sha256(self.log.read_bytes() if self.log.is_file() else b"")
            lines, last = int(found["lines"]), str(found["last"])
            if found["pending"] is not None:
                self._append(str(found["pending"]))
                self._digest = hashlib.sha256(self.log.read_bytes())
            entry = {"n": lines + 1, "time": now(), "event": event, "values": values, "previous": last}
            line = canonical(entry).decode()
            self._digest.update(line.encode() + b"\n")
            file = self._digest.hexdigest()
            content = {"lines": lines + 1, "last": _digest(line), "line": line, "file": file}
            write_atomically(self.head, sign(self._key, KIND, content).to_text().encode())
            self._append(line)
            self._mark = self._stat()

    def _held(self) -> dict[str, Any] | None:
        """What `verify` would say where the file is the very one that the head was signed over; else None.

        To read and check every line for each new one would take quadratic time. The signed head holds the
        digest of the whole file, and what this process wrote last is known by the file's own times.
        """
        if not self.head.is_file() or not self.log.is_file():
            return None
        paper = Paper.from_text(self.head.read_bytes(), "the head of the audit log")
        content = paper.opened(KIND, public_hex(self._key), "the head of the audit log")
        if self._mark is None or self._mark != self._stat():
            self._digest = hashlib.sha256(self.log.read_bytes())
        if self._digest.hexdigest() != content.get("file"):
            return None
        return {"lines": content["lines"], "last": content["last"], "pending": None}

    def _stat(self) -> tuple[int, int, int]:
        found = self.log.stat()
        return found.st_ino, found.st_size, found.st_mtime_ns

    @property
    def folder(self) -> Path:
        """The study's folder."""
        return self.log.parent

    def _append(self, line: str) -> None:
        try:
            with self.log.open("ab") as file:
                file.write(line.encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StorageError(f"cannot write {self.log}: {error.strerror or error}") from error


def verify(folder: Path, signer: str) -> dict[str, Any]:
    """Check a log from its first line to its last.

    Args:
        folder: where `audit.jsonl` and `audit.head` are.
        signer: the study's public key, hexadecimal.

    Returns:
        lines: how many there are; last: the digest of the last; pending: a line that a kill left in the head
        alone (it counts), or None.

    Raises:
        TrustError: the first fault: which line, and what is wrong with it.
    """
    log, head = folder / LOG, folder / HEAD
    text = log.read_bytes() if log.is_file() else b""
    if not head.is_file():
        if text:
            raise TrustError(f"{head} is missing: the log cannot be checked")
        return {"lines": 0, "last": FIRST, "pending": None}
    content = Paper.from_text(head.read_bytes(), "the head of the audit log").opened(
        KIND, signer, "the head of the audit log"
    )
    lines, rest = text.split(b"\n")[:-1], text.split(b"\n")[-1]
    last = FIRST
    for number, line in enumerate(lines, 1):
        last = _checked(line, number, last)
    pending = None
    if rest or len(lines) == content["lines"] - 1:  # killed while, or before, it wrote the last line
        pending = str(content["line"])
        if not pending.encode().startswith(rest):
            raise TrustError(f"audit log: line {len(lines) + 1} is not the one that was signed")
        last = _checked(pending.encode(), len(lines) + 1, last)
        pending = pending[len(rest.decode(errors="replace")) :]
    count = len(lines) + (pending is not None)
    if count != content["lines"]:
        raise TrustError(
            f"audit log: {count} lines are here; {content['lines']} were signed",
            hint="lines were removed or added after they were written: restore the file from a backup",
        )
    if last != content["last"]:
        raise TrustError(f"audit log: line {count} is not the one that was signed")
    return {"lines": count, "last": last, "pending": pending}


def entries(folder: Path) -> list[dict[str, Any]]:
    """The lines as plain values, unchecked: see `verify`."""
    log = folder / LOG
    return [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []


def _checked(line: bytes, number: int, previous: str) -> str:
    """The digest of a line; raises `TrustError` where it does not follow from the one before."""
    try:
        entry = json.loads(line)
        right = set(entry) == FIELDS and canonical(entry) == line
    except (ValueError, TypeError, RecursionError):
        right = False
    if not right:
        raise TrustError(f"audit log: line {number} is damaged")
    if entry["n"] != number or entry["previous"] != previous:
        raise TrustError(
            f"audit log: line {number} does not follow from the line before it",
            hint="a line was changed, removed, added or moved: restore the file from a backup",
        )
    return _digest(line.decode())


def _digest(line: str) -> str:
    return hashlib.sha256(line.encode()).hexdigest()
