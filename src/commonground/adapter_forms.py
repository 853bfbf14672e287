"""The forms an adapter can have: what trains in it, and the A and B that this means at every linear map.

W' = W + s B A at each map. The live parameters are always an A (rank, inputs) and a B (outputs, rank); a form
says which of their numbers are free. It turns its tensors into A and B (`factors`), and the gradients of A
and B back into its own (`pull`), exactly.

    FixedA   B trains, A is public: FFA-LoRA (arXiv 2403.12313). With orthonormal rows ||dW||_F = s ||dB||_F.
    Lora     A and B train; A starts at public rows, B at zero (arXiv 2106.09685).
    Merged   as Lora, with a matrix beside them that acts and that only the server changes.
    Core     A and B are public, an r x r core trains between them: LoRA-XS (arXiv 2405.17604).
    Styles   K public adapters, of which a person has K coefficients: A = the A_k stacked, and
             B = [c_1 B_1 | ... | c_K B_K].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from commonground.adapter_targets import Target, orthonormal
from commonground.errors import InputError

Tensors = Mapping[str, Tensor]
Factors = list[tuple[Tensor, Tensor]]


class Form(Protocol):
    """One form on given linear maps. Names are `PART.MAP.A`, `.B` or `.core`, and `PART.styles`.

    Attributes:
        rank: rows of every live A.
        public: what is fixed and known to all, by name; its digest is in the manifest.
        trained: names of the live parameters whose gradient `pull` wants.
    """

    rank: int
    public: dict[str, Tensor]
    trained: tuple[str, ...]

    def spec(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of what trains, in a fixed order."""
        ...

    def factors(self, tensors: Tensors) -> Factors:
        """(A, B) of every map, A (rank, inputs) and B (outputs, rank)."""
        ...

    def pull(self, gradients: Tensors) -> dict[str, Tensor]:
        """Gradients of the live parameters in `trained` -> gradients of what trains."""
        ...


class FixedA:
    """B trains; A is public with orthonormal rows."""

    def __init__(self, part: str, targets: Sequence[Target], rank: int, seed: int) -> None:
        self.rank, self._part, self._targets = rank, part, targets
        self.public = _rows(part, targets, rank, seed)
        self.trained = tuple(self.spec())

    def spec(self) -> dict[str, tuple[int, ...]]:
        """A B for every map."""
        return {f"{self._part}.{t.name}.B": (t.outputs, self.rank) for t in self._targets}

    def factors(self, tensors: Tensors) -> Factors:
        """The public A and the B as it is."""
        stems = [f"{self._part}.{t.name}" for t in self._targets]
        return [(self.public[f"{stem}.A"], tensors[f"{stem}.B"]) for stem in stems]

    def pull(self, gradients: Tensors) -> dict[str, Tensor]:
        """As they are."""
        return dict(gradients)


class Lora:
    """A and B train."""

    def __init__(self, part: str, targets: Sequence[Target], rank: int, seed: int) -> None:
        self.rank, self._part, self._targets = rank, part, targets
        self.public = _rows(part, targets, rank, seed)
        self.trained = tuple(self.spec())

    def spec(self) -> dict[str, tuple[int, ...]]:
        """An A and a B for every map."""
        names: dict[str, tuple[int, ...]] = {}
        for t in self._targets:
            names[f"{self._part}.{t.name}.A"] = (self.rank, t.inputs)
            names[f"{self._part}.{t.name}.B"] = (t.outputs, self.rank)
        return names

    def factors(self, tensors: Tensors) -> Factors:
        """Both as they are."""
        stems = [f"{self._part}.{t.name}" for t in self._targets]
        return [(tensors[f"{stem}.A"], tensors[f"{stem}.B"]) for stem in stems]

    def pull(self, gradients: Tensors) -> dict[str, Tensor]:
        """As they are."""
        return dict(gradients)


