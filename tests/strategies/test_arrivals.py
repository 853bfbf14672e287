"""What people's replies can be: every kind of wrong one is a refusal of that one reply, and nothing else.

The class: whatever reads a stranger's bytes can raise anything at all (numpy's header parser alone raises
`TokenError`, `MemoryError` and `RecursionError`), and a caller that lists what it expects is one exception
away from the end of the study. Both are tested: no header is parsed, and whatever is raised is counted.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import toy_grid as toy
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from commonground.errors import EgressError
from commonground.manifest import Manifest, TensorSpec
from commonground.privacy.tail import honest_reach
from commonground.strategies import arrivals as module
from commonground.strategies import together
from commonground.strategies.arrivals import NOT_ALLOWED, TOO_LONG, arrivals, people_within_reach
from commonground.strategies.records import from_outside, npy_header, to_record, train_content

STD = 3.0
CENTRAL, LOCAL = toy.manifest(), toy.manifest(noise_on_device=True)
Change = Callable[[Array], Array]


def header(text: str) -> bytes:
    """An npy file whose header is this text."""
    data = text.encode("latin1").ljust(118) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(data).to_bytes(2, "little") + data


def npy(value: np.ndarray) -> bytes:
    found = io.BytesIO()
    np.save(found, value)
    return found.getvalue()


GOOD = npy(np.zeros(3, np.float32))
DATA: dict[str, bytes] = {
    "open bracket": header("{'descr': '<f4', 'fortran_order': False, 'shape': (3,") + bytes(12),
    "giant shape": header("{'descr': '<f4', 'fortran_order': False, 'shape': (10000000000000,), }")
    + bytes(12),
    "recursion": header("{'descr': '<f4', 'fortran_order': False, 'shape': " + "-" * 3000 + "1}") + bytes(12),
    "objects": header("{'descr': '|O', 'fortran_order': False, 'shape': (3,), }") + b"\x80\x04." * 4,
    "other order": header("{'descr': '<f4', 'fortran_order': True, 'shape': (3,), }") + bytes(12),
    "other version": b"\x93NUMPY\x02\x00" + GOOD[8:10] + b"\0\0" + GOOD[10:],
    "one byte less": GOOD[:-1],
    "one byte more": GOOD + b"\0",
    "nothing": b"",
    "a zip": b"PK\x03\x04" + GOOD,
    "a pickle": b"\x80\x04\x95" + GOOD,
}


@pytest.fixture(autouse=True)
def run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower makes messages inside of a run alone."""
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


def answer(content: RecordDict | Error, person: int = 1) -> Message:
    asked = Message(RecordDict(), dst_node_id=100 + person, message_type="train")
    reply = Message(content, reply_to=asked)
    reply.metadata.__dict__["_src_node_id"] = 100 + person
    return reply


def with_data(data: Any) -> RecordDict:
    content = train_content(toy.constant(0.1))
    content["arrays"]["a"] = Array("float32", (3,), "numpy.ndarray", data)
    return content


def with_array(array: Array) -> RecordDict:
    content = train_content(toy.constant(0.1))
    content["arrays"]["a"] = array
    return content


def changed(**arrays: Any) -> RecordDict:
    return train_content({**toy.constant(0.1), **arrays})


def extra(name: str, record: Any) -> RecordDict:
    content = train_content(toy.constant(0.1))
    content[name] = record
    return content


def spoilt(value: float) -> np.ndarray:
    return np.array([0.0, value, 0.0], np.float32)


CONTENTS: dict[str, RecordDict | Error] = {
    **{f"data: {name}": with_data(data) for name, data in DATA.items()},
    "label of another dtype": with_array(Array("float64", (3,), "numpy.ndarray", GOOD)),
    "label of another shape": with_array(Array("float32", (10**13,), "numpy.ndarray", GOOD)),
    "label of another kind": with_array(Array("float32", (3,), "pickle", GOOD)),
    "NaN": changed(a=spoilt(float("nan"))),
    "infinite": changed(a=spoilt(float("inf"))),
    "3e38": changed(a=spoilt(3e38)),
    "shape": changed(a=np.zeros((9, 9), np.float32)),
    "dtype": changed(a=np.zeros(3, np.float64)),
    "another name": changed(x=np.zeros(3, np.float32)),
    "no arrays": RecordDict({"metrics": MetricRecord({"num-examples": 1})}),
    "arrays of another kind": extra("arrays", MetricRecord({"a": 1})),
    "metrics of another kind": extra("metrics", ConfigRecord({"num-examples": 1})),
    "another weight": extra("metrics", MetricRecord({"num-examples": 10**9})),
    "a weight that is equal and no whole number": extra("metrics", MetricRecord({"num-examples": 1.0})),
    "another metric": extra("metrics", MetricRecord({"num-examples": 1, "loss": 0.1})),
    "one record more": extra("more", ConfigRecord({"text": "x" * 1000})),
    "empty": RecordDict(),
    "an error of a page": Error(1001, "leak " * 1000),
}


