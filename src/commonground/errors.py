"""Everything that can go wrong, as one tree.

    CommonGroundError                 exit code 1
    |-- InputError                    exit code 2: the user can mend it
    |   |-- ConfigError               a config file or override; carries every fault at once
    |   |-- DataError                 a source of comparisons
    |   |-- ModelError                a model folder, hub name or package
    |   `-- RunFolderError            an output folder: in use, of another config, not a run
    |-- EgressError                   something tried to leave that the manifest does not allow
    |-- PrivacyError                  a budget is spent, or a claim cannot be made
    |-- StrategyError                 a strategy and the run do not go together
    |-- TrustError                    a signature, a version or a digest is not the accepted one
    |-- StorageError                  the disk refused (full, read-only)
    `-- InterruptedRunError           exit code 130: stopped by the user, resumable

A message carries both values (what was found, what is accepted); ``hint`` says what to do next. It is for
people: code that has to tell errors apart looks at the class, at ``reason`` or ``key``, never at words.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum


class Reason(Enum):
    """Why something was refused, for code that tells refusals apart; compared by identity.

    The values are what a device counts and shows its owner: constants of this file, so that no text of
    another party can become one.
    """

    # A release that a device does not take.
    UNREADABLE = "no release that can be read"
    OTHER_SIGNER = "unknown signer"
    EDITED = "edited release"
    OTHER_OFFER = "another offer"
    OLD_VERSION = "replayed version"
    OTHER_TENSORS = "other tensors than the manifest's"
    OTHER_SHAPES = "other shapes than the manifest's"
    NOT_FINITE = "a non-finite adapter"
    OTHER_DIGEST = "other tensors than were signed"
    NOT_THE_LAST = "a last release at another time than the offer's"
    # A round that a device does not take part in.
    NO_CONSENT = "no consent"
    PAUSED = "paused by its owner"
    CLOSED = "outside of the study's time"
    UNFIT = "unfit"
    OTHER_ROUND = "another round than the release opens"
    OTHER_CLIP = "another clip"
    NO_SECRET = "no secret to make noise with"
    FAILED = "failed"
    # A charge that an account refuses.
    TOO_OFTEN = "too often or too early"
    BUDGET = "the privacy budget is spent"
    ANSWERED = "answered before, bytes gone"
    OTHER_COST = "charged before at another cost"
    AMPLIFIED = "an offer that counts on secret sampling"
    UNACCOUNTED = "something left that no charge covers"


def one_line(text: str) -> str:
    """A text with everything that is not shown as it is (line ends, escapes, marks of direction) escaped."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


LONGEST = 2_000  # characters of a line: what an error quotes may be as long as a stranger likes


def _bounded(text: str) -> str:
    """A text on one line of at most `LONGEST` characters, with its end where it is longer.

    The end stays, because that is where a message says what is accepted.
    """
    line = one_line(text)
    if len(line) <= LONGEST:
        return line
    left_out = " [...] "
    half = (LONGEST - len(left_out)) // 2
    return line[:half] + left_out + line[-half:]


class CommonGroundError(Exception):
    """Base of every error of this package.

    Args:
        detail: one line: what was wrong, where, what is accepted. With a `key` it begins with its value.
        hint: what to do next, or None.
        reason: what code may tell this error by, or None.
        key: the configuration key that it is about, e.g. `strategy.name`, or None.
        verb: what stands between the key and the detail in the message.

    Attributes:
        message: the whole line, for people: the detail, behind the key where there is one.
    """

    exit_code: int = 1
    error_code: str = "failed"

    def __init__(
        self,
        detail: str,
        *,
        hint: str | None = None,
        reason: Reason | None = None,
        key: str | None = None,
        verb: str = " is ",
    ) -> None:
        self.message = self._shown(detail if key is None else f"{key}{verb}{detail}")
        super().__init__(self.message)
        self.detail, self.hint, self.reason, self.key = detail, hint, reason, key

    @staticmethod
    def _shown(text: str) -> str:
        """The text on one line: what it quotes may be a stranger's, and moves no cursor of a terminal."""
        return _bounded(text)


class InputError(CommonGroundError):
    """Something the user gave cannot be used."""

    exit_code = 2
    error_code = "bad_input"


class ConfigError(InputError):
    """A configuration with one or more faults.

    Args:
        faults: one line a fault: place, value found, what is accepted.
        hint: what to do next.
    """

    error_code = "bad_config"

    def __init__(self, faults: Sequence[str], *, hint: str | None = None) -> None:
        self.faults = tuple(_bounded(fault) for fault in faults)
        super().__init__("\n".join(self.faults), hint=hint)

    @staticmethod
    def _shown(text: str) -> str:
        return "\n".join(_bounded(fault) for fault in text.split("\n"))


class DataError(InputError):
    """A source of comparisons cannot be read, or holds nothing usable."""

    error_code = "bad_data"


class ModelError(InputError):
    """A model cannot be found or loaded."""

    error_code = "bad_model"


class RunFolderError(InputError):
    """An output folder cannot be used."""

    error_code = "bad_run_folder"


class EgressError(CommonGroundError):
    """The manifest does not allow this to leave the device."""

    error_code = "egress_refused"


class PrivacyError(CommonGroundError):
    """A privacy budget is spent, or a privacy claim cannot be made."""

    error_code = "privacy_refused"


class StrategyError(CommonGroundError):
    """A strategy was given something it cannot aggregate."""

    error_code = "strategy_refused"


class TrustError(CommonGroundError):
    """Somebody's word cannot be taken: a wrong signer, an old version, another digest."""

    exit_code = 2
    error_code = "not_trusted"


class StorageError(CommonGroundError):
    """Writing to disk failed; nothing half-written is left behind."""

    exit_code = 2
    error_code = "storage_failed"


class InterruptedRunError(CommonGroundError):
    """The run was stopped by the user and can be resumed."""

    exit_code = 130
    error_code = "interrupted"
