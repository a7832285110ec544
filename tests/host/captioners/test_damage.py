"""Folders of models that are incomplete or bring code: one sentence with the file and the cure."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.model_management as management
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from harness.models.captioners import save_captioner
from pack.bundles.files.journal import Journal
from pack.nodes.host.captioners import model as captioner_model
from pack.nodes.host.captioners.damage import explained
from pack.nodes.host.captioners.find import captioner_names
from pack.nodes.host.captioners.model import ComputePrecision, FolderCaptioner
from pack.training.dataset.captioning.ask import Asking, Memory, Order, caption_dataset
from pack.training.dataset.folder.read import read_folder

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 9\n"
PICTURE = Image.effect_noise((48, 48), 90).convert("RGB")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole BLIP; it is never changed."""
    return save_captioner("blip", tmp_path_factory.mktemp("good") / "blip")


@pytest.fixture(scope="module")
def good_llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole LLaVA, whose configuration has parts; it is never changed."""
    return save_captioner("llava", tmp_path_factory.mktemp("good") / "llava")


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "blip"))


def load(folder: Path) -> FolderCaptioner:
    return FolderCaptioner(folder, ComputePrecision.FP32)


def sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What is said about a folder, of which no processor and no weight may be loaded."""
    monkeypatch.setattr(captioner_model, "load_model", None)
    with pytest.raises(ValueError) as raised:
        load(folder)
    said = str(raised.value)
    assert said and "\n" not in said and folder.name in said
    return said


def change_config(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def point(path: Path) -> None:
    path.write_bytes(POINTER)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def web_page(path: Path) -> None:
    path.write_text("<!doctype html><html>Sign in</html>")


def in_shards(folder: Path) -> dict[str, str]:
    """Rewrite the weights as two files with an index."""
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    files = {f"model-0000{n}-of-00002.safetensors": names[n - 1 :: 2] for n in (1, 2)}
    for file, own in files.items():
        save_file({name: weights[name] for name in own}, folder / file, {"format": "pt"})
    places = {name: file for file, own in files.items() for name in own}
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()
    return places


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (cut, "is cut short or"),
        (point, "is only a Git LFS pointer to the real file: run git lfs pull"),
        (empty, "is empty"),
        (web_page, "is cut short or"),
    ],
)
def test_a_file_that_is_not_whole_is_named_with_its_cure(
    folder: Path, monkeypatch, name: str, spoil: Callable[[Path], None], said: str
):
    spoil(folder / name)
    found = sentence(folder, monkeypatch)
    assert found.startswith(f"{name} of blip {said}")
    assert found.endswith(f"hf download REPOSITORY {name} --local-dir {folder}")


@pytest.mark.parametrize("name", ["preprocessor_config.json", "tokenizer_config.json"])
def test_settings_next_to_the_weights_are_checked_too(folder: Path, monkeypatch, name: str):
    (folder / name).write_text("[]")
    assert sentence(folder, monkeypatch).startswith(f"{name} of blip is not a JSON object")
    point(folder / name)
    assert "is only a Git LFS pointer" in sentence(folder, monkeypatch)


def test_a_pointer_that_nothing_reads_is_no_damage(folder: Path):
    point(folder / "pytorch_model.bin")
    point(folder / "spiece.model")
    load(folder)


def test_weights_in_shards_are_loaded_if_all_are_there(folder: Path, good: Path):
    in_shards(folder)
    asking = Asking(max_tokens=8)
    answers = [load(path).caption([PICTURE], asking, [0]) for path in (folder, good)]
    assert answers[0] == answers[1]


def test_an_index_that_names_files_which_are_not_there_says_which(folder: Path, monkeypatch):
    places = in_shards(folder)
    first, second = sorted(set(places.values()))
    (folder / second).unlink()
    said = "model.safetensors.index.json of blip names"
    assert sentence(folder, monkeypatch).startswith(f"{said} {second}, which the folder does not")
    (folder / first).unlink()
    assert sentence(folder, monkeypatch).startswith(f"{said} {first} and 1 more, which")


def test_an_index_that_is_wrong_about_its_files_is_found(folder: Path, monkeypatch):
    places, index = in_shards(folder), folder / "model.safetensors.index.json"
    cut(folder / min(places.values()))
    assert f"{min(places.values())} of blip is cut short" in sentence(folder, monkeypatch)
    index.write_text(json.dumps({"weight_map": {"a": "../blip/other.safetensors"}}))
    assert "which is not a file of this folder" in sentence(folder, monkeypatch)
    index.write_text(json.dumps({"metadata": {}}))
    assert "does not say in which files the weights are" in sentence(folder, monkeypatch)


