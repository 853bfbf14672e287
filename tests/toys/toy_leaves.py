# ruff: noqa: E501  # a table reads best with a document a line
"""Every leaf and every key of every document from outside, set in turn to what a stranger might write there.

    python toy_leaves.py FOLDER [EVERY]

A program, because its trap (`toy_trap`) cannot be taken off again; it prints one JSON object. A document is a
tree of plain values with one writer; its leaves and keys are walked, so that a field which a document gets
tomorrow is tried as well. Signed papers are signed again after each change: the operator is the stranger. With
EVERY each place takes each value; otherwise expensive readers get a few of them a place, in turn.
"""

from __future__ import annotations

import contextlib
import copy
import csv
import functools
import hashlib
import importlib
import io
import json
import os
import socket
import struct
import subprocess
import sys
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from toy_trap import Trap

TAG = (
    "!!python/object/apply:os.system ['true']"  # in YAML it stands there as a tag, in anything else as a text
)
VALUES = (
    "subprocess:Popen", "os:system", "leaf_stranger:Thing", "${oc.env:HOME}", "../../x", "/nowhere/leaf/x", "CANARY",
    "x" * 10_000, "\ud800", "a\0b", TAG, "https://leaf.invalid/x", "file:///etc/passwd", "nobody/no-such-model",
    "\x1b[2J\nb",
)  # fmt: skip
MODULES = ("leaf_stranger", "subprocess", "os")
LONGEST = 2_000  # characters of one line of an error
Place = tuple[Any, ...]  # keys and indices from the top; a key that is renamed ends in RENAMED
RENAMED = object()


@dataclass(frozen=True)
class Document:
    """A document from outside.

    Attributes:
        values: an honest one, plain.
        read: takes changed values, writes the document, and reads it as the product does.
        most: values a place, in turn; 0 is all of them.
        alone: whether a changed leaf is given without its siblings, where defaults stand in for these.
    """

    values: Any
    read: Callable[[Any], Any]
    most: int = 0
    alone: bool = False


def places(value: Any, at: Place = ()) -> Iterator[Place]:
    """Every leaf, and every key, of nested values."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*at, key, RENAMED)
            yield from places(inner, (*at, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from places(inner, (*at, index))
    if at and not (isinstance(value, dict | list) and value):
        yield at


def changed(value: Any, place: Place, new: str, *, alone: bool = False) -> Any:
    """A copy with one place changed; `alone` leaves out what stands beside it in mappings."""
    key, *rest = place
    if rest == [RENAMED]:
        inner = {} if alone else {name: one for name, one in value.items() if name != key}
        return {**inner, new: copy.deepcopy(value[key])}
    deeper = changed(value[key], tuple(rest), new, alone=alone) if rest else new
    if isinstance(value, list):
        return [*value[:key], deeper, *value[key + 1 :]]
    return {key: deeper} if alone else {**value, key: deeper}


def named(place: Place) -> str:
    """A place in words."""
    return ".".join("(key)" if part is RENAMED else str(part) for part in place)


def as_yaml(values: Any) -> bytes:
    """JSON is YAML; the tag stands in it as one."""
    return json.dumps(values).replace(json.dumps(TAG), TAG).encode()


def as_toml(values: dict[str, Any]) -> bytes:
    """The form of `study.toml`; what is no bare key is quoted."""
    return "".join(f"{json.dumps(key)} = {json.dumps(value)}\n" for key, value in values.items()).encode()


def as_lines(rows: Sequence[Any]) -> bytes:
    """JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def as_csv(rows: Sequence[dict[str, str]]) -> bytes:
    """A table; its heads are the keys of each column's first row that differs."""
    heads = list(dict.fromkeys(key for row in rows for key in row))
    file = io.StringIO(newline="")
    writer = csv.writer(file, quoting=csv.QUOTE_ALL)
    writer.writerow(heads)
    writer.writerows([[row.get(key, "") for key in heads] for row in rows])
    return file.getvalue().encode("utf-8", "surrogatepass")


