"""Nothing is fetched that nobody asked for, and a model folder is weights and settings alone.

The class of fault: a name or a file of somebody else's makes this machine open a connection, unpickle, or run
code. Sockets are trapped here, so that a try to look is seen even where there is no network.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_models import tiny_llama, tiny_tokenizer

from commonground import hub
from commonground.bounds.detectors import Classifier
from commonground.data.huggingface import hub_rows, quiet_datasets
from commonground.embeddings import Encoder
from commonground.errors import CommonGroundError, DataError, ModelError
from commonground.language_model import load_base
from commonground.settings import load_config

NAME = "nobody-here/no-such-model"


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Every host that was looked up or connected to; the hub is open as far as its own setting goes."""
    from huggingface_hub import constants

    seen: list[Any] = []

    def trapped(*words: Any, **_: Any) -> Any:
        seen.append(words)
        raise OSError("trapped")

    with quiet_datasets() as datasets:  # which reads the setting once, when it is imported
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", trapped)
    monkeypatch.setattr(socket.socket, "connect", trapped)
    monkeypatch.setattr(socket, "create_connection", trapped)
    hub.forbid()
    yield seen
    hub.forbid()


LOADERS: dict[str, Callable[[str], Any]] = {
    "policy": load_base,
    "encoder": lambda name: Encoder(name).embed(["x"], keep=False),
    "classifier": Classifier,
    "dataset": lambda name: hub_rows(name, "data.taste"),
}


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
def test_a_name_that_nobody_typed_opens_no_connection(load: Callable[[str], Any], looked: list[Any]) -> None:
    with pytest.raises((ModelError, DataError)) as caught:
        load(NAME)
    assert looked == []
    assert "ask" in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
def test_one_that_was_typed_is_looked_for(load: Callable[[str], Any], looked: list[Any]) -> None:
    """The guard of the guard: were the trap blind, the test above would prove nothing."""
    hub.permit(NAME)
    with pytest.raises((ModelError, DataError)):
        load(NAME)
    assert looked


def test_typing_a_model_or_a_data_set_permits_that_name_alone(tmp_path: Path) -> None:
    hub.forbid()
    file = tmp_path / "file.yaml"
    file.write_text(
        "model: {base: evil/model}\ndata: {taste: {source: hub, path: evil/set}}", encoding="utf-8"
    )
    load_config(file, ["data.safety.path=own/set:german", "data.safety.source=hub"])
    assert [hub.permitted(name) for name in ("evil/model", "evil/set", "own/set")] == [False, False, True]
    assert hub.environment_of_downloads() == {hub.VARIABLE: "own/set"}
    hub.permit(hub.ANY)
    assert hub.permitted("evil/model")
    hub.forbid()


@pytest.mark.parametrize(
    "place",
    [
        "",
        "../../x",
        "/etc",
        "/nowhere/at/all",
        "a/b/c",
        "-x",
        "~/x",
        "a\0b",
        "x" * 10_000,
        "\ud800",
        "http://h/x",
    ],
)
def test_a_place_that_is_no_model_is_one_clear_line(place: str, looked: list[Any]) -> None:
    for load in (load_base, Encoder, Classifier):
        if not place and load is not Classifier:
            continue  # the packaged model
        with pytest.raises(CommonGroundError) as caught:
            load(place)
        assert "\n" not in caught.value.message
        assert len(caught.value.message) < 700
    assert looked == []


def spoiled(change: Callable[[Path], Any], folder: Path) -> Path:
    tiny_tokenizer().save_pretrained(folder)
    tiny_llama(0).save_pretrained(folder)
    change(folder)
    return folder


def set_key(file: str, **values: Any) -> Callable[[Path], Any]:
    def change(folder: Path) -> None:
        path = folder / file
        old = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**old, **values}))

    return change


def pickled(folder: Path) -> None:
    """Weights as a pickle that leaves a mark when it is loaded."""

    class Mark:
        def __reduce__(self) -> Any:
            return Path.touch, (folder / "ran",)

    for file in folder.glob("*.safetensors"):
        file.unlink()
    torch.save({"x": Mark()}, folder / "pytorch_model.bin")


SPOILED: dict[str, Callable[[Path], Any]] = {
    "pickle": pickled,
    "code": set_key(
        "config.json", auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    ),
    "tokenizer code": set_key("tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Tokenizer", None]}),
    "kernel": set_key("config.json", _attn_implementation="evil/kernel"),
    "nested kernel": set_key("config.json", text_config={"attn_implementation": "evil/kernel:run"}),
    "quantised": set_key("config.json", quantization_config={"quant_method": "evil"}),
    "adapter": set_key("adapter_config.json", base_model_name_or_path="evil/base", peft_type="LORA"),
    "generation": set_key("generation_config.json", custom_generate="evil/gen"),
    "no json": lambda folder: (folder / "config.json").write_text("{"),
    "deep json": lambda folder: (folder / "tokenizer_config.json").write_text("[" * 100_000),
}


@pytest.mark.parametrize("change", SPOILED.values(), ids=SPOILED)
def test_a_folder_runs_and_fetches_nothing(
    change: Callable[[Path], Any], tmp_path: Path, looked: list[Any]
) -> None:
    folder = spoiled(change, tmp_path / "model")
    (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")
    for load in (load_base, lambda place: Encoder(place).embed(["x"], keep=False), Classifier):
        with pytest.raises(ModelError) as caught:
            load(str(folder))
        assert "\n" not in caught.value.message
    assert looked == []
    assert not (folder / "ran").exists()


def test_what_is_said_before_it_is_fetched() -> None:
    words = hub.Download("owner/name", "a" * 64, 270_000_000).words()
    assert words.startswith("owner/name, 270 MB, digest aaaaaaaaaaaaaaaa, from http")
    assert "a size that nobody says" in hub.Download("owner/name", "a" * 64).words()


def test_a_model_that_is_larger_than_was_said_is_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    class Api:
        def model_info(self, name: str, files_metadata: bool) -> Any:
            file = type("File", (), {"rfilename": "model.safetensors", "size": 11})
            return type(
                "Info", (), {"siblings": [file, type("File", (), {"rfilename": "x.bin", "size": 99})]}
            )

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("fetched"))
    with pytest.raises(ModelError, match="11 bytes on the hub; accepted: at most 10"):
        hub.fetch("owner/name", most=10)
