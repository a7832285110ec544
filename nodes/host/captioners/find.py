"""Where caption models lie: folders with a config and weights under ComfyUI's models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import folder_paths

KIND = "LLM"
OTHER_FOLDERS = ("VLM", "LLavacheckpoints", "florence2", "prompt_generator")
NONE = "(none found)"
# The first transformers that knows a model without code from elsewhere.
FLOORS = {"florence2": "4.56", "internvl": "4.52", "qwen3_vl": "4.57", "gemma3n": "4.53"}
FLOORS |= {"qwen3_5": "5.0", "gemma4": "5.0", "lfm2_vl": "4.57", "smolvlm": "4.50"}


def captioner_roots() -> list[Path]:
    """Folders that are searched: models/LLM, those of extra_model_paths, and other packs' ones."""
    models = Path(folder_paths.models_dir)
    if KIND not in folder_paths.folder_names_and_paths:
        folder_paths.add_model_folder_path(KIND, str(models / KIND))
    roots = [Path(path) for path in folder_paths.get_folder_paths(KIND)]
    roots += [models / name for name in OTHER_FOLDERS]
    return list(dict.fromkeys(root for root in roots if root.is_dir()))


def captioner_names() -> list[str]:
    """Folders that hold a model, by their path in the root; `(none found)` alone otherwise."""
    return sorted(_found()) or [NONE]


def captioner_folder(name: str) -> Path:
    """The folder of a name that was listed; FileNotFoundError with the line to run otherwise."""
    path = _found().get(name)
    if path is None:
        target = Path(folder_paths.models_dir, KIND, "Florence-2-base")
        raise FileNotFoundError(
            f'There is no caption model "{name}": put its folder into {target.parent}. This gets '
            f"one: hf download florence-community/Florence-2-base --local-dir {target}"
        )
    return path


def tagger_names() -> list[str]:
    """Folders that hold a WD tagger: model.onnx and selected_tags.csv."""
    return sorted(_taggers()) or [NONE]


def tagger_folder(name: str) -> Path:
    """The folder of a tagger that was listed; FileNotFoundError with the line to run otherwise."""
    path = _taggers().get(name)
    if path is None:
        target = Path(folder_paths.models_dir, KIND, "wd-vit-tagger-v3")
        raise FileNotFoundError(
            f'There is no tagger "{name}": put its folder into {target.parent}. This gets one: hf '
            f"download SmilingWolf/wd-vit-tagger-v3 model.onnx selected_tags.csv --local-dir "
            f"{target}"
        )
    return path


def model_type(folder: Path) -> str:
    """The `model_type` of a folder's config; empty when it has none."""
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
    found = _folders("selected_tags.csv")
    return {name: path for name, path in found.items() if (path / "model.onnx").is_file()}


def _folders(file: str) -> dict[str, Path]:
    """Folders at most two levels down that hold a file."""
    found: dict[str, Path] = {}
    for root in captioner_roots():
        for path in [*root.glob(f"*/{file}"), *root.glob(f"*/*/{file}")]:
            found.setdefault(path.parent.relative_to(root).as_posix(), path.parent)
    return found


def _has_weights(folder: Path) -> bool:
    return any(True for _ in folder.glob("*.safetensors")) or any(
        True for _ in folder.glob("pytorch_model*.bin")
    )
