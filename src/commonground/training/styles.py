"""Public style adapters: one LoRA a starter style, trained once from the shipped texts alone.

A private adapter of the form `styles` is nothing but K coefficients on them, few enough for some dozens of
comparisons to set under noise. They are made from a fixed third of the starter prompts and from nothing that
any person said; the other prompts stay unseen by them. What is made is kept in the cache folder.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from commonground.adapter_forms import Lora
from commonground.adapter_targets import find_targets
from commonground.adapters import PRIVATE
from commonground.arithmetic import arithmetic, one_thread
from commonground.cache import VARIABLE, cache_folder
from commonground.comparisons import Comparison
from commonground.data.starter import STYLES, TastePrompt, taste_prompts
from commonground.errors import StorageError
from commonground.given import Parts, part
from commonground.language_model import LanguageModel
from commonground.losses import LossSettings, get_loss
from commonground.randomness import generator
from commonground.training import optimiser
from commonground.training.model import Rows, Tensors
from commonground.training.policy import STYLES as PREFIX
from commonground.training.policy import PolicyModel

Progress = Callable[[str, int, int], None]
ABOUT = "commonground"  # a file's only metadata; with several, safetensors shuffles their order
SEED = 0  # of the public draws; a run's seed does not change what is public


@dataclass(frozen=True)
class StyleRecipe:
    """How a style adapter is trained: Adam with a rate that falls to zero, one comparison a step.

    Attributes:
        steps: comparisons seen; the chosen answer is the style's, the other one that of another style.
        rate: first step size.
        beta: of DPO.
        sft: weight of the chosen answer's own likelihood; without it the model writes dashes.
        answer_tokens: tokens of an answer that count.
    """

    steps: int = 24
    rate: float = 3e-3
    beta: float = 0.1
    sft: float = 5.0
    answer_tokens: int = 64


RECIPE = StyleRecipe()


def public_prompts() -> tuple[TastePrompt, ...]:
    """The third of the starter prompts that style adapters are trained on: those whose digest comes first."""
    prompts = taste_prompts()
    order = sorted(prompts, key=lambda p: hashlib.sha256(p.prompt.encode()).digest())
    chosen = {p.prompt for p in order[: len(prompts) // 3]}
    return tuple(p for p in prompts if p.prompt in chosen)


def public_styles(
    base: LanguageModel,
    *,
    layers: int,
    rank: int,
    names: tuple[str, ...] = STYLES,
    recipe: StyleRecipe = RECIPE,
    progress: Progress | None = None,
) -> dict[str, Tensors]:
    """The style adapters on a base model, from the cache or trained now (SmolLM2: half a minute a style).

    Args:
        base: the base model.
        layers: adapted layers, as in `PolicyModel`.
        rank: of each style.
        names: which starter styles.
        recipe: how each is trained.
        progress: called with (what, done, total) while training; done and total are styles.

    Returns:
        Style -> tensors of the private adapter of form `lora`.

    Raises:
        StorageError: the cache folder cannot be written.
    """
    key = _key(base, layers, rank, recipe)
    folder = cache_folder() / f"styles-{key[:16]}"
    found = {name: _read(folder / f"{name}.safetensors", key) for name in names}
    if all(tensors is not None for tensors in found.values()):
        return {name: tensors for name, tensors in found.items() if tensors is not None}
    from filelock import FileLock

    try:
        folder.mkdir(exist_ok=True)
        with FileLock(f"{folder}.lock"):  # another process may be making the same ones: wait, then read
            return _complete(base, folder, key, layers, rank, names, recipe, progress)
    except OSError as error:
        raise StorageError(
            f"cannot write public style adapters to {folder}: {error.strerror or error}",
            hint=f"set {VARIABLE} to another folder",
        ) from error


def given_styles(
    base: LanguageModel, parts: Parts, *, layers: int, rank: int, names: tuple[str, ...] = STYLES
) -> dict[str, Tensors]:
    """The style adapters in a study's public parts; nothing is trained, and nothing is kept in the cache.

    Raises:
        ModelError: one is missing or does not fit the base model.
    """
    spec = Lora(PRIVATE, find_targets(base.model, layers), rank, SEED).spec()
    return {
        style: {n: torch.tensor(part(parts, f"{PREFIX}{style}/{n}", shape)) for n, shape in spec.items()}
        for style in names
    }


def _complete(
    base: LanguageModel,
    folder: Path,
    key: str,
    layers: int,
    rank: int,
    names: tuple[str, ...],
    recipe: StyleRecipe,
    progress: Progress | None,
) -> dict[str, Tensors]:
    """Read each style, or train and keep it; one that is done stays done when the rest is interrupted."""
    model: PolicyModel | None = None
    styles: dict[str, Tensors] = {}
    for done, name in enumerate(names):
        file = folder / f"{name}.safetensors"
        tensors = _read(file, key)
        if tensors is None:
            if model is None:
                if progress is not None:
                    progress("public style adapters", done, len(names))
                model = _model(base, layers, rank, recipe)
            tensors = train_style(model, name, recipe)
            _write(file, key, tensors)
        styles[name] = tensors
        if model is not None and progress is not None:
            progress("public style adapters", done + 1, len(names))
    return styles


def _model(base: LanguageModel, layers: int, rank: int, recipe: StyleRecipe) -> PolicyModel:
    return PolicyModel(
        base,
        _comparisons(),
        layers=layers,
        rank=rank,
        seed=SEED,
        max_answer_tokens=recipe.answer_tokens,
    )


def _comparisons() -> list[Comparison]:
    """Every style against every other on every public prompt; `person` holds the style that is chosen."""
    return [
        Comparison(p.prompt, p.answers[style], p.answers[other], "taste", style)
        for style in STYLES
        for p in public_prompts()
        for other in STYLES
        if other != style
    ]


def train_style(model: PolicyModel, name: str, recipe: StyleRecipe) -> Tensors:
    """One style's adapter: the same bits each time.

    Args:
        model: a policy of the private form `lora` over `_comparisons()`.
        name: the style.
        recipe: how.
    """
    others, prompts = len(STYLES) - 1, len(public_prompts())
    first = STYLES.index(name) * others * prompts
    draws = generator(SEED, "style adapter", name)
    adapter = {key: value[None] for key, value in model.initial_private().items()}
    moments = optimiser.init("adam", adapter)
    loss, settings = get_loss("dpo"), LossSettings(beta=recipe.beta, sft=recipe.sft)
    order = draws.permutation(prompts)
    with one_thread():
        for step in range(recipe.steps):
            row = first + int(order[step % prompts]) * others + int(draws.integers(others))
            index = torch.tensor([[row]])
            rows = Rows(index, torch.ones(1, 1), torch.zeros(1, 1))
            _, gradients = model.pair_gradients(rows, None, adapter, "private", loss, settings)
            mean = {key: value[:, 0] for key, value in gradients.items()}
            rate = recipe.rate * (1 - step / recipe.steps)
            adapter, moments = optimiser.update(
                "adam", adapter, mean, moments, torch.tensor([step]), rate, 0.0
            )
    return {key: value[0].contiguous() for key, value in adapter.items()}


def _key(base: LanguageModel, layers: int, rank: int, recipe: StyleRecipe) -> str:
    """SHA-256 of all that the adapters are made from."""
    digest = hashlib.sha256(f"{base.digest}\0{layers}\0{rank}\0{recipe!r}\0{SEED}\0{arithmetic()}".encode())
    for comparison in _comparisons():
        digest.update(repr(comparison).encode())
    return digest.hexdigest()


def _about(key: str, tensors: Tensors) -> str:
    """What a file holds and what it was made from."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode() + value.numpy().tobytes())
    return f"{digest.hexdigest()} from {key}"


def _read(file: Path, key: str) -> Tensors | None:
    """Tensors of a kept style; None where the file is missing, damaged or made from something else."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as kept:
            about = (kept.metadata() or {}).get(ABOUT)
            tensors: dict[str, Tensor] = {name: kept.get_tensor(name) for name in kept.keys()}  # noqa: SIM118
    except (OSError, SafetensorError):
        return None
    return tensors if about == _about(key, tensors) else None


def _write(file: Path, key: str, tensors: Tensors) -> None:
    """Whole or not at all."""
    from safetensors.torch import save

    content = save(dict(tensors), {ABOUT: _about(key, tensors)})
    with tempfile.NamedTemporaryFile(dir=file.parent, prefix=f"{file.stem}.", delete=False) as work:
        try:
            work.write(content)
            work.flush()
            os.fsync(work.fileno())
            os.replace(work.name, file)
        except BaseException:
            Path(work.name).unlink(missing_ok=True)
            raise
