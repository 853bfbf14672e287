# ruff: noqa: E501  # a table reads best with a parser a line
"""Mutations of documents, and a table of everything that reads what another party wrote."""

from __future__ import annotations

import bz2
import copy
import io
import json
import lzma
import random
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Array, ArrayRecord
from google.protobuf.message import DecodeError
from toy_charter import save_charter
from toy_profile import invite, toy_offer

from commonground.bounds.charter import charter_from, load_charter, sign_charter
from commonground.bounds.charter_files import default_charter
from commonground.bounds.detectors import head_from
from commonground.bounds.probes import read_probes
from commonground.client import vault_pb2 as pb
from commonground.client.arrays import from_blob, to_blob
from commonground.client.brought import look
from commonground.client.executor import foreign_files
from commonground.client.invited import read_answer
from commonground.client.wire import from_tensors, to_tensors
from commonground.config import Config
from commonground.data.feedback import BadRows
from commonground.data.ratings_table import read_ratings
from commonground.data.reading import csv_rows, json_rows
from commonground.data.rows import to_pairs
from commonground.errors import CommonGroundError, InputError
from commonground.hub import check_folder
from commonground.manifest import Manifest, TensorSpec
from commonground.own_code import forget_code
from commonground.recipe import resolve
from commonground.server.front_door import reason_of
from commonground.server.state import read_settings
from commonground.settings import config_from, load_config, to_dict, to_yaml
from commonground.simulations.compare.grid import read_grid
from commonground.simulations.folder import NEEDED, RunFolder
from commonground.strategies.records import from_outside, npy_header
from commonground.study.carried import carried_models
from commonground.study.enrolment import enrolment_request, read_request
from commonground.study.invitation import KIND as INVITATION
from commonground.study.invitation import read_invitation
from commonground.study.offer import Offer
from commonground.study.public_parts import parts_digest, read_parts, write_parts
from commonground.study.release import KIND as RELEASE
from commonground.study.release import Release, check_release, tensors_digest
from commonground.study.signing import Paper, public_hex, sign

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
REFUSED = (CommonGroundError, DecodeError)  # protobuf's own is gRPC's to answer, before our code is reached

TEXTS = [
    "", "x" * 10_000, "\ud800", "\0", "${oc.env:HOME}", "subprocess:Popen", "os:system", "../../x", "/etc/passwd",
    "\u202e", "\x1b[2J", "???", "inf", "nan", "-1", "1e999", "%s%n{0.__class__}", "' OR 1=1 --", "a\nb",
    "2099-01-01T00:00:00+00:00", "0" * 64,
]  # fmt: skip
VALUES: list[Any] = [
    *TEXTS, None, True, False, 0, -1, 1, 2**31, 2**63, -(2**70), 10**300, 1e308, float("inf"), float("-inf"),
    float("nan"), [], {}, [[]], [None], {"": None}, {"a": {"b": [1, "x"]}}, [0] * 2000, {"__class__": "x"},
]  # fmt: skip
TOKENS = [t.encode("utf-8", "surrogatepass") for t in TEXTS] + [
    b"[" * 3000, b'{"a":' * 2000, b"\xff\xfe", b"\x00" * 64, b"PK\x03\x04", b"\x93NUMPY", b"&a [*a]", b"!!python/object/apply:os.system ['true']",
    b"9" * 5000, b"\xef\xbb\xbf", b"(" * 500, b"-" * 2000,
]  # fmt: skip


