"""The egress contract: what may leave a device, and the only way to make it leave.

A `Manifest` lists names, shapes, dtypes, the clip norm and the versions of everything public that the
tensors depend on. `seal` checks an update against it and fails closed; nothing else builds a `Sealed`
(`reopen` takes one that another process of the same device sealed, and checks it again), and client code can
send nothing but a `Sealed`.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from commonground.clipping import BIT, joint_norm, joint_norms
from commonground.errors import EgressError
from commonground.grid import LARGEST, clamped, is_step, on_grid, power_below

METRIC, METRIC_VALUE = "num-examples", 1
DTYPES = ("float32", "float64", "int64", "int32", "uint8", "bool")
LONGEST_NAME = 500  # characters of a tensor's name
MOST_NUMBERS = 1 << 40  # of a tensor
TOLERANCE = 1e-6  # relative slack of the norm check, for float32 rounding
_KEY = object()  # only `seal` holds it


@dataclass(frozen=True)
class TensorSpec:
    """One tensor that may leave: its name, shape and numpy dtype name."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"


@dataclass(frozen=True)
class Manifest:
    """What may leave a device.

    Attributes:
        tensors: every tensor that the strategy declared it needs sent, in order.
        clip: bound on the L2 norm over all tensors together, before any noise.
        noise_on_device: True when the device adds the noise (`trust=local`).
        versions: public things the tensors depend on, e.g. base weights or a basis, by digest.
        received: tensors that the server sends beside those of `tensors` and that never leave a device.
        bit: where the clip is adapted, the one number that leaves beside `tensors`: +1/2 where the update was
            within the clip that the server asked for, else -1/2. `clip` then bounds what it may ask for.
        participation: (k, b) where a device joins at most k rounds, any two of them at least b apart.
        grid: step of the grid that every number lies on where noise protects it, see `commonground.grid`; 0
            where there is no noise.
    """

    tensors: tuple[TensorSpec, ...]
    clip: float
    noise_on_device: bool = False
    versions: Mapping[str, str] = field(default_factory=dict)
    received: tuple[TensorSpec, ...] = ()
    bit: TensorSpec | None = None
    participation: tuple[int, int] | None = None
    grid: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values; `from_dict` takes them back."""
        return {
            "schema": 1,
            "tensors": _specs(self.tensors),
            "clip": self.clip,
            "noise_on_device": self.noise_on_device,
            "metrics": {METRIC: METRIC_VALUE},
            "versions": dict(self.versions),
            # Only where there are any: the digests of all other manifests stay what they were.
            **({"received": _specs(self.received)} if self.received else {}),
            **({"bit": _specs([self.bit])[0]} if self.bit is not None else {}),
            **({"participation": list(self.participation)} if self.participation is not None else {}),
            **({"grid": self.grid} if self.grid else {}),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Manifest:
        """The manifest that `to_dict` wrote; raises `EgressError` where it is none."""
        try:
            k, b = values.get("participation", (0, 0))
            bits = [values["bit"]] if "bit" in values else []
            tensors, received, bit = (
                tuple(_spec(t) for t in found)
                for found in (values["tensors"], values.get("received", ()), bits)
            )
            joins = (int(k), int(b)) if k else None
            clip, noise, versions = (
                float(values["clip"]), bool(values["noise_on_device"]), dict(values["versions"])
            )  # fmt: skip
            grid = float(values.get("grid", 0.0))
            if not is_step(grid):
                raise ValueError(f"grid is {grid!r}; accepted: a power of two")
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise EgressError(f"this is no manifest: {type(error).__name__} ({error})"[:200]) from error
        return cls(tensors, clip, noise, versions, received, bit[0] if bit else None, joins, grid)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON form; server and device compare it before anything is sent."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"), allow_nan=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def broadcast(self) -> tuple[TensorSpec, ...]:
        """What the server sends: every tensor that leaves a device, then those that are only received."""
        return self.tensors + self.received

    @property
    def sent(self) -> tuple[TensorSpec, ...]:
        """All that leaves a device: the tensors under the clip, then the bit where there is one."""
        return self.tensors if self.bit is None else (*self.tensors, self.bit)

    def accepted(self, asked: float | None) -> float:
        """The clip of one round: the device's own, or one that the server asks for and that is no larger.

        Args:
            asked: what stands in the server's message; None where it asks for none.

        Raises:
            EgressError: this manifest has one clip for all rounds, or asks for a bit and got no clip, or a
                clip that is not above 0 and at most its own.
        """
        if self.bit is None and asked is None:
            return self.clip
        if self.bit is None:
            raise EgressError(
                f"the server asks for clip {asked}; this manifest has clip {self.clip} for good"
            )
        if asked is None or not 0 < asked <= self.clip:
            raise EgressError(
                f"the server asks for clip {asked}; the manifest allows above 0 and at most {self.clip}"
            )
        return asked

    def step(self, clip: float | None = None) -> float:
        """The grid's step in a round: it follows a clip that is asked for, as the noise does; 0 without one.

        Args:
            clip: what the server asked for, accepted; None where the manifest has one for all rounds.
        """
        if clip is None or clip == self.clip or self.grid == 0:
            return self.grid
        return self.grid * power_below(clip / self.clip)

    @property
    def size(self) -> int:
        """d: numbers in one message, those under the clip."""
        return sum(int(np.prod(t.shape)) for t in self.tensors)


def _spec(values: Mapping[str, Any]) -> TensorSpec:
    """One tensor of a manifest that somebody else wrote; raises `TypeError` or `ValueError`."""
    name, shape, dtype = values["name"], tuple(values["shape"]), values["dtype"]
    if not (isinstance(name, str) and len(name) <= LONGEST_NAME and name.isprintable()):
        raise ValueError("a tensor's name is no short text")
    if any(type(size) is not int or size < 0 for size in shape) or math.prod(shape) > MOST_NUMBERS:
        raise ValueError(f"the shape of {name} is none")
    if dtype not in DTYPES:
        raise ValueError(f"the dtype of {name} is none of {', '.join(DTYPES)}")
    return TensorSpec(name, shape, dtype)


def _specs(tensors: Sequence[TensorSpec]) -> list[dict[str, Any]]:
    return [asdict(t) | {"shape": list(t.shape)} for t in tensors]


@dataclass(frozen=True)
class Receipt:
    """What the device keeps about one message that left."""

    round: int
    digest: str
    bytes: int
    names: tuple[str, ...]
    manifest: str


class Sealed:
    """A message that passed the manifest. Only `seal` can make one."""

    def __init__(self, key: object, tensors: Mapping[str, np.ndarray], receipt: Receipt) -> None:
        if key is not _KEY:
            raise EgressError("a message can only be built by manifest.seal() or reopen()")
        self._tensors = {name: value.copy() for name, value in tensors.items()}
        for value in self._tensors.values():
            value.setflags(write=False)
        self.receipt = receipt

    @property
    def tensors(self) -> dict[str, np.ndarray]:
        """Name -> read-only array, in the manifest's order."""
        return dict(self._tensors)

    @property
    def metrics(self) -> dict[str, int]:
        """The one metric a message carries, a constant."""
        return {METRIC: METRIC_VALUE}


