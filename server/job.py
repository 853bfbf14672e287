"""A job: everything the server needs for the rounds of one arm, as a JSON file."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field, fields
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from flwr.serverapp.strategy import Strategy

from commonground.errors import RunFolderError, StrategyError
from commonground.files import write_atomically
from commonground.manifest import Manifest
from commonground.privacy.adaptive_clip import AdaptiveClip
from commonground.privacy.banded import BandedNoise
from commonground.server.checkpoint import DAMAGE, damage
from commonground.strategies.adaptive_clip import AdaptedClip
from commonground.strategies.banded import Banded
from commonground.strategies.central_noise import CentralNoise
from commonground.strategies.composition import check_composition
from commonground.strategies.norm_bound import NormBound
from commonground.strategies.person_dp import PersonLevel
from commonground.strategies.registry import get_strategy, is_linear
from commonground.strategies.safety_gate import SafetyGate


@dataclass(frozen=True)
class Job:
    """The rounds of one arm (shared, pooled, ...).

    Attributes:
        arm: its name, for events and errors.
        people: how many nodes there are; a person is an index below it.
        rounds: T.
        q: probability that a person is drawn in a round.
        m: fixed denominator, q times the number of eligible people.
        seed: of the draws of people.
        noise_seed: of the noise on the sum, see `recipe.message_noise_seed`; None is `seed`.
        manifest: `Manifest.to_dict()`.
        noise_multiplier: z of the noise on the sum; 0 where there is none or the devices add it.
        initial: npz file with the starting arrays, named as in the manifest.
        checkpoint: folder of this arm's checkpoint.
        trust: central | local.
        strategy: name, see `commonground.strategies.registry`.
        options: its options.
        average: keep the mean over the last half of the rounds.
        private: send the private-phase message to the cohort after its shared replies.
        final_private: people who run one last private phase after the last round.
        participations: most rounds that one person takes part in (trust=local), or None.
        eligible: people who may be drawn; None is everybody. People of split `unseen` never are.
        ledger: file of the privacy ledger that every round is charged in before it begins, or None.
        charge: (sampling, noise multiplier) of one round, or of one message where `participations` caps them.
        unit: what the ledger's claim protects: person | comparison.
        timeout: seconds to wait for replies of a round, or None.
        mechanism: the central noise where it is not the plain one: `adaptive_clip` or `banded`, with its
            public numbers.
        norm_bound: L2 norm that a step of the strategy is bounded to; inf = not bounded.
        gate: the safety gate's `tolerance`, `steps` and `rate`; empty = no gate.
        stop_on_error: stop where a device answers with an error. Right in a simulation, where that is a
            fault of the program; a deployment says False, since a failed device is simply absent.
        minimum: usable replies that a round needs, else it is void: charged, and the parameters stay.
        device_noise: standard deviation of the noise on each number of a message, where devices add it.
    """

    arm: str
    people: int
    rounds: int
    q: float
    m: float
    seed: int
    manifest: dict[str, Any]
    noise_multiplier: float
    initial: str
    checkpoint: str
    trust: str = "central"
    strategy: str = "fedavg"
    options: dict[str, Any] = field(default_factory=dict)
    average: bool = False
    private: bool = False
    final_private: list[int] = field(default_factory=list)
    participations: int | None = None
    eligible: list[int] | None = None
    ledger: str | None = None
    charge: tuple[float, float] = (1.0, 0.0)
    unit: str = "person"
    timeout: float | None = None
    stop_on_error: bool = True
    mechanism: dict[str, Any] = field(default_factory=dict)
    norm_bound: float = math.inf
    gate: dict[str, Any] = field(default_factory=dict)
    minimum: int = 0
    device_noise: float = 0.0
    noise_seed: int | None = None

    def save(self, path: Path) -> None:
        """Write the job to a JSON file, atomically."""
        write_atomically(path, json.dumps(asdict(self), indent=1).encode())

    @classmethod
    def load(cls, path: Path) -> Job:
        """The job that `save` wrote; raises `RunFolderError` if it is not one."""
        try:
            values = json.loads(path.read_text())
            known = {f.name for f in fields(cls)}
            if not isinstance(values, dict) or set(values) != known:
                raise ValueError("its keys are not a job's")
            return cls(**values | {"charge": tuple(values["charge"])})
        except (OSError, ValueError) as error:
            raise RunFolderError(f"job {path} cannot be read: {error}") from error

    @property
    def digest(self) -> str:
        """SHA-256 of everything the result depends on, hence without places and timeouts."""
        values = asdict(self)
        for name in ("initial", "checkpoint", "ledger", "timeout", "stop_on_error"):
            del values[name]
        if not self.mechanism:  # the digest of a job with the plain one is what it always was
            del values["mechanism"]
        if self.norm_bound == math.inf:
            del values["norm_bound"]
        if not self.gate:
            del values["gate"]
        if not self.minimum:
            del values["minimum"]
        if not self.device_noise:
            del values["device_noise"]
        values["initial_arrays"] = {
            name: hashlib.sha256(value.tobytes()).hexdigest() for name, value in self.initial_arrays().items()
        }
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    def initial_arrays(self) -> dict[str, np.ndarray]:
        """u_0 in the manifest's order and dtypes."""
        try:
            with np.load(BytesIO(Path(self.initial).read_bytes()), allow_pickle=False) as archive:
                return {
                    spec.name: archive[spec.name].astype(spec.dtype).reshape(spec.shape)
                    for spec in Manifest.from_dict(self.manifest).broadcast
                }
        except DAMAGE as error:
            raise RunFolderError(
                f"{self.arm}: initial arrays {self.initial} cannot be read: {damage(error)}",
                hint="delete the file and resume",
            ) from error

    @property
    def checkpoint_file(self) -> Path:
        """Where this arm's state is kept."""
        return Path(self.checkpoint) / "checkpoint.npz"

    def wrapper(self) -> PersonLevel:
        """The strategy of this job inside the person-level wrapper; checks that the parts go together."""
        manifest = Manifest.from_dict(self.manifest)
        noisy = self.noise_multiplier > 0 or manifest.noise_on_device
        if manifest.noise_on_device != (self.trust == "local" and noisy):
            raise StrategyError(
                f"{self.arm}: trust is {self.trust}, but the manifest says noise_on_device="
                f"{manifest.noise_on_device}"
            )
        check_composition(self.strategy, self.trust, noisy, self.unit, self.options)
        return PersonLevel(
            self._rule(),
            manifest,
            people=self.people,
            q=self.q,
            m=self.m,
            noise_multiplier=self.noise_multiplier,
            seed=self.seed,
            rounds=self.rounds,
            eligible=self.eligible,
            individual=not is_linear(self.strategy),
            average=self.average,
            participations=self.participations,
            mechanism=self._mechanism(manifest),
            minimum=self.minimum,
            device_noise=self.device_noise,
        )

    def _rule(self) -> Strategy:
        """The strategy inside its wrappers: the bound next to it, the gate around both."""
        rule = get_strategy(self.strategy, self.options)
        if self.norm_bound < math.inf:
            rule = NormBound(rule, self.norm_bound, individual=not is_linear(self.strategy))
        return SafetyGate(rule, **self.gate) if self.gate else rule

    def _mechanism(self, manifest: Manifest) -> CentralNoise:
        seed = self.seed if self.noise_seed is None else self.noise_seed
        if "adaptive_clip" in self.mechanism:
            return AdaptedClip(AdaptiveClip(**self.mechanism["adaptive_clip"]), seed)
        if "banded" in self.mechanism:
            return Banded(BandedNoise(**self.mechanism["banded"]), manifest.clip, seed, self.rounds)
        return CentralNoise(self.noise_multiplier, manifest.clip, seed)
