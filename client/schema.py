"""The tables of a device's store, as steps that bring an older file to the newest form.

A step, once shipped, is never changed; a new form is a new step at the end. The ledger's own table is made by
`commonground.privacy.ledger` in the same file. Rows are numbered by AUTOINCREMENT where a number that was
taken back must not come again under another meaning.
"""

from __future__ import annotations

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
        """CREATE TABLE comparisons (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            prompt TEXT NOT NULL, first TEXT NOT NULL, second TEXT NOT NULL,
            verdict TEXT NOT NULL CHECK (verdict IN ('first', 'tie', 'both bad')),
            tag TEXT CHECK (tag IN ('safety', 'taste')), why TEXT NOT NULL, time TEXT NOT NULL,
            CHECK ((verdict = 'first') = (tag IS NOT NULL)))""",
        """CREATE TABLE adapters (
            version INTEGER PRIMARY KEY AUTOINCREMENT,
            offer TEXT NOT NULL, round INTEGER NOT NULL, shared_version INTEGER NOT NULL,
            note TEXT NOT NULL, size INTEGER NOT NULL, time TEXT NOT NULL, state BLOB NOT NULL)""",
        """CREATE TABLE current_adapter (
            one INTEGER PRIMARY KEY CHECK (one = 1), version INTEGER NOT NULL REFERENCES adapters)""",
        """CREATE TABLE receipts (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            scope TEXT NOT NULL, key TEXT NOT NULL, offer TEXT NOT NULL, round INTEGER NOT NULL,
            digest TEXT NOT NULL, bytes INTEGER NOT NULL, tensors TEXT NOT NULL, manifest TEXT NOT NULL,
            clip REAL, time TEXT NOT NULL, UNIQUE (scope, key))""",
        """CREATE TABLE outbox (
            receipt INTEGER PRIMARY KEY REFERENCES receipts, message BLOB NOT NULL)""",
        """CREATE TABLE uploads (
            scope TEXT NOT NULL, key TEXT NOT NULL, offer TEXT NOT NULL, round INTEGER NOT NULL,
            tensors TEXT NOT NULL, most INTEGER NOT NULL, separation INTEGER NOT NULL, trust TEXT NOT NULL,
            neighbours TEXT NOT NULL, time TEXT NOT NULL,
            PRIMARY KEY (scope, key))""",
        """CREATE TABLE consent (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            offer TEXT NOT NULL, paper TEXT NOT NULL, signer TEXT NOT NULL, epsilon_cap REAL NOT NULL,
            time TEXT NOT NULL, withdrawn TEXT)""",
        """CREATE TABLE releases (
            scope TEXT PRIMARY KEY, offer TEXT NOT NULL, version INTEGER NOT NULL, round INTEGER NOT NULL,
            tensors TEXT NOT NULL, time TEXT NOT NULL)""",
        """CREATE TABLE memory (
            offer TEXT NOT NULL, round INTEGER NOT NULL, state BLOB NOT NULL, PRIMARY KEY (offer, round))""",
        """CREATE TABLE refusals (
            reason TEXT PRIMARY KEY, count INTEGER NOT NULL, first TEXT NOT NULL, last TEXT NOT NULL)""",
    ),
    ("ALTER TABLE releases ADD COLUMN final INTEGER NOT NULL DEFAULT 0",),
)