class SealedBatch:
    """Messages of many people, each of which passed the manifest by itself. Only `seal_many` can make one.

    Attributes:
        kept: (P,) bool; False for the people whose update was refused.
        receipts: one for each person kept, in order.
    """

    def __init__(
        self, key: object, tensors: Mapping[str, np.ndarray], kept: np.ndarray, receipts: Sequence[Receipt]
    ) -> None:
        if key is not _KEY:
            raise EgressError("messages can only be built by manifest.seal_many()")
        self._tensors, self.kept, self.receipts = dict(tensors), kept, tuple(receipts)
        for value in self._tensors.values():
            value.setflags(write=False)

    @property
    def tensors(self) -> dict[str, np.ndarray]:
        """Name -> (people kept, *shape), read-only, in the manifest's order."""
        return dict(self._tensors)

    def totals(self) -> dict[str, np.ndarray]:
        """Name -> float64 sum over the people kept, added up in their order."""
        return {name: value.sum(0, dtype=np.float64) for name, value in self._tensors.items()}

    def each(self) -> list[Sealed]:
        """One message a person kept."""
        return [
            Sealed(_KEY, {name: value[p] for name, value in self._tensors.items()}, receipt)
            for p, receipt in enumerate(self.receipts)
        ]


def verify(
    manifest: Manifest, tensors: Mapping[str, np.ndarray], *, bounded: bool = True, clip: float | None = None
) -> None:
    """Check names, shapes, dtypes, finiteness, the grid, the bit and (if `bounded`) the joint norm.

    Args:
        manifest: what may leave.
        tensors: a message.
        bounded: False for a message that already holds the device's noise.
        clip: the clip of this round, see `Manifest.accepted`; None where the manifest has one for all.

    Raises:
        EgressError: the first fault.
    """
    allowed = [t.name for t in manifest.sent]
    unknown = [name for name in tensors if name not in allowed]
    missing = [name for name in allowed if name not in tensors]
    if unknown or missing:
        raise EgressError(f"message has tensors {sorted(tensors)}; the manifest allows exactly {allowed}")
    for spec in manifest.sent:
        value = tensors[spec.name]
        if tuple(value.shape) != spec.shape:
            raise EgressError(
                f"tensor {spec.name!r} has shape {tuple(value.shape)}; the manifest says {spec.shape}"
            )
        if value.dtype.name != spec.dtype:
            raise EgressError(f"tensor {spec.name!r} has dtype {value.dtype}; the manifest says {spec.dtype}")
        if not np.isfinite(value).all():
            raise EgressError(f"tensor {spec.name!r} holds a non-finite value; only finite ones may leave")
    if manifest.bit is not None and abs(float(tensors[manifest.bit.name])) != BIT:
        found = float(tensors[manifest.bit.name])
        raise EgressError(f"bit {manifest.bit.name!r} is {found:.6g}; accepted: {BIT} and {-BIT}")
    most = manifest.accepted(clip)
    step = manifest.step(clip)
    for spec in manifest.tensors if step else ():
        if not on_grid(tensors[spec.name], step).all():
            raise EgressError(
                f"tensor {spec.name!r} holds a number off the grid; accepted: whole steps of "
                f"{step:g} = 2^{math.frexp(step)[1] - 1}, at most {LARGEST}"
            )
    norm = joint_norm({spec.name: tensors[spec.name] for spec in manifest.tensors})
    if bounded and norm > most * (1 + TOLERANCE):
        raise EgressError(f"message has L2 norm {norm:.6g}; the manifest allows {most:.6g}")


