import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from commonground.errors import InputError
from commonground.privacy.accounting import flip_probability
from commonground.privacy.mechanisms import (
    clip_per_pair,
    gaussian_noise,
    noise_on_grid,
    noised_sum,
    noisy_mean,
    poisson_rows,
    randomised_response,
)
from commonground.randomness import generator

torch.set_num_threads(1)
PEOPLE, PAIRS, SHAPES = 3, 5, {"A": (2, 4), "B": (4,), "bias": ()}


def random_gradients(seed: int = 0) -> dict[str, torch.Tensor]:
    draws = torch.Generator().manual_seed(seed)
    return {name: torch.randn(PEOPLE, PAIRS, *shape, generator=draws) for name, shape in SHAPES.items()}


def test_equals_a_loop_over_pairs_with_autograd() -> None:
    """E1: with z = 0 the sum is that of clipped per-pair gradients, one backward pass a pair."""
    draws = torch.Generator().manual_seed(3)
    weight = {
        "w": torch.randn(PEOPLE, 6, generator=draws),
        "v": torch.randn(PEOPLE, 2, 6, generator=draws),
    }
    x, clip, batch = torch.randn(PEOPLE, PAIRS, 6, generator=draws), 0.7, 2.5
    x[1, 2] *= 1e-3  # well inside the bound

    def loss(w: torch.Tensor, v: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
        return -torch.nn.functional.logsigmoid(w @ row + (v @ row).tanh().sum())

    per_pair: dict[str, list[torch.Tensor]] = {"w": [], "v": []}
    expected = {name: torch.zeros_like(value) for name, value in weight.items()}
    norms = torch.zeros(PEOPLE, PAIRS)
    for p in range(PEOPLE):
        for b in range(PAIRS):
            leaves = [weight[name][p].clone().requires_grad_() for name in ("w", "v")]
            loss(leaves[0], leaves[1], x[p, b]).backward()  # type: ignore[no-untyped-call]
            grads = [leaf.grad for leaf in leaves if leaf.grad is not None]
            norms[p, b] = torch.cat([g.flatten() for g in grads]).norm()
            for name, grad in zip(("w", "v"), grads, strict=True):
                per_pair[name].append(grad)
                expected[name][p] += grad * min(1.0, clip / float(norms[p, b])) / batch
    stacked = {n: torch.stack(g).view(PEOPLE, PAIRS, *g[0].shape) for n, g in per_pair.items()}
    sums, found = clip_per_pair(stacked, clip)
    mean = noisy_mean(sums, {}, 0.0, clip, batch)
    torch.testing.assert_close(found.float(), norms)
    for name in expected:
        torch.testing.assert_close(mean[name], expected[name], atol=1e-6, rtol=1e-5)
    assert (norms > clip).any()
    assert (norms < clip).any()


def test_clips_all_tensors_together_by_hand() -> None:
    """Norm of (3, 4) is 5; clip 1 leaves (.6, .8). Clipping each tensor alone would leave (1, 1)."""
    gradients = {"a": torch.tensor([[[3.0], [0.3]]]), "b": torch.tensor([[[4.0], [0.4]]])}
    sums, norms = clip_per_pair(gradients, 1.0)
    torch.testing.assert_close(norms, torch.tensor([[5.0, 0.5]], dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(sums["a"], torch.tensor([[0.6 + 0.3]]))
    torch.testing.assert_close(sums["b"], torch.tensor([[0.8 + 0.4]]))


any_float = st.floats(width=32, allow_nan=True, allow_infinity=True)


@settings(max_examples=60, deadline=None)
@given(
    a=arrays(np.float32, (2, 3, 2, 2), elements=any_float),
    b=arrays(np.float32, (2, 3, 3), elements=any_float),
    clip=st.sampled_from([1e-3, 0.5, 7.0]),
)
def test_one_pair_never_moves_the_sum_by_more_than_the_clip(
    a: np.ndarray, b: np.ndarray, clip: float
) -> None:
    gradients = {"a": torch.from_numpy(a), "b": torch.from_numpy(b)}
    for pair in range(3):
        alone = {n: g[:, pair : pair + 1] for n, g in gradients.items()}
        sums, norms = clip_per_pair(alone, clip)
        flat = torch.cat([v.flatten(1) for v in sums.values()], dim=1).double()
        assert torch.isfinite(flat).all()
        assert (flat.norm(dim=1) <= clip * (1 + 1e-6)).all()
        assert torch.isfinite(norms).all()
    whole, _ = clip_per_pair(gradients, clip)
    flat = torch.cat([v.flatten(1) for v in whole.values()], dim=1).double()
    assert (flat.norm(dim=1) <= 3 * clip * (1 + 1e-6)).all()


def test_a_bad_pair_counts_as_zero_and_leaves_the_others_alone() -> None:
    clean, bad = random_gradients(), random_gradients()
    clean["A"][1, 2], clean["B"][1, 2], clean["bias"][1, 2] = 0, 0, 0
    bad["A"][1, 2, 0, 0] = math.nan
    bad["B"][1, 2, 3] = math.inf
    for clip in (0.5, math.inf):
        expected, norms = clip_per_pair(clean, clip)
        sums, bad_norms = clip_per_pair(bad, clip)
        assert bad_norms[1, 2] == 0
        torch.testing.assert_close(norms, bad_norms)
        for name in SHAPES:
            torch.testing.assert_close(sums[name], expected[name])


def test_infinite_clip_sums() -> None:
    gradients = random_gradients()
    sums, _ = clip_per_pair(gradients, math.inf)
    for name, value in gradients.items():
        torch.testing.assert_close(sums[name], value.sum(1))


def test_half_precision_is_summed_wide() -> None:
    sums, _ = clip_per_pair({"a": torch.full((1, 3, 2), 300.0, dtype=torch.bfloat16)}, 1.0)
    assert sums["a"].dtype == torch.float32
    assert float(sums["a"].norm()) == pytest.approx(3.0, rel=1e-6)


def test_no_pairs_at_all() -> None:
    sums, norms = clip_per_pair({"a": torch.zeros(2, 0, 3)}, 1.0)
    assert sums["a"].shape == (2, 3)
    assert not sums["a"].any()
    assert norms.shape == (2, 0)


def test_an_empty_batch_is_noise_alone_of_the_right_deviation() -> None:
    """E1: over 1e4 zero-gradient steps the deviation is zC/b within 3 standard errors."""
    steps, z, clip, batch = 10_000, 1.1, 0.3, 9.0
    sums, _ = clip_per_pair({"a": torch.zeros(steps, 4, 3)}, clip)
    noise = gaussian_noise({"a": (3,)}, [generator(1, "noise", step) for step in range(steps)])
    out = noisy_mean(sums, noise, z, clip, batch)["a"].double()
    expected = z * clip / batch
    draws = out.numel()
    assert float(out.std()) == pytest.approx(expected, abs=3 * expected / math.sqrt(2 * draws))
    assert abs(float(out.mean())) < 3 * expected / math.sqrt(draws)


def votes_for_too_little_noise(claimed: float, actual: float) -> int:
    """Of 9 samples of 111,112 (a million draws), how many are 5 % below the claimed deviation or less."""
    votes = 0
    for vote in range(9):
        zero = {"a": torch.zeros(1, 111_112)}
        noise = gaussian_noise({"a": (111_112,)}, [generator(7, "vote", vote)])
        deviation = float(noisy_mean(zero, noise, actual, 0.5, 2.0)["a"].double().std())
        votes += deviation < 0.95 * claimed * 0.5 / 2.0
    return votes


def test_ten_percent_too_little_noise_is_noticed() -> None:
    """Sampling error of a deviation is 0.2 % here, so 5 % is over 20 of them away from either case."""
    assert votes_for_too_little_noise(1.2, 1.2) == 0
    assert votes_for_too_little_noise(1.2, 0.9 * 1.2) == 9


def test_noise_of_a_person_is_their_own() -> None:
    keys = [("noise", person) for person in ("ann", "bob", "cy")]
    together = gaussian_noise(SHAPES, [generator(3, *key) for key in keys])
    alone = gaussian_noise(SHAPES, [generator(3, *keys[1])])
    for name, shape in SHAPES.items():
        assert together[name].shape == (3, *shape)
        assert together[name].dtype == np.float64
        assert np.array_equal(together[name][1], alone[name][0])
        assert not np.array_equal(together[name][0], together[name][1])
    assert gaussian_noise(SHAPES, [])["A"].shape == (0, 2, 4)


def test_noisy_mean_refuses_what_would_weaken_it() -> None:
    sums = {"a": torch.zeros(2, 3)}
    good = {"a": np.zeros((2, 3))}
    with pytest.raises(InputError, match=r"shape \(1, 3\)"):
        noisy_mean(sums, {"a": np.zeros((1, 3))}, 1.0, 1.0, 2.0)
    with pytest.raises(InputError, match="drawn in float32"):
        noisy_mean(sums, {"a": np.zeros((2, 3), np.float32)}, 1.0, 1.0, 2.0)
    with pytest.raises(InputError, match=r"noise is given for \[\]"):
        noisy_mean(sums, {}, 1.0, 1.0, 2.0)
    with pytest.raises(InputError, match="finite"):
        noisy_mean(sums, good, 1.0, math.inf, 2.0)
    with pytest.raises(InputError, match="noise multiplier"):
        noisy_mean(sums, good, math.nan, 1.0, 2.0)
    with pytest.raises(InputError, match="expected batch"):
        noisy_mean(sums, good, 1.0, 1.0, 0.0)
    assert torch.equal(
        noisy_mean({"a": torch.ones(2, 3)}, {}, 0.0, math.inf, 2.0)["a"], torch.full((2, 3), 0.5)
    )


def test_clip_per_pair_refuses_bad_input() -> None:
    with pytest.raises(InputError, match="clip is 0"):
        clip_per_pair(random_gradients(), 0.0)
    with pytest.raises(InputError, match="leading axes"):
        clip_per_pair({"a": torch.zeros(2, 3, 1), "b": torch.zeros(2, 4, 1)}, 1.0)
    with pytest.raises(InputError, match="leading axes"):
        clip_per_pair({}, 1.0)


def test_poisson_draws_do_not_depend_on_padding_or_on_others() -> None:
    def draw(width: int, people: list[int]) -> torch.Tensor:
        mask = torch.zeros(len(people), width)
        mask[:, :6] = 1
        return poisson_rows(mask, 0.5, [generator(2, "coins", person) for person in people])

    narrow, wide = draw(6, [0, 1]), draw(11, [1])
    assert torch.equal(narrow[1], wide[0, :6])
    assert not wide[0, 6:].any()


def test_poisson_rate_and_independence() -> None:
    mask = torch.ones(2000, 20)
    drawn = poisson_rows(mask, 0.25, [generator(4, person) for person in range(2000)])
    counts = drawn.sum(1)
    assert float(drawn.mean()) == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / 40_000))
    # Independent coins give binomial counts; a fixed-size draw would have no variance at all.
    assert float(counts.var()) == pytest.approx(20 * 0.25 * 0.75, rel=0.15)
    assert (counts == 0).any()


def test_poisson_edges() -> None:
    mask = torch.tensor([[1.0, 1.0, 0.0]])
    assert torch.equal(poisson_rows(mask, 1.0, [generator(1)]), mask)
    assert not poisson_rows(mask, 0.0, [generator(1)]).any()
    with pytest.raises(InputError, match="sampling rate"):
        poisson_rows(mask, 1.5, [generator(1)])
    with pytest.raises(InputError, match="more than 1 generators"):
        poisson_rows(mask, 0.5, [generator(1), generator(2)])
    with pytest.raises(InputError, match="0 generators"):
        poisson_rows(mask, 0.5, [])


def test_randomised_response() -> None:
    assert flip_probability(math.log(3)) == pytest.approx(0.25)
    assert flip_probability(math.inf) == 0
    assert flip_probability(1e4) == 0
    flips = randomised_response((200, 100), flip_probability(1.0), generator(9, "flips"))
    assert flips.dtype == np.bool_
    p = 1 / (1 + math.e)
    assert flips.mean() == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / 20_000))
    assert not randomised_response(50, flip_probability(math.inf), generator(9)).any()
    with pytest.raises(InputError, match="flip probability"):
        randomised_response(50, 0.5, generator(9))
    with pytest.raises(InputError, match="epsilon"):
        flip_probability(0)


def test_noise_lies_on_its_grid_and_what_is_noised_too() -> None:
    """Else the low bits of a released number tell what they were added to."""
    step, deviation = 2.0**-12, 0.37
    normals = generator(0, "noise on a grid").standard_normal(4000)
    noise = noise_on_grid(normals, deviation, step)
    assert (noise / step == np.round(noise / step)).all()
    assert np.abs(noise - normals * deviation).max() <= step / 2
    total = np.arange(4000) * step
    released = noised_sum(total, normals, deviation, step)
    assert (released / step == np.round(released / step)).all()
    for off in (step / 3, step / 2, 1e-15):
        with pytest.raises(InputError, match="off its grid"):
            noised_sum(total + off, normals, deviation, step)
