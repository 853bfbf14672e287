"""The charter of a study whose model writes: chosen at `server init`, carried by every invitation."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from commonground.bounds.charter import sign_charter
from commonground.bounds.charter_files import check_probes
from commonground.bounds.enforcement import enforce
from commonground.config import Config
from commonground.embeddings import Encoder
from commonground.errors import ConfigError, InputError
from commonground.study.carried import carry
from commonground.study.charters import CharterFile, trusted_charter
from commonground.study.signing import Paper


def choose_charter(file: Path | None, config: Config) -> CharterFile | None:
    """The charter of a study, its digest noted in the configuration; None where the model writes nothing.

    Args:
        file: a signed charter; None is that of `bounds.charter_file`, or the shipped one.
        config: of the study; `bounds.charter` is set, and a path of this machine is taken out of it.

    Raises:
        InputError: one is given where nothing is written, or a file of it cannot be read.
        TrustError: it is not signed, or a probe set is not what it names.
        ConfigError: it has faults, or the configuration names another.
    """
    if config.model.kind != "policy":
        if file is not None:
            raise InputError(
                f"--charter {file} with model.kind={config.model.kind}; accepted: model.kind=policy",
                hint="a charter bounds answers, and a model that judges answers writes none",
            )
        return None
    file = file or (Path(config.bounds.charter_file) if config.bounds.charter_file else None)
    config.bounds.charter_file = ""
    found = trusted_charter(file)
    digest = found.charter.digest
    if config.bounds.charter not in ("", digest):
        raise ConfigError(
            [f"bounds.charter is {config.bounds.charter[:16]}; the charter {found.source} has {digest[:16]}"]
        )
    if file is not None:
        check_probes(found.charter, found.folder)
    config.bounds.charter = digest
    return found


def charter_text(given: CharterFile, key: Ed25519PrivateKey, base: str) -> str:
    """A charter as invitations carry it.

    The shipped charter is signed by the study. Another's is tried first, as a device will try it.

    Args:
        given: what `choose_charter` found.
        key: of the study.
        base: digest of the study's base model.

    Raises:
        TrustError: a detector or the base model is not the charter's.
        ConfigError: a detector holds back answers for their style.
        InputError: a file cannot be read, or does not travel.
        ModelError: a detector does not load.
    """
    if not given.signer:
        return carry(sign_charter(key, given.charter), given.folder)
    enforce(given.charter, given.folder, Encoder(), base)
    return carry(Paper.from_text(Path(given.source).read_bytes(), given.source), given.folder)
