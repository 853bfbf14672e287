"""Make the private adapters of attacks, and keep each once it is made."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from commonground.mishaps import storage_errors
from commonground.randomness import generator
from commonground.server.checkpoint import load_state, save_state
from commonground.simulations.device_attacks.base import Scene
from commonground.training.model import Tensors

Make = Callable[[Scene, np.random.Generator], Tensors]
Tick = Callable[[str, int, int], None]


def make_adapters(
    scene: Scene, makers: Mapping[str, Make], seed: int, folder: Path, tick: Tick, what: str
) -> dict[str, Tensors]:
    """A private adapter by name, from the folder or made now.

    Args:
        scene: what there is.
        makers: name -> how it is made; its draws are named by that name.
        seed: of the draws.
        folder: where they are kept; another scene or seed has other files.
        tick: progress.
        what: how to call the step.

    Raises:
        StorageError: the disk refused.
    """
    key, found = scene_key(scene, seed), dict[str, Tensors]()
    for done, (name, make) in enumerate(makers.items()):
        tick(what, done, len(makers))
        file = folder / f"{name}-{key[:16]}.npz"
        kept = load_state(file)
        if kept is None:
            made = make(scene, generator(seed, "device attack", name))
            with storage_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
                save_state(file, {"adapter": {n: value.numpy() for n, value in made.items()}})
        else:
            made = {n: torch.tensor(value) for n, value in kept["adapter"].items()}
        found[name] = made
    tick(what, len(makers), len(makers))
    return found


def scene_key(scene: Scene, seed: int) -> str:
    """SHA-256 of all that an attack is made from."""
    found = hashlib.sha256(repr(sorted(scene.model.public_digests().items())).encode())
    for name, value in sorted(scene.shared.items()):
        found.update(name.encode() + value.detach().contiguous().numpy().tobytes())
    found.update(repr([scene.pairs, [(t.prompt, dict(t.answers)) for t in scene.taste]]).encode())
    found.update(repr((scene.effort, seed)).encode())
    return found.hexdigest()
