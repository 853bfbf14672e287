"""The mechanisms themselves: clip, sum, noise, sample, flip. Pure functions with a leading person axis.

Axes: P people, B comparisons of a person, then the parameter's own shape. One update of per-pair DP-SGD is
    (sum_b clip_C(g_b) + z C n) / b,   n standard normal, b the EXPECTED batch (Abadi et al., CCS 2016,
arXiv 1607.00133). Norms are taken in float64 and nothing is summed below float32 (methods N8).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from commonground.errors import InputError


def clip_per_pair(gradients: Mapping[str, Tensor], clip: float) -> tuple[dict[str, Tensor], Tensor]:
    """Clip every pair's whole gradient to L2 norm `clip`, all tensors together, and sum over pairs.

    A pair whose gradient or norm is not finite counts as zero, so one bad comparison can neither poison the
    sum nor exceed the bound.

    Args:
        gradients: name -> (P, B, *shape); zero where a pair was not drawn.
        clip: C, above 0; infinity leaves finite gradients as they are.

    Returns:
        Sums, name -> (P, *shape), float32 or wider; and the norms before clipping, (P, B) float64, zero for
        the pairs that counted as zero.

    Raises:
        InputError: clip is not above 0, there is no tensor, or the tensors disagree about P and B.
    """
    if not clip > 0:
        raise InputError(f"clip is {clip!r}; a number above 0, or inf, is needed")
    axes = {tuple(value.shape[:2]) for value in gradients.values()}
    if len(axes) != 1:
        raise InputError(f"gradients have leading axes {sorted(axes)}; one common (P, B) is needed")
    squares = torch.zeros(next(iter(axes)), dtype=torch.float64)
    for value in gradients.values():
        flat = value.flatten(2) if value.dim() > 2 else value.unsqueeze(2)
        norm = torch.linalg.vector_norm(flat, dim=2, dtype=torch.float64)
        squares = squares.to(norm.device) + norm.square()
    norms = squares.sqrt()
    finite = norms.isfinite()
    norms = torch.where(finite, norms, 0.0)
    # clamp keeps the division away from 0, and the factor exactly 1 inside the bound.
    factors = torch.ones_like(norms) if clip == math.inf else clip / norms.clamp(min=clip)
    subnormal = bool((factors < torch.finfo(torch.float32).tiny).any())
    sums = {}
    for name, value in gradients.items():
        wide = value if value.dtype == torch.float64 else value.float()
        if not finite.all():
            wide = torch.where(finite.view(*finite.shape, *[1] * (value.dim() - 2)), wide, 0.0)
        # A factor below float32's normal range has lost bits there, and with them the bound.
        precise = wide.double() if subnormal else wide
        sums[name] = torch.einsum("pb,pb...->p...", factors.to(precise.dtype), precise).to(wide.dtype)
    return sums, norms


def noisy_mean(
    sums: Mapping[str, Tensor],
    noise: Mapping[str, Tensor],
    noise_multiplier: float,
    clip: float,
    expected_batch: float,
) -> dict[str, Tensor]:
    """(sums + z C noise) / b: the noised mean over the expected, never the realised, batch.

    Args:
        sums: name -> (P, *shape), each person's sum of clipped gradients.
        noise: name -> (P, *shape), standard normal and independent between people; unused when z is 0.
        noise_multiplier: z.
        clip: C; must be finite when z is above 0.
        expected_batch: b, above 0.

    Raises:
        InputError: a value is outside its range, or noise and sums differ in names or shapes (broadcast
            noise would be the same for everybody).
    """
    if not expected_batch > 0:
        raise InputError(f"expected batch is {expected_batch!r}; a number above 0 is needed")
    if not 0 <= noise_multiplier < math.inf:
        raise InputError(f"noise multiplier is {noise_multiplier!r}; a finite number of at least 0 is needed")
    if noise_multiplier == 0:
        return {name: value / expected_batch for name, value in sums.items()}
    if not 0 < clip < math.inf:
        raise InputError(
            f"clip is {clip!r} with noise multiplier {noise_multiplier:g}; noise needs a finite one"
        )
    if set(noise) != set(sums):
        raise InputError(f"noise is given for {sorted(noise)}; the sums are {sorted(sums)}")
    scale = noise_multiplier * clip
    out = {}
    for name, value in sums.items():
        draw = noise[name]
        if draw.shape != value.shape:
            raise InputError(
                f"noise {name!r} has shape {tuple(draw.shape)}; the sum has {tuple(value.shape)}"
            )
        wide = value if value.dtype == torch.float64 else value.float()
        out[name] = (wide + scale * draw.to(wide)) / expected_batch
    return out


def poisson_rows(mask: Tensor, rate: float, generators: Sequence[np.random.Generator]) -> Tensor:
    """Draw each real comparison of each person by an independent coin.

    Only real entries consume coins, so padding to another width changes nobody's draw.

    Args:
        mask: (P, B), nonzero on real comparisons.
        rate: q in [0, 1].
        generators: one per person.

    Returns:
        (P, B) of the same dtype: 1 where drawn. A row without any 1 is a valid draw: it takes a step of
        noise alone and is charged like any other.
    """
    if not 0 <= rate <= 1:
        raise InputError(f"sampling rate is {rate!r}; a number between 0 and 1 is needed")
    _one_each(mask.shape[0], generators)
    real = mask.detach().cpu().numpy() != 0
    drawn = np.zeros(real.shape, dtype=bool)
    for person, generator in enumerate(generators):
        drawn[person, real[person]] = generator.random(int(real[person].sum())) < rate
    return torch.from_numpy(drawn).to(mask)


def gaussian_noise(
    shapes: Mapping[str, tuple[int, ...]], generators: Sequence[np.random.Generator]
) -> dict[str, Tensor]:
    """Standard normal noise, name -> (P, *shape) float32, each person's from their own generator.

    Args:
        shapes: name -> shape without the person axis; the order of names fixes the draws.
        generators: one per person.
    """
    rows: dict[str, list[np.ndarray]] = {name: [] for name in shapes}
    for generator in generators:
        for name, shape in shapes.items():
            rows[name].append(generator.standard_normal(shape, dtype=np.float32))
    empty = {name: np.zeros((0, *shape), np.float32) for name, shape in shapes.items()}
    return {name: torch.from_numpy(np.stack(value) if value else empty[name]) for name, value in rows.items()}


def flip_probability(epsilon: float) -> float:
    """Probability 1/(1+e^epsilon) with which randomised response reports the other answer (Warner 1965)."""
    if not epsilon > 0:
        raise InputError(f"epsilon is {epsilon!r}; a number above 0, or inf, is needed")
    return math.exp(-epsilon) / (1 + math.exp(-epsilon))


def randomised_response(
    shape: int | tuple[int, ...], epsilon: float, generator: np.random.Generator
) -> np.ndarray:
    """Which choices to report flipped: bool array of `shape`.

    Draw once per comparison and keep the result for good: flipping afresh at each use averages the
    protection away.
    """
    return np.asarray(generator.random(shape) < flip_probability(epsilon))


def _one_each(people: int, generators: Sequence[np.random.Generator]) -> None:
    if len(generators) != people:
        raise InputError(f"{len(generators)} generators were given for {people} people; one each is needed")
