"""The local update of one person, as the accepted offer means it.

The same phases as a simulated device (`commonground.training`), with P = 1, over the comparisons of the
store. Everything is derived from the offer by this device's own code; a manifest that comes out otherwise
than the operator signed it is a reason not to take part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from commonground import __version__
from commonground.client.noise import message_normals, standard_normals
from commonground.comparisons import TAGS, Comparison, Tag
from commonground.config import Config
from commonground.embeddings import Encoder
from commonground.errors import ModelError, TrustError
from commonground.hub import folder_digest, model_folder
from commonground.manifest import Manifest, Sealed
from commonground.recipe import make_plan, message_noise_seed, private_noise_seed
from commonground.sealing import seal_update, seeded_normals
from commonground.strategies.registry import client_half, rule_of
from commonground.study.carried import Carried, read_carried
from commonground.study.offer import ENCODER, Offer, Terms, terms_of
from commonground.study.public_parts import NAME as PARTS
from commonground.study.public_parts import read_parts
from commonground.training.client_half import Answer, ClientHalf, Visit, answer, split
from commonground.training.contract import egress_manifest
from commonground.training.label_coins import numbered, pair_name
from commonground.training.model import PreferenceModel, Tensors
from commonground.training.own_table import OwnTable
from commonground.training.plan import Plan
from commonground.training.update import People, PrivateState, first_private, private_phase, take

Arrays = dict[str, np.ndarray]
Noise = Callable[[int], Arrays]


@dataclass(frozen=True)
class Insecure:
    """Reproducible draws instead of the operating system's: for tests on loopback, never for a person.

    Attributes:
        seed: of the simulation that the device is to repeat.
        person: index in it.
    """

    seed: int
    person: int

    def message_noise_seed(self, meant: Understood) -> int:
        """The seed of that simulation's noise on messages."""
        rule = rule_of(meant.config.strategy.name)
        return message_noise_seed(meant.config, meant.terms.claim, meant.terms.private_claim, self.seed, rule)

    def private_noise_seed(self, meant: Understood) -> int:
        """The seed of that simulation's noise on private adapters."""
        rule = rule_of(meant.config.strategy.name)
        return private_noise_seed(meant.config, meant.terms.claim, meant.terms.private_claim, self.seed, rule)


@dataclass(frozen=True)
class Understood:
    """What an offer means on this device.

    Attributes:
        offer: as it was signed.
        config: its configuration, checked.
        terms: what a message costs, how many, how far apart.
        table: builds the model over the person's comparisons.
        half: the device's half of the strategy, where it has one.
        plan: of the local updates; its seed is replaced by a secret one before it is used.
        manifest: what may leave, the same as the operator's.
        charter: what bounds every answer; None where the model writes none.
    """

    offer: Offer
    config: Config
    terms: Terms
    table: OwnTable
    half: ClientHalf | None
    plan: Plan
    manifest: Manifest
    charter: Carried | None = None

    @property
    def noise_std(self) -> float:
        """Deviation of the noise on every number of a message, where the device adds it."""
        return self.terms.claim.noise_multiplier * self.manifest.clip

    @property
    def cap(self) -> int:
        """Most comparisons of a tag that count; public, as the accounting needs it."""
        return self.config.data.pairs_per_person


