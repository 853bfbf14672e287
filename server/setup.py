"""`server init`: a study's folder, wholly or not at all.

Everything is made in a folder beside the one that is asked for and renamed at the end.
"""

from __future__ import annotations

import copy
import math
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from commonground.comparisons import TAGS, Comparison
from commonground.config import Config
from commonground.data.starter import safety_pairs
from commonground.errors import ConfigError, InputError, RunFolderError, StorageError
from commonground.files import write_atomically
from commonground.hub import cached, folder_bytes, folder_digest, is_hub_name, model_folder
from commonground.manifest import Manifest
from commonground.mishaps import storage_errors
from commonground.own_folders import make_draft, remove_draft, sweep_drafts, unmark
from commonground.recipe import make_plan, resolve
from commonground.rules import value_of
from commonground.server.address import split_address
from commonground.server.audit import Audit
from commonground.server.bundle import write_bundle
from commonground.server.certificates import make_certificates
from commonground.server.charters import charter_text, choose_charter
from commonground.server.state import CHARTER_FILE, PUBLIC, SETTINGS, Settings
from commonground.server.tables import Database
from commonground.settings import load_config, to_dict, to_yaml
from commonground.strategies.composition import check_composition, check_model
from commonground.strategies.registry import client_half, get_strategy, implied_settings
from commonground.study.charters import CharterFile
from commonground.study.offer import ENCODER, KIND, TRUSTS, Offer, refuse_code, terms_of
from commonground.study.public_parts import FILE, parts_digest, write_parts
from commonground.study.public_parts import NAME as PARTS
from commonground.study.signing import new_key, sign
from commonground.training.build import Progress, build_model
from commonground.training.client_half import initial
from commonground.training.contract import egress_manifest

LOOPBACK = ("127.0.0.1", "localhost")
DELTA = 1e-5  # of a deployed study, where the configuration names none
TRUST_WORDS = (
    "local: each device adds its own noise before anything leaves it; central: the server adds the noise, "
    "and sees single clipped updates, from which parts of a person's safety feedback could be reconstructed"
)


@dataclass(frozen=True)
class Wanted:
    """What an operator asks for.

    Attributes:
        trust: local | central.
        name: the study's name.
        address: host:port of the front door.
        closes: when the study ends, ISO 8601; without a time zone it is UTC.
        purpose, contact: what participants read.
        config: a YAML file, or None.
        overrides: `key=value`.
        deadline: seconds of a round.
        minimum: updates a round needs; None is half of the cohort.
        min_online: devices that must be online before a round begins.
        insecure_seed: a known number instead of secret noise: a test, on loopback only.
        charter: a signed charter, its files beside it; None is the shipped one, where the model writes.
    """

    trust: str | None
    name: str
    address: str
    closes: str
    purpose: str
    contact: str
    config: Path | None = None
    overrides: Sequence[str] = ()
    deadline: float = 600.0
    minimum: int | None = None
    min_online: int = 1
    insecure_seed: int | None = None
    charter: Path | None = None


def init_study(folder: Path, wanted: Wanted, progress: Progress | None = None) -> None:
    """Make a study's folder.

    Args:
        folder: where; it must not exist, or be empty.
        wanted: what is asked for.
        progress: called with (what, done, total) while the base model is read.

    Raises:
        InputError: an option cannot be used.
        ConfigError: the configuration has faults.
        RunFolderError: the folder holds something.
        StorageError: the disk refused.
    """
    host, _ = split_address(wanted.address)
    closes = _utc("--closes", wanted.closes)
    if wanted.trust not in TRUSTS:
        found = "missing" if wanted.trust is None else repr(wanted.trust)
        raise InputError(f"--trust is {found}; accepted: local, central", hint=TRUST_WORDS)
    if wanted.insecure_seed is not None and host not in LOOPBACK:
        raise InputError(
            f"--insecure-seed with --address {wanted.address}; accepted: one on 127.0.0.1 or localhost",
            hint="whoever knows the seed can take the noise away: it is for tests on one machine",
        )
    config = study_config(wanted)
    _check_rounds(wanted, config)
    given = choose_charter(wanted.charter, config)
    folder = folder.absolute()
    with storage_errors(folder):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise RunFolderError(f"{folder} is there already; a new or an empty folder is needed")
        folder.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{folder.name}.init-"
        sweep_drafts(folder.parent, prefix)  # of an init that was killed
        draft = folder.parent / f"{prefix}{secrets.token_hex(4)}"
        held = make_draft(draft)
        try:
            _fill(draft, wanted, config, given, host, closes, progress)
            os.rename(draft, folder)
            unmark(folder)
        except BaseException:
            held.close()
            with suppress(StorageError):
                remove_draft(draft)
            raise
        held.close()


