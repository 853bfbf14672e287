"""The two LoRA adapters on a causal language model; the only file that touches PEFT.

W' = W + s (B_shared A_shared + B_private A_private), s = 2.

`shared` is FFA-LoRA (arXiv 2403.12313): A is fixed, public and has orthonormal rows, only B trains, so
averaging updates is exact and ||dW||_F = s ||dB||_F. `private` is either LoRA (A and B train, A starts at
public orthonormal rows, B at zero) or LoRA-XS (arXiv 2405.17604): A and B fixed, public and orthonormal,
only an r x r core between them trains. PEFT has no such layer: we write B core into its lora_B and pull the
gradient back, d core = B' d(lora_B), which is exact.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from commonground.errors import InputError, ModelError
from commonground.randomness import generator

SHARED, PRIVATE = "shared", "private"
FORMS = ("lora", "core")
SCALE = 2.0


@dataclass(frozen=True)
class Target:
    """A linear map that both adapters sit on.

    Attributes:
        name: e.g. ``layers.22.q_proj``.
        module: its full path in the model.
        inputs: columns of A.
        outputs: rows of B.
        conv: True for GPT-2's Conv1D, which stores its weight transposed.
    """

    name: str
    module: str
    inputs: int
    outputs: int
    conv: bool


@dataclass(frozen=True)
class ModelCard:
    """What a saved adapter says about itself.

    Attributes:
        rounds: rounds it was trained in.
        people: people who took part (1 for a private adapter).
        epsilon: of the release; infinity when there is none.
        delta: of the release.
        unit: what the claim protects: person or comparison.
        data: in words, what it was trained on.
    """

    rounds: int
    people: int
    epsilon: float
    delta: float
    unit: str
    data: str


def decoder_layers(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Path and list of the decoder layers: the outermost ModuleList as long as the config says."""
    depth = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    lists = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
    if not lists:
        raise ModelError(f"no list of {depth} decoder layers in {type(model).__name__}; a decoder is needed")
    return min(lists, key=lambda pair: pair[0].count("."))


def find_targets(model: nn.Module, layers: int) -> tuple[Target, ...]:
    """All linear maps of the top `layers` decoder layers (0 = all), in the model's order."""
    path, stack = decoder_layers(model)
    if not 0 <= layers <= len(stack):
        raise InputError(f"model.layers is {layers}; this model has {len(stack)} (0 = all of them)")
    found: list[Target] = []
    for index in range(len(stack) - (layers or len(stack)), len(stack)):
        maps = [(n, m) for n, m in stack[index].named_modules() if _linear(m)]
        leaves = [n.rsplit(".", 1)[-1] for n, _ in maps]
        for name, module in maps:
            leaf = name.rsplit(".", 1)[-1]
            short = leaf if leaves.count(leaf) == 1 else name
            shape = tuple(module.weight.shape)
            conv = not isinstance(module, nn.Linear)
            outputs, inputs = (shape[1], shape[0]) if conv else shape
            found.append(Target(f"layers.{index}.{short}", f"{path}.{index}.{name}", inputs, outputs, conv))
    if not found:
        raise ModelError(f"no linear maps in the decoder layers of {type(model).__name__}")
    return tuple(found)


def orthonormal(rows: int, columns: int, seed: int, *name: str | int) -> Tensor:
    """Public (rows, columns) float32 matrix with orthonormal rows: QR of a seeded Gaussian."""
    if rows > columns:
        raise InputError(f"model.rank is {rows}; at most {columns} here, the smallest side of a linear map")
    draw = generator(seed, "basis", *name).standard_normal((columns, rows))
    q, r = np.linalg.qr(draw)
    q = q * np.where(np.diag(r) < 0, -1.0, 1.0)  # QR is unique only up to signs
    return torch.from_numpy(np.ascontiguousarray(q.T).astype(np.float32))


