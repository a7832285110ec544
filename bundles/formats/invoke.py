"""invoke-training: `embeddings.safetensors` beside `lora.safetensors` or folders of PEFT."""

from __future__ import annotations

from pathlib import Path

from . import FolderDialect, Together

LORA, EMBEDDINGS = "lora.safetensors", "embeddings.safetensors"
PARTS = ("unet", "text_encoder", "text_encoder_1", "text_encoder_2")
PEFT = "adapter_model.safetensors"


def _find(path: Path) -> Together | None:
    folder = path if path.is_dir() else path.parent
    embeddings, whole = folder / EMBEDDINGS, folder / LORA
    parts = [folder / part / PEFT for part in PARTS]
    loras = [lora for lora in (whole, *parts) if lora.is_file()]
    if not loras or not embeddings.is_file() or path not in (folder, whole, embeddings):
        return None
    return Together(loras=loras, embeddings=[embeddings], maybe_several=True)


FOLDER = FolderDialect(title="a folder of invoke-training", find=_find)