def test_a_shard_with_the_tensors_of_another_is_found(folder: Path, monkeypatch):
    first, second = sorted(set(in_shards(folder).values()))
    shutil.copy(folder / first, folder / second)
    assert f"{second} of blip lacks " in sentence(folder, monkeypatch)


def test_weights_that_lack_tensors_are_refused_and_not_made_up(folder: Path):
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "text_decoder" not in name}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        ValueError, match="blip cannot be loaded .*safetensors lacks .* hf download"
    ):
        load(folder)


def test_weights_that_could_hold_code_are_refused(folder: Path, monkeypatch):
    (folder / "model.safetensors").unlink()
    torch.save({"a": torch.ones(1)}, folder / "pytorch_model.bin")
    assert "its weights in pytorch_model.bin, a format that can hold code" in sentence(
        folder, monkeypatch
    )


@pytest.mark.parametrize("key", ["load_in_4bit", "load_in_8bit"])
def test_weights_of_bitsandbytes_need_a_gpu_and_the_package(folder: Path, monkeypatch, key: str):
    change_config(folder, quantization_config={"quant_method": "bitsandbytes", key: True})
    bits = key[8]
    monkeypatch.setattr(management, "text_encoder_device", lambda: torch.device("cpu"))
    said = sentence(folder, monkeypatch)
    assert said.startswith(f"config.json of blip asks for {bits}-bit weights of bitsandbytes")
    assert "not on the CPU" in said and "choose a folder of the same model with plain" in said
    monkeypatch.setattr(management, "text_encoder_device", lambda: torch.device("cuda"))
    monkeypatch.setattr(captioner_model, "find_spec", lambda name: None)
    assert "python -m pip install bitsandbytes" in sentence(folder, monkeypatch)


def test_a_part_that_is_quantized_is_found(tmp_path: Path, good_llava: Path, monkeypatch):
    folder = Path(shutil.copytree(good_llava, tmp_path / "llava"))
    text = json.loads((folder / "config.json").read_text())["text_config"]
    change_config(folder, text_config=text | {"quantization_config": {"load_in_4bit": True}})
    monkeypatch.setattr(management, "text_encoder_device", lambda: torch.device("cpu"))
    assert "4-bit weights of bitsandbytes" in sentence(folder, monkeypatch)


@pytest.mark.parametrize("method", ["mxfp4", "eetq", "fp8"])
def test_weights_that_would_fetch_code_are_refused(folder: Path, monkeypatch, method: str):
    change_config(folder, quantization_config={"quant_method": method})
    assert f"asks for {method} weights, for which transformers would fetch code" in sentence(
        folder, monkeypatch
    )


@pytest.mark.parametrize("error", [AssertionError(), Exception(), KeyError("vision_config")])
def test_an_error_without_a_text_becomes_a_sentence(folder: Path, monkeypatch, error: Exception):
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(captioner_model, "load_processor", fail)
    with pytest.raises(ValueError, match=rf"blip cannot be loaded \({type(error).__name__}.*again"):
        load(folder)


def test_an_empty_error_while_captioning_names_the_model(folder: Path, monkeypatch):
    captioner = load(folder)

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(captioner, "_generate", fail)
    with pytest.raises(ValueError, match="blip failed with AssertionError .*choose another prec"):
        captioner.caption([PICTURE], Asking(), [0])


@pytest.mark.parametrize(
    "error", [management.InterruptProcessingException(), torch.OutOfMemoryError(), OSError("why")]
)
def test_cancel_and_errors_that_say_why_stay_as_they_are(error: BaseException):
    with pytest.raises(type(error)) as raised, explained("a model"):
        raise error
    assert raised.value is error


def test_an_image_that_fails_without_a_text_has_a_reason_in_the_report(tmp_path: Path):
    class Silent:
        identity, follows_instructions = "silent", True

        def caption(self, *_: Any) -> list[str]:
            raise ValueError

    PICTURE.save(tmp_path / "a.png")
    memory = Memory(Journal(tmp_path / "memory.jsonl"), lambda record: record.name)
    dataset = read_folder(tmp_path)
    *_, last = caption_dataset(dataset, Silent(), Asking(), Order(), memory)
    assert last.failed == {"a.png": "the model failed without giving a reason"}


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("X: can't allocate memory: 9 GB")])
def test_too_little_memory_is_not_called_damage(folder: Path, monkeypatch, error: Exception):
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(captioner_model, "_load", fail)
    with pytest.raises(ValueError, match="not enough memory to load blip: choose a smaller"):
        load(folder)


