"""How far one participant can move the shared adapter: what `server init` tells the operator."""

from __future__ import annotations

import math

from commonground.config import Config
from commonground.manifest import Manifest
from commonground.privacy.tail import TAIL, weight_in_clips
from commonground.strategies.registry import is_linear
from commonground.study.offer import Terms


def reach_words(config: Config, terms: Terms, manifest: Manifest) -> str:
    """How far one participant can move the adapter in a round, in clips, and what limits it further.

    Args:
        config: the study's, resolved.
        terms: what its offer means.
        manifest: what may leave a device.
    """
    claim = terms.claim
    if not math.isfinite(claim.epsilon):
        return (
            f"one participant: no privacy is claimed, so the clip is {manifest.clip:g}, which bounds "
            "nothing: one can set the shared adapter to whatever they like. Set privacy.shared.epsilon, or "
            "strategy.norm_bound with a robust strategy"
        )
    if not manifest.noise_on_device:
        return (
            "one participant: moves the shared adapter by at most 1 clip a round, as any other; a longer "
            "message is refused"
        )
    weight = weight_in_clips(claim.noise_multiplier, manifest.size)
    words = (
        f"one participant: moves the shared adapter by up to {weight:.0f} clips a round where an honest one "
        f"moves it by 1. Devices add the noise, so only what is longer than an honest message with its noise "
        f"can be refused: z (sqrt(d) + {TAIL:g}) + 1 clips, z = {claim.noise_multiplier:.3g}, "
        f"d = {manifest.size}"
    )
    if is_linear(config.strategy.name):
        words += (
            ". strategy.name=rfa, fedmedian, fedtrimmedavg or multikrum limits what one does with it; under "
            "trust central it is 1 clip"
        )
    if config.model.kind == "reward" and not config.gate.enabled:
        words += ". gate.enabled=true undoes a round that hurts on public pairs"
    return words
