"""The egress contract fails closed."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from commonground.clipping import clip_update, joint_norm
from commonground.errors import EgressError
from commonground.manifest import (
    METRIC,
    Manifest,
    Receipt,
    Sealed,
    TensorSpec,
    reopen,
    seal,
    seal_many,
    verify,
)

MANIFEST = Manifest(
    (TensorSpec("shared.a", (2, 2)), TensorSpec("shared.b", (3,))), clip=1.0, versions={"base": "0"}
)


def good() -> dict[str, np.ndarray]:
    return {"shared.a": np.full((2, 2), 0.1, np.float32), "shared.b": np.full(3, 0.2, np.float32)}


def test_a_good_update_is_sealed_with_a_receipt() -> None:
    sealed = seal(MANIFEST, good(), round=4)
    assert sealed.receipt.round == 4
    assert sealed.receipt.bytes == 7 * 4
    assert sealed.receipt.names == ("shared.a", "shared.b")
    assert sealed.metrics == {METRIC: 1}
    assert np.array_equal(sealed.tensors["shared.b"], good()["shared.b"])


def test_tensors_of_a_sealed_message_cannot_be_changed() -> None:
    source = good()
    sealed = seal(MANIFEST, source, round=1)
    source["shared.b"][:] = 9
    assert sealed.tensors["shared.b"][0] == np.float32(0.2)
    with pytest.raises(ValueError, match="read-only"):
        sealed.tensors["shared.b"][0] = 1


def test_a_zero_has_no_sign() -> None:
    """Minus zero is what a masked comparison leaves behind: its sign is that comparison's."""
    plain = {name: np.zeros_like(value) for name, value in good().items()}
    signed = {name: np.negative(value) for name, value in plain.items()}
    assert seal(MANIFEST, signed, round=1).receipt == seal(MANIFEST, plain, round=1).receipt
    assert not any(np.signbit(v).any() for v in seal(MANIFEST, signed, round=1).tensors.values())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"private.v": np.zeros(2, np.float32)}, "the manifest allows exactly"),
        ({"shared.a": None}, "the manifest allows exactly"),
        ({"shared.a": np.zeros((4,), np.float32)}, r"shape \(4,\); the manifest says \(2, 2\)"),
        ({"shared.a": np.zeros((2, 2), np.float64)}, "dtype float64; the manifest says float32"),
        ({"shared.b": np.array([0, np.nan, 0], np.float32)}, "non-finite"),
        ({"shared.b": np.array([0, np.inf, 0], np.float32)}, "non-finite"),
        ({"shared.b": np.full(3, 2, np.float32)}, "L2 norm 3.46.*allows 1"),
    ],
)
def test_anything_else_is_refused(change: dict[str, Any], words: str) -> None:
    tensors = {name: value for name, value in (good() | change).items() if value is not None}
    with pytest.raises(EgressError, match=words):
        seal(MANIFEST, tensors, round=1)


@pytest.mark.parametrize("metrics", [{"loss": 0.3}, {METRIC: 12}, {METRIC: 1, "norm": 2.0}, {}])
def test_metrics_other_than_the_constant_are_refused(metrics: dict[str, Any]) -> None:
    with pytest.raises(EgressError, match="metrics"):
        seal(MANIFEST, good(), round=1, metrics=metrics)


def test_an_error_text_is_refused_and_not_repeated() -> None:
    with pytest.raises(EgressError) as caught:
        seal(MANIFEST, good(), round=1, error="her prompt was: secret")
    assert "secret" not in str(caught.value)


def test_nobody_but_seal_builds_a_message() -> None:
    receipt = Receipt(1, "", 0, (), "")
    with pytest.raises(EgressError, match="seal"):
        Sealed(object(), good(), receipt)


def test_noise_is_the_devices_exactly_when_the_manifest_says_so() -> None:
    local = Manifest(MANIFEST.tensors, clip=1.0, noise_on_device=True)
    noise = {name: np.full(value.shape, 5.0) for name, value in good().items()}
    with pytest.raises(EgressError, match="noise on the device is False"):
        seal(local, good(), round=1)
    with pytest.raises(EgressError, match="noise on the device is True"):
        seal(MANIFEST, good(), round=1, noise=noise)
    sealed = seal(local, good(), round=1, noise=noise)
    assert joint_norm(sealed.tensors) > 1  # the noise is added after the norm check


GRID = 2.0**-9
NOISED = Manifest(MANIFEST.tensors, clip=1.0, noise_on_device=True, grid=GRID)


def plant(values: np.ndarray, secret: bytes, bits: int = 4) -> np.ndarray:
    """A secret in the lowest mantissa bits of noised numbers."""
    flags = np.unpackbits(np.frombuffer(secret, np.uint8))[: values.size * bits].reshape(-1, bits)
    words = values.ravel().view(np.uint32).copy()
    words[: len(flags)] = words[: len(flags)] >> bits << bits | flags @ (
        1 << np.arange(bits, dtype=np.uint32)
    )
    return words.view(np.float32).reshape(values.shape)