def test_damaged_folders_are_listed_so_that_they_can_be_explained(host, folder: Path, good: Path):
    root = host.base / "models" / "LLM"
    broken = Path(shutil.copytree(folder, root / "broken-config"))
    point(broken / "config.json")
    alone = Path(shutil.copytree(folder, root / "index-alone"))
    for file in set(in_shards(alone).values()):
        (alone / file).unlink()
    other = Path(shutil.copytree(folder, root / "no-model"))
    (other / "config.json").write_text("{}")
    try:
        names = captioner_names()
        assert {"broken-config", "index-alone"} <= set(names) and "no-model" not in names
    finally:
        for path in (broken, alone, other):
            shutil.rmtree(path)


KERNEL = "someone/kernel"
CHOICES = ["attn_implementation", "_attn_implementation", "_attn_implementation_internal"]
CHOICES += ["experts_implementation", "_experts_implementation_internal"]


@pytest.mark.parametrize("part", ["", "text_config", "vision_config"])
@pytest.mark.parametrize("key", CHOICES)
def test_a_configuration_cannot_choose_the_code_that_runs(
    tmp_path: Path, good_llava: Path, monkeypatch, part: str, key: str
):
    from transformers import modeling_utils
    from transformers.integrations import hub_kernels

    asked: list[Any] = []
    for module, name in (
        (hub_kernels, "load_and_register_attn_kernel"),
        (hub_kernels, "get_kernel"),
        (modeling_utils, "lazy_import_flash_attention"),
    ):
        monkeypatch.setattr(module, name, lambda *given, **_: asked.append(given))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *given, **_: asked.append(given))
    folder = Path(shutil.copytree(good_llava, tmp_path / "llava"))
    config = json.loads((folder / "config.json").read_text())
    inside = config[part] if part else config
    inside[key] = KERNEL
    inside["auto_map"] = {"AutoConfig": "code.Config", "AutoModelForImageTextToText": "code.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    captioner = load(folder)
    plain = load(good_llava)
    asking = Asking(max_tokens=8)
    assert captioner.caption([PICTURE], asking, [0]) == plain.caption([PICTURE], asking, [0])
    assert asked == [] and not (tmp_path / "ran").exists()
    assert KERNEL not in repr(captioner._model.config.to_dict())


@pytest.mark.parametrize("name", ["hf-hub:someone/model", "local-dir:/somewhere"])
def test_a_part_from_elsewhere_is_refused(folder: Path, monkeypatch, name: str):
    change_config(folder, encoders=[{"model_type": "timm_wrapper", "architecture": name}])
    assert "names a part of the model that is not in this folder" in sentence(folder, monkeypatch)


def test_every_file_is_read_with_the_safe_settings(folder: Path, monkeypatch):
    import transformers

    given: list[dict[str, Any]] = []
    for name in ("AutoProcessor", "AutoModelForImageTextToText"):
        kind = getattr(transformers, name)

        def noted(*args: Any, real: Any = kind.from_pretrained, **options: Any) -> Any:
            given.append(options)
            return real(*args, **options)

        monkeypatch.setattr(kind, "from_pretrained", noted)
    load(folder)
    assert len(given) == 2
    assert all(o["local_files_only"] and o["trust_remote_code"] is False for o in given)
    assert given[1]["use_safetensors"] is True and given[1]["attn_implementation"] is None


@pytest.mark.parametrize("version", ["4.50.3", "4.57.6", "5.2.9", "5.3.0.dev0", "5.3.0rc1"])
def test_a_transformers_that_a_folder_could_misuse_is_refused(
    folder: Path, monkeypatch, version: str
):
    import transformers

    monkeypatch.setattr(transformers, "__version__", version)
    monkeypatch.setattr(captioner_model, "load_model", None)
    with pytest.raises(ValueError, match=r"need transformers 5\.3\.0 or newer.*pip install -U"):
        load(folder)


@pytest.mark.parametrize("version", ["5.3.0", "5.3.1.dev0", "5.24.0", "6.0"])
def test_a_newer_transformers_is_taken(monkeypatch, version: str):
    import transformers

    monkeypatch.setattr(transformers, "__version__", version)
    captioner_model.check_transformers()
