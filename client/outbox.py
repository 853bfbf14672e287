"""What left this device: a receipt for every message, and the newest message itself, byte for byte.

A question that comes again gets the very same bytes: fresh noise over the same update would let whoever asks
average it away.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from commonground.client.arrays import from_blob, to_blob
from commonground.client.database import Database, now
from commonground.errors import InputError
from commonground.manifest import Receipt, Sealed

_COLUMNS = (
    "id, scope, key, offer, round, digest, bytes, tensors, manifest, clip, time, "
    "EXISTS (SELECT 1 FROM outbox WHERE receipt = receipts.id)"
)


@dataclass(frozen=True)
class Sent:
    """What is kept about one message that left.

    Attributes:
        id: number of the receipt.
        scope: study and signer.
        key: which release it answered, within the scope.
        offer: digest of the offer.
        receipt: as `manifest.seal` gave it.
        tensors: (name, dtype, shape) in the order of the message.
        clip: the clip of the round, where the server asked for one.
        time: UTC, ISO 8601.
        message_kept: whether the message itself is still here: the newest of each scope is.
        message: name -> array, exactly what left; None where it was not asked for or is not kept.
    """

    id: int
    scope: str
    key: str
    offer: str
    receipt: Receipt
    tensors: tuple[tuple[str, str, tuple[int, ...]], ...]
    clip: float | None
    time: str
    message_kept: bool
    message: dict[str, np.ndarray] | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, the message left out."""
        return {
            "id": self.id,
            "scope": self.scope,
            "key": self.key,
            "offer": self.offer,
            "round": self.receipt.round,
            "digest": self.receipt.digest,
            "bytes": self.receipt.bytes,
            "manifest": self.receipt.manifest,
            "tensors": [{"name": n, "dtype": d, "shape": list(s)} for n, d, s in self.tensors],
            "clip": self.clip,
            "time": self.time,
            "message_kept": self.message_kept,
        }


class Outbox:
    """The receipts of a store and its newest messages.

    Args:
        database: where they lie.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def keep(self, scope: str, key: str, offer: str, sealed: Sealed, clip: float | None = None) -> Sent:
        """Keep a message before it leaves; where one is kept under this key already, that one counts.

        Only what this returns may be sent: of two that were made for one key, one is dropped here.

        Args:
            scope: study and signer.
            key: which release it answers.
            offer: digest of the offer.
            sealed: the message.
            clip: the clip that the server asked for.
        """
        receipt, tensors = sealed.receipt, sealed.tensors
        shapes = json.dumps([[n, v.dtype.name, list(v.shape)] for n, v in tensors.items()])
        row = (scope, key, offer, receipt.round, receipt.digest, receipt.bytes, shapes, receipt.manifest)
        with self._database.transaction() as run:
            kept = self.find(scope, key)
            if kept is None:
                query = "INSERT INTO receipts VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
                number = run(query, (*row, clip, now())).lastrowid
                run(
                    "DELETE FROM outbox WHERE receipt IN (SELECT id FROM receipts WHERE scope = ?)",
                    [scope],
                )
                run("INSERT INTO outbox VALUES (?, ?)", (number, to_blob(tensors)))
                kept = self.find(scope, key)
        if kept is None:
            raise InputError(f"receipt {key!r} was taken away while it was written")
        return kept

    def find(self, scope: str, key: str) -> Sent | None:
        """What was sent under a key; None where nothing was."""
        found = self._database.row(
            f"SELECT {_COLUMNS} FROM receipts WHERE scope = ? AND key = ?", [scope, key]
        )
        return None if found is None else self._sent(found)

    def receipts(self) -> list[Sent]:
        """Every receipt without its message, the newest first."""
        found = self._database.rows(f"SELECT {_COLUMNS} FROM receipts ORDER BY id DESC")
        return [self._sent(row, opened=False) for row in found]

    def receipt(self, number: int) -> Sent:
        """One receipt, with its message where that is kept; raises `InputError` where there is none such."""
        found = self._database.row(f"SELECT {_COLUMNS} FROM receipts WHERE id = ?", [number])
        if found is None:
            raise InputError(f"there is no receipt {number}; `receipts` lists them")
        return self._sent(found)

    def _sent(self, row: tuple[Any, ...], opened: bool = True) -> Sent:
        number, scope, key, offer, round, digest, size, tensors, manifest, clip, time, kept = row
        shapes = tuple((str(n), str(d), tuple(int(k) for k in s)) for n, d, s in json.loads(tensors))
        receipt = Receipt(round, digest, size, tuple(name for name, _, _ in shapes), manifest)
        message: dict[str, np.ndarray] | None = None
        if opened and kept:
            blob = self._database.row("SELECT message FROM outbox WHERE receipt = ?", [number])
            message = None if blob is None else from_blob(blob[0], f"message {number}")
        return Sent(number, scope, key, offer, receipt, shapes, clip, time, bool(kept), message)