def as_parts(values: Sequence[dict[str, str]]) -> bytes:
    """Public parts, whose names and headers are texts of a stranger's."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for one in values:
            items = ", ".join(f"{key!r}: {text}" for key, text in one.items() if key not in ("name", "note"))
            head = ("{" + items + "}\n").encode("latin-1", "replace")
            info = zipfile.ZipInfo("x")
            info.filename = info.orig_filename = one.get("name", "").encode("utf-8", "replace").decode()
            info.comment = one.get("note", "").encode("utf-8", "replace")[:60_000]
            archive.writestr(info, b"\x93NUMPY\1\0" + struct.pack("<H", len(head)) + head + b"\0" * 8)
    return file.getvalue()


def unread(texts: Sequence[str]) -> Any:
    """The encoder where nothing is to be embedded."""
    raise AssertionError(f"{len(texts)} texts, and nothing to read them with")


def documents(folder: Path) -> dict[str, Document]:
    """The table; everything is written below `folder`."""
    from toy_charter import save_charter
    from toy_fuzz import ARRAYS, KEY, MANIFEST
    from toy_models import tiny_llama, tiny_tokenizer
    from toy_profile import invite
    from toy_vault import offer_of, study_config
    from toy_world import HashEncoder

    from commonground.bounds.charter import charter_from, load_charter
    from commonground.bounds.charter_files import charter_detector, check_probes
    from commonground.bounds.detectors import head_from
    from commonground.client.contact import open_client
    from commonground.client.invited import check_software, derive, read_answer, read_file, take_models
    from commonground.client.profile import read_profile
    from commonground.config import Config
    from commonground.data.check import Given, check_path
    from commonground.data.hub import load_comparisons
    from commonground.data.ratings import load_ratings
    from commonground.data.request import Request, SourceSpec
    from commonground.embeddings import Encoder
    from commonground.errors import CommonGroundError
    from commonground.hub import check_folder
    from commonground.language_model import load_base
    from commonground.recipe import resolve
    from commonground.server.job import Job
    from commonground.server.state import read_settings as study_settings
    from commonground.settings import load_config, to_dict
    from commonground.simulations.compare.folder import TournamentFolder
    from commonground.simulations.compare.grid import read_grid
    from commonground.simulations.folder import NEEDED, RunFolder, read_events
    from commonground.study.carried import read_carried
    from commonground.study.enrolment import enrolment_request, read_request
    from commonground.study.invitation import KIND as INVITATION
    from commonground.study.offer import KIND as OFFER
    from commonground.study.public_parts import parts_digest, read_parts
    from commonground.study.release import KIND as RELEASE
    from commonground.study.release import Release, check_release, tensors_digest
    from commonground.study.signing import Paper, public_hex, sign
    from commonground.training import features

    def file(name: str, data: bytes) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    def paper(kind: str, content: Any) -> str:
        """Signed anew; what cannot be signed gets a signature that does not hold."""
        try:
            return sign(KEY, kind, content).to_text()
        except CommonGroundError:
            return json.dumps(
                {"kind": kind, "content": content, "signer": public_hex(KEY), "signature": "00" * 64}
            )

    def join(content: Any, *, whole: bool = False) -> None:
        """What `device join` does with an invitation before it asks the network anything."""
        path = file("invitation", paper(INVITATION, content).encode("utf-8", "surrogatepass"))
        _, found = read_file(path)
        check_software(found.terms)
        assert found.terms.contract.digest
        take_models(found, None)
        open_client(found.ca).close()
        if whole:
            derive(found, None, lambda _: None)

    vars(features)["Encoder"] = HashEncoder  # as fast as a test needs
    offer = offer_of(study_config())
    invited = Paper.from_text(invite(offer, _certificate(), key=KEY)).content

    def offered(content: Any, *, whole: bool = False) -> None:
        join({**invited, "study": content.get("study"), "offer": paper(OFFER, content)}, whole=whole)

    encoder = Encoder().digest
    save_charter(folder / "charter")
    written = load_charter(folder / "charter" / "charter.yaml")
    charter = written.to_dict()
    for one in charter["detectors"].values():
        values = json.loads((folder / "charter" / one["place"]).read_text())
        head = head_from({**values, "encoder": encoder}, unread, encoder)
        file(f"charter/{one['place']}", json.dumps(head.to_dict()).encode())
        one["digest"] = head.digest
    beside = {path.name: path.read_text() for path in (folder / "charter").glob("*.json*")}

    def chartered(values: Any) -> None:
        path = file("charter/charter.yaml", as_yaml(values))
        found = load_charter(path)
        check_probes(found, path.parent)
        for name in found.detectors:
            charter_detector(found, name, path.parent, unread, encoder)

    def travelled(values: Any) -> None:
        inner = {
            key: paper("charter", one) if isinstance(one, dict) and key != "files" else one
            for key, one in values.items()
        }
        found = values.get("charter")
        read_carried(
            json.dumps(inner), charter_from(found).digest if isinstance(found, dict) else "0" * 64, encoder
        )

    def with_file(kind: str, name: str, key: str, write: Callable[[Any], bytes]) -> Callable[[Any], None]:
        """A charter one of whose files is changed, and which names it by its new digest."""

        def read(values: Any) -> None:
            data = write(values)
            fresh = copy.deepcopy(charter)
            found = hashlib.sha256(data).hexdigest()
            if kind == "detectors":
                found = head_from(values, unread, encoder).digest
            next(one for one in fresh[kind].values() if name in one.values())[key] = found
            files = {**beside, name: data.decode("utf-8", "surrogatepass")}
            travelled({"charter": fresh, "files": files})

        return read

    config = to_dict(resolve(Config()))
    config["strategy"] = {"name": "fedprox", "options": {"proximal_mu": 0.1}}
    config["data"]["taste"] = {**config["data"]["taste"], "columns": {"person": "who", "chosen": "yes"}}

    def configured(values: Any) -> None:
        load_config(file("config/config.yaml", as_yaml(values)))

    def run(values: Any) -> None:
        file("run/config.yaml", as_yaml(values))
        RunFolder(folder / "run").config()

    def results(values: Any) -> None:
        file("results/result.json", json.dumps(values).encode())
        RunFolder(folder / "results").result()

    def tournament(values: Any) -> None:
        path = file("tournament/compare.yaml", as_yaml(values))
        read_grid(path)
        TournamentFolder(path.parent).grid()

    ask = Request("taste", 2, 4, 2, "warm", 0)

    def pairs(values: Any) -> None:
        path = file("pairs/pairs.jsonl", as_lines(values))
        load_comparisons(SourceSpec("pairs", str(path)), ask)
        check_path(path)

    def table(values: Any) -> None:
        check_path(file("hub/rows.csv", as_csv(values)))

    def ratings(values: Any) -> None:
        file("ratings/ratings.csv", as_csv(values.get("ratings", [])))
        path = file("ratings/items.jsonl", as_lines(values.get("items", [])))
        load_ratings(SourceSpec("ratings", str(path.parent), min_gap=1.0), ask)
        check_path(path.parent, Given(min_gap=1.0))

    tiny_llama(0, 1).save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    honest = {path.name: json.loads(path.read_bytes()) for path in (folder / "model").glob("*config.json")}
    adapter = {
        "peft_type": "LORA",
        "base_model_name_or_path": "a/b",
        "auto_mapping": {"parent_library": "a"},
        "r": 8,
    }

    def model(name: str) -> Callable[[Any], None]:
        def read(values: Any) -> None:
            (folder / "model" / "adapter_config.json").unlink(missing_ok=True)
            for known, plain in honest.items():
                file(f"model/{known}", json.dumps(plain).encode())
            file(f"model/{name}", json.dumps(values).encode())
            check_folder(folder / "model", "m")
            load_base(str(folder / "model"))

        return read

    rows = [
        {
            "prompt": f"Prompt number {k}",
            "chosen": f"yes {k}",
            "rejected": f"no {k}",
            "person": f"p{k % 2}",
            "group": "g",
        }
        for k in range(12)
    ]
    people = [{"person": f"p{k % 2}", "item": f"i{k // 2}", "rating": str(k % 5 + 1)} for k in range(12)]
    items = [{"item": f"i{k}", "text": f"Text number {k}"} for k in range(6)]
    job = Job(
        "a",
        3,
        1,
        0.5,
        1.5,
        0,
        MANIFEST.to_dict(),
        0.0,
        "initial.npz",
        "kept",
        options={"a": "b"},
        gate={"steps": 1},
        mechanism={"a": "b"},
    )
    job.save(folder / "job.json")
    profile = {
        "study": "toys",
        "name": "Ada",
        "address": "h:1",
        "signer": public_hex(KEY),
        "offer": "0" * 64,
        "software": offer.software,
        "slot": 0,
        "node": "42",
    }
    result = {"schema": 1, **{key: {"statement": "x"} for key in NEEDED}}
    request = enrolment_request("t" * 32, _ec_key())
    part = {"name": "a.npy", "note": "x", "descr": "'<f4'", "fortran_order": "False", "shape": "(2,)"}

    def release(content: Any) -> None:
        check_release(
            paper(RELEASE, content), ARRAYS, MANIFEST, signer=public_hex(KEY), offer="offer", last=None
        )

    def parted(values: Any) -> None:
        data = as_parts(values)
        read_parts(data, parts_digest(data))

    def studied(values: Any) -> None:
        study_settings(file("study/study.toml", as_toml(values)))

    def profiled(values: Any) -> None:
        read_profile(file("profile/profile.json", json.dumps(values).encode()).parent)

    carrying = replace(offer, downloads={"nobody/no": 5})
    return {
        "invitation": Document(invited, join),
        "offer": Document(carrying.to_dict(), offered, most=2),
        "offer, derived": Document(carrying.to_dict(), functools.partial(offered, whole=True), most=1),
        "release": Document(Release("offer", 1, 1, tensors_digest(MANIFEST, ARRAYS)).__dict__, release),
        "enrolment": Document(request, read_request),
        "enrolment's answer": Document({"slot": 3, "name": "Ada", "node_id": "42"}, lambda values: read_answer(json.dumps(values).encode())),
        "charter": Document(charter, chartered, most=2),
        "charter that travels": Document({"charter": charter, "files": beside}, travelled, most=3),
        "charter's detector": Document(json.loads(beside["near.json"]), with_file("detectors", "near.json", "digest", lambda values: json.dumps(values).encode())),
        "charter's probes": Document([json.loads(line) for line in beside["alike.jsonl"].splitlines()][:2], with_file("probes", "alike.jsonl", "sha256", as_lines)),
        "configuration": Document(config, configured, most=3, alone=True),
        "run's configuration": Document(config, run, most=1, alone=True),
        "run's result": Document(result, results),
        "run's events": Document([{"arm": "a", "round": 1, "x": {"y": "z"}}], lambda values: read_events(file("run/events.jsonl", as_lines(values)))),
        "job": Document(json.loads((folder / "job.json").read_bytes()), lambda values: Job.load(file("job.json", json.dumps(values).encode()))),
        "tournament": Document({"strategies": ["fedavg", {"name": "fedprox", "options": {"proximal_mu": 0.1}}], "seeds": [0], "people": [20, 30], "compare": {"workers": 1}}, tournament, most=6),
        "study's settings": Document({"study": "x", "address": "h:1"}, studied),
        "profile": Document(profile, profiled),
        "pairs": Document(rows, pairs, most=5),
        "pairs, csv": Document(rows[:4], table),
        "ratings": Document({"ratings": people, "items": items}, ratings, most=5),
        "public parts": Document([part, {**part, "name": "b.npy"}], parted),
        **{f"model's {name}": Document(plain, model(name), most=2) for name, plain in honest.items()},
        "model's adapter_config.json": Document(adapter, model("adapter_config.json")),
    }  # fmt: skip


def _ec_key() -> Any:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP384R1())


def _certificate() -> str:
    from commonground.server.certificates import make_certificates

    return make_certificates("toys", "127.0.0.1").ca.decode()


def try_all(trap: Trap, table: dict[str, Document], values: Sequence[str], *, every: bool) -> dict[str, Any]:
    """Set every place of every document in turn; returns counts and what went wrong."""
    from commonground.errors import CommonGroundError

    cases: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    wrong: list[str] = []
    seconds: dict[str, float] = {}
    for name, document in table.items():
        begun = time.process_time()
        for number, place in enumerate(places(document.values)):
            most = len(values) if every or not document.most else document.most
            for step in range(most):
                new = values[(number * most + step) % len(values)]
                at = f"{name}: {named(place)} = {new[:30]!a}"
                given = changed(document.values, place, new, alone=document.alone)
                cases[name] += 1
                with trap.armed() as effects:
                    outcome, fault = _outcome(document.read, given, CommonGroundError)
                    found = list(effects)
                outcomes[outcome] += 1
                wrong += [f"{at}: {effect}" for effect in (*found, *fault)]
        seconds[name] = round(time.process_time() - begun, 2)
    return {"seconds": seconds, "cases": dict(cases), "outcomes": dict(outcomes), "wrong": wrong}


def _outcome(read: Callable[[Any], Any], given: Any, ours: type[Exception]) -> tuple[str, list[str]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read(given)
    except ours as error:
        lines = getattr(error, "faults", None) or [str(error)]
        long = [f"a line of {len(line)} characters" for line in lines if len(line) > LONGEST]
        long += [f"exit code {error.exit_code}: {error!s:.80}"] if error.exit_code != 2 else []  # type: ignore[attr-defined]
        return "refused", long + [f"more than a line: {line[:80]!a}" for line in lines if "\n" in line]
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        said = f"{type(error).__name__}: {error!s:.120} at {Path(last.filename).name}:{last.lineno}"
        return "traceback", [f"{said!a}"]
    return "accepted", []


def planted(folder: Path) -> dict[str, Document]:
    """Readers that do what none may: the guards of the trap."""

    def imports(values: Any) -> None:
        module, _, name = values.get("code", "").partition(":")
        with contextlib.suppress(ImportError, ValueError):
            getattr(importlib.import_module(module or "json"), name, None)

    def writes(values: Any) -> None:
        with contextlib.suppress(OSError, ValueError), open(values.get("place", "x"), "w", encoding="utf-8"):
            pass

    def leaves(values: Any) -> None:
        raise KeyError(values["a"])

    def asks(values: Any) -> None:
        sys.modules.pop("leaf_stranger", None)
        with contextlib.suppress(ImportError, ValueError):
            __import__(values.get("a", "x").partition(":")[0] or "json")

    def starts(values: Any) -> None:
        with contextlib.suppress(OSError, ValueError):
            subprocess.Popen([values.get("a", "x")], cwd="/nowhere/leaf")

    def connects(values: Any) -> None:
        with contextlib.suppress(OSError), socket.socket() as opened:
            opened.connect(("127.0.0.1", 9))

    return {
        "imports": Document({"code": "x"}, imports),
        "asks": Document({"a": "x"}, asks),
        "starts": Document({"a": "x"}, starts),
        "connects": Document({"a": "x"}, connects),
        "writes": Document({"place": "x"}, writes),
        "leaves": Document({"a": "x"}, leaves),
    }


def main() -> None:
    root = Path(sys.argv[1]).resolve()
    inside, canary = root / "a" / "inside", root / "canary.txt"
    for made in (inside, root / "cwd"):
        made.mkdir(parents=True)
    canary.write_text("canary")
    (root / "cwd" / "leaf_stranger.py").write_text("class Thing: pass\n")
    os.environ |= {"TMPDIR": str(inside), "XDG_STATE_HOME": str(inside / "state")}
    os.chdir(root / "cwd")
    sys.path.append(str(root / "cwd"))
    trap = Trap(inside, (canary, Path("/etc/passwd")), MODULES)
    values = tuple(str(canary) if value == "CANARY" else value for value in VALUES)
    table = documents(inside)
    from commonground.errors import CommonGroundError

    honest = {}
    for name, document in table.items():  # loads every library, and fills caches
        try:
            document.read(document.values)
        except CommonGroundError as error:
            honest[name] = str(error)[:300]
    found = try_all(trap, table, values, every="EVERY" in sys.argv[2:])
    print(
        json.dumps({**found, "honest": honest, "planted": try_all(trap, planted(inside), values, every=True)})
    )


if __name__ == "__main__":
    main()