def _check_rounds(wanted: Wanted, config: Config) -> None:
    """Raise `InputError` where rounds could not begin, or would all be void."""
    cohort = min(int(config.cohort or 2), config.people)
    if not 0 < wanted.deadline < math.inf:
        raise InputError(f"--deadline is {wanted.deadline:g}; accepted: seconds above 0")
    if wanted.minimum is not None and not 1 <= wanted.minimum <= cohort:
        raise InputError(
            f"--minimum is {wanted.minimum}; accepted: 1 to {cohort}, as many as a round asks",
            hint="a round with fewer updates is void, and charged",
        )
    if not 0 <= wanted.min_online <= config.people:
        raise InputError(f"--min-online is {wanted.min_online}; accepted: 0 to {config.people}, all people")


def study_config(wanted: Wanted) -> Config:
    """The resolved configuration of a deployed study; raises `ConfigError` or `StrategyError`."""
    config = copy.deepcopy(load_config(wanted.config, wanted.overrides))
    given = {override.partition("=")[0].strip(): override for override in wanted.overrides}
    trust = str(wanted.trust)
    if "privacy.trust" in given and config.privacy.trust != trust:
        raise ConfigError(
            [f"command line: {given['privacy.trust']} with --trust {trust}; give --trust alone"]
        )
    config.privacy.trust = trust
    if trust == "central" and "privacy.shared.mechanism" not in given:
        config.privacy.shared.mechanism = "banded"
    if config.privacy.shared.delta is None:
        config.privacy.shared.delta = DELTA
    if wanted.insecure_seed is not None:
        config.seed = wanted.insecure_seed
    refuse_code(config)
    name, options = config.strategy.name, config.strategy.options
    get_strategy(name, options)
    for key, value in implied_settings(name, options).items():
        *path, last = key.split(".")
        setattr(value_of(config, ".".join(path)) if path else config, last, value)
    finite = math.isfinite(config.privacy.shared.epsilon)
    check_model(name, config.model.kind, config.model.form, config.shared.tags)
    check_composition(name, trust, finite, config.privacy.unit, options)
    if config.gate.enabled and config.model.kind != "reward":
        raise ConfigError(
            ["gate.enabled needs model.kind=reward: a language model cannot be scored each round"]
        )
    base = Path(config.model.base).expanduser() if config.model.base else None
    if base is not None and base.exists():  # a folder: the study may be started from anywhere
        config.model.base = str(base.resolve())
    full = resolve(config)
    if full.cohort is not None and full.cohort > full.people:
        raise ConfigError([f"cohort is {full.cohort}; accepted: at most people, {full.people}"])
    terms_of(full)
    return full


def starter_pair() -> Comparison:
    """One public comparison: the least that a model is built over, for its shapes and digests."""
    pair = safety_pairs()[0]
    return Comparison(pair.prompt, pair.safe, pair.unsafe, "safety", "public")


