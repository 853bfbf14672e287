"""Papers: what one party signs and another checks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from commonground.errors import InputError, StorageError, TrustError
from commonground.study.signing import Paper, canonical, fingerprint, load_key, new_key, public_hex, sign

KEY, OTHER = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=6), VALUES, max_size=4))
def test_what_was_signed_is_what_is_opened(content: dict[str, Any]) -> None:
    paper = Paper.from_text(sign(KEY, "offer", content).to_text())
    assert paper.opened("offer", public_hex(KEY)) == content


def test_canonical_text_does_not_depend_on_order() -> None:
    assert (
        canonical({"b": 1, "a": [2, "é"]})
        == canonical({"a": [2, "é"], "b": 1})
        == '{"a":[2,"é"],"b":1}'.encode()
    )


def test_numbers_that_json_lacks_cannot_be_signed() -> None:
    with pytest.raises(InputError, match="infinity as 'inf'"):
        sign(KEY, "offer", {"epsilon": float("inf")})


def test_a_paper_of_another_kind_is_refused() -> None:
    with pytest.raises(TrustError, match="kind 'offer'; 'release' is needed"):
        sign(KEY, "offer", {}).opened("release", public_hex(KEY))


def test_a_signature_holds_for_its_kind_only() -> None:
    paper = sign(KEY, "offer", {"a": 1})
    moved = Paper("release", paper.content, paper.signer, paper.signature)
    with pytest.raises(TrustError, match="changed after it was signed"):
        moved.opened("release", public_hex(KEY))


def test_another_signer_is_named_by_both_fingerprints() -> None:
    with pytest.raises(TrustError) as caught:
        sign(OTHER, "offer", {}).opened("offer", public_hex(KEY))
    assert fingerprint(public_hex(KEY)) in caught.value.message
    assert fingerprint(public_hex(OTHER)) in caught.value.message


def test_every_changed_character_of_the_content_is_found() -> None:
    text = sign(KEY, "offer", {"epsilon": "8.0", "study": "one"}).to_text()
    values = json.loads(text)
    for name, wrong in (("epsilon", "9.0"), ("study", "two")):
        changed = {**values, "content": {**values["content"], name: wrong}}
        with pytest.raises(TrustError, match="does not hold"):
            Paper.from_text(json.dumps(changed)).opened("offer", public_hex(KEY))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "null",
        '{"kind": 1, "content": {}, "signer": "a", "signature": "b"}',
        "[" * 50_000,
        "\0",
    ],
)
def test_damage_is_one_line(text: str) -> None:
    with pytest.raises(TrustError, match="the invitation is damaged"):
        Paper.from_text(text, "the invitation")


@pytest.mark.parametrize("signature", ["", "zz", "00" * 63, "00" * 64])
def test_a_signature_of_another_form_does_not_hold(signature: str) -> None:
    with pytest.raises(TrustError, match="does not hold"):
        Paper("offer", {}, public_hex(KEY), signature).opened("offer", public_hex(KEY))


def test_a_key_is_kept_for_its_owner_alone_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "signing.key"
    key = new_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert public_hex(load_key(path)) == public_hex(key)
    with pytest.raises(StorageError, match="File exists"):
        new_key(path)


@pytest.mark.parametrize("content", [None, b"", b"no key"])
def test_a_key_that_cannot_be_read_is_one_line(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "signing.key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match="cannot be read"):
        load_key(path)