def noised(seed: int) -> dict[str, np.ndarray]:
    """A sealed message of a device that adds its noise."""
    draws = np.random.default_rng(seed)
    noise = {name: np.round(draws.normal(size=v.shape) * 900) * GRID for name, v in good().items()}
    update = clip_update(good(), 1.0, GRID)
    return seal(NOISED, update, round=1, noise=noise).tensors


@pytest.mark.parametrize("seed", range(20))
def test_a_secret_in_low_bits_is_off_the_grid_and_refused(seed: int) -> None:
    """Class of fault: bits of a message that nobody looks at. On a grid there are none below its step."""
    message = noised(seed)
    verify(NOISED, message, bounded=False)
    spoiled = message | {"shared.a": plant(message["shared.a"], b"yes!")}
    with pytest.raises(EgressError, match=r"'shared.a' holds a number off the grid; .* = 2\^-9"):
        verify(NOISED, spoiled, bounded=False)
    sealed = seal(
        NOISED, clip_update(good(), 1.0, GRID), round=1, noise={n: 0.0 * v for n, v in good().items()}
    )
    with pytest.raises(EgressError, match="off the grid"):
        reopen(NOISED, spoiled, sealed.receipt)


def test_what_is_off_the_grid_is_not_sealed() -> None:
    quiet = replace(NOISED, noise_on_device=False)
    with pytest.raises(EgressError, match="off the grid"):
        seal(quiet, good(), round=1)
    many = {name: np.stack([clip_update(good(), 1.0, GRID)[name], value]) for name, value in good().items()}
    assert seal_many(quiet, many, round=1).kept.tolist() == [True, False]
    with pytest.raises(EgressError, match="off the grid"):
        seal(NOISED, clip_update(good(), 1.0, GRID), round=1, noise={n: v / 7 for n, v in good().items()})


def test_the_grid_follows_a_clip_that_is_asked_for_by_powers_of_two() -> None:
    adapted = replace(MANIFEST, clip=2.0, grid=GRID, bit=TensorSpec("extra.within_clip", ()))
    assert [adapted.step(c) for c in (None, 2.0, 1.9, 1.0, 0.9, 0.3)] == [
        GRID, GRID, GRID / 2, GRID / 2, GRID / 4, GRID / 8,
    ]  # fmt: skip
    assert replace(adapted, grid=0.0).step(0.5) == 0


def test_the_manifest_survives_a_round_trip_and_every_field_counts() -> None:
    assert Manifest.from_dict(MANIFEST.to_dict()) == MANIFEST
    others = [
        Manifest(MANIFEST.tensors, clip=2.0, versions=MANIFEST.versions),
        Manifest(MANIFEST.tensors[:1], clip=1.0, versions=MANIFEST.versions),
        Manifest(MANIFEST.tensors, clip=1.0, noise_on_device=True, versions=MANIFEST.versions),
        Manifest(MANIFEST.tensors, clip=1.0, versions={"base": "1"}),
        replace(MANIFEST, grid=GRID),
    ]
    assert Manifest.from_dict(others[-1].to_dict()) == others[-1]
    assert len({m.digest for m in [MANIFEST, *others]}) == 6
    assert MANIFEST.size == 7


@pytest.mark.parametrize(
    "change",
    [
        {"tensors": None},
        {"tensors": [{"name": "a"}]},
        {"tensors": [7]},
        {"clip": "wide"},
        {"versions": 3},
        {"participation": [1, 2, 3]},
        {"participation": ["one", 2]},
        {"grid": 0.3},
        {"grid": -0.5},
        {"grid": float("inf")},
        {"grid": "fine"},
    ],
)
def test_what_is_no_manifest_is_one_line(change: dict[str, object]) -> None:
    with pytest.raises(EgressError, match="this is no manifest"):
        Manifest.from_dict(MANIFEST.to_dict() | change)
    with pytest.raises(EgressError, match="this is no manifest"):
        Manifest.from_dict({})


@given(
    arrays(np.float64, (5,), elements=st.floats(allow_nan=True, allow_infinity=True)),
    st.floats(min_value=1e-6, max_value=1e6),
)
def test_a_clipped_update_always_fits(values: np.ndarray, clip: float) -> None:
    """T3: adversarial local training (huge, NaN, infinite) leaves at most the clip."""
    clipped = clip_update({"a": values[:2], "b": values[2:]}, clip)
    assert joint_norm(clipped) <= clip * (1 + 1e-6)
    if not np.isfinite(values).all():
        assert joint_norm(clipped) == 0


def test_clipping_is_joint_and_keeps_the_direction() -> None:
    clipped = clip_update({"a": np.array([3.0]), "b": np.array([4.0])}, 1.0)
    assert clipped["a"][0] == pytest.approx(0.6)
    assert clipped["b"][0] == pytest.approx(0.8)
    untouched = clip_update({"a": np.array([3.0]), "b": np.array([4.0])}, math.inf)
    assert untouched["b"][0] == 4.0
