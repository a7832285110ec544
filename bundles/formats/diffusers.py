"""A LoRA of diffusers, and the pair of files that its advanced scripts write.

The second file, `<name>_emb.safetensors`, holds the vectors of all concepts in one tensor.
"""

from __future__ import annotations

from pathlib import Path

from ..bundle import Bundle
from ..encoders import trainer_key
from ..file_names import SUFFIX
from ..files.safetensors import tensor_file
from ..layers.diffusers_keys import is_diffusers_lora, to_known_keys
from ..layers.peft_keys import with_alphas
from ..metadata import EMBEDDING, kind_index
from ..token_map import TOKEN_MAP, join_rows, token_json, token_text
from . import Content, Files, FileSet, FolderFormat, Format, SaveJob, Source, Writer, lost_outputs
from .plain import lora_file

_EMBEDDINGS = "_emb"
_WEIGHTS = "pytorch_lora_weights.safetensors"


def _recognizes(source: Source) -> bool:
    return is_diffusers_lora(source.tensors)


def _read(source: Source) -> Content:
    lora = with_alphas(source.tensors, source.metadata)
    return Content(lora=to_known_keys(lora), embeddings={})


def _find(path: Path) -> FileSet | None:
    if path.is_dir():
        embeddings = sorted(path.glob(f"*{_EMBEDDINGS}{SUFFIX}"))
        return _pair(path, embeddings[0]) if len(embeddings) == 1 else None
    own = path.with_name(f"{path.stem}{_EMBEDDINGS}{SUFFIX}")
    if path.suffix == SUFFIX and own.is_file():
        return FileSet(loras=[path], embeddings=[own], may_hold_several=True)
    if path.name == _WEIGHTS:
        return _find(path.parent)
    return None


def _pair(folder: Path, embeddings: Path) -> FileSet | None:
    name = embeddings.stem.removesuffix(_EMBEDDINGS)
    loras = [folder / _WEIGHTS, folder / f"{name}{SUFFIX}"]
    loras = [lora for lora in loras if lora.is_file()][:1]
    return FileSet(loras=loras, embeddings=[embeddings], may_hold_several=True) if loras else None


def _files(job: SaveJob) -> Files:
    job.refuse_outputs_alone()
    files, embeddings = lora_file(job), job.bundle.embeddings
    if embeddings:
        path = job.path.with_name(f"{job.path.stem}{_EMBEDDINGS}{SUFFIX}")
        tensors = {trainer_key(key): rows for key, rows in join_rows(embeddings).items()}
        # The scripts write no header at all; ours only says whose the rows are.
        header = {TOKEN_MAP: token_json(embeddings), **kind_index(EMBEDDING)}
        files[path] = tensor_file(tensors, header)
    return files


def _notes(bundle: Bundle) -> list[str]:
    """How to tell diffusers which rows are whose, since the file itself has no place for it."""
    rows = f"The rows of the _emb file are, as a token map: {token_text(bundle.embeddings)}."
    return ([rows] if bundle.embeddings else []) + lost_outputs(bundle)


FORMAT = Format(title="a LoRA of diffusers", recognizes=_recognizes, read=_read)
FOLDER = FolderFormat(title="a pair of diffusers' scripts", find=_find)
WRITER = Writer(files=_files, notes=_notes, is_folder=True)
