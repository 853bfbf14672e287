"""Certify two tiny policies in a process of its own: python toy_certify.py CHARTER OUT SECONDS."""

from __future__ import annotations

import sys
from pathlib import Path

import toy_world
from toy_models import tiny_llama, tiny_tokenizer
from toy_patience import a_while

from commonground.language_model import LanguageModel
from commonground.simulations.certify import two_policies
from commonground.simulations.certify.content import Asked


def main(charter: str, out: str, seconds: str) -> None:
    """Certify, and wait so many seconds after each chunk, so that there is time to be killed in."""
    setattr(two_policies, "Encoder", toy_world.HashEncoder)  # noqa: B010  # its own process
    shared, personal = (
        LanguageModel(tiny_llama(seed), tiny_tokenizer(), str(seed) * 64, f"model {seed}") for seed in (0, 1)
    )
    asked = Asked(charter=Path(charter), tokens=4, probes=26)
    two_policies.certify_two(shared, personal, Path(out), asked, lambda *_: a_while(float(seconds)))


if __name__ == "__main__":
    main(*sys.argv[1:])
