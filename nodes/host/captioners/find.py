"""The folders of caption models and taggers in ComfyUI's model folders."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from .damage import CONFIG, INDEX, PICKLED, read_object

KIND = "LLM"
OTHER_FOLDERS = ("VLM", "LLavacheckpoints", "florence2", "prompt_generator")
NONE = "(none found)"


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
        target = f"models/{KIND}/Florence-2-base"
        raise FileNotFoundError(
            f'There is no caption model "{name}": put its folder into models/{KIND}. To download '
            "one, run in ComfyUI's folder: hf download florence-community/Florence-2-base "
            f"--local-dir {target}"
        )
    return path


def tagger_names() -> list[str]:
    """Folders with a WD tagger: model.onnx and selected_tags.csv."""
    return sorted(_taggers()) or [NONE]


def tagger_folder(name: str) -> Path:
    """The folder of a listed tagger; the FileNotFoundError says how to download one."""
    path = _taggers().get(name)
    if path is None:
        target = f"models/{KIND}/wd-vit-tagger-v3"
        raise FileNotFoundError(
            f'There is no tagger "{name}": put its folder into models/{KIND}. To download one, run '
            "in ComfyUI's folder: hf download SmilingWolf/wd-vit-tagger-v3 model.onnx "
            f"selected_tags.csv --local-dir {target}"
        )
    return path


def _found() -> dict[str, Path]:
    """Folders of models, damaged ones too: to load one says what is wrong with it."""
    return {
        name: path
        for name, path in _folders(CONFIG).items()
        if _may_be_model(path) and _has_weights(path)
    }


def _may_be_model(folder: Path) -> bool:
    """Whether the configuration names a model of transformers, or cannot be read."""
    try:
        return bool(read_object(folder / CONFIG).get("model_type"))
    except ValueError:
        return True


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
    return any(path for name in ("*.safetensors", INDEX, PICKLED) for path in folder.glob(name))
