"""Taking everything away as files a person can read, and erasing it.

The export is a plain zip: not encrypted, because its use is to be read. It is written whole or not at all,
with mode 0600. Erasing destroys the key first: without it the file is noise, whatever the disk still holds.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from commonground.client.database import now
from commonground.client.device_ledger import DeviceLedger
from commonground.client.feedback import Verdict
from commonground.client.keys import destroy_key, identity_at
from commonground.client.noise_secret import forget_secret
from commonground.client.store import FILES, Store
from commonground.errors import PrivacyError, StorageError
from commonground.files import new_private_file

# In `run`: exports on their way to where the person wants them, and those that wait on the page.
CARRIED, WAITING = ("carried-*.zip", ".carried-*"), ("export-*.zip", ".export-*")
ERASED = (
    "The key is destroyed and the files are removed: nothing opens the store any more. A solid-state disk "
    "may keep old blocks for a while and a backup keeps what it has; both are encrypted under the destroyed "
    "key. What this device sent before cannot be called back: its influence on the shared adapter stays, and "
    "so does the privacy it cost."
)
README = """Your data from commonground
===========================

Written {time} by the device itself, from its own store. This archive is NOT encrypted: keep it where you
keep private letters, and delete it when you no longer need it.

comparisons.jsonl    {comparisons} comparison(s): what you said, one a line. Columns prompt, chosen, rejected
                     are those that other programs for preference learning read (TRL calls them a
                     preference dataset); tag says whether it is about safety (learned together with
                     others) or taste (learned on your device alone); why is your reason, where you gave one.
undecided.jsonl      {undecided} pair(s) of answers of which you preferred neither. Nothing learns from them.
adapters/            {adapters} version(s) of your private adapter, as safetensors: what your device learned
                     about your taste. They have never left it. adapters.json lists them and says which
                     one is in use ({current}). Names that begin with adapter/
                     are the adapter itself; total/, moments/ and steps are what its training goes on from.
receipts.json        {receipts} message(s) that left this device: for each its time, names, shapes, bytes and
                     SHA-256. messages/ holds the newest one itself, number for number.
ledger.json          What those messages cost of your privacy: one entry for each charge. An entry that is
                     "reserved" was charged and its message never made; it counts all the same.
consent.json         What you accepted and when; consent/ holds each signed offer as it was shown to you.
charter.json         What your model may not write, as it was signed, with its files; only in a study whose
                     model writes.
