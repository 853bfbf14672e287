"""A device as a person runs it: `commonground device up` with all its parts, and no server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from toy_patience import until
from toy_profile import make_profile
from toy_vault import offer_of, study_config

from commonground.client import keys
from commonground.client.owner import OwnerClient
from commonground.client.profile import Profile
from commonground.client.store import NAME, Store
from commonground.errors import CommonGroundError
from commonground.server.certificates import make_certificates
from commonground.study.signing import Paper

CLI = [sys.executable, "-m", "commonground.simulations.cli", "device"]
WORDS = "four words that suffice"
UNWANTED = dict.fromkeys(("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "PYTHONSTARTUP", "PGPASSWORD"), "s3cr3t")


class Device:
    """A device as a person runs it."""

    def __init__(self, folder: Path) -> None:
        offer, ca = offer_of(study_config()), make_certificates("toys", "127.0.0.1").ca.decode()
        self.profile: Profile = make_profile(folder / "profile", offer, ca)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(keys.SCRYPT, "n", 2**10)
            raw = keys.make_key(self.profile.folder, WORDS, keyring=False)
        key = ec.generate_private_key(ec.SECP384R1())
        form = serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        self.profile.key.write_bytes(key.private_bytes(*form))
        with Store(self.profile.folder / NAME, raw) as store:
            paper = Paper.from_text(self.profile.invitation.read_bytes()).content["offer"]
            store.consent.accept(offer.digest, paper, self.profile.signer, 8.0)
        words = folder / "words"
        words.write_text(WORDS)
        words.chmod(0o600)
        self.environment = os.environ | UNWANTED | {"COMMONGROUND_PASSPHRASE_FILE": str(words)}
        self.log = folder / "up.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*CLI, "up", "--profile", str(self.profile.folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
            )

    def call(self, *words: str) -> dict[str, Any]:
        done = subprocess.run(
            [*CLI, *words, "--profile", str(self.profile.folder), "--format", "json"],
            capture_output=True,
            text=True,
            check=False,
            env=self.environment,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        data: dict[str, Any] = json.loads(done.stdout)["data"]
        return data

    def until(self, holds: Callable[[], object]) -> None:
        not_yet = (CommonGroundError, KeyError, OSError, ValueError)
        until(holds, self.log.read_text, alive=self.process, unless=not_yet)

    @property
    def parts(self) -> dict[str, Any]:
        parts: dict[str, Any] = json.loads((self.profile.run / "state.json").read_bytes())["parts"]
        return parts

    def owner(self, question: Callable[[OwnerClient], Any]) -> Any:
        with OwnerClient(self.profile.folder, WORDS) as owner:
            return question(owner)