def mutated(rng: random.Random, value: Any) -> Any:
    """A value with one to three of its parts changed; `value` itself is changed."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        value = _changed(rng, value)
    return value


def _changed(rng: random.Random, value: Any) -> Any:
    if not isinstance(value, dict | list) or not value or rng.random() < 0.02:
        return copy.deepcopy(rng.choice(VALUES))
    here, depth = value, rng.randrange(1, 6)
    while True:
        key = rng.choice(list(here)) if isinstance(here, dict) else rng.randrange(len(here))
        inner, depth = here[key], depth - 1
        if depth <= 0 or not isinstance(inner, dict | list) or not inner:
            break
        here = inner
    what = rng.random()
    if what < 0.7:
        here[key] = copy.deepcopy(rng.choice(VALUES))
    elif what < 0.8:
        del here[key]
    elif what < 0.9 and isinstance(here, dict):
        here[rng.choice(TEXTS)] = here.pop(key)
    elif isinstance(here, list):
        here.insert(key, copy.deepcopy(rng.choice(VALUES)))
    else:
        here[rng.choice(TEXTS)] = copy.deepcopy(rng.choice(VALUES))
    return value


def as_json(rng: random.Random, seed: bytes) -> bytes:
    """A JSON document with parts changed, now and then with its bytes changed too."""
    text = json.dumps(mutated(rng, json.loads(seed)))
    data = text.encode()
    return as_bytes(rng, data) if rng.random() < 0.1 else data


def as_bytes(rng: random.Random, seed: bytes) -> bytes:
    """Bytes with some flipped, cut, doubled, or with tokens in between."""
    data = bytearray(seed)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(data) + 1)
        what = rng.random()
        if what < 0.45 and data:
            data[at % len(data)] = rng.randrange(256)
        elif what < 0.6:
            data[at:at] = rng.choice(TOKENS)
        elif what < 0.75:
            del data[at : at + rng.randrange(1, 40)]
        elif what < 0.85:
            data[at:at] = data[at : at + rng.randrange(1, 200)]
        else:
            data = data[:at]
    return bytes(data)


@dataclass(frozen=True)
class Parser:
    """Something that reads what another party wrote.

    Attributes:
        read: takes the bytes.
        seed: a valid input.
        share: of a hundred inputs, roughly in inverse proportion to what one costs.
        change: makes another input of a valid one.
    """

    read: Callable[[bytes], Any]
    seed: bytes
    share: float
    change: Callable[[random.Random, bytes], bytes] = as_json


MANIFEST = Manifest((TensorSpec("u", (2, 3)), TensorSpec("b", ())), clip=1.0)
ARRAYS = {"u": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones((), np.float32)}


def _values(data: bytes) -> Any:
    """JSON as the callers of a reader of values read it, with the refusal that they make."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError("no JSON") from error


def _signed(kind: str, read: Callable[[str], Any]) -> Callable[[bytes], Any]:
    """A reader of papers, fed with what a signer of its own signed: only so is the content reached."""

    def run(data: bytes) -> Any:
        values = _values(data)
        return read(sign(KEY, kind, values).to_text() if isinstance(values, dict) else data.decode())

    return run


def _offer(values: Any) -> Any:
    if not isinstance(values, dict):  # as the content of a paper is
        raise InputError("no object")
    found = Offer.from_dict(values)
    return found.settings, found.digest, found.is_open(), Manifest.from_dict(found.manifest)


def _manifest(values: Any) -> None:
    found = Manifest.from_dict(values)
    assert found.digest
    assert found.size >= 0
    assert len(found.sent) <= len(found.broadcast) + 1


def _invitation(text: str | bytes) -> Any:
    return read_invitation(text).terms.settings


def _parts(data: bytes) -> Any:
    return read_parts(data, parts_digest(data))


def _tensors(data: bytes) -> Any:
    return from_tensors([pb.Tensor.FromString(data)])


def _record(data: bytes) -> Any:
    values = _values(data)
    if not isinstance(values, dict):
        raise InputError("no object")
    try:
        array = Array(
            dtype=values.get("dtype"),
            shape=tuple(values.get("shape", ())),
            stype=values.get("stype"),
            data=bytes(values.get("data", ())),
        )
        record = ArrayRecord({str(values.get("name")): array})
    except Exception as error:  # Flower's own wire format refuses it before our code is reached
        raise InputError("no record") from error
    return from_outside(record, [TensorSpec("u", (2, 3))])


def _probes(data: bytes) -> Any:
    import hashlib

    return read_probes(data, hashlib.sha256(data).hexdigest(), ("harm",), "probes")


def _head(data: bytes) -> Any:
    return head_from(_values(data), lambda texts: np.zeros((len(texts), 2)), "hash")


def _release(text: str) -> Any:
    return check_release(text, ARRAYS, MANIFEST, signer=public_hex(KEY), offer="offer", last=None)