def seal(
    manifest: Manifest,
    tensors: Mapping[str, np.ndarray],
    *,
    round: int,
    noise: Mapping[str, np.ndarray] | None = None,
    metrics: Mapping[str, Any] | None = None,
    error: str = "",
    clip: float | None = None,
) -> Sealed:
    """Build the only message that can leave; fails closed with `EgressError`.

    Args:
        manifest: what may leave.
        tensors: the clipped update, before noise.
        round: the round it answers.
        noise: the device's own noise, on the grid, added after the norm check; required exactly when the
            manifest says that the device adds it.
        metrics: must be None or the constant metric; anything else is refused.
        error: must be empty: an error text is a channel for content.
        clip: the clip of this round, as the server asked for it; see `Manifest.accepted`.
    """
    if error:
        raise EgressError(f"an error text of {len(error)} characters may not leave; only an empty one may")
    if metrics is not None and dict(metrics) != {METRIC: METRIC_VALUE}:
        raise EgressError(f"metrics are {sorted(metrics)}; only {METRIC}={METRIC_VALUE} may leave")
    if (noise is not None) != manifest.noise_on_device:
        raise EgressError(
            f"noise on the device is {noise is not None}; the manifest says {manifest.noise_on_device}"
        )
    verify(manifest, tensors, clip=clip)
    # Adding zero makes -0 to 0: the sign of a product with a masked comparison would tell that one's sign.
    # np.require keeps shape () where np.ascontiguousarray would make it (1,).
    ordered = {
        spec.name: np.require(tensors[spec.name] + np.zeros(spec.shape, spec.dtype), requirements="C")
        for spec in manifest.sent
    }
    if noise is not None:
        noised = {n: clamped(v.astype(np.float64) + noise[n], manifest.grid) for n, v in ordered.items()}
        ordered = {name: np.asarray(value, ordered[name].dtype) for name, value in noised.items()}
        verify(manifest, ordered, bounded=False)
    return Sealed(_KEY, ordered, _receipt(manifest, ordered, round))


