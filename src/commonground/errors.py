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

A message carries both values (what was found, what is accepted); ``hint`` says what to do next.
"""

from __future__ import annotations

from collections.abc import Sequence


class CommonGroundError(Exception):
    """Base of every error of this package.

    Args:
        message: one line: what was wrong, where, what is accepted.
        hint: what to do next, or None.
    """

    exit_code: int = 1
    error_code: str = "failed"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


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
        super().__init__("\n".join(faults), hint=hint)
        self.faults = tuple(faults)


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
