"""The configuration: one dataclass tree, read through OmegaConf; every fault is reported at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

AUTO = "auto"  # of a length: the 99th percentile of a simulation's texts


@dataclass
class SharedConfig:
    """Shared phase. `tags`: what it learns from; `steps`, `rate`, `batch` (null = all): local SGD."""

    tags: list[str] = field(default_factory=lambda: ["safety"])
    steps: int | None = None
    rate: float | None = None
    batch: int | None = None


@dataclass
class ModelConfig:
    """`kind`: reward | policy. `base`: model folder or hub name ('' = the packaged one).

    reward: `form` linear | tanh | basis (private directions are learned together), `dims` = private
    directions (the first of the basis), `basis` public | planted (the truth's own; a simulation's privilege).
    policy: `layers` adapted from the top (0 = all), `rank`, `adapter` = form of the private one:
    styles (coefficients on public style adapters) | lora | core (r x r cores); `shared_factors` = what trains
    in the shared one: one (B) | both | merged (fedex, flora); `prompt_tokens`, `answer_tokens` = how many of
    each are read (auto: fits a simulation's data).
    """

    kind: str = "reward"
    base: str = ""
    layers: int = 4
    rank: int = 8
    form: str = "linear"
    dims: int = 8
    basis: str = "public"
    adapter: str = "styles"
    shared_factors: str = "one"
    prompt_tokens: int | str = "auto"
    answer_tokens: int | str = "auto"


@dataclass
class SourceConfig:
    """A source of comparisons; docs/configuration.md says what each key means."""

    source: str = "starter"
    path: str = ""
    columns: dict[str, str] = field(default_factory=dict)
    preset: str = ""
    min_gap: float = 4.0
    verdicts: dict[str, str] = field(default_factory=dict)
    missing: list[float] = field(default_factory=list)


@dataclass
class DataConfig:
    """Where comparisons come from. `pairs_per_person` is also the public cap of the accounting."""

    taste: SourceConfig = field(default_factory=SourceConfig)
    safety: SourceConfig = field(default_factory=SourceConfig)
    pairs_per_person: int = 40
    test_pairs: int = 60
    split: str = "warm"


@dataclass
class EvaluationConfig:
    """`people`: evaluated sample (null = min(people, 2000)); `resamples`: bootstrap; `prompts`: written."""

    people: int | None = None
    resamples: int = 2000
    prompts: int = 4
    tokens: int = 48


@dataclass
class LossConfig:
    """`name`: null = bradley_terry (reward) or dpo (policy); the rest as in `LossSettings`."""

    name: str | None = None
    beta: float | None = None
    flip: float = 0.1
    sft: float | None = None


@dataclass
class StrategyConfig:
    """`name` of a Flower strategy, its `options`, and whether the last half of the rounds is averaged.

    `norm_bound`: L2 norm that a step is bounded to (inf = not).
    """

    name: str = "fedavg"
    options: dict[str, Any] = field(default_factory=dict)
    average: bool | None = None
    norm_bound: float = float("inf")


@dataclass
class SharedPrivacyConfig:
    """Privacy of the shared adapter. `delta` null = people^-1.1; `clip` null = the model's default.

    `clip_mode`: fixed | adaptive (follows the median norm, from `clip_start` on and never above `clip`).
    `mechanism`: gaussian | banded (noise that cancels between rounds; `band` null = people / cohort).
    """

    epsilon: float = 8.0
    delta: float | None = None
    clip: float | None = None
    clip_mode: str = "fixed"
    clip_start: float | None = None
    mechanism: str = "gaussian"
    band: int | None = None
    participations: int | None = None


@dataclass
class PrivatePrivacyConfig:
    """Privacy of private adapters. `steps`: lifetime; `mechanism`: dp_sgd | label.

    `sampling`: Poisson rate of a step; `rate`: step size; `ridge`: pull towards zero.
    """

    epsilon: float | None = None
    delta: float | None = None
    clip: float | None = None
    steps: int | None = None
    mechanism: str = "dp_sgd"
    sampling: float | None = None
    rate: float | None = None
    ridge: float | None = None


@dataclass
class PrivacyConfig:
    """`unit`: the claim for the shared adapter; `trust`: who adds the noise; `accountant`: prv | rdp.

    `noise` of a simulation: seeded (whoever knows `seed` can repeat the run, and take its noise away) | os
    (from a secret number of the operating system that stays in the run's `state/`).
    """

    unit: str = "person"
    trust: str = "central"
    noise: str = "seeded"
    accountant: str = "prv"
    shared: SharedPrivacyConfig = field(default_factory=SharedPrivacyConfig)
    private: PrivatePrivacyConfig = field(default_factory=PrivatePrivacyConfig)


@dataclass
class GateConfig:
    """The safety gate. `tolerance`: public loss a round may lose, nats; `steps`, `rate` of its public SGD."""

    enabled: bool = False
    tolerance: float = 0.05
    steps: int = 4
    rate: float = 4.0


@dataclass
class BoundsConfig:
    """What a private part is kept from doing; infinity switches a bound off. See docs/bounds.md.

    In a simulation of policies: `answers` = show what people are shown under the charter, `charter_file` = a
    signed one ('' = the shipped one), `probes` = its forbidden prompts that each of these people is asked.
    `reward`: c of r_shared + c tanh(r_private / c), as a multiple of the median shared margin on public
    safety pairs (model.kind=reward). About means alone: `constraint` = what may be lost, in training, of the
    mean probability of the safe answer on public pairs, `constraint_rate` = step size of its price; `kl`,
    `kl_worst` = nats an answer, on average and on the worst public probe, to which a private adapter is
    scaled back. `charter`: SHA-256 of the charter that bounds every answer (model.kind=policy; '' = the
    shipped one).
    """

    answers: bool = True
    charter_file: str = ""
    probes: int = 4
    reward: float = float("inf")
    constraint: float = float("inf")
    constraint_rate: float = 1.0
    kl: float = float("inf")
    kl_worst: float = float("inf")
    charter: str = ""


@dataclass
class FleetConfig:
    """`runtime=fleet`: people trained in one tensor operation (`chunk`), and on how many processes.

    `shards` above 1 runs that many Ray actors, each with a slice of the people; `address` names a running
    Ray cluster ('' starts one on this machine).
    """

    chunk: int = 64
    shards: int = 1
    address: str = ""


@dataclass
class AttackConfig:
    """`name` of an attack ('' = none), the `fraction` of those taking part who attack, and `seed`: who."""

    name: str = ""
    fraction: float = 0.1
    seed: int = 1
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class Config:
    """Everything a run depends on. See docs/configuration.md for each key."""

    people: int = 200
    rounds: int = 60
    cohort: int | None = None
    seed: int = 1
    runtime: str = "inprocess"
    schedule: str = "decoupled"
    shared: SharedConfig = field(default_factory=SharedConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    strategy: StrategyConfig = field(default_factory=StrategyConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    bounds: BoundsConfig = field(default_factory=BoundsConfig)
    fleet: FleetConfig = field(default_factory=FleetConfig)
    attack: AttackConfig = field(default_factory=AttackConfig)