def understand(offer: Offer, parts: bytes | None = None, charter: str = "") -> Understood:
    """Derive everything from an offer.

    Args:
        offer: as the operator signed it.
        parts: the file of public parts that it names; None where it names none and they are computed here.
        charter: the charter with its files, as the invitation carries them; '' where it carries none.

    Raises:
        TrustError: the offer is for other software, parts or charter are missing or others than it names, or
            this device derives another manifest from it.
        ModelError: the base model is missing, or is another than the offer's, or the parts do not fit it.
        ConfigError: the offer's settings do not go together.
    """
    if offer.software != __version__:
        raise TrustError(
            f"the offer is for commonground {offer.software}; this device runs {__version__}",
            hint=f"install that version: pip install commonground=={offer.software}",
        )
    config = offer.settings
    bounded = _charter(config, charter)
    half = client_half(config.strategy.name, config.strategy.options)
    terms = terms_of(config, half)
    base = dict(offer.base)
    digest = base.pop(PARTS, None)
    _hold_encoder(config, base.pop(ENCODER, None))
    table = OwnTable(config, parts=None if digest is None else read_parts(parts, digest))
    tags: list[Tag] = [tag for tag in TAGS if tag in config.shared.tags]
    plan = make_plan(config, tags, terms.claim, terms.private_claim)
    manifest = egress_manifest(config, table.public, plan, terms.claim, half, 0)
    own = manifest.versions
    for name, wanted in base.items():
        if own.get(name) != wanted:
            raise ModelError(
                f"the base model's {name} has digest {own.get(name, 'none')[:12]}; the offer says "
                f"{wanted[:12]}",
                hint="install the base model that the operator names, and start the device again",
            )
    theirs = offer.contract
    if manifest.digest != theirs.digest:
        raise TrustError(
            f"this device derives another manifest than the offer's: {_difference(manifest, theirs)}",
            hint="ask the operator: what would leave is not what they signed",
        )
    return Understood(offer, config, terms, table, half, plan, manifest, bounded)


def _hold_encoder(config: Config, wanted: str | None) -> None:
    """Raise `ModelError` where an encoder out of the hub is another than the offer names, before it loads."""
    if wanted is None:
        return
    found = folder_digest(model_folder(config.model.base))
    if found != wanted:
        raise ModelError(
            f"the encoder {config.model.base} has digest {found[:12]}; the offer says {wanted[:12]}",
            hint="fetch the revision that the operator names",
        )


def _charter(config: Config, text: str) -> Carried | None:
    """The charter that an offer names, held to it; a model that writes answers without one is refused."""
    if config.bounds.charter:
        return read_carried(text, config.bounds.charter, Encoder().digest)
    if config.model.kind == "policy":
        raise TrustError(
            "the offer names no charter, and its model writes answers: one is needed to bound them",
            hint="ask the operator for a new offer: commonground server init names a charter in it",
        )
    return None


def _difference(own: Manifest, theirs: Manifest) -> str:
    """The first thing that two manifests differ in, both values said."""
    mine, other = own.to_dict(), theirs.to_dict()
    for name in sorted(mine.keys() | other.keys()):
        if mine.get(name) != other.get(name):
            return f"{name} is {str(mine.get(name))[:160]} here and {str(other.get(name))[:160]} there"
    return f"digest {own.digest[:12]} here and {theirs.digest[:12]} there"


