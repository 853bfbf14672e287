"""Public bases: orthonormal, scaled to their own texts, led by what the labels differ in."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from commonground.randomness import generator
from commonground.training.basis import PublicBasis, basis_within

SIZE = 7


def groups(count: int = 5, texts: int = 4, seed: int = 0) -> list[np.ndarray]:
    """Embeddings of `count` prompts with `texts` answers each; every prompt far away from the others."""
    draws = generator(seed, "groups")
    return [
        (
            draws.standard_normal((texts, SIZE)) * np.arange(1, SIZE + 1) + 50 * draws.standard_normal(SIZE)
        ).astype(np.float32)
        for _ in range(count)
    ]


@pytest.mark.parametrize("rank", [None, 1, 3, SIZE])
@pytest.mark.parametrize("labelled", [True, False])
def test_columns_are_orthonormal_and_as_many_as_asked_for(rank: int | None, labelled: bool) -> None:
    kinds = [["a", "b", "c", "d"]] * 5 if labelled else None
    basis = basis_within(groups(), "test", rank=rank, kinds=kinds)
    assert basis.dims == (rank or SIZE)
    assert basis.matrix.shape == (SIZE, basis.dims)
    assert basis.matrix.dtype == np.float32
    np.testing.assert_allclose(basis.matrix.T @ basis.matrix, np.eye(basis.dims), atol=1e-6)


def test_columns_are_orthonormal_with_fewer_texts_than_dimensions() -> None:
    """As with the starter texts: nothing differs in some directions, which are not the leading ones."""
    few = groups(count=1, texts=4)
    basis = basis_within(few, "test", kinds=[["a", "b", "a", "b"]])
    np.testing.assert_allclose(basis.matrix.T @ basis.matrix, np.eye(SIZE), atol=1e-6)
    lengths = np.linalg.norm(basis.features(few[0]), axis=1)  # still a rotation
    np.testing.assert_allclose(lengths, basis.scale * np.linalg.norm(few[0], axis=1), rtol=1e-4)


def test_public_differences_have_root_mean_square_one() -> None:
    texts = groups()
    basis = basis_within(texts, "test")
    squares = [
        float(np.square(basis.features(one[None] - two[None])).sum())
        for group in texts
        for one, two in itertools.combinations(group, 2)
    ]
    assert np.sqrt(np.mean(squares)) == pytest.approx(1, rel=1e-5)


def test_groups_of_different_sizes_count_by_their_pairs() -> None:
    texts = [*groups(2, 3), *groups(1, 6, seed=1)]
    basis = basis_within(texts, "test")
    squares = [
        float(np.square(basis.features(one[None] - two[None])).sum())
        for group in texts
        for one, two in itertools.combinations(group, 2)
    ]
    assert np.sqrt(np.mean(squares)) == pytest.approx(1, rel=1e-5)


def test_a_full_basis_is_a_rotation() -> None:
    texts = groups()
    basis = basis_within(texts, "test")
    lengths = np.linalg.norm(basis.features(texts[0]), axis=1)
    np.testing.assert_allclose(lengths, basis.scale * np.linalg.norm(texts[0], axis=1), rtol=1e-4)


def test_what_comparisons_cancel_has_no_part_in_it() -> None:
    """Moving all answers to a prompt together changes nothing: only differences are ever compared."""
    texts = groups()
    moved = [group + np.float32(10 * place) for place, group in enumerate(texts)]
    left, right = basis_within(texts, "test"), basis_within(moved, "test")
    np.testing.assert_allclose(left.matrix, right.matrix, atol=1e-3)
    assert left.scale == pytest.approx(right.scale, rel=1e-4)


def test_directions_fall_by_public_variance() -> None:
    texts = groups(40)
    basis = basis_within(texts, "test")
    centred = np.concatenate([group - group.mean(0) for group in texts])
    variances = np.square(basis.features(centred)).sum(0)
    assert (np.diff(variances) <= 1e-6 * variances[0]).all()
    assert variances[0] > 5 * variances[-1]


def test_what_the_labels_differ_in_comes_first_however_faint_it_is() -> None:
    """Three labels differ along axes 0 and 1 by little; axis 6 is loud and says nothing about them."""
    draws = generator(0, "kinds")
    shift = {"a": (0.2, 0.0), "b": (-0.2, 0.0), "c": (0.0, 0.2)}
    texts, kinds = [], []
    for _ in range(20):
        noise = 3 * draws.standard_normal(3)
        for sign in (1, -1):  # each noise with its opposite, so that the labels' means are exactly theirs
            loud = np.zeros((3, SIZE))
            loud[:, 6] = sign * noise
            loud[:, :2] = [shift[kind] for kind in "abc"]
            texts.append(loud.astype(np.float32))
            kinds.append(list("abc"))
    plain, led = basis_within(texts, "test"), basis_within(texts, "test", kinds=kinds)
    assert abs(plain.matrix[6, 0]) > 0.99
    inside = np.square(led.matrix[:2, :2]).sum(0)  # share of each leading direction in the labels' plane
    assert (inside[:2] > 0.999).all()
    assert np.square(plain.matrix[:2, 0]).sum() < 0.01


def test_signs_are_fixed_and_the_same_texts_give_the_same_bytes() -> None:
    left, right = basis_within(groups(), "test"), basis_within(groups(), "test")
    assert left.digest == right.digest
    assert left.matrix.tobytes() == right.matrix.tobytes()
    largest = left.matrix[np.abs(left.matrix).argmax(0), np.arange(left.dims)]
    assert (largest > 0).all()


def test_the_digest_is_of_matrix_and_scale_alone() -> None:
    first = basis_within(groups(), "in other words")
    assert first.digest == basis_within(groups(), "test").digest
    louder = basis_within([2 * group for group in groups()], "test")
    np.testing.assert_allclose(louder.matrix, first.matrix, atol=1e-5)  # only the scale differs
    assert louder.scale == pytest.approx(first.scale / 2)
    assert louder.digest != first.digest
    assert basis_within(groups(seed=1), "test").digest != first.digest


def test_features_of_fewer_directions_are_the_first_ones() -> None:
    texts = groups()
    basis = basis_within(texts, "test")
    few = basis.features(texts[0], 2)
    assert few.dtype == np.float32
    np.testing.assert_allclose(few, basis.features(texts[0])[:, :2], rtol=1e-4, atol=1e-5)


@pytest.mark.identity
@pytest.mark.parametrize("dims", [None, 8])
def test_a_text_has_the_same_features_alone_and_among_others(dims: int | None) -> None:
    """A device knows one person's texts, a simulation everybody's: bit for bit the same features."""
    draws = np.random.default_rng(3)
    matrix = np.linalg.qr(draws.standard_normal((384, 384)))[0].astype(np.float32)
    basis = PublicBasis(np.ascontiguousarray(matrix), 1.3, "made up")
    embeddings = draws.standard_normal((700, 384)).astype(np.float32)
    whole = basis.features(embeddings, dims)
    for count in (1, 2, 7, 64, 161, 511, 513):
        rows = draws.permutation(len(embeddings))[:count]
        np.testing.assert_array_equal(basis.features(embeddings[rows], dims), whole[rows])
    expected = embeddings.astype(np.float64) @ (matrix[:, :dims] * 1.3)
    np.testing.assert_allclose(whole, expected, atol=1e-4)
