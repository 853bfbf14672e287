"""The file of public parts: the same bytes for the same numbers, and nothing else than was signed is read."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from commonground.errors import InputError, TrustError
from commonground.study import public_parts
from commonground.study.public_parts import parts_digest, read_parts, write_parts

ARRAYS = {
    "styles.warm/private.q.A": np.arange(6, dtype=np.float32).reshape(2, 3),
    "basis.taste.scale": np.array(1 / 3),
    "empty": np.zeros((0, 4), np.float32),
}


def test_numbers_come_back_bit_for_bit_and_are_always_the_same_bytes() -> None:
    data = write_parts(ARRAYS)
    assert data == write_parts(dict(reversed(ARRAYS.items())))
    found = read_parts(data, parts_digest(data))
    assert found.keys() == ARRAYS.keys()
    for name, value in ARRAYS.items():
        assert (found[name].shape, found[name].dtype) == (value.shape, value.dtype)
        assert found[name].tobytes() == value.tobytes()
    with np.load(io.BytesIO(data), allow_pickle=False) as plain:  # anybody can look
        assert set(plain.files) == ARRAYS.keys()
    moved = {**ARRAYS, "basis.taste.scale": np.nextafter(ARRAYS["basis.taste.scale"], 1)}
    assert parts_digest(write_parts(moved)) != parts_digest(data)
    turned = write_parts({"a": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))})
    assert turned == write_parts({"a": np.arange(6, dtype=np.float32).reshape(2, 3)})


def test_what_is_no_finite_float_or_too_much_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    for odd in (np.array([np.nan], np.float32), np.arange(3), np.array([object()]), np.ones(2, np.float16)):
        with pytest.raises(InputError, match=r"'odd' of dtype .* finite floats"):
            write_parts({"odd": odd})
    monkeypatch.setattr(public_parts, "LARGEST", 100)
    with pytest.raises(InputError, match="accepted: at most"):
        write_parts(ARRAYS)


def archive(*members: tuple[str, bytes], kind: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", kind) as found:
        for name, content in members:
            found.writestr(zipfile.ZipInfo(name), content, kind)
    return file.getvalue()


def array(value: np.ndarray, version: tuple[int, int] = (1, 0)) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, value, version)
    return file.getvalue()


def claims(shape: str) -> bytes:
    """An array whose head claims a shape that its bytes do not have."""
    head = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head.encode() + bytes(16)


ONE = array(np.ones(2, np.float32))
ODD = {
    "no zip": b"nonsense",
    "empty": b"",
    "cut": archive(("a.npy", ONE))[:-30],
    "no array": archive(("a.txt", b"x")),
    "a damaged array": archive(("a.npy", b"x" * 100)),
    "compressed": archive(("a.npy", array(np.zeros(1 << 20, np.float32))), kind=zipfile.ZIP_DEFLATED),
    "integers": archive(("a.npy", array(np.arange(3)))),
    "big-endian": archive(("a.npy", array(np.ones(3, ">f4")))),
    "another version": archive(("a.npy", array(np.ones(3, np.float32), (2, 0)))),
    "not finite": archive(("a.npy", array(np.array([np.inf], np.float32)))),
    "by columns": archive(("a.npy", array(np.asfortranarray(np.ones((2, 3), np.float32))))),
    "a huge claim": archive(("a.npy", claims("(4000000000, 4000000000)"))),
    "a negative claim": archive(("a.npy", claims("(-2, -2)"))),
}


@pytest.mark.parametrize("name", ODD)
def test_what_has_another_form_is_one_line_even_where_it_was_signed(name: str) -> None:
    with pytest.raises(TrustError, match="public parts cannot be read: ") as caught:
        read_parts(ODD[name], parts_digest(ODD[name]))
    assert "\n" not in caught.value.message
    assert caught.value.hint


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice_is_refused() -> None:
    data = archive(("a.npy", ONE), ("a.npy", ONE))
    with pytest.raises(TrustError, match="a name twice"):
        read_parts(data, parts_digest(data))


def test_pickles_are_not_opened(tmp_path: Path) -> None:
    class Runs:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
            return Path.touch, (tmp_path / "ran",)  # type: ignore[return-value]

    file = io.BytesIO()
    np.lib.format.write_array(file, np.array([Runs()]), (1, 0), allow_pickle=True)
    data = archive(("a.npy", file.getvalue()))
    with pytest.raises(TrustError, match="cannot be read"):
        read_parts(data, parts_digest(data))
    assert list(tmp_path.iterdir()) == []


def test_another_file_than_was_signed_is_not_even_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_parts(ARRAYS)
    monkeypatch.setattr(zipfile, "ZipFile", lambda *_: pytest.fail("opened"))
    with pytest.raises(
        TrustError, match=f"digest {parts_digest(data)[:12]}; the signed offer says 000000000000"
    ):
        read_parts(data, "0" * 64)
    with pytest.raises(TrustError, match="parts are missing") as caught:
        read_parts(None, parts_digest(data))
    assert "join again" in str(caught.value.hint)
    monkeypatch.setattr(public_parts, "LARGEST", 10)
    with pytest.raises(TrustError, match="accepted: at most 10"):
        read_parts(data, parts_digest(data))