def parsers(folder: Path) -> dict[str, Parser]:
    """The table; files are written into `folder`."""

    def file(name: str, read: Callable[[Path], Any]) -> Callable[[bytes], Any]:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)

        def run(data: bytes) -> Any:
            path.write_bytes(data)
            return read(path)

        return run

    offer = json.dumps(toy_offer().to_dict()).encode()
    invited = json.dumps(Paper.from_text(invite(toy_offer(), "CA", key=KEY)).content).encode()
    save_charter(folder / "charter")
    charter = load_charter(folder / "charter" / "charter.yaml")
    release = Release("offer", 1, 1, tensors_digest(MANIFEST, ARRAYS))
    config = resolve(Config())
    request = enrolment_request("t" * 32, ec.generate_private_key(ec.SECP384R1()))
    carried = {"charter": sign_charter(KEY, charter).to_text(), "files": {"a.json": "{}"}}
    head = {"version": 1, "name": "h", "encoder": "hash", "answers": True, "bias": 0.0, "weights": "AAAAAA=="}
    settings = to_yaml(config).encode()
    model = folder / "model"
    model.mkdir(exist_ok=True)
    (model / "model.safetensors").touch()
    ratings = folder / "ratings"
    ratings.mkdir(exist_ok=True)
    (ratings / "items.jsonl").write_text('{"item": "a", "text": "A"}\n{"item": "b", "text": "B"}\n')
    bundle = io.BytesIO()
    with zipfile.ZipFile(bundle, "w") as archive:
        archive.writestr("pyproject.toml", "[project]\nname = 'x'\n")
    line = json.dumps({"status": "413", "inside": "", "path": "/x"}).encode()
    result: dict[str, Any] = {"schema": 1, **{key: {"statement": "x"} for key in NEEDED}}
    record = {
        "name": "u",
        "dtype": "float32",
        "shape": [2, 3],
        "stype": "numpy.ndarray",
        "data": list(npy_header("float32", (2, 3)) + b"\0" * 24),
    }
    return {
        "paper": Parser(Paper.from_text, sign(KEY, "x", {"a": [1]}).to_text().encode(), 12),
        "offer": Parser(lambda data: _offer(_values(data)), offer, 2.5),
        "invitation": Parser(_signed(INVITATION, _invitation), invited, 0.8),
        "invitation's bytes": Parser(_invitation, invite(toy_offer(), "CA").encode(), 1.5, as_bytes),
        "release": Parser(_signed(RELEASE, _release), json.dumps(release.__dict__).encode(), 4),
        "enrolment": Parser(lambda data: read_request(_values(data)), json.dumps(request).encode(), 10),
        "enrolment's answer": Parser(
            read_answer, b'{"slot": 3, "name": "Ada", "node_id": "42"}', 8
        ),
        "manifest": Parser(lambda data: _manifest(_values(data)), json.dumps(MANIFEST.to_dict()).encode(), 12),
        "configuration": Parser(lambda data: config_from(_mapping(data)), json.dumps(to_dict(config)).encode(), 1.5),
        "configuration file": Parser(file("c.yaml", load_config), b"people: 20\nstrategy: {name: fedavg}\n", 0.5, as_bytes),
        "configuration file, whole": Parser(file("w.yaml", load_config), settings, 0.05, as_bytes),
        "tournament": Parser(file("t.yaml", read_grid), b"strategies: [fedavg]\nseeds: [0]\npeople: [20, 30]\n", 0.1, as_bytes),
        "charter": Parser(lambda data: charter_from(_mapping(data)), json.dumps(default_charter().to_dict()).encode(), 1),
        "charter file": Parser(file("ch.yaml", load_charter), (folder / "charter" / "charter.yaml").read_bytes(), 0.05, as_bytes),
        "carried charter": Parser(lambda data: carried_models(data.decode("utf-8", "replace")), json.dumps(carried).encode(), 3),
        "public parts": Parser(_parts, write_parts({"a": np.ones((2, 3), np.float32), "s": np.ones(1)}), 5, as_bytes),
        "tensor": Parser(_tensors, to_tensors({"u": ARRAYS["u"]})[0].SerializeToString(), 14, as_bytes),
        "arrays": Parser(from_blob, to_blob(ARRAYS), 3, as_bytes),
        "record": Parser(_record, json.dumps(record).encode(), 6),
        "probes": Parser(_probes, b'{"prompt": "a b", "constraint": "harm"}\n{"prompt": "c", "near": "harm"}\n', 10, as_bytes),
        "head": Parser(_head, json.dumps(head).encode(), 12),
        "front door's line": Parser(reason_of, line, 16),
        "bundle": Parser(foreign_files, bundle.getvalue(), 4, as_bytes),
        "ratings": Parser(
            file("ratings/ratings.csv", lambda path: read_ratings(path.parent, {})),
            b"person,item,rating\np,a,1\np,b,5\n", 0.5, as_bytes,
        ),
        "rows of JSON": Parser(file("r.jsonl", lambda path: list(json_rows(path, BadRows()))), b'{"a": 1}\n{"b": [2]}\n', 2, as_bytes),
        "rows of CSV": Parser(file("r.csv", lambda path: list(csv_rows(path, BadRows()))), b'a,b\n1,"x"\n', 2, as_bytes),
        "packed rows": Parser(file("r.jsonl.gz", lambda path: list(json_rows(path, BadRows()))), _packed(b'{"a": 1}\n'), 1, as_bytes),
        "file of another form": Parser(file("rows", lambda path: list(json_rows(path, BadRows()))), b'{"data": [{"a": 1}], "b": 2}', 2, as_bytes),
        **{
            f"rows in {form}": Parser(file(f"rows-{form}", lambda path: list(json_rows(path, BadRows()))), data, 0.2, as_bytes)
            for form, data in packed_rows().items()
        },
        "shapes": Parser(file("shapes", _shapes), json.dumps(SHAPED).encode(), 0.15),
        "export": Parser(file("export.zip", look), _export(), 1, as_bytes),
        "study's settings": Parser(file("study.toml", read_settings), b'study = "x"\naddress = "h:1"\n', 2, as_bytes),
        "model's settings": Parser(file("model/config.json", lambda path: check_folder(path.parent, "m")), b'{"a": {"b": 1}}', 1.5),
        "result": Parser(file("run/result.json", lambda path: RunFolder(path.parent).result()), json.dumps(result).encode(), 3),
    }  # fmt: skip


