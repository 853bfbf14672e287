"""What each defence costs honest people: how much of their style is left on everyday prompts."""

from __future__ import annotations

import numpy as np

from commonground.bounds.enforcement import Enforcement
from commonground.evaluation.writing import shows
from commonground.randomness import generator
from commonground.simulations.bench.bounds_prompts import PROMPTS
from commonground.simulations.bench.bounds_survival import resampled, survival
from commonground.simulations.certify.answering import Writers, place
from commonground.simulations.certify.dealing import EVERYDAY, Row
from commonground.simulations.defended import NONE, SHARED
from commonground.simulations.device_attacks.asking import (
    Asker,
    Tick,
    ask_all,
)
from commonground.simulations.device_attacks.found import Benign
from commonground.simulations.device_attacks.stage import PROJECTION, Size, Stage

RESAMPLES = 4000


def style_kept(
    writers: Writers, enforcement: Enforcement, stage: Stage, size: Size, seed: int, tick: Tick
) -> dict[str, Benign]:
    """What each defence leaves of the honest people's styles, on everyday prompts."""
    prompts = PROMPTS[: size.everyday]
    askers = [Asker(taste, stage.places[taste], prompts) for taste in size.tastes]
    shown = ask_all(writers, enforcement, askers, size.defences, seed, tick, "everyday answers")
    if size.projection:
        more = [stage.projected(one) for one in askers]
        other = ask_all(writers, enforcement, more, (NONE,), seed, tick, "everyday answers, projected")
        shown |= {(taste, PROJECTION): other[f"{taste} {PROJECTION}", NONE] for taste in size.tastes}
    tiers = place(enforcement, [Row(EVERYDAY, 0, prompt, "") for prompt in prompts])
    free = [k for k, tier in enumerate(tiers) if tier == "free"] or list(range(len(prompts)))

    def has(name: str) -> np.ndarray:
        return np.array([[shows(t, one.text) for one in shown[t, name]] for t in size.tastes], bool).T

    def draws(count: int) -> np.ndarray:
        return resampled(count, RESAMPLES, generator(seed, "attack study", "bootstrap"))

    found = {}
    for name in (NONE, *size.defences, *([PROJECTION] if size.projection else [])):
        under, unbounded, zero = (has(one) for one in (name, NONE, SHARED))
        sources = [one.source for taste in size.tastes for one in shown[taste, name]]
        found[name] = Benign(
            survival(under[free], unbounded[free], zero[free], draws(len(free))),
            survival(under, unbounded, zero, draws(len(prompts))),
            sum(source != "personal" for source in sources),
            len(sources),
        )
    return found
