"""cog-sdxl: `lora.safetensors`, `embeddings.pti` and `special_params.json` in one folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ..files.safetensors import tensor_file
from ..layers.generic import diffusers_module, to_generic
from ..token_map import join_rows, read_token_map, token_json
from . import Content, Files, FileSet, FolderFormat, Format, SaveJob, Source, Writer, lost_outputs

LORA, EMBEDDINGS, TOKENS = "lora.safetensors", "embeddings.pti", "special_params.json"
_KEYS = {"clip_l": "text_encoders_0", "clip_g": "text_encoders_1"}
_ATTENTION = re.compile(
    r"(diffusion_model\..*\.attn[12])\.(to_[qkv]|to_out\.0)\.(lora_\w+)\.weight"
)


def _recognizes(source: Source) -> bool:
    return bool(source.tensors) and source.tensors.keys() <= set(_KEYS.values())


def _read(source: Source) -> Content:
    return Content(lora={}, embeddings={source.stem: dict(source.tensors)})


def _find(path: Path) -> FileSet | None:
    folder = path if path.is_dir() else path.parent
    lora, embeddings, tokens = (folder / name for name in (LORA, EMBEDDINGS, TOKENS))
    if path not in (folder, lora) or not embeddings.is_file() or not lora.is_file():
        return None
    return FileSet(
        loras=[lora],
        embeddings=[embeddings],
        texts=[tokens] if tokens.is_file() else [],
        token_map=read_token_map(tokens),
    )


def _files(job: SaveJob) -> Files:
    """The three files under their fixed names, in the folder of the job's path."""
    bundle, folder = job.bundle, job.path.parent
    if bundle.family != "sdxl" or not job.lora or not bundle.embeddings:
        raise ValueError(
            "cog-sdxl takes an SDXL LoRA together with embeddings: choose another form."
        )
    rows = {_KEYS[key]: rows for key, rows in join_rows(bundle.embeddings).items()}
    tokens = token_json(bundle.embeddings)
    return {
        folder / LORA: tensor_file(_processors(to_generic(job.lora, bundle.family)), {}),
        folder / EMBEDDINGS: tensor_file(rows, {}),
        folder / TOKENS: lambda draft: draft.write_text(tokens, encoding="utf-8"),
    }


def _processors(lora: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Attention layers under the names of diffusers' attention processors, which have no alpha."""
    renamed: dict[str, Tensor] = {}
    for key, tensor in lora.items():
        if key.endswith(".alpha"):
            down = lora.get(key.removesuffix("alpha") + "lora_down.weight")
            if down is None or float(tensor) != down.shape[0]:
                raise ValueError(
                    "cog-sdxl has no alpha, and this LoRA's differs from its rank: "
                    "merge it with weight 1 to fold the alpha in."
                )
            continue
        layer = _ATTENTION.fullmatch(key)
        if layer is None:
            raise ValueError(f"cog-sdxl takes attention layers only, and the LoRA holds {key}.")
        module, name = diffusers_module(layer[1]), layer[2].removesuffix(".0")
        renamed[f"{module}.processor.{name}_lora.{layer[3].removeprefix('lora_')}.weight"] = tensor
    return renamed


FORMAT = Format(title="the embeddings of cog-sdxl", recognizes=_recognizes, read=_read)
FOLDER = FolderFormat(title="a folder of cog-sdxl", find=_find)
WRITER = Writer(files=_files, notes=lost_outputs, is_folder=True)
