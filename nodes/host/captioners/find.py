"""The folders of caption models and taggers in ComfyUI's model folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import folder_paths

KIND = "LLM"
OTHER_FOLDERS = ("VLM", "LLavacheckpoints", "florence2", "prompt_generator")
NONE = "(none found)"
# The first version of transformers that loads a model without code from elsewhere.
FLOORS = {"florence2": "4.56", "internvl": "4.52", "qwen3_vl": "4.57", "gemma3n": "4.53"}
FLOORS |= {"qwen3_5": "5.0", "gemma4": "5.0", "lfm2_vl": "4.57", "smolvlm": "4.50"}


def captioner_roots() -> list[Path]:
    """Folders to search: models/LLM, those of extra_model_paths, and those of other packs."""
    models = Path(folder_paths.models_dir)
    if KIND not in folder_paths.folder_names_and_paths:
        folder_paths.add_model_folder_path(KIND, str(models / KIND))
    roots = [Path(path) for path in folder_paths.get_folder_paths(KIND)]
    roots += [models / name for name in OTHER_FOLDERS]
    return list(dict.fromkeys(root for root in roots if root.is_dir()))


def captioner_names() -> list[str]:
    """Folders with a model, by their path below the root; `(none found)` if there are none."""
    return sorted(_found()) or [NONE]


def captioner_folder(name: str) -> Path:
    """The folder of a listed name; the FileNotFoundError says how to download a model."""
    path = _found().get(name)
    if path is None:
        target = Path(folder_paths.models_dir, KIND, "Florence-2-base")
        raise FileNotFoundError(
            f'There is no caption model "{name}": put its folder into {target.parent}. To download '
            f"one: hf download florence-community/Florence-2-base --local-dir {target}"
        )
    return path


def tagger_names() -> list[str]:
    """Folders with a WD tagger: model.onnx and selected_tags.csv."""
    return sorted(_taggers()) or [NONE]


def tagger_folder(name: str) -> Path:
    """The folder of a listed tagger; the FileNotFoundError says how to download one."""
    path = _taggers().get(name)
    if path is None:
        target = Path(folder_paths.models_dir, KIND, "wd-vit-tagger-v3")
        raise FileNotFoundError(
            f'There is no tagger "{name}": put its folder into {target.parent}. To download one: '
            f"hf download SmilingWolf/wd-vit-tagger-v3 model.onnx selected_tags.csv --local-dir "
            f"{target}"
        )
    return path


def model_type(folder: Path) -> str:
    """The `model_type` in a folder's config; empty if there is none."""
    try:
        config: Any = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    return str(config.get("model_type", "")) if isinstance(config, dict) else ""


def _found() -> dict[str, Path]:
    return {
        name: path
        for name, path in _folders("config.json").items()
        if model_type(path) and _has_weights(path)
    }


def _taggers() -> dict[str, Path]:
    folders = _folders("selected_tags.csv")
    return {name: path for name, path in folders.items() if (path / "model.onnx").is_file()}


def _folders(file: str) -> dict[str, Path]:
    """Folders with a file, at most two levels down, by name; the first root wins."""
    folders: dict[str, Path] = {}
    for root in captioner_roots():
        for path in [*root.glob(f"*/{file}"), *root.glob(f"*/*/{file}")]:
            folders.setdefault(path.parent.relative_to(root).as_posix(), path.parent)
    return folders


def _has_weights(folder: Path) -> bool:
    return any(True for _ in folder.glob("*.safetensors")) or any(
        True for _ in folder.glob("pytorch_model*.bin")
    )