class Merged(Lora):
    """A and B train; `merged` (outputs, inputs) acts beside them, W' = W + s (B A + merged).

    It is what a server could not put into factors of this rank. The base stays what it is, and with the
    adapter disabled there is the base. PEFT has no such layer: `merged` is written into rows and columns
    of A and B beside the trained ones, next to a unit matrix.
    """

    def __init__(self, part: str, targets: Sequence[Target], rank: int, seed: int) -> None:
        self.trained_rank = rank
        super().__init__(part, targets, rank, seed)
        self.trained = tuple(super().spec())
        self.rank = rank + max(min(t.inputs, t.outputs) for t in targets)

    def spec(self) -> dict[str, tuple[int, ...]]:
        """An A, a B and a `merged` for every map."""
        names: dict[str, tuple[int, ...]] = {}
        for t in self._targets:
            stem = f"{self._part}.{t.name}"
            names[f"{stem}.A"] = (self.trained_rank, t.inputs)
            names[f"{stem}.B"] = (t.outputs, self.trained_rank)
            names[f"{stem}.merged"] = (t.outputs, t.inputs)
        return names

    def factors(self, tensors: Tensors) -> Factors:
        """B beside `merged` over a unit matrix (or the other way round, where that has fewer rows)."""
        found: Factors = []
        for t in self._targets:
            a, b, merged = (tensors[f"{self._part}.{t.name}.{side}"] for side in ("A", "B", "merged"))
            more = self.rank - self.trained_rank
            down, up = torch.zeros(more, t.inputs), torch.zeros(t.outputs, more)
            if t.inputs <= t.outputs:
                down[: t.inputs], up[:, : t.inputs] = torch.eye(t.inputs), merged
            else:
                down[: t.outputs], up[:, : t.outputs] = merged, torch.eye(t.outputs)
            found.append((torch.cat([a, down]), torch.cat([b, up], dim=1)))
        return found

    def pull(self, gradients: Tensors) -> dict[str, Tensor]:
        """Those of A and B; `merged` learns nothing on a device."""
        rank, found = self.trained_rank, {}
        for t in self._targets:
            stem = f"{self._part}.{t.name}"
            found[f"{stem}.A"] = gradients[f"{stem}.A"][:rank]
            found[f"{stem}.B"] = gradients[f"{stem}.B"][:, :rank]
            found[f"{stem}.merged"] = torch.zeros(t.outputs, t.inputs)
        return found


class Core:
    """An r x r core trains. PEFT has no such layer: B core is written into its B, and dcore = B' dB."""

    def __init__(self, part: str, targets: Sequence[Target], rank: int, seed: int) -> None:
        self.rank = rank
        self._stems = [f"{part}.{t.name}" for t in targets]
        self.public = _rows(part, targets, rank, seed)
        for t in targets:
            basis = orthonormal(rank, t.outputs, seed, part, t.name, "B").T.contiguous()
            self.public[f"{part}.{t.name}.B"] = basis
        self.trained = tuple(f"{stem}.B" for stem in self._stems)

    def spec(self) -> dict[str, tuple[int, ...]]:
        """A core for every map."""
        return {f"{stem}.core": (self.rank, self.rank) for stem in self._stems}

    def factors(self, tensors: Tensors) -> Factors:
        """The public A, and the public B times the core."""
        return [
            (self.public[f"{stem}.A"], self.public[f"{stem}.B"] @ tensors[f"{stem}.core"])
            for stem in self._stems
        ]

    def pull(self, gradients: Tensors) -> dict[str, Tensor]:
        """B' dB of every map."""
        return {f"{stem}.core": self.public[f"{stem}.B"].T @ gradients[f"{stem}.B"] for stem in self._stems}


class Styles:
    """K coefficients train, one for each public adapter; at zero nothing changes.

    Args:
        part: which adapter this is.
        targets: the linear maps.
        styles: K public adapters of the `Lora` form on the same maps, in the order of the coefficients.
    """

    def __init__(self, part: str, targets: Sequence[Target], styles: Sequence[Tensors]) -> None:
        if not styles:
            raise InputError("model.adapter is 'styles' and no public style adapter was given")
        self.name = f"{part}.styles"
        self._stems, self._count = [f"{part}.{t.name}" for t in targets], len(styles)
        self.public = {f"{stem}.A": torch.cat([one[f"{stem}.A"] for one in styles]) for stem in self._stems}
        self.public |= {
            f"{stem}.B": torch.cat([one[f"{stem}.B"] for one in styles], dim=1) for stem in self._stems
        }
        self.rank = len(self.public[f"{self._stems[0]}.A"])
        self.trained = tuple(f"{stem}.B" for stem in self._stems)

    def spec(self) -> dict[str, tuple[int, ...]]:
        """One vector of K numbers for the whole model."""
        return {self.name: (self._count,)}

    def factors(self, tensors: Tensors) -> Factors:
        """All public A's, and all public B's, each times its coefficient."""
        each = tensors[self.name].repeat_interleave(self.rank // self._count)
        return [(self.public[f"{stem}.A"], self.public[f"{stem}.B"] * each) for stem in self._stems]

    def pull(self, gradients: Tensors) -> dict[str, Tensor]:
        """dc_k = sum over maps of <block k of dB, B_k>."""
        columns = torch.zeros(self.rank)
        for stem in self._stems:
            columns += (gradients[f"{stem}.B"] * self.public[f"{stem}.B"]).sum(0)
        return {self.name: columns.reshape(self._count, -1).sum(1)}


def _rows(part: str, targets: Sequence[Target], rank: int, seed: int) -> dict[str, Tensor]:
    return {f"{part}.{t.name}.A": orthonormal(rank, t.inputs, seed, part, t.name, "A") for t in targets}
