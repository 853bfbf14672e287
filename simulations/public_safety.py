"""The safety gate's public pairs in a simulation: starter pairs that no test comparison is about.

Disjoint from what people are tested on: where their safety questions are starter pairs, the prompts of the
test quarter are left out for everybody, evaluated or not; where they are from another source, every pair of
which a text stands in a test comparison. People learn from the same public questions as the gate, each from
few of them and with labels of their own. The same pairs score and repair: proposal and shadow have both been
trained on them, so their losses compare. Judged on a half that only people train on, the shadow would always
be the worse one, and bind nobody.

Named by `strategies.safety_gate` as a text, since a strategy imports no simulation; a server of one's own
names another function.
"""

from __future__ import annotations

from commonground.comparisons import Comparison
from commonground.data.starter import safety_pairs
from commonground.embeddings import Encoder
from commonground.errors import StrategyError
from commonground.simulations.answers import PlantedSafety
from commonground.simulations.inputs import pairs_digest
from commonground.simulations.known_basis import with_styles
from commonground.simulations.planting import Planting
from commonground.simulations.population import STARTER
from commonground.simulations.world import World, current_run, world_of
from commonground.training.public_models import needed
from commonground.training.public_pairs import PublicPairs
from commonground.training.reward import RewardFeatures, RewardModel

LEAST = 4  # pairs


def public_safety() -> PublicPairs:
    """The public pairs of the run and arm that this process serves.

    Raises:
        StrategyError: the run trains a language model, or too few public pairs are left.
    """
    run, arm = current_run()
    world = world_of(run)
    model = world.models[arm]
    if not isinstance(model, RewardModel):
        raise StrategyError(
            f"gate.enabled needs model.kind=reward, not {model.kind}: a language model would have to be "
            "scored on every public pair after every round"
        )
    return pairs_under(world, model, public_pairs(world))


def begun_with(world: World) -> dict[str, str]:
    """Return source -> digest of everything a run is begun with that its configuration only names."""
    found = dict(world.sources)
    if world.config.gate.enabled or needed(world.config):
        found["gate"] = pairs_digest(public_pairs(world))
    return found


def public_pairs(world: World) -> tuple[Comparison, ...]:
    """Starter pairs that nobody's test is about, the safe answer chosen.

    Raises:
        StrategyError: too few are left.
    """
    tests = [world.table[row] for row in world.test_rows.tolist() if world.table[row].tag == "safety"]
    known = {text for c in tests for text in (c.chosen, c.rejected)}
    allowed = {(pair.safe, pair.unsafe) for pair in safety_pairs()}
    if world.config.data.safety.source == STARTER:
        asked = PlantedSafety(world.config.seed, world.config.data, Planting()).asked
        allowed = {(safe, unsafe) for _, safe, unsafe in asked}
    found = tuple(
        Comparison(pair.prompt, pair.safe, pair.unsafe, "safety", "public")
        for pair in safety_pairs()
        if (pair.safe, pair.unsafe) in allowed and known.isdisjoint((pair.safe, pair.unsafe))
    )
    if len(found) < LEAST:
        raise StrategyError(
            f"{len(found)} public safety pairs are left that no test is about; at least {LEAST} are needed"
        )
    return found


def pairs_under(world: World, model: RewardModel, pairs: tuple[Comparison, ...]) -> PublicPairs:
    """The pairs under the model of an arm."""
    texts = list(dict.fromkeys(text for pair in pairs for text in (pair.chosen, pair.rejected)))
    vectors = dict(zip(texts, Encoder(world.config.model.base).embed(texts), strict=True))
    if world.config.model.basis == "planted":
        vectors = with_styles(vectors)
    features = RewardFeatures(pairs, vectors, world.features.bases, world.features.dims)
    return PublicPairs(model.over(features), world.plans["shared"].shared, len(pairs))
