"""Versions of the shared adapter: signed once, kept for ever, never two contents under one version or round.

What a round begins with is written down before it goes out: its tensors in a file named by their digest, a
line of the audit log, then one row with version, round and signed paper. A server that is killed and started
again finds the row and sends the same paper with the same tensors. A release that is taken up again
(`rollback`) gets a new version, since devices take no version twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO

import numpy as np
from sqlalchemy import func, select

from commonground.errors import InputError, RunFolderError
from commonground.files import write_atomically
from commonground.server.audit import Audit
from commonground.server.checkpoint import DAMAGE
from commonground.server.state import Study
from commonground.server.tables import Fact, Released, now
from commonground.study.release import Release, check_arrays, sign_release, tensors_digest

Arrays = dict[str, np.ndarray]
WANTED = "rollback"  # the fact that names the version to take up again


class Releases:
    """The releases of a study.

    Args:
        study: its folder.
    """

    def __init__(self, study: Study) -> None:
        self._study = study
        self._audit = Audit(study.folder, study.key)

    def open(self, round: int, arrays: Mapping[str, np.ndarray]) -> Arrays:
        """What a round begins with.

        Args:
            round: from 1.
            arrays: the shared adapter as the round before left it, name -> array as in the manifest.

        Returns:
            `arrays`; or what the round began with before, where it has begun before; or the version that the
            operator takes up again.

        Raises:
            TrustError: the arrays do not fit the manifest.
            StorageError: the disk refused; nothing was released.
            RunFolderError: the tensors of an earlier release are missing or damaged.
        """
        before = self._row(round)
        if before is not None:
            return self.arrays(before)
        wanted = self._study.fact(WANTED)
        source = None if wanted is None else self.version(int(wanted))
        content = dict(arrays) if source is None else self.arrays(source)
        check_arrays(self._study.manifest, content)
        digest = tensors_digest(self._study.manifest, content)
        self._keep(digest, content)
        with self._study.database.reading() as session:
            version = (session.scalar(select(func.max(Released.version))) or 0) + 1
        of = None if source is None else source.version
        self._audit.add("released", version=version, round=round, tensors=digest, of=of)
        last = round > self._study.offer.settings.rounds
        paper = sign_release(self._study.key, Release(self._study.offer.digest, version, round, digest, last))
        with self._study.database.writing() as session:
            session.add(
                Released(version=version, round=round, tensors=digest, paper=paper, made=now(), of=of)
            )
            fact = session.get(Fact, WANTED)
            if fact is not None and fact.value == wanted:  # the operator may have said another meanwhile
                session.delete(fact)
        return content

    def paper(self, round: int, arrays: Mapping[str, np.ndarray]) -> str:
        """The signed release that goes with a round's message.

        Raises:
            RunFolderError: the round was not opened, or with other tensors.
        """
        row = self._row(round)
        if row is None or row.tensors != tensors_digest(self._study.manifest, arrays):
            raise RunFolderError(f"round {round} was not released with these tensors; nothing is sent")
        return row.paper

    def arrays(self, row: Released) -> Arrays:
        """The tensors of a release; raises `RunFolderError` where they are missing or damaged."""
        path = self._study.folder / "releases" / f"{row.tensors}.npz"
        manifest = self._study.manifest
        try:
            with np.load(BytesIO(path.read_bytes()), allow_pickle=False) as archive:
                found = {spec.name: archive[spec.name] for spec in manifest.broadcast}
        except DAMAGE as error:
            raise RunFolderError(
                f"{path} cannot be read: {error}", hint="restore the study's folder from a backup"
            ) from error
        if tensors_digest(manifest, found) != row.tensors:
            raise RunFolderError(f"{path} holds other tensors than it was released with")
        return found

    def version(self, version: int) -> Released:
        """A release by its version; raises `InputError` with those there are."""
        with self._study.database.reading() as session:
            row = session.get(Released, version)
            newest = session.scalar(select(func.max(Released.version))) or 0
        if row is None:
            known = f"1 to {newest}" if newest else "none yet"
            raise InputError(f"there is no release {version}; known: {known}")
        return row

    def roll_back(self, version: int) -> None:
        """Let the next round begin with an earlier version; raises `InputError` without either."""
        self.arrays(self.version(version))
        if self._row(self._study.config.rounds + 1) is not None:
            raise InputError(
                "all rounds are done and the last release is out: no round begins any more",
                hint="make a new study to go on",
            )
        self._study.set_fact(WANTED, str(version))
        self._audit.add("rollback", version=version)

    def score(self, round: int, safety: Mapping[str, float] | None) -> None:
        """Note how the release that opened a round scores on public safety pairs."""
        with self._study.database.writing() as session:
            row = session.scalar(select(Released).where(Released.round == round))
            if row is not None and safety is not None:
                row.safety = dict(safety)

    def _row(self, round: int) -> Released | None:
        with self._study.database.reading() as session:
            return session.scalar(select(Released).where(Released.round == round))

    def _keep(self, digest: str, arrays: Arrays) -> None:
        path = self._study.folder / "releases" / f"{digest}.npz"
        if path.is_file():  # the same tensors once more
            return
        buffer = BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        write_atomically(path, buffer.getvalue())
