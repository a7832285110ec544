"""Caption models read from a folder by transformers, nothing fetched and no code of it run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from .find import FLOORS, model_type
from .florence import is_legacy, load_legacy
from .processors import load_processor


def checked_kind(folder: Path) -> str:
    """The model type of a folder that this transformers can load; ValueError otherwise."""
    import transformers
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as KNOWN,
    )

    kind = model_type(folder)
    if kind in KNOWN:
        return kind
    if kind in FLOORS:
        raise ValueError(
            f"{folder.name} is a {kind} model and needs transformers {FLOORS[kind]} or newer; this "
            f'is {transformers.__version__}. Run: python -m pip install -U "transformers"'
        )
    raise ValueError(
        f'{folder.name} is of the kind "{kind}", which transformers {transformers.__version__} '
        "does not load as a caption model without code from elsewhere: choose another, such as "
        "Florence-2, Qwen2.5-VL or JoyCaption."
    )


def load_model(folder: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """Processor and model of a folder, on the CPU; ValueError when the folder is not whole."""
    from transformers import AutoModelForImageTextToText

    options = {"local_files_only": True, "trust_remote_code": False}
    try:
        if is_legacy(folder):
            return load_legacy(folder, dtype)
        processor = load_processor(folder, **options)
        model = AutoModelForImageTextToText.from_pretrained(folder, torch_dtype=dtype, **options)
    except ImportError as error:
        raise ValueError(missing_package(folder, error)) from error
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"{folder.name} cannot be loaded ({reason}): get the whole folder again with hf "
            f"download REPOSITORY --local-dir {folder}"
        ) from error
    return processor, model


def missing_package(folder: Path, error: ImportError) -> str:
    """Which package a model wants and how to get it, else what the error says."""
    advised = re.search(r"pip install ([\w.\[\]-]+)", str(error))
    name = advised[1] if advised else error.name
    if not name:
        return f"{folder.name} needs another package: {error}"
    return (
        f"{folder.name} needs the package {name}, which ComfyUI does not bring: run python -m pip "
        f"install {name} with ComfyUI's own Python, then start ComfyUI again."
    )