class Learner:
    """Trains on a table of comparisons.

    Args:
        understood: the accepted offer.
        comparisons: what the person said, the oldest first.
        seed: of this lifetime's draws; secret, or the simulation's.
        person: key of the random streams; 0 on a real device.
        label_seed: of the coins that flip choices: one for good, whatever lifetime; None is `seed`.
        noise_seed: of its noise, where a simulation's draws are repeated; None is `seed`.
    """

    def __init__(
        self,
        understood: Understood,
        comparisons: Sequence[Comparison],
        seed: int,
        person: int = 0,
        label_seed: int | None = None,
        noise_seed: int | None = None,
    ) -> None:
        self._meant, self._person, self._label_seed = understood, person, label_seed
        # Each tag by itself, taste first, as a simulation's table has them; the newest that count.
        table, rows, names = list[Comparison](), dict[Tag, np.ndarray](), dict[Tag, Sequence[str]]()
        ordered = [c for tag in TAGS[::-1] for c in comparisons if c.tag == tag]
        # Numbered among all that she said: a repeat keeps its coin when the first one counts no longer.
        named = list(zip(ordered, numbered(pair_name(c.chosen, c.rejected) for c in ordered), strict=True))
        for tag in TAGS[::-1]:
            own = [one for one in named if one[0].tag == tag][-understood.cap :]
            rows[tag] = np.arange(len(table), len(table) + len(own), dtype=np.int64)
            names[tag] = tuple(name for _, name in own)
            table += [comparison for comparison, _ in own]
        self.table, self.rows = table, rows
        self.model: PreferenceModel = understood.table.over(table)
        self._people = People((person,), (rows,), (names,))
        self._plan = replace(understood.plan, seed=seed, noise_seed=noise_seed)

    def answer(
        self, round: int, arrays: Arrays, clip: float, memory: Arrays, state: PrivateState | None
    ) -> Answer:
        """The shared phase: what the strategy's half, or the plain update, answers; not yet clipped.

        Args:
            round: the round, from 1.
            arrays: everything that the server sent.
            clip: C of this round.
            memory: what this device's half of the strategy kept, without person axis.
            state: the private state; None in the decoupled schedule, where it is not even read.
        """
        spec = self.model.shared_spec()
        shared, received = split(tensors(arrays), spec)
        groups = torch.zeros(1, dtype=torch.int64)
        own = (shared, received, self._kept(memory), groups, clip, state, self._plan, round)
        return answer(self._meant.half, Visit(self.model, self._people, *own))

    def private(self, arrays: Arrays, state: PrivateState | None, memory: Arrays, steps: int) -> PrivateState:
        """The private phase at a shared adapter: up to `steps` steps further in this lifetime.

        Args:
            arrays: everything that the server sent.
            state: where the adapter is; None begins a lifetime.
            memory: what this device's half of the strategy kept by now.
            steps: at most so many.
        """
        return private_phase(
            self.model,
            self._people,
            self.used(arrays, memory),
            self.first() if state is None else state,
            self._plan.private,
            seed=self._plan.seed,
            label_seed=self._label_seed,
            noise_seed=self._plan.noise_seed,
            steps=steps,
        )

    def first(self) -> PrivateState:
        """The public start of a life."""
        return first_private(self.model, 1, self._plan.private)

    def used(self, arrays: Arrays, memory: Arrays) -> Tensors:
        """The shared adapter as this device uses it, with a leading axis of 1."""
        shared = split(tensors(arrays), self.model.shared_spec())[0]
        half = self._meant.half
        if half is not None and type(half).own is not ClientHalf.own:
            own = half.own(shared, self._kept(memory))
            if own is not None:
                return own
        return take(shared, 1)

    def _kept(self, memory: Arrays) -> Tensors:
        """What the half kept, with a person axis; zeros before its first visit."""
        half = self._meant.half
        kept = {} if half is None else half.kept(self.model.shared_spec())
        known = {name: value[None] for name, value in tensors(memory).items()}
        return {name: torch.zeros(1, *shape) for name, shape in kept.items()} | known


def seal_answer(
    understood: Understood,
    found: Answer,
    round: int,
    asked: float | None,
    insecure: Insecure | None,
    secret: tuple[bytes, str] | None = None,
) -> Sealed:
    """Clip, add this device's noise where it adds it, and seal.

    Args:
        understood: the accepted offer.
        found: what `Learner.answer` gave.
        round: the round.
        asked: the clip that the server asked for, or None.
        insecure: a simulation's noise instead of the device's own.
        secret: the device's secret, and what stands for the release that is answered; None draws from the
            operating system.

    Raises:
        EgressError: the manifest does not allow it.
    """
    return seal_update(
        understood.manifest,
        {name: value[0].numpy() for name, value in found.update.items()},
        round=round,
        clip=asked,
        deviation=understood.noise_std,
        draw=lambda clipped: device_normals(understood, clipped, round, insecure, secret),
    )


def device_normals(
    understood: Understood,
    clipped: Mapping[str, np.ndarray],
    round: int,
    insecure: Insecure | None,
    secret: tuple[bytes, str] | None = None,
) -> Arrays:
    """What the noise of one message is made of; arguments as in `seal_answer`."""
    manifest = understood.manifest
    if insecure is None and secret is not None:
        return message_normals(manifest, *secret, clipped)
    if insecure is None:
        return {spec.name: standard_normals(spec.shape) for spec in manifest.tensors}
    found = seeded_normals(manifest, insecure.message_noise_seed(understood), [insecure.person], round)
    return {name: value[0] for name, value in found.items()}


def tensors(arrays: Mapping[str, np.ndarray]) -> Tensors:
    """Copies of arrays in torch's own memory: products round by how their operands are aligned."""
    return {name: torch.tensor(value) for name, value in arrays.items()}