class Adapters:
    """`shared` and `private` on one model, which is changed in place.

    Args:
        model: a frozen causal language model.
        layers: how many decoder layers from the top (0 = all).
        rank: r.
        form: `lora` or `core`, of the private adapter.
        seed: of the public bases.
        base_name: written into saved adapters.
    """

    def __init__(
        self, model: Any, *, layers: int, rank: int, form: str, seed: int, base_name: str = ""
    ) -> None:
        if form not in FORMS:
            raise InputError(f"model.adapter is {form!r}; known forms: {', '.join(FORMS)}")
        if rank < 1:
            raise InputError(f"model.rank is {rank}; at least 1 is needed")
        self.targets = find_targets(model, layers)
        self.form, self.rank, self.base_name = form, rank, base_name
        self._bases = {
            f"{part}.{t.name}.A": orthonormal(rank, t.inputs, seed, part, t.name, "A")
            for part in (SHARED, PRIVATE)
            for t in self.targets
        }
        if form == "core":
            for t in self.targets:
                basis = orthonormal(rank, t.outputs, seed, PRIVATE, t.name, "B").T.contiguous()
                self._bases[f"{PRIVATE}.{t.name}.B"] = basis
        self._peft = self._wrap(model)
        modules = {t.name: model.get_submodule(t.module) for t in self.targets}
        self._live = {
            f"{part}.{t.name}.{side}": getattr(modules[t.name], f"lora_{side}")[part].weight
            for part in (SHARED, PRIVATE)
            for t in self.targets
            for side in ("A", "B")
        }
        self._cores: dict[str, Tensor] = {}
        self._state: tuple[tuple[str, ...], str | None] = ((), None)
        for part in (SHARED, PRIVATE):
            self.load(part, self.initial(part))
        self.enable(())

    def _wrap(self, model: Any) -> Any:
        from peft import LoraConfig, get_peft_model

        def config() -> Any:
            return LoraConfig(
                r=self.rank,
                lora_alpha=int(SCALE * self.rank),
                target_modules=[t.module for t in self.targets],
                lora_dropout=0.0,
                bias="none",
                fan_in_fan_out=self.targets[0].conv,
                task_type="CAUSAL_LM",
            )

        # PEFT draws A from the global generator (we overwrite it) and asks transformers a deprecated question
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            wrapped = get_peft_model(model, config(), adapter_name=SHARED)
            wrapped.add_adapter(PRIVATE, config())
        return wrapped.eval()

    def spec(self, part: str) -> dict[str, tuple[int, ...]]:
        """Names and shapes of what trains in `part`, in a fixed order."""
        r = self.rank
        names: dict[str, tuple[int, ...]] = {}
        for t in self.targets:
            if part == PRIVATE and self.form == "core":
                names[f"{part}.{t.name}.core"] = (r, r)
                continue
            if part == PRIVATE:
                names[f"{part}.{t.name}.A"] = (r, t.inputs)
            names[f"{part}.{t.name}.B"] = (t.outputs, r)
        return names

    def initial(self, part: str) -> dict[str, Tensor]:
        """The public start: A from the public basis, everything else zero, so nothing changes yet."""
        return {
            name: self._bases[name].clone() if name.endswith(".A") else torch.zeros(shape)
            for name, shape in self.spec(part).items()
        }

    def digest(self) -> str:
        """SHA-256 of the public bases."""
        digest = hashlib.sha256(str(SCALE).encode())
        for name, value in sorted(self._bases.items()):
            digest.update(name.encode() + b"\0" + value.contiguous().numpy().tobytes())
        return digest.hexdigest()

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
        self._cores.update({n: v.detach().clone() for n, v in tensors.items() if n.endswith(".core")})

    def factors(self, part: str, tensors: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
        """(A, B) of every target, A (rank, inputs) and B (outputs, rank): the change is SCALE B A."""
        found = []
        for t in self.targets:
            stem = f"{part}.{t.name}"
            if f"{stem}.core" in tensors:
                found.append((self._bases[f"{stem}.A"], self._bases[f"{stem}.B"] @ tensors[f"{stem}.core"]))
            else:
                found.append((tensors.get(f"{stem}.A", self._bases[f"{stem}.A"]), tensors[f"{stem}.B"]))
        return found

    def read(self, part: str) -> dict[str, Tensor]:
        """Copies of the tensors of `part`; never aliases of live parameters."""
        source = self._live | self._cores
        return {name: source[name].detach().clone() for name in self.spec(part)}

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
        trainable = self._sources(train) if train else {}
        for name, parameter in self._live.items():
            parameter.requires_grad_(name in trainable.values())
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

    def _sources(self, part: str) -> dict[str, str]:
        """Tensor of the spec -> live parameter whose gradient it comes from."""
        return {n: n.removesuffix("core") + "B" if n.endswith(".core") else n for n in self.spec(part)}

    def gradients(self, part: str, loss: Tensor) -> dict[str, Tensor]:
        """Gradient of `loss` for every tensor of `part`; `enable(..., train=part)` must have been called."""
        sources = self._sources(part)
        leaves = [self._live[source] for source in sources.values()]
        found = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
        return {
            name: self._bases[source].T @ gradient if name.endswith(".core") else gradient
            for (name, source), gradient in zip(sources.items(), found, strict=True)
        }

    def save(self, part: str, tensors: Mapping[str, Tensor], folder: Path, card: ModelCard) -> None:
        """Write one adapter in PEFT's layout with a model card; `PeftModel.from_pretrained` loads it.

        Only `part` is written (PEFT's default writes every adapter, the private one too).
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
            if folder.exists():
                shutil.rmtree(folder)
            (Path(work) / part).rename(folder)
        self.load(part, before)


def _linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


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
| rank, scale | {adapters.rank}, {SCALE:g} |
| linear maps | {len(adapters.targets)} |
| rounds | {card.rounds} |
| people | {card.people} |
| epsilon, delta | {card.epsilon:g}, {card.delta:g} per {card.unit} |
| data | {card.data} |
{keep if private else ""}
It acts **from the last prompt token on** (the position that predicts the first token of the answer).
It was trained so, with the prompt read by the base model alone. Loaded with `PeftModel.from_pretrained`
it acts on the prompt as well: to get what was trained, read the prompt with `disable_adapter()`, keep the
key-value cache, and go on with the adapter from the last prompt token.
"""
