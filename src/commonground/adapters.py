"""The two LoRA adapters on a causal language model; the only file that touches PEFT.

W' = W + s (B_shared A_shared + B_private A_private), s = 2. What trains in them is said by their forms
(adapter_forms.py): `shared` is FFA-LoRA, whose A is public, so averaging its updates is exact, or a LoRA for
strategies that aggregate both factors; `private` is a LoRA, an r x r core between public maps, or
coefficients on public style adapters.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from commonground.adapter_forms import Core, FixedA, Form, Lora, Merged, Styles
from commonground.adapter_targets import Target, find_targets
from commonground.errors import InputError, ModelError
from commonground.given import Parts, close_part
from commonground.own_folders import remove_known

SHARED, PRIVATE = "shared", "private"
FORMS = ("lora", "core", "styles")
# what trains in the shared adapter
FACTORS: dict[str, type[FixedA] | type[Lora]] = {"one": FixedA, "both": Lora, "merged": Merged}
SCALE = 2.0
WHOSE = "person.json"  # whose private adapter this is
WRITTEN = ("adapter_config.json", "adapter_model.safetensors", "README.md", WHOSE)  # all that `save` writes
BASES = "bases."  # of the names of public parts that are an adapter's public matrices


@dataclass(frozen=True)
class ModelCard:
    """What a saved adapter says about itself.

    Attributes:
        rounds: rounds it was trained in.
        people: people who took part (1 for a private adapter).
        epsilon: of the release; infinity when there is no noise, None when no claim is made.
        delta: of the release.
        unit: what the claim protects: person or comparison.
        data: in words, what it was trained on.
    """

    rounds: int
    people: int
    epsilon: float | None
    delta: float
    unit: str
    data: str


def wrapped(model: Any, targets: Sequence[Target], ranks: Mapping[str, int]) -> Any:
    """Return the PEFT model of `model` with adapters on `targets`; it changes `model` in place.

    Args:
        model: a transformers decoder.
        targets: linear maps of it.
        ranks: name of each adapter -> its rank.

    Raises:
        ModelError: PEFT, or this architecture, does not take them.
    """
    from peft import LoraConfig, get_peft_model

    def config(rank: int) -> Any:
        return LoraConfig(
            r=rank,
            lora_alpha=int(SCALE * rank),
            target_modules=[t.module for t in targets],
            lora_dropout=0.0,
            bias="none",
            fan_in_fan_out=targets[0].conv,
            task_type="CAUSAL_LM",
        )

    first, *others = ranks
    try:
        # PEFT draws A from the global generator (we overwrite it) and asks transformers a deprecated question
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            found = get_peft_model(model, config(ranks[first]), adapter_name=first)
            for name in others:
                found.add_adapter(name, config(ranks[name]))
        for target in targets:
            for side in ("lora_A", "lora_B"):
                assert set(ranks) <= set(getattr(model.get_submodule(target.module), side))
    except (AttributeError, AssertionError, ValueError, TypeError, KeyError, RuntimeError) as error:
        said = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        raise ModelError(
            f"a {type(model).__name__} cannot be adapted: {said}",
            hint="accepted are decoders whose linear maps PEFT can put LoRA on, such as Llama, Qwen or GPT-2",
        ) from error
    return found.eval()


class Adapters:
    """`shared` and `private` on one model, which is changed in place.

    Args:
        model: a frozen causal language model.
        layers: how many decoder layers from the top (0 = all).
        rank: r; the private adapter of form `styles` has that of all its styles together.
        form: one of `FORMS`, of the private adapter.
        factors: one of `FACTORS`, of the shared adapter.
        seed: of the public bases.
        parts: public parts with those bases; None takes the ones that are computed here.
        base_name: written into saved adapters.
        styles: form `styles` only: the public adapters, each with the names and shapes of form `lora`.
    """

    def __init__(
        self,
        model: Any,
        *,
        layers: int,
        rank: int,
        form: str,
        seed: int,
        base_name: str = "",
        styles: Sequence[Mapping[str, Tensor]] = (),
        factors: str = "one",
        parts: Parts | None = None,
    ) -> None:
        if form not in FORMS:
            raise InputError(f"model.adapter is {form!r}; known forms: {', '.join(FORMS)}")
        if factors not in FACTORS:
            raise InputError(f"model.shared_factors is {factors!r}; accepted: {', '.join(FACTORS)}")
        if rank < 1:
            raise InputError(f"model.rank is {rank}; at least 1 is needed")
        self.targets = find_targets(model, layers)
        self.base_name = base_name
        private: Form
        if form == "styles":
            private = Styles(PRIVATE, self.targets, styles)
        else:
            private = (Core if form == "core" else Lora)(PRIVATE, self.targets, rank, seed)
        self.forms: dict[str, Form] = {
            SHARED: FACTORS[factors](SHARED, self.targets, rank, seed),
            PRIVATE: private,
        }
        self._computed = [self.forms[SHARED], *([private] if form != "styles" else ())]
        for one in self._computed:
            one.public = {
                name: torch.tensor(close_part(parts, f"{BASES}{name}", value.numpy()))
                for name, value in one.public.items()
            }
        self._peft = wrapped(model, self.targets, {part: form.rank for part, form in self.forms.items()})
        modules = {t.name: model.get_submodule(t.module) for t in self.targets}
        self._live = {
            f"{part}.{t.name}.{side}": getattr(modules[t.name], f"lora_{side}")[part].weight
            for part in (SHARED, PRIVATE)
            for t in self.targets
            for side in ("A", "B")
        }
        self._loaded: dict[str, dict[str, Tensor]] = {}
        self._state: tuple[tuple[str, ...], str | None] = ((), None)
        for part in (SHARED, PRIVATE):
            self.load(part, self.initial(part))
        self.enable(())

    def spec(self, part: str) -> dict[str, tuple[int, ...]]:
        """Names and shapes of what trains in `part`, in a fixed order."""
        return self.forms[part].spec()

    def initial(self, part: str) -> dict[str, Tensor]:
        """The public start: A from the public basis, everything else zero, so nothing changes yet."""
        form = self.forms[part]
        return {
            name: form.public[name].clone() if name in form.public else torch.zeros(shape)
            for name, shape in form.spec().items()
        }

    def digest(self) -> str:
        """SHA-256 of everything public and fixed in both adapters."""
        digest = hashlib.sha256(str(SCALE).encode())
        public = self.forms[SHARED].public | self.forms[PRIVATE].public
        for name, value in sorted(public.items()):
            digest.update(name.encode() + b"\0" + value.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def public_parts(self) -> dict[str, np.ndarray]:
        """The public matrices that were computed for the forms; style adapters are given to them."""
        return {f"{BASES}{n}": value.numpy() for form in self._computed for n, value in form.public.items()}

    def load(self, part: str, tensors: Mapping[str, Tensor]) -> None:
        """Copy named tensors into `part`; names and shapes must be exactly those of `spec`."""
        spec = self.spec(part)
        if set(tensors) != set(spec):
            odd = sorted(set(tensors) ^ set(spec))[0]
            raise ModelError(
                f"tensor {odd!r} is unknown or missing in the {part} adapter of {len(spec)} tensors"
            )
        for name, shape in spec.items():
            if tuple(tensors[name].shape) != shape:
                raise ModelError(f"tensor {name!r} has shape {tuple(tensors[name].shape)}; {shape} is needed")
        with torch.no_grad():
            for t, (a, b) in zip(self.targets, self.factors(part, tensors), strict=True):
                self._live[f"{part}.{t.name}.A"].copy_(a)
                self._live[f"{part}.{t.name}.B"].copy_(b)
        self._loaded[part] = {name: tensors[name].detach().clone() for name in spec}

    def factors(self, part: str, tensors: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
        """(A, B) of every target, A (rank, inputs) and B (outputs, rank): the change is SCALE B A."""
        return self.forms[part].factors(tensors)

    def read(self, part: str) -> dict[str, Tensor]:
        """Copies of the tensors of `part`; never aliases of live parameters."""
        return {name: value.clone() for name, value in self._loaded[part].items()}

    def enable(self, parts: Sequence[str], train: str | None = None) -> None:
        """Make exactly `parts` act (none of them: the base, bit for bit) and exactly `train` trainable.

        PEFT's set_adapter makes everything it activates trainable, so both are set here, every time.
        """
        if train is not None and train not in parts:
            raise InputError(f"cannot train {train!r}: only {list(parts)} act")
        tuner = self._peft.base_model
        if parts:
            tuner.enable_adapter_layers()
            tuner.set_adapter(list(parts))
        else:
            tuner.disable_adapter_layers()
        trainable = self.forms[train].trained if train else ()
        for name, parameter in self._live.items():
            parameter.requires_grad_(name in trainable)
        self._state = (tuple(parts), train)

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """The base without gradients; afterwards exactly what was enabled and trainable before."""
        parts, train = self._state
        self.enable(())
        try:
            with torch.no_grad():
                yield
        finally:
            self.enable(parts, train)

    def gradients(self, part: str, loss: Tensor) -> dict[str, Tensor]:
        """Gradient of `loss` for every tensor of `part`; `enable(..., train=part)` must have been called."""
        form = self.forms[part]
        leaves = [self._live[name] for name in form.trained]
        found = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
        return form.pull(dict(zip(form.trained, found, strict=True)))

    def save(
        self,
        part: str,
        tensors: Mapping[str, Tensor],
        folder: Path,
        card: ModelCard,
        whose: str | None = None,
    ) -> None:
        """Write one adapter in PEFT's layout with a model card; `PeftModel.from_pretrained` loads it.

        Only `part` is written (PEFT's default writes every adapter, the private one too).

        Args:
            part: which adapter.
            tensors: of it.
            folder: where it goes; of an earlier adapter there nothing is left. No part of it may come from
                data: number the folders of people (`own_folders.numbered`).
            card: what the adapter says about itself.
            whose: a person's id, kept in `person.json` beside a private adapter.

        Raises:
            RunFolderError: something else is in that place; it is left alone.
        """
        before = self.read(part)
        self.load(part, tensors)
        config = self._peft.peft_config[part]
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as work:
            # a path of this machine must not travel with the adapter
            config.base_model_name_or_path = self.base_name
            # "auto" would ask the hub whether the vocabulary was resized: nothing may phone home
            self._peft.save_pretrained(work, selected_adapters=[part], save_embedding_layers=False)
            (Path(work) / part / "README.md").write_text(_card_text(part, self, card), encoding="utf-8")
            if whose is not None:
                (Path(work) / part / WHOSE).write_text(json.dumps({"person": whose}) + "\n", encoding="utf-8")
            remove_known(folder, WRITTEN)
            (Path(work) / part).rename(folder)
        self.load(part, before)


def _card_text(part: str, adapters: Adapters, card: ModelCard) -> str:
    private = part == PRIVATE
    keep = "\nThis adapter was made from one person's own comparisons. It must not leave her device.\n"
    return f"""---
base_model: {adapters.base_name}
library_name: peft
tags: [lora, preference-learning, federated-learning, differential-privacy]
---
# {part} adapter of commonground

| | |
|---|---|
| rank, scale | {adapters.forms[part].rank}, {SCALE:g} |
| linear maps | {len(adapters.targets)} |
| rounds | {card.rounds} |
| people | {card.people} |
| epsilon, delta | {_claim(card)} |
| data | {card.data} |
{keep if private else ""}
It acts **from the last prompt token on** (the position that predicts the first token of the answer).
It was trained so, with the prompt read by the base model alone. Loaded with `PeftModel.from_pretrained`
it acts on the prompt as well: to get what was trained, read the prompt with `disable_adapter()`, keep the
key-value cache, and go on with the adapter from the last prompt token.
"""


def _claim(card: ModelCard) -> str:
    if card.epsilon is None:
        return "not claimed: too few people, or too large a delta for so many"
    return f"{card.epsilon:g}, {card.delta:g} per {card.unit}"