def _fill(
    draft: Path,
    wanted: Wanted,
    config: Config,
    given: CharterFile | None,
    host: str,
    closes: str,
    progress: Progress | None,
) -> None:
    for name in ("run", "log", "releases", "checkpoint"):
        (draft / name).mkdir(mode=0o700)
    key = new_key(draft / "signing.key")
    known = wanted.insecure_seed
    seed = secrets.randbits(256) if known is None else known
    write_atomically(draft / "seed.key", f"{seed}\n".encode(), private=True)
    certificates = make_certificates(wanted.name, host, datetime.fromisoformat(closes))
    for name, pem, private in (
        ("ca.crt", certificates.ca, False),
        ("ca.key", certificates.ca_key, True),
        ("server.crt", certificates.server, False),
        ("server.key", certificates.server_key, True),
    ):
        write_atomically(draft / name, pem, private=private)
    contract = contract_of(config, progress)
    manifest, parts = contract.manifest, write_parts(contract.parts)
    write_atomically(draft / PUBLIC / FILE, parts)
    if given is not None:
        charter = charter_text(given, key, manifest.versions.get("base", ""))
        write_atomically(draft / PUBLIC / CHARTER_FILE, charter.encode())
    offer = Offer(
        study=wanted.name,
        version=1,
        purpose=wanted.purpose,
        contact=wanted.contact,
        config=to_dict(config),
        manifest=manifest.to_dict(),
        opens=datetime.now(UTC).isoformat(timespec="seconds"),
        closes=closes,
        base={**manifest.versions, **_encoder(config), PARTS: parts_digest(parts)},
        downloads=_downloads(config, given),
    )
    write_atomically(draft / "offer.json", sign(key, KIND, offer.to_dict()).to_text().encode())
    write_atomically(draft / "config.yaml", to_yaml(config).encode())
    cohort = int(config.cohort or 2)
    settings = Settings(
        wanted.name,
        wanted.address,
        deadline=wanted.deadline,
        minimum=max(1, cohort // 2) if wanted.minimum is None else wanted.minimum,
        min_online=wanted.min_online,
        insecure=known is not None,
    )
    write_atomically(draft / SETTINGS, settings.to_toml().encode())
    buffer = BytesIO()
    np.savez(buffer, **contract.initial)  # type: ignore[arg-type]
    write_atomically(draft / "initial.npz", buffer.getvalue())
    write_bundle(draft / "bundle", wanted.name)
    Database(draft / "state.db", create=True).close()
    Audit(draft, key).add("made", study=wanted.name, offer=offer.digest, trust=wanted.trust)


def _encoder(config: Config) -> dict[str, str]:
    """The digest of an encoder out of the hub: the manifest has only what is computed with it."""
    if config.model.kind != "reward" or not is_hub_name(config.model.base):
        return {}
    return {ENCODER: folder_digest(model_folder(config.model.base))}


def _downloads(config: Config, given: CharterFile | None) -> dict[str, int]:
    """Hub name -> bytes, of what a device has to fetch: it is all in this machine's cache by now."""
    names = [config.model.base]
    if given is not None:
        names += [one.place for one in given.charter.detectors.values() if one.kind == "classifier"]
    folders = {name: cached(name) for name in names if is_hub_name(name)}
    return {name: folder_bytes(folder) for name, folder in folders.items() if folder is not None}


class Contract(NamedTuple):
    """What devices are held to, and what they get.

    Attributes:
        manifest: what may leave a device, which derives it by itself.
        initial: what the server sends first.
        parts: the public parts of the model, which devices take.
    """

    manifest: Manifest
    initial: dict[str, np.ndarray]
    parts: dict[str, np.ndarray]


def contract_of(config: Config, progress: Progress | None) -> Contract:
    """The contract of a configuration, with everything public computed here."""
    half = client_half(config.strategy.name, config.strategy.options)
    terms = terms_of(config, half)
    with threadpool_limits(1):  # the bits of a simulation, whatever number of threads there are
        model = build_model(config, [starter_pair()], progress)
    plan = make_plan(
        config, [tag for tag in TAGS if tag in config.shared.tags], terms.claim, terms.private_claim
    )
    manifest = egress_manifest(config, model, plan, terms.claim, half, 0)
    first = {name: value.numpy() for name, value in model.initial_shared().items()}
    return Contract(manifest, first | initial(half, model.shared_spec(), 1), model.public_parts())


def _utc(option: str, text: str) -> str:
    """A time as the offer holds it; raises `InputError`."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise InputError(
            f"{option} is {text!r}; accepted: a time in ISO 8601, such as 2027-06-30T18:00"
        ) from error
    found = found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    if found <= datetime.now(UTC):
        raise InputError(f"{option} is {text}, which is past")
    return found.isoformat(timespec="seconds")