@pytest.mark.parametrize("manifest", [CENTRAL, LOCAL], ids=["central", "local"])
@pytest.mark.parametrize("kind", CONTENTS)
def test_a_wrong_reply_is_refused_by_place_and_the_others_count(manifest: Manifest, kind: str) -> None:
    replies = [answer(train_content(toy.random(p)), p) for p in (0, 2)] + [answer(CONTENTS[kind])]
    drawn = {100 + person: person for person in range(4)}
    noise = STD if manifest.noise_on_device else 0.0
    found = arrivals(replies, drawn, manifest, None, noise)
    assert sorted(found.updates) == [0, 2]
    assert found.refused in ({1: NOT_ALLOWED}, {1: TOO_LONG})
    assert (found.refusals, found.errors) == (1, 0)


@pytest.mark.parametrize("error", [MemoryError(), RecursionError(), OverflowError("x"), KeyError("y")])
def test_whatever_is_raised_is_one_refusal(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr(module, "read_update", broken)
    found = arrivals([answer(changed())], {101: 1}, CENTRAL, None, 0.0)
    assert (found.updates, found.refused) == ({}, {1: NOT_ALLOWED})


def test_local_noise_is_bounded_by_the_tail_of_an_honest_message() -> None:
    """The class: a path without noise on the server is also a path without a norm. All of `local` was one."""
    most = honest_reach(LOCAL, STD).joint
    drawn = {100 + person: person for person in range(4)}
    replies = [
        answer(train_content(toy.random(p, size=f * most)), p) for p, f in enumerate((0.7, 1.001, 1e30))
    ]
    found = arrivals(replies, drawn, LOCAL, None, STD)
    assert sorted(found.updates) == [0]
    assert found.refused == {1: TOO_LONG, 2: TOO_LONG}


def test_a_second_reply_and_a_stranger_are_refused_and_the_first_counts() -> None:
    replies = [answer(changed(), 1), answer(train_content(toy.random(3)), 1), answer(changed(), 7)]
    found = arrivals(replies, {101: 1}, CENTRAL, None, 0.0)
    np.testing.assert_array_equal(found.updates[1]["a"], toy.constant(0.1)["a"])
    assert (found.refusals, found.refused) == (2, {1: NOT_ALLOWED})


def test_a_cohort_is_held_to_the_same_bound() -> None:
    """`together`: one by one for rules that see people, and as a sum for the others."""
    most = honest_reach(LOCAL, STD).joint
    updates = [toy.random(person, size=f * most) for person, f in enumerate((0.5, 1.1, 0.6))]
    stacked = {name: np.stack([one[name] for one in updates]) for name in updates[0]}
    found, refused = people_within_reach(together.CohortReply([3, 5, 9], 0, stacked), LOCAL, STD)
    assert (found.answered, found.refused, refused) == ([3, 9], 1, {5: TOO_LONG})
    assert found.arrays["a"].shape == (2, 3)
    wrapper = toy.wrap(manifest=LOCAL, device_noise=STD)
    wrapper.cohort = [0, 1, 2, 3]
    asked = Message(RecordDict(), dst_node_id=1, message_type=together.TRAIN)
    for size, fine in ((3.9, True), (1e4, False)):
        sums = {name: value.astype(np.float64) for name, value in toy.random(1, size=size).items()}
        reply = together.answer(asked, together.CohortReply([0, 1, 2, 3], 0, sums))
        if fine:
            wrapper._from_cohort([reply])
        else:
            with pytest.raises(EgressError, match="sent a sum of norm"):
                wrapper._from_cohort([reply])


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "int32", "uint8", "bool"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (1, 2, 3)])
def test_what_was_sent_comes_out_bit_for_bit(dtype: str, shape: tuple[int, ...]) -> None:
    value = (np.arange(math.prod(shape)).reshape(shape) % 2).astype(dtype)
    found = from_outside(to_record({"x": value}), [TensorSpec("x", shape, dtype)])["x"]
    assert (found.dtype, found.shape, found.tobytes()) == (value.dtype, value.shape, value.tobytes())
    assert found.flags.writeable
    assert npy(value).startswith(npy_header(dtype, shape))


def test_no_header_from_outside_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    record = to_record(toy.constant(0.1))
    for name in ("load", "lib.format.read_array"):
        monkeypatch.setattr(f"numpy.{name}", lambda *_, **__: pytest.fail("a header is parsed"))
    assert set(from_outside(record, toy.SPECS)) == {"a", "b", "c"}


def test_ten_thousand_broken_tensors_are_refusals() -> None:
    """Every byte of header and label is tried, and random ones; what is not the very bytes is refused."""
    rng, spec = np.random.default_rng(1), [TensorSpec("x", (3,))]
    right = npy(np.ones(3, np.float32))
    refused = 0
    for number in range(10_000):
        data = bytearray(right)
        for place in rng.integers(0, len(npy_header("float32", (3,))), 1 + number % 3):
            data[place] ^= int(rng.integers(1, 256))
        if bytes(data) == right:
            refused += 1
            continue
        try:
            from_outside(ArrayRecord({"x": Array("float32", (3,), "numpy.ndarray", bytes(data))}), spec)
        except EgressError:
            refused += 1
    assert refused == 10_000
