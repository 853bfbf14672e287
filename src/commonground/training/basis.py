"""Public orthonormal bases of the embedding space.

A basis, its order and its scale are computed from public texts alone (the shipped starter texts or a
public item catalogue), never from anybody's comparisons; its digest goes into the manifest. The leading
directions are those along which public answers differ most, and that is where a private adapter lives:
under per-pair noise 40 comparisons can teach about 8 to 16 numbers (training.md 7).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from commonground.comparisons import TAGS, Tag
from commonground.errors import ModelError
from commonground.exact import exact_product
from commonground.given import ASK, CLOSE, Parts, part


@dataclass(frozen=True)
class PublicBasis:
    """Orthonormal columns and one scale.

    Attributes:
        matrix: (D, d) float32, orthonormal columns, by falling public variance.
        scale: features are `scale * embedding @ matrix`; public differences then have RMS norm 1.
        source: in words, the texts it was computed from.
    """

    matrix: np.ndarray
    scale: float
    source: str

    @property
    def dims(self) -> int:
        """Number of directions, d."""
        return int(self.matrix.shape[1])

    @property
    def digest(self) -> str:
        """SHA-256 of matrix and scale."""
        return hashlib.sha256(self.matrix.tobytes() + np.float64(self.scale).tobytes()).hexdigest()

    def features(self, embeddings: np.ndarray, dims: int | None = None) -> np.ndarray:
        """Return features (n, dims or d) float32 of embeddings (n, D).

        A text has the same bits alone and among others, on every processor that has the same embedding and
        matrix: a device knows one person's texts, a simulation everybody's.
        """
        matrix = self.matrix if dims is None else self.matrix[:, :dims]
        return np.asarray(exact_product(embeddings, matrix) * self.scale, np.float32)


def basis_within(
    groups: Sequence[np.ndarray],
    source: str,
    *,
    rank: int | None = None,
    kinds: Sequence[Sequence[str]] | None = None,
) -> PublicBasis:
    """Principal directions of public texts centred within each group.

    Args:
        groups: embeddings (n_g, D) of texts that could be compared with each other: answers to one
            prompt, or a whole item catalogue. Centring within a group removes what comparisons cancel.
        source: in words, where the texts come from.
        rank: directions kept; None keeps all D, so that the basis is a rotation and loses nothing.
        kinds: public label of each text (its style). The principal directions of the labels' means then
            come first: they carry what the labels differ in, which plain variance mostly does not.

    Returns:
        The basis. Signs are fixed (largest entry positive), so that it is reproducible.
    """
    centred = np.concatenate([g.astype(np.float64) - g.astype(np.float64).mean(0) for g in groups])
    scatter = centred.T @ centred
    first = np.zeros((centred.shape[1], 0))
    if kinds is not None:
        labels = np.array([kind for group in kinds for kind in group])
        means = np.stack([centred[labels == kind].mean(0) for kind in sorted(set(labels.tolist()))])
        first = _leading(means.T @ means, len(means) - 1)  # the means sum to 0, so one direction is lost
        rest = np.eye(len(scatter)) - first @ first.T
        # Below everything else, also below directions in which no text differs: with fewer texts than
        # dimensions those have the eigenvalue 0 too, and the two would be mixed.
        scatter = rest @ scatter @ rest - np.trace(scatter) * first @ first.T
    others = _leading(scatter, scatter.shape[0] - first.shape[1])
    vectors = np.concatenate([first, others], axis=1)[:, :rank]
    signs = np.sign(vectors[np.abs(vectors).argmax(0), np.arange(vectors.shape[1])])
    pairs = sum(len(g) * (len(g) - 1) for g in groups)
    # the mean squared distance of two texts of a group is 2 n/(n-1) times their mean squared deviation
    squares = sum(
        2 * len(g) * np.square(g.astype(np.float64) - g.astype(np.float64).mean(0)).sum() for g in groups
    )
    scale = 1.0 / np.sqrt(squares / pairs)
    return PublicBasis(np.ascontiguousarray(vectors * signs, dtype=np.float32), float(scale), source)


def given_bases(parts: Parts, size: int) -> dict[Tag, PublicBasis]:
    """The bases in a study's public parts: two rotations of D = `size` dimensions with their scales.

    Raises:
        ModelError: a part is missing or of another shape, is no rotation, or has a scale of 0 or below.
    """
    found: dict[Tag, PublicBasis] = {}
    for tag in TAGS:
        scale = float(part(parts, f"basis.{tag}.scale", (), "float64"))
        if not scale > 0:
            raise ModelError(f"the study's basis of {tag} has scale {scale:g}; accepted: above 0", hint=ASK)
        matrix = _rotation(parts, f"basis.{tag}.matrix", size)
        found[tag] = PublicBasis(matrix, scale, "the study's public parts")
    return found


def bases_as_parts(bases: Mapping[Tag, PublicBasis]) -> dict[str, np.ndarray]:
    """Bases as `given_bases` takes them back."""
    found: dict[str, np.ndarray] = {}
    for tag, basis in bases.items():
        found[f"basis.{tag}.matrix"] = basis.matrix
        found[f"basis.{tag}.scale"] = np.array(basis.scale, np.float64)
    return found


def _rotation(parts: Parts, name: str, size: int) -> np.ndarray:
    """A rotation, (size, size) with orthonormal columns; raises `ModelError` where it is none."""
    value = part(parts, name, (size, size))
    exact = value.astype(np.float64)
    apart = float(np.abs(exact.T @ exact - np.eye(size)).max())
    if not apart <= CLOSE:
        raise ModelError(
            f"the study's public part {name!r} is no rotation: its columns are orthonormal to {apart:.3g}; "
            f"accepted: {CLOSE:g}",
            hint=ASK,
        )
    return value


def _leading(scatter: np.ndarray, count: int) -> np.ndarray:
    """Eigenvectors (D, count) of a symmetric matrix, by falling eigenvalue."""
    _, vectors = np.linalg.eigh(scatter)
    return np.asarray(vectors[:, ::-1][:, :count])