SHAPED: list[list[dict[str, Any]]] = [  # a row or two of many shapes
    [{"prompt": "Q", "chosen": [{"role": "user", "content": "Q"}], "rejected": {"role": "user", "content": "b"}}],
    [{"conversation_a": [{"role": "user", "content": [{"type": "text", "text": "a"}]}], "winner": "model_a",
      "conversation_b": [{"role": "user", "content": "b"}], "judge": {"id": 1}}],
    [{"prompt": '["Q"]', "response_a": '["a"]', "response_b": '["b"]', "winner_model_a": 1, "winner_model_b": 0,
      "winner_tie": 0}],
    [{"data": {"prompt": "Q", "answer1": "a", "answer2": "b"},
      "annotations": [{"completed_by": {"id": 1}, "result": [{"value": {"selected": "left"}}]}]}],
    [{"fields": {"prompt": "Q", "response-1": "a", "response-2": "b"},
      "responses": [{"user_id": "u", "values": {"q": {"value": [{"value": "response-1", "rank": 1}]}}}]}],
    [{"prompt": {"text": "Q", "replies": [{"text": "a", "role": "assistant", "rank": 0, "replies": []},
                                          {"text": "b", "role": "assistant", "rank": 1}]}}],
    [{"message_id": "1", "parent_id": None, "text": "Q", "role": "prompter"},
     {"message_id": "2", "parent_id": "1", "text": "a", "role": "assistant", "rank": 1}],
    [{"user_id": "u", "conversation_history": [{"turn": 0, "role": "user", "content": "Q"},
      {"turn": 0, "role": "model", "content": "a", "if_chosen": True, "score": 3}]}],
    [{"prompt": {"messages": [{"role": "user", "content": "Q"}]},
      "responses": [{"response_index": "A", "messages": []}],
      "metadata": {"assessments": [{"annotator_id": "u", "ranking_blocks": {"world": [{"ranking": "A>B"}]}}]}}],
    [{"info": {"post": "Q"}, "summaries": [{"text": "a"}, {"text": "b"}], "choice": 0}],
    [{"first_turn_prompt": "Q", "first_turn_response_a": "a", "first_turn_response_b": "b",
      "first_turn_preferred_response": "response_a"}],
    [{"instruction": "Q", "completions": [{"response": "a", "overall_score": 1}, {"response": "b", "overall_score": 2}]}],
    [{"prompt": "Q", "responses": ["a", "b"], "ranks": [1, 2]}],
    [{"prompt": "Q", "completion": "a", "label": True}, {"prompt": "Q", "completion": "b", "label": False}],
    [{"user_id": "u", "conversation_id": "c", "turn": 0, "user_prompt": "Q", "model_response": "a", "if_chosen": True},
     {"user_id": "u", "conversation_id": "c", "turn": 0, "user_prompt": "Q", "model_response": "b", "if_chosen": False}],
    [{"input": {"messages": [{"role": "user", "content": "Q"}]}, "preferred_output": [{"role": "assistant", "content": "a"}],
      "non_preferred_output": [{"role": "assistant", "content": "b"}]}],
]  # fmt: skip


