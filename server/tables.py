"""The tables of a study: who is invited and enrolled, rounds, releases, refusals, and the parts that run.

SQLite through SQLAlchemy, write-ahead log, every commit forced to disk: the supervisor, the enrolment
service, the rounds, the console and the command line look at it at the same time. Times are UTC, ISO 8601.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, Engine, String, create_engine, event
from sqlalchemy.exc import DatabaseError, OperationalError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from commonground.errors import RunFolderError, StorageError

SCHEMA = "2"
BUSY = 30.0  # seconds to wait for another process's transaction


class Table(DeclarativeBase):
    """What the tables have in common."""


class Fact(Table):
    """A single value by name."""

    __tablename__ = "facts"
    name: Mapped[str] = mapped_column(String, primary_key=True)
    value: Mapped[str]


class Invited(Table):
    """An invitation. Its token is nowhere in this folder, only the token's SHA-256."""

    __tablename__ = "invited"
    name: Mapped[str] = mapped_column(String, primary_key=True)
    token: Mapped[str]
    made: Mapped[str]
    expires: Mapped[str]
    used: Mapped[str | None] = mapped_column(default=None)
    withdrawn: Mapped[str | None] = mapped_column(default=None)


class Enrolled(Table):
    """A person's device. A slot is the person's index in every round, and is never given to another."""

    __tablename__ = "enrolled"
    slot: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    key: Mapped[str] = mapped_column(unique=True)  # the node's public key, OpenSSH
    since: Mapped[str]
    node: Mapped[str | None] = mapped_column(default=None)  # Flower's id; a text, since it needs 64 bits
    revoked: Mapped[str | None] = mapped_column(default=None)
    online: Mapped[bool] = mapped_column(default=False)
    strikes: Mapped[int] = mapped_column(default=0)  # refusals since the last pardon
    quarantined: Mapped[str | None] = mapped_column(default=None)  # since when it is not asked any more


class Released(Table):
    """A version of the shared adapter that was signed, and the round that it opened."""

    __tablename__ = "releases"
    version: Mapped[int] = mapped_column(primary_key=True)
    round: Mapped[int] = mapped_column(unique=True)
    tensors: Mapped[str]
    paper: Mapped[str]
    made: Mapped[str]
    of: Mapped[int | None] = mapped_column(default=None)  # the version that it takes up again
    safety: Mapped[dict[str, Any] | None] = mapped_column(JSON, default=None)


class Round(Table):
    """A round that began; counts are of all people together, never of one."""

    __tablename__ = "rounds"
    round: Mapped[int] = mapped_column(primary_key=True)
    began: Mapped[str]
    ended: Mapped[str | None] = mapped_column(default=None)
    asked: Mapped[int] = mapped_column(default=0)
    replies: Mapped[int] = mapped_column(default=0)
    refused: Mapped[int] = mapped_column(default=0)
    errors: Mapped[int] = mapped_column(default=0)
    seconds: Mapped[float] = mapped_column(default=0.0)
    void: Mapped[bool] = mapped_column(default=False)
    gate: Mapped[dict[str, Any] | None] = mapped_column(JSON, default=None)


class Refusal(Table):
    """How often something was refused, by reason."""

    __tablename__ = "refusals"
    reason: Mapped[str] = mapped_column(String, primary_key=True)
    count: Mapped[int] = mapped_column(default=0)
    last: Mapped[str]


class PlaceRefusal(Table):
    """How often something of one place was refused, by reason."""

    __tablename__ = "place_refusals"
    slot: Mapped[int] = mapped_column(primary_key=True)
    reason: Mapped[str] = mapped_column(String, primary_key=True)
    count: Mapped[int] = mapped_column(default=0)
    last: Mapped[str]


class Part(Table):
    """A process of the running server, as its supervisor sees it."""

    __tablename__ = "parts"
    name: Mapped[str] = mapped_column(String, primary_key=True)
    state: Mapped[str]  # starting | up | waiting | down
    words: Mapped[str] = mapped_column(default="")
    restarts: Mapped[int] = mapped_column(default=0)
    pid: Mapped[int | None] = mapped_column(default=None)
    since: Mapped[str] = mapped_column(default="")


def now() -> str:
    """UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Database:
    """The file of a study's tables.

    Args:
        path: the file.
        create: make it; otherwise it must be there.

    Raises:
        RunFolderError: it is missing, damaged, or of another version.
    """

    def __init__(self, path: Path, *, create: bool = False) -> None:
        if not create and not path.is_file():
            raise RunFolderError(
                f"{path} is missing", hint="name a folder that commonground server init made"
            )
        self.path = path
        self._engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": BUSY})
        event.listen(self._engine, "connect", _prepare)
        event.listen(self._engine, "begin", _begin)
        if create:
            with self._explained():
                Table.metadata.create_all(self._engine)
            with self.writing() as session:
                session.add(Fact(name="schema", value=SCHEMA))
        with self.reading() as session:
            fact = session.get(Fact, "schema")
            found = "none" if fact is None else fact.value
        if found != SCHEMA:
            raise RunFolderError(
                f"{path} has schema {found}; accepted: {SCHEMA}",
                hint="use the version of commonground that made the study",
            )

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A view of one instant."""
        with self._explained(), Session(self._engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """One transaction that holds the write lock from its first read on; rolled back on any error."""
        engine: Engine = self._engine.execution_options(writes=True)
        with self._explained(), Session(engine, expire_on_commit=False) as session, session.begin():
            yield session

    def close(self) -> None:
        """Close its connections."""
        self._engine.dispose()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OperationalError as error:
            raise StorageError(
                f"cannot use {self.path}: {error.orig}", hint="free some space, or see who holds the file"
            ) from error
        except DatabaseError as error:
            raise RunFolderError(
                f"{self.path} is damaged: {error.orig}", hint="restore the study's folder from a backup"
            ) from error


def _prepare(connection: Any, record: object) -> None:
    connection.isolation_level = None  # sqlite3 would begin transactions of its own, and too late
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Any) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