refusals.json        What your device refused to do for the server, counted by reason.
settings.json        Small settings of this device.
{statement}
Files that end in .jsonl hold one JSON object a line; .safetensors is a public format with readers for most
programming languages (https://github.com/huggingface/safetensors). All times are UTC.
"""


def export(store: Store, path: Path, *, statement: str = "", charter: str = "") -> dict[str, int]:
    """Write everything that is the person's own into a zip.

    Args:
        store: the open store.
        path: the new file; its folder must exist.
        statement: the privacy statement in words, where the device has an offer to make one from.
        charter: as it came with the invitation, or ''.

    Returns:
        How many of each there are: comparisons, undecided, adapters, receipts, charges, consents, bytes.

    Raises:
        InputError: the file exists.
        StorageError: it cannot be written (nothing is left behind), or a part of the store is damaged.
    """
    ledger = DeviceLedger(store)
    with new_private_file(path) as file:
        with (
            store.database.transaction(),  # one moment of the store, whatever else goes on
            zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
        ):
            counts = _write(store, ledger, archive, statement)
            if charter:
                archive.writestr("charter.json", charter)
        counts["bytes"] = file.tell()
    return counts


def forget_exports(run: Path, *, waiting: bool = True) -> None:
    """Delete what an export left in a profile's `run`: it is in clear.

    Args:
        run: the folder; it may be missing.
        waiting: those too that wait on the page to be saved.

    Raises:
        OSError: one of them cannot be removed.
    """
    for pattern in CARRIED + (WAITING if waiting else ()):
        for path in run.glob(pattern):
            path.unlink(missing_ok=True)


def erase(folder: Path) -> str:
    """Destroy the key and the noise's secret, then remove the store, which must be closed, and exports.

    Doing it again is no error.

    Args:
        folder: the profile.

    Returns:
        What that means, in words, for the person to read.

    Raises:
        InputError: the keyring does not let go of the key; nothing was removed.
        StorageError: a file cannot be removed; the key is gone by then, so nothing in it can be read.
    """
    if (identity := identity_at(folder)) is not None:
        forget_secret(identity)
    left = destroy_key(folder)
    for name in FILES:
        try:
            (folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(
                f"{folder / name} cannot be removed: {error.strerror or error}",
                hint="its key is destroyed, so nobody can read it; remove it by hand",
            ) from error
    try:
        forget_exports(folder / "run")
    except OSError as error:
        raise StorageError(
            f"an export in {folder / 'run'} cannot be removed: {error.strerror or error}",
            hint="it is not encrypted: remove it by hand",
        ) from error
    return f"{ERASED} {left}".strip()


def _write(store: Store, ledger: DeviceLedger, archive: zipfile.ZipFile, statement: str) -> dict[str, int]:
    verdicts, versions, receipts = store.feedback.all(), store.adapters.all(), store.outbox.receipts()
    learned = [_comparison(v) for v in verdicts if v.verdict == "first"]
    between = [asdict(v) for v in verdicts if v.verdict != "first"]
    current, consents = store.adapters.current(), store.consent.history()
    charges, accounted = _charges(ledger)
    counts = {
        "comparisons": len(learned),
        "undecided": len(between),
        "adapters": len(versions),
        "receipts": len(receipts),
        "charges": len(charges),
        "consents": len(consents),
    }
    words = (
        f"\nWhat it means for your privacy\n------------------------------\n{statement}\n"
        if statement
        else ""
    )
    used = "none: you have the shared policy" if current is None else f"version {current.version}"
    readme = README.format(time=now(), current=used, statement=words, **counts)
    archive.writestr("README.txt", readme)
    archive.writestr("comparisons.jsonl", _lines(learned))
    archive.writestr("undecided.jsonl", _lines(between))
    in_use = None if current is None else current.version
    archive.writestr("adapters.json", _json({"in_use": in_use, "versions": [asdict(v) for v in versions]}))
    for version in versions:
        state = store.adapters.state(version.version) or {}
        archive.writestr(f"adapters/{version.version:05d}.safetensors", _safetensors(state))
    archive.writestr("receipts.json", _json([sent.to_dict() for sent in receipts]))
    for sent in receipts:
        if sent.message_kept and (message := store.outbox.receipt(sent.id).message) is not None:
            archive.writestr(f"messages/{sent.id:05d}.safetensors", _safetensors(message))
    fits = ledger.private.fits()
    archive.writestr("ledger.json", _json({"accounted": accounted, "charges": charges, "private": fits}))
    papers = [asdict(c) | {"epsilon_cap": _number(c.epsilon_cap)} for c in consents]
    archive.writestr("consent.json", _json([{k: v for k, v in p.items() if k != "paper"} for p in papers]))
    for accepted in consents:
        archive.writestr(f"consent/{accepted.id:05d}.json", accepted.paper)
    archive.writestr("refusals.json", _json(store.refusals.all()))
    settings: dict[str, str] = dict(store.database.rows("SELECT name, value FROM meta ORDER BY name"))
    archive.writestr("settings.json", _json(settings))
    return counts


def _comparison(verdict: Verdict) -> dict[str, Any]:
    """With the column names of a preference dataset."""
    values = asdict(verdict)
    own = {"chosen": values.pop("first"), "rejected": values.pop("second")}
    return {"prompt": values.pop("prompt"), **own, **values}


def _charges(ledger: DeviceLedger) -> tuple[list[dict[str, Any]], bool]:
    """The charges, and whether each message has one; an export must work where the account does not."""
    try:
        ledger.refuse_if_unaccounted()
    except PrivacyError:
        return ledger.entries(), False
    return ledger.entries(), True


def _safetensors(arrays: Mapping[str, np.ndarray]) -> bytes:
    from safetensors.numpy import save

    # save() writes the memory as it lies, whatever order and endianness the array says it is in.
    content: bytes = save({n: np.require(v, v.dtype.newbyteorder("<"), "C") for n, v in arrays.items()})
    return content


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