def _shapes(path: Path) -> None:
    """Every shape of a document of shapes, each by itself."""
    shapes = _values(path.read_bytes())
    for rows in shapes if isinstance(shapes, list) else []:
        placed = [
            (f"r:{n}", row)
            for n, row in enumerate(rows if isinstance(rows, list) else [])
            if isinstance(row, dict)
        ]
        with suppress(CommonGroundError):
            to_pairs(placed, {}, BadRows(), "r")


def packed_rows() -> dict[str, bytes]:
    """A file of two rows in each packing and each binary form."""
    rows = [{"a": 1, "b": ["x"]}, {"a": 2, "b": []}]
    plain = "".join(json.dumps(row) + "\n" for row in rows).encode()
    packed, parquet, arrow = io.BytesIO(), io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("rows", plain)
    found = pyarrow.Table.from_pylist(rows)
    pyarrow.parquet.write_table(found, parquet)
    with pyarrow.ipc.new_file(arrow, found.schema) as writer:
        writer.write_table(found)
    return {
        "bz2": bz2.compress(plain), "xz": lzma.compress(plain), "zip": packed.getvalue(),
        "zstd": pyarrow.compress(plain, codec="zstd", asbytes=True), "utf-16": plain.decode().encode("utf-16"),
        "parquet": parquet.getvalue(), "arrow": arrow.getvalue(),
    }  # fmt: skip


def _export() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(
            "comparisons.jsonl", '{"prompt": "Q", "chosen": "a", "rejected": "b", "tag": "taste"}\n'
        )
        archive.writestr(
            "undecided.jsonl", '{"prompt": "Q", "first": "a", "second": "b", "verdict": "tie"}\n'
        )
    return file.getvalue()


def _mapping(data: bytes) -> Any:
    values = _values(data)
    if not isinstance(values, dict):
        raise InputError("no object")
    return values


def _packed(data: bytes) -> bytes:
    import gzip

    return gzip.compress(data, mtime=0)


def _has_lines(error: Exception) -> bool:
    """Whether one fault takes more than a line."""
    faults = getattr(error, "faults", None) or [getattr(error, "message", "")]
    return any("\n" in fault for fault in faults)


def fuzz(name: str, parser: Parser, count: int) -> list[str]:
    """Feed `count` inputs; returns what went wrong: exceptions that are none of ours, with their inputs."""
    rng = random.Random(f"fuzz {name}")
    wrong: list[str] = []
    parser.read(parser.seed)
    for number in range(count):
        data = parser.change(rng, parser.seed)
        try:
            parser.read(data)
        except REFUSED as error:
            if (
                isinstance(error, CommonGroundError)
                and "\n" in error.message
                and not hasattr(error, "faults")
            ):
                wrong.append(f"{name} {number}: more than one line: {error.message[:200]!r}")
        except Exception as error:
            wrong.append(f"{name} {number}: {type(error).__name__}: {error!s:.200} <- {data[:300]!r}")
        if len(wrong) > 3:
            break
    forget_code()
    return wrong
