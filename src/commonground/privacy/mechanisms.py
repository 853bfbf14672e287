"""The mechanisms that run, everywhere: clip, sum, noise, sample, flip. Pure functions of arrays.

Axes: P people, B comparisons of a person, then the parameter's own shape. One update of per-pair DP-SGD is
    (sum_b clip_C(g_b) + z C n) / b,   n standard normal, b the EXPECTED batch (Abadi et al., CCS 2016,
arXiv 1607.00133). Norms are taken in float64 and nothing is summed below float32 (methods N8).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from commonground.errors import InputError
from commonground.grid import on_grid, power_below, rounded

EXACT = 2**53  # whole steps that a float64 counts
PRIVATE_BITS = 20  # of the grid of a private adapter's noise, which no float32 message has to carry
COVER = 1 + 2.0**-10  # how much louder it is, for what rounding adds to the sensitivity


def noise_on_grid(normals: np.ndarray, deviation: float, step: float) -> np.ndarray:
    """Noise in whole steps of a public grid, float64; see `commonground.grid` for what that is good for.

    Args:
        normals: standard normal draws, float64.
        deviation: of the noise on each number, above 0 and finite.
        step: of the grid, above 0.

    Raises:
        InputError: a value is outside its range, or the draws are coarser than float64.
    """
    if not 0 < deviation < math.inf:
        raise InputError(f"the noise has deviation {deviation!r}; a finite one above 0 is needed")
    if not step > 0:
        raise InputError("noise needs a grid to lie on, and there is none: its low bits would tell")
    if normals.dtype != np.float64:
        raise InputError(f"noise is drawn in {normals.dtype}; float64 is needed")
    return rounded(normals * deviation, step)


def noised_sum(total: np.ndarray, normals: np.ndarray, deviation: float, step: float) -> np.ndarray:
    """A sum of what people sent, with its noise: the Gaussian mechanism on a grid.

    Args:
        total: (d,) float64, whole steps of the grid.
        normals: (d,) float64 standard normal.
        deviation: of the noise on each number.
        step: of the grid.

    Raises:
        InputError: as `noise_on_grid`, or the sum is not on the grid, so that its low bits would show.
    """
    noise = noise_on_grid(normals, deviation, step)
    if not on_grid(total, step, EXACT).all():
        raise InputError(f"a sum to be noised is off its grid; every number must be whole steps of {step:g}")
    return np.asarray(total + noise)


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
    noise: Mapping[str, np.ndarray],
    noise_multiplier: float,
    clip: float,
    expected_batch: float,
) -> dict[str, Tensor]:
    """(sums + z C noise) / b: the noised mean over the expected, never the realised, batch.

    Sum and noise lie on a grid of at most 2^-20 z C. The sum is rounded to it as a whole, so that a pair
    moves it by up to a step more in every number, and it was added up in float32; `COVER` makes the noise a
    thousandth larger than z C, which is more than both.

    Args:
        sums: name -> (P, *shape), each person's sum of clipped gradients.
        noise: name -> (P, *shape), float64, standard normal and independent between people; unused when z is
            0.
        noise_multiplier: z.
        clip: C; must be finite when z is above 0.
        expected_batch: b, above 0.

    Returns:
        Name -> (P, *shape), in the dtype of the sums, float32 at least.

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
    scale = noise_multiplier * clip * COVER
    step, out = power_below(scale) * 2.0**-PRIVATE_BITS, {}
    for name, value in sums.items():
        draw = noise[name]
        if draw.shape != tuple(value.shape):
            raise InputError(
                f"noise {name!r} has shape {tuple(draw.shape)}; the sum has {tuple(value.shape)}"
            )
        total = rounded(value.detach().numpy(), step) + noise_on_grid(draw, scale, step)
        wide = value.dtype if value.dtype == torch.float64 else torch.float32
        out[name] = torch.from_numpy(total / expected_batch).to(wide)
    return out


def poisson_draw(count: int, rate: float, generator: np.random.Generator) -> np.ndarray:
    """(count,) bool: each of `count` comparisons drawn by a coin of its own, of probability `rate`."""
    if not 0 <= rate <= 1:
        raise InputError(f"sampling rate is {rate!r}; a number between 0 and 1 is needed")
    return np.asarray(generator.random(count) < rate)


def poisson_rows(mask: Tensor, rate: float, generators: Iterable[np.random.Generator]) -> Tensor:
    """Draw each real comparison of each person by an independent coin.

    Only real entries consume coins, so padding to another width changes nobody's draw.

    Args:
        mask: (P, B), nonzero on real comparisons.
        rate: q in [0, 1].
        generators: one per person; each is used up before the next is asked for.

    Returns:
        (P, B) of the same dtype: 1 where drawn. A row without any 1 is a valid draw: it takes a step of
        noise alone and is charged like any other.

    Raises:
        InputError: the rate is outside its range, or there is not one generator for each person.
    """
    real = mask.detach().cpu().numpy() != 0
    drawn, person = np.zeros(real.shape, dtype=bool), -1
    for person, generator in enumerate(generators):
        if person >= len(real):
            raise InputError(f"more than {len(real)} generators were given for {len(real)} people")
        drawn[person, real[person]] = poisson_draw(int(real[person].sum()), rate, generator)
    if person + 1 != len(real):
        raise InputError(f"{person + 1} generators were given for {len(real)} people; one each is needed")
    return torch.from_numpy(drawn).to(mask)


def gaussian_noise(
    shapes: Mapping[str, tuple[int, ...]], generators: Iterable[np.random.Generator]
) -> dict[str, np.ndarray]:
    """Standard normal noise, name -> (P, *shape) float64, each person's from their own generator.

    float64, because noise of 24 bits cannot reach most of the values that a sum could have, and which ones it
    reaches tells the sum.

    Args:
        shapes: name -> shape without the person axis; the order of names fixes the draws.
        generators: one per person; each is used up before the next is asked for.
    """
    rows: dict[str, list[np.ndarray]] = {name: [] for name in shapes}
    for generator in generators:
        for name, shape in shapes.items():
            rows[name].append(np.asarray(generator.standard_normal(shape)))
    return {n: np.stack(rows[n]) if rows[n] else np.zeros((0, *shape)) for n, shape in shapes.items()}


def randomised_response(
    shape: int | tuple[int, ...], probability: float, generator: np.random.Generator
) -> np.ndarray:
    """Which choices to report flipped: bool array of `shape`.

    Draw once per comparison and keep the result for good: flipping afresh at each use averages the
    protection away.

    Args:
        shape: of the choices.
        probability: `accounting.flip_probability` of the epsilon that is claimed.
        generator: uniform draws in steps of 2^-53; both reports of a choice stay possible down to that.
    """
    if not 0 <= probability < 0.5:
        raise InputError(f"flip probability is {probability!r}; at least 0 and below 1/2 is needed")
    return np.asarray(generator.random(shape) < probability)