def reopen(
    manifest: Manifest, tensors: Mapping[str, np.ndarray], receipt: Receipt, clip: float | None = None
) -> Sealed:
    """A message that was sealed in another process, or kept on a disk, checked once more as it is.

    Args:
        manifest: what may leave.
        tensors: the message, with the device's own noise where that adds it.
        receipt: what was kept about it.
        clip: the clip of its round, as in `seal`.

    Raises:
        EgressError: the manifest does not allow the message, or it is not the one of the receipt.
    """
    verify(manifest, tensors, bounded=not manifest.noise_on_device, clip=clip)
    ordered = {spec.name: np.require(tensors[spec.name], requirements="C") for spec in manifest.sent}
    found = _receipt(manifest, ordered, receipt.round)
    if found != receipt:
        raise EgressError(
            f"message has digest {found.digest[:12]} and {found.bytes} bytes; its receipt says "
            f"{receipt.digest[:12]} and {receipt.bytes}"
        )
    return Sealed(_KEY, ordered, receipt)


def _receipt(manifest: Manifest, ordered: Mapping[str, np.ndarray], round: int) -> Receipt:
    digest = hashlib.sha256(manifest.digest.encode())
    for name, value in ordered.items():
        digest.update(name.encode() + b"\0" + value.tobytes())
    size = sum(value.nbytes for value in ordered.values())
    return Receipt(round, digest.hexdigest(), size, tuple(ordered), manifest.digest)


def seal_many(
    manifest: Manifest,
    tensors: Mapping[str, np.ndarray],
    *,
    round: int,
    noise: Mapping[str, np.ndarray] | None = None,
    clip: float | None = None,
) -> SealedBatch:
    """`seal` for many people in one pass: the same checks, the same bytes, the same digests.

    A person whose update would be refused is left out; the others are not held up.

    Args:
        manifest: what may leave.
        tensors: name -> (P, *shape), clipped updates before noise.
        round: the round they answer.
        noise: name -> (P, *shape), the devices' own noise; as in `seal`.
        clip: the clip of this round, as in `seal`.

    Raises:
        EgressError: names, shapes or dtypes are not the manifest's, or noise is given or lacks against it.
    """
    if (noise is not None) != manifest.noise_on_device:
        raise EgressError(
            f"noise on the device is {noise is not None}; the manifest says {manifest.noise_on_device}"
        )
    counts = {len(value) if value.ndim else -1 for value in tensors.values()}
    if len(counts) != 1:
        raise EgressError("messages of different numbers of people cannot be sealed together")
    one = {
        name: value[0] if len(value) else np.zeros(value.shape[1:], value.dtype)
        for name, value in tensors.items()
    }
    bit = "" if manifest.bit is None else manifest.bit.name
    blank = {name: np.full_like(value, BIT if name == bit else 0) for name, value in one.items()}
    verify(manifest, blank, clip=clip)
    norms = joint_norms({spec.name: tensors[spec.name] for spec in manifest.tensors})
    kept = np.isfinite(norms) & (norms <= manifest.accepted(clip) * (1 + TOLERANCE))
    if manifest.bit is not None:
        kept &= np.abs(tensors[bit]) == BIT
    step = manifest.step(clip)
    for spec in manifest.tensors if step else ():
        kept &= on_grid(tensors[spec.name], step).reshape(len(kept), -1).all(1)
    ordered = {
        spec.name: tensors[spec.name][kept] + np.zeros(spec.shape, spec.dtype) for spec in manifest.sent
    }
    if noise is not None:
        noised = {n: clamped(v.astype(np.float64) + noise[n][kept], step) for n, v in ordered.items()}
        ordered = {n: v.astype(ordered[n].dtype) for n, v in noised.items()}
        for name, value in ordered.items():
            if not (np.isfinite(value) & on_grid(value, step)).all():
                raise EgressError(
                    f"tensor {name!r} holds a value that is not finite or off the grid of {step:g}"
                )
    start = hashlib.sha256(manifest.digest.encode())
    size, names = sum(v[0].nbytes for v in ordered.values() if len(v)), tuple(ordered)
    receipts = []
    for person in range(int(kept.sum())):
        digest = start.copy()
        for name, value in ordered.items():
            digest.update(name.encode() + b"\0")
            digest.update(value[person].tobytes())
        receipts.append(Receipt(round, digest.hexdigest(), size, names, manifest.digest))
    return SealedBatch(_KEY, ordered, kept, receipts)
