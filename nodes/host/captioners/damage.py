"""What is wrong with a caption model or tagger: with its files, before any of them is loaded.

Every finding is a ValueError with one sentence that names the file, or the model, and the cure.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import comfy.model_management as management
from safetensors import SafetensorError, safe_open

from ..versions import is_oom

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.bin"
SETTINGS = ("generation_config", "preprocessor_config", "video_preprocessor_config")
SETTINGS += ("processor_config", "chat_template", "tokenizer", "tokenizer_config")
SETTINGS += ("special_tokens_map", "added_tokens")
# These are read only where no tokenizer.json says the same.
OLD_TOKENIZERS = ("vocab.json", "vocab.txt", "merges.txt", "*.model", "spiece.model")
PICKLED = "pytorch_model*.bin"
# `git clone` leaves such a text in place of each large file if git-lfs is not installed.
POINTER = b"version https://git-lfs"
PLAIN = "choose a folder of the same model with plain weights (bf16, fp16 or fp32)"
# For these, transformers fetches code from the internet when it loads or runs the model.
FETCH_CODE = {"eetq", "fbgemm_fp8", "fp8", "gguf", "metal", "mxfp4", "mxfp8", "nvfp4"}


def check_model(folder: Path) -> None:
    """Raise ValueError if a file that a caption model is loaded from is missing or damaged."""
    config = read_object(folder / CONFIG)
    for name in SETTINGS:
        if (folder / f"{name}.json").is_file():
            read_object(folder / f"{name}.json")
    if not (folder / "tokenizer.json").is_file():
        for pattern in OLD_TOKENIZERS:
            for path in folder.glob(pattern):
                check_present(path)
    for path in folder.glob("*.jinja"):
        check_present(path)
    # timm takes such a name for a model on the internet or in another folder.
    if any(":" in str(part.get("architecture", "")) for part in _parts(config)):
        raise broken(folder / CONFIG, "names a part of the model that is not in this folder")
    _check_pickled(folder)
    _check_all_weights(folder, config)


def check_quantization(folder: Path, *, on_cpu: bool, installed: bool) -> None:
    """Raise ValueError if weights are packed in a way that cannot run, or not without fetched code.

    `installed` says whether the package bitsandbytes is there.
    """
    for part in _parts(read_object(folder / CONFIG)):
        packing = part.get("quantization_config")
        if not isinstance(packing, dict):
            continue
        method = str(packing.get("quant_method", ""))
        bits = "4" if packing.get("load_in_4bit") else "8" if packing.get("load_in_8bit") else ""
        start = f"{CONFIG} of {folder.name} asks for"
        if bits or method.startswith("bitsandbytes"):
            start += f" {bits or '4 or 8'}-bit weights of bitsandbytes, "
            if on_cpu:
                raise ValueError(
                    f"{start}which run on a GPU and not on the CPU that ComfyUI uses here: {PLAIN}."
                )
            if not installed:
                raise ValueError(
                    f"{start}which is not installed: run python -m pip install bitsandbytes with "
                    f"ComfyUI's own Python and start ComfyUI again, or {PLAIN}."
                )
        elif method in FETCH_CODE:
            raise ValueError(
                f"{start} {method} weights, for which transformers would fetch code from the "
                f"internet: {PLAIN}."
            )


def _parts(value: Any) -> Iterable[Mapping[str, Any]]:
    """Every object in a configuration, itself first."""
    if isinstance(value, dict):
        yield value
    for part in value.values() if isinstance(value, dict) else value:
        if isinstance(part, dict | list):
            yield from _parts(part)


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file."""
    check_present(path)
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    # Thousands of nested brackets end in a RecursionError.
    except (OSError, ValueError, RecursionError) as error:
        raise broken(path, "is cut short or is not JSON") from error
    if not isinstance(content, dict):
        raise broken(path, "is not a JSON object")
    return content


def check_present(path: Path) -> None:
    """Raise ValueError for a file that is missing, empty, or a pointer of Git LFS."""
    try:
        with path.open("rb") as file:
            start = file.read(len(POINTER))
    except OSError as error:
        raise broken(path, "is missing or cannot be opened") from error
    if not start:
        raise broken(path, "is empty")
    if start == POINTER:
        raise broken(
            path, "is only a Git LFS pointer to the real file", f"run git lfs pull in {path.parent}"
        )


def broken(path: Path, what: str, other_cure: str = "") -> ValueError:
    """The sentence about a damaged file: what it is, and the command that gets it again."""
    also = f"{other_cure}, or " if other_cure else ""
    return ValueError(
        f"{path.name} of {path.parent.name} {what}: {also}get the file again with hf download "
        f"REPOSITORY {path.name} --local-dir {path.parent}"
    )


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Replace an error without a text, which the editor would show as an empty window."""
    try:
        yield
    except management.InterruptProcessingException:
        raise
    except Exception as error:
        if str(error).strip() or is_oom(error):
            raise
        raise ValueError(
            f"{name} failed with {reason(error)} and no further reason: choose another precision "
            "where its loader has that choice, or another model."
        ) from error


def reason(error: BaseException) -> str:
    """The first line of an error's text, or its kind if it has none."""
    text = str(error).strip()
    if isinstance(error, KeyError) or not text:
        return f"{type(error).__name__} {text}".strip()
    return text.splitlines()[0]


def _check_pickled(folder: Path) -> None:
    safe = any(True for _ in folder.glob("*.safetensors*"))
    pickled = [] if safe else [path.name for path in folder.glob(PICKLED)]
    if (folder / ADAPTER).is_file() and (folder / ADAPTER_WEIGHTS).is_file():
        pickled.append(ADAPTER_WEIGHTS)
    if pickled:
        raise ValueError(
            f"{folder.name} has its weights in {min(pickled)}, a format that can hold code and is "
            f"not loaded: get the model with {WEIGHTS} instead."
        )


def _check_all_weights(folder: Path, config: Mapping[str, Any]) -> None:
    """Check the files that transformers would take: the one in the configuration, or the usual."""
    chosen = config.get("transformers_weights")
    usual = WEIGHTS if (folder / WEIGHTS).exists() or not (folder / INDEX).exists() else INDEX
    name = chosen if isinstance(chosen, str) and chosen else usual
    if name.endswith(".index.json"):
        _check_index(_inside(folder, name, CONFIG))
    else:
        _tensors_of(_inside(folder, name, CONFIG))


def _check_index(path: Path) -> None:
    """Check every file that an index names, and that each holds what the index says."""
    folder, places = path.parent, read_object(path).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise broken(path, "does not say in which files the weights are")
    names = sorted({str(name) for name in places.values()})
    missing = [name for name in names if not _inside(folder, name, path.name).is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ValueError(
            f"{path.name} of {folder.name} names {missing[0]}{more}, which the folder does not "
            f"have: get the rest with hf download REPOSITORY --local-dir {folder}"
        )
    held = {name: _tensors_of(folder / name) for name in names}
    lost = [tensor for tensor, name in places.items() if tensor not in held[str(name)]]
    if lost:
        raise broken(
            folder / str(places[lost[0]]), f"lacks {lost[0]}, which {path.name} says it has"
        )


def _inside(folder: Path, name: str, named_by: str) -> Path:
    if name != Path(name).name or "\\" in name:
        raise broken(folder / named_by, f"names {name!r}, which is not a file of this folder")
    return folder / name


def _tensors_of(path: Path) -> set[str]:
    """The names of the tensors in a file that is as long as its header says."""
    check_present(path)
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            return set(file.keys())
    except (SafetensorError, OSError) as error:
        raise broken(path, f"is cut short or damaged ({reason(error)})") from error
