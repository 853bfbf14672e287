"""The generated code is what the proto file says, and the node's service carries nothing but what it must."""

from __future__ import annotations

import shutil
import sys
from importlib.resources import files
from pathlib import Path

import pytest
from google.protobuf.descriptor import FieldDescriptor

from commonground.client import vault_pb2

ROOT = Path(__file__).parents[2]
PROTO = "commonground/client/vault.proto"
GENERATED = ("vault_pb2.py", "vault_pb2.pyi", "vault_pb2_grpc.py")
HOW = "python -m grpc_tools.protoc -I src --python_out=src --pyi_out=src --grpc_python_out=src src/" + PROTO


def test_the_generated_code_is_that_of_the_proto(tmp_path: Path) -> None:
    """Run in a process of its own: protoc keeps what it parsed."""
    import subprocess

    source = tmp_path / "src" / PROTO
    source.parent.mkdir(parents=True)
    shutil.copy(ROOT / "client" / "vault.proto", source)
    command = [sys.executable, *HOW.split()[1:]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in GENERATED:
        fresh = (source.parent / name).read_text()
        assert fresh == (ROOT / "client" / name).read_text(), f"{name} is stale; run: {HOW}"


def test_the_node_is_answered_with_a_contract_a_sealed_message_or_nothing() -> None:
    service = vault_pb2.DESCRIPTOR.services_by_name["Node"]
    answers = {method.name: method.output_type for method in service.methods}
    assert sorted(answers) == ["Describe", "PrivateUpdate", "SharedUpdate"]
    assert {name: kind.name for name, kind in answers.items()} == {
        "Describe": "Contract",
        "SharedUpdate": "Sealed",
        "PrivateUpdate": "Nothing",
    }
    fields = {kind.name: [f.name for f in kind.fields] for kind in answers.values()}
    assert fields == {
        "Contract": ["manifest", "digest"],
        "Sealed": ["tensors", "digest"],
        "Nothing": [],
    }
    sealed = answers["SharedUpdate"].fields_by_name["tensors"]
    assert sealed.type == FieldDescriptor.TYPE_MESSAGE
    assert [f.name for f in sealed.message_type.fields] == ["name", "dtype", "shape", "data"]


@pytest.mark.parametrize("name", ["vault.proto", "vault_pb2.pyi"])
def test_the_package_brings_the_proto(name: str) -> None:
    assert (files("commonground.client") / name).is_file()
