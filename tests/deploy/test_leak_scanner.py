"""The scanner finds whatever is planted, in every encoding, and finds nothing in what is clean."""

from __future__ import annotations

import base64
import bz2
import functools
import gzip
import io
import json
import lzma
import zipfile
import zlib
from collections.abc import Callable
from urllib.parse import quote

import numpy as np
import pytest
import torch
from capture_views import http_messages
from leak_scanner import Scanner

RNG = np.random.default_rng(7)
PRIVATE = RNG.normal(size=(6, 5)).astype(np.float32)
TEXT = "Why is my knee swollen — could it be the père's old trouble?"
METRIC = 0.7345129
NOISE = RNG.integers(0, 256, 40_000, np.uint8).tobytes()


@functools.cache
def scanner() -> Scanner:
    found = Scanner()
    found.tensor("private adapter", PRIVATE)
    found.text("comparison", TEXT)
    found.number("accuracy", METRIC)
    return found


def among(noise: bytes, planted: bytes, at: int = 12_345) -> bytes:
    return noise[:at] + planted + noise[at:]


def names(raw: bytes) -> set[str]:
    return {finding.secret for finding in scanner().scan([raw])}


def npz(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def zipped(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/b.txt", content)
    return file.getvalue()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("size", [2, 4, 8])
def test_a_tensor_is_found_as_any_float_in_either_order(order: str, size: int) -> None:
    for offset in range(9):  # aligned or not
        raw = among(NOISE, PRIVATE.astype(f"{order}f{size}").tobytes(), 1000 + offset)
        assert names(raw) == {"private adapter"}


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2])
def test_a_tensor_is_found_in_types_that_numpy_lacks(kind: torch.dtype) -> None:
    wide = torch.int16 if kind is torch.bfloat16 else torch.uint8
    bits = torch.from_numpy(PRIVATE).to(kind).view(wide).numpy()
    assert names(among(NOISE, bits.tobytes())) == {"private adapter"}
    if kind is torch.bfloat16:
        assert names(among(NOISE, bits.astype(">i2").tobytes())) == {"private adapter"}
        assert names(among(NOISE, PRIVATE.astype("<f4").view("<u2")[:, 1::2].tobytes())) == {
            "private adapter"
        }


def test_any_window_and_either_order_of_axes_is_found() -> None:
    flat = PRIVATE.ravel()
    for first in range(0, len(flat) - 4):
        assert names(among(NOISE, flat[first : first + 4].tobytes())) == {"private adapter"}
    assert names(among(NOISE, np.ascontiguousarray(PRIVATE.T).tobytes())) == {"private adapter"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_text_or_a_part_of_it_is_found(encoding: str) -> None:
    assert names(among(NOISE, TEXT.encode(encoding))) == {"comparison"}
    assert names(among(NOISE, TEXT[20:32].encode(encoding), 4321)) == {"comparison"}


ENVELOPES: dict[str, Callable[[bytes], bytes]] = {
    "base64": base64.b64encode,
    "base64 for addresses": base64.urlsafe_b64encode,
    "base64 with line breaks": base64.encodebytes,
    "base64 within words": lambda raw: b"note=ab" + base64.b64encode(raw),
    "hexadecimal": lambda raw: raw.hex().encode(),
    "hexadecimal with colons": lambda raw: raw.hex(":").encode(),
    "zlib": zlib.compress,
    "zlib at its fastest": lambda raw: zlib.compress(raw, 1),
    "gzip": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zip": zipped,
    "percent escapes": lambda raw: quote(raw).encode(),
    "gzip in base64": lambda raw: base64.b64encode(gzip.compress(raw)),
    "base64 in gzip in base64": lambda raw: base64.b64encode(gzip.compress(base64.b64encode(raw))),
    "a gzip whose end is missing": lambda raw: gzip.compress(raw + NOISE)[:30_000],
}


@pytest.mark.parametrize("envelope", ENVELOPES)
def test_an_envelope_hides_nothing(envelope: str) -> None:
    wrap = ENVELOPES[envelope]
    assert names(among(NOISE, wrap(PRIVATE.tobytes()))) == {"private adapter"}
    assert names(among(NOISE, wrap(TEXT.encode()))) == {"comparison"}


def test_files_of_tensors_and_numbers_as_text_are_found() -> None:
    assert names(npz(v=PRIVATE)) == {"private adapter"}
    assert names(among(NOISE, json.dumps(PRIVATE.tolist()).encode())) == {"private adapter"}
    assert names(among(NOISE, b" ".join(b"%.5e" % v for v in PRIVATE.ravel()[3:9]))) == {"private adapter"}
    assert names(json.dumps({"prompt": TEXT}).encode()) == {"comparison"}  # with its escapes


@pytest.mark.parametrize(
    "raw", [b"accuracy: %.7f" % METRIC, json.dumps({"a": METRIC}).encode(), b"%.6g" % METRIC]
)
def test_a_metric_is_found_as_text_and_as_bytes(raw: bytes) -> None:
    assert names(among(NOISE, raw)) == {"accuracy"}
    for order in "<>":
        assert names(among(NOISE, np.array(METRIC, f"{order}f8").tobytes())) == {"accuracy"}


def test_a_body_in_chunks_is_put_together() -> None:
    raw, parts = PRIVATE.tobytes(), b""
    for first in range(0, len(raw), 7):
        piece = raw[first : first + 7]
        parts += b"%x\r\n%s\r\n" % (len(piece), piece)
    request = (
        b"POST /v1/fleet/push-object HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + parts + b"0\r\n\r\n"
    )
    assert names(request) == {"private adapter"}
    last = b"POST /enrol HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"
    found = http_messages(last + request + last)
    assert [(m.path, m.body) for m in found] == [
        ("/enrol", b"abc"),
        ("/v1/fleet/push-object", raw),
        ("/enrol", b"abc"),
    ]


def test_clean_captures_are_clean() -> None:
    other = RNG.normal(size=5000).astype(np.float32)
    head = b"POST /v1/fleet/push-object HTTP/1.1\r\nContent-Length: 20000\r\nflwr-signature: %s\r\n\r\n"
    clean = [
        NOISE,
        b"",
        bytes(100_000),
        other.tobytes(),
        other.astype(np.float64).tobytes() + npz(other=other),
        head % base64.b64encode(NOISE[:96]) + other.tobytes(),
        base64.b64encode(NOISE),
        gzip.compress(b"Why is the sky blue? " * 100),
        json.dumps(other.tolist()).encode(),
        b"accuracy: 0.734",
    ]
    assert scanner().scan(clean) == []


def test_zeros_and_repetitions_are_no_secret() -> None:
    found = Scanner()
    found.tensor("zeros", np.zeros(100))
    found.tensor("ones", np.array([1.0, 1.0, 0.0, 0.0] * 10))
    assert found.scan([bytes(5000), np.ones(500, np.float32).tobytes()]) == []


@pytest.mark.parametrize(("kind", "value"), [("text", "abc"), ("number", 0.5), ("number", 12.0)])
def test_what_cannot_be_told_from_chance_is_refused(kind: str, value: object) -> None:
    with pytest.raises(ValueError, match=r"character|short"):
        getattr(Scanner(), kind)("name", value)
