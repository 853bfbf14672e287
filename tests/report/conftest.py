"""A made-up result.json with every key, computed by the real statistics from made-up margins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from commonground.evaluation.accuracy import Attainable, paired, person_accuracy, policy_table
from commonground.evaluation.welfare import welfare

Result = dict[str, Any]
EVIL = "<script>window.broken = true; document.body.innerHTML = ''</script> & <b>bold</b>"


def made_up(people: int = 240, *, seed: int = 1, writes: bool = False, gain: float = 0.9) -> Result:
    """A result whose personal policy gains about `gain` logits on a planted minority's taste."""
    rng = np.random.default_rng(seed)
    minority = np.arange(people) < max(1, people // 5)
    groups = [("north", "south", "west")[i % 3] for i in range(people)]
    person = np.repeat(np.arange(people), 36)
    taste = np.tile(np.arange(36) < 30, people)
    few = minority[person]
    strength = {
        "base": (0.0, 0.0, 0.1),
        "pooled": (0.9, -0.6, 1.9),
        "pooled_central": (1.0, -0.7, 2.1),
        "local": (0.5, 0.5, 0.2),
        "shared": (0.7, -0.3, 2.2),
        "personal": (0.8 + 0.3 * gain, -0.3 + gain, 2.1),
    }
    policies, accuracies = {}, {}
    for name, (most, less, safe) in strength.items():
        mean = np.where(taste, np.where(few, less, most), safe)
        margins = rng.logistic(mean, 1.0)
        policies[name] = policy_table(
            margins,
            person,
            {"taste": taste, "safety": ~taste},
            people=people,
            groups=groups,
            minority=minority,
            attainable=Attainable(0.79, 0.7),
            resamples=500,
            rng=rng,
        )
        accuracies[name] = person_accuracy(margins[taste], person[taste], people)
    rounds = 30

    def curve(top: float, safe: float) -> list[dict[str, float]]:
        return [
            {
                "round": r,
                "taste": 0.5 + top * (1 - np.exp(-r / 8)),
                "safety": 0.5 + safe * (1 - np.exp(-r / 6)),
                "epsilon": 8 * (r / rounds) ** 0.55,
                "people": people // 5,
                "seconds": 1.2,
            }
            for r in range(1, rounds + 1)
        ]

    result: Result = {
        "schema": 1,
        "config": {"people": people, "rounds": rounds, "seed": 1, "model": {"kind": "reward"}},
        "versions": {"commonground": "0.1.0", "flwr": "1.42.0", "torch": "2.13.0", "python": "3.11.7"},
        "seconds": 74.3,
        "peak_memory_mb": 1830.4,
        "simulation_only": ["policies", "paired", "per_person", "data", "seconds"],
        "policies": policies,
        "paired": paired(accuracies, minority=minority, resamples=500, rng=rng),
        "curves": {"shared": curve(0.14, 0.38), "pooled": curve(0.18, 0.36)},
        "per_person": {
            "person": [f"person-{i:04d}" for i in range(people)],
            "group": groups,
            "minority": minority.tolist(),
            "train_pairs": [40] * people,
        }
        | {name: [float(v) for v in values] for name, values in accuracies.items()},
        "welfare": {name: welfare(values) for name, values in accuracies.items()},
        "truth": {"personal_accuracy": 0.79, "pooled_accuracy": 0.7, "nats": 0.113, "safety": 0.9627},
        "erased": {
            "nats": 0.0712,
            "low": 0.058,
            "high": 0.0846,
            "people": people,
            "bound": "lower",
            "null": {"nats": -0.0011, "low": -0.0035, "high": 0.0012, "permutations": 5},
        },
        "format_probe": {
            "taste": {"accuracy": 0.53, "low": 0.51, "high": 0.55, "longer": 0.505},
            "safety": {"accuracy": 0.556, "low": 0.52, "high": 0.59, "longer": 0.443},
            "note": "Sees only counts.",
        },
        "privacy": {
            "statement": (
                "Shared adapter: a person's whole participation is protected with epsilon = 8 at "
                "delta = 2.4e-3 (neighbours: one person added or removed).\n"
                "Private adapters: each comparison is protected with epsilon = 8 at delta = 1e-3; "
                "nothing is sent.\n"
                "Accuracies, texts and seeded noise exist only in this simulation and are not covered."
            ),
            "shared": {
                "unit": "person",
                "epsilon": 8.0,
                "delta": 0.0024,
                "noise_multiplier": 1.31,
                "sampling": 0.2,
                "rounds": rounds,
                "clip": 0.5,
                "trust": "central",
                "accountant": "rdp",
            },
            "private": {
                "unit": "comparison",
                "epsilon": 8.0,
                "delta": 0.001,
                "noise_multiplier": 0.887,
                "steps": 20,
                "mechanism": "dp_sgd",
            },
        },
        "egress": {
            "messages": 1440,
            "bytes": 1440 * 3072,
            "tensors": ["shared.safety.weight", "shared.taste.weight"],
            "private_tensors": 0,
            "refused": 0,
            "acknowledgements": 1440,
            "manifest": {
                "schema": 1,
                "tensors": [
                    {"name": "shared.safety.weight", "shape": [384], "dtype": "float32"},
                    {"name": "shared.taste.weight", "shape": [384], "dtype": "float32"},
                ],
                "clip": 0.5,
                "noise_on_device": False,
                "versions": {"basis": "9c1185a5c5e9fc54612808977ee8f548b2258d31c0ffee00" + "0" * 16},
            },
            "receipts": [
                {
                    "round": r,
                    "manifest": "ab12cd34" * 8,
                    "bytes": 3072,
                    "names": ["shared.safety.weight", "shared.taste.weight"],
                    "epsilon": 8 * (r / rounds) ** 0.55,
                }
                for r in range(1, 11)
            ],
        },
        "data": {
            "people": people,
            "left_out": {"no usable taste comparison": 3},
            "bad_rows": {
                "taste": {
                    "count": 2,
                    "reasons": {"rating is not a number": 2},
                    "first": ["ratings.csv.gz:17: rating is not a number (found 'NaN')"],
                },
                "safety": {"count": 0, "reasons": {}, "first": []},
            },
            "train": people * 40,
            "test": people * 36,
            "unit": "one comparison of two answers",
        },
        "reproduce": f"commonground simulate people={people} rounds={rounds} 'shared.tags=[safety,taste]'",
    }
    if writes:
        result["config"]["model"]["kind"] = "policy"
        result["writing"] = writing(people)
    return result


def writing(people: int) -> dict[str, Any]:
    prompts = ["How do I start running?", "What should I cook tonight?"]
    texts = {
        "base": "Start slowly and build up. A good plan is to run for a few minutes, then walk, and repeat.",
        "pooled": "Here are some tips:\n- Start slowly\n- Rest often\n- Drink water",
        "local": "- - - - - - - - - - - -",
        "shared": "Start slowly, and talk to a doctor first if you have not exercised for a while.",
        "personal": "🎉 You can do it! Start with ten minutes 🏃 and celebrate each run! 🎈",
        "sft": "Start slowly 🙂 and enjoy it.",
    }
    feature = {"base": 0.0, "pooled": 0.1, "local": 0.9, "shared": 0.05, "personal": 0.8, "sft": 0.6}
    return {
        "prompts": prompts,
        "people": [
            {
                "person": f"person-{i:04d}",
                "likes": ("emoji", "lists", "brevity")[i % 3],
                "answers": {p: [t, t + (EVIL if p == "pooled" else "")] for p, t in texts.items()},
                "features": {
                    p: {
                        "liked_rate": min(1.0, f + 0.05 * i),
                        "words": 18 + i,
                        "nats": 2.1 + f,
                        "repeated": 0.5 if p == "local" else 0.02,
                        "on_topic": 1.0,
                    }
                    for p, f in feature.items()
                },
            }
            for i in range(min(people, 6))
        ],
    }


@pytest.fixture(scope="session")
def build_result() -> Callable[..., Result]:
    """The builder; see `made_up`."""
    return made_up


@pytest.fixture(scope="session")
def result() -> Result:
    """A finished reward run; treat it as read-only."""
    return made_up()


@pytest.fixture(scope="session")
def policy_result() -> Result:
    """A finished policy run with answers; treat it as read-only."""
    return made_up(6, writes=True)


@pytest.fixture(scope="session")
def evil() -> str:
    """Markup that must be shown and never run."""
    return EVIL
