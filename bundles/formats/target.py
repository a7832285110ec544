"""The files that each container of a bundle consists of, before they are written."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..bundle import Bundle
from ..encoders import OUTPUT, trainer_key
from ..file_names import SUFFIX, file_stems
from ..files.atomic import Write
from ..files.safetensors import tensor_file
from ..layers.generic import diffusers_module, to_generic
from ..metadata import build_metadata, kind_index
from ..token_map import TOKEN_MAP
from . import a1111, cog, diffusers, embedding
from . import header as header_form
from . import loose as loose_files

Files = dict[Path, Write]
"""What each file of a container is written by."""

_PROCESSOR = re.compile(
    r"(diffusion_model\..*\.attn[12])\.(to_[qkv]|to_out\.0)\.(lora_\w+)\.weight"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What is to be written where; the LoRA is under the keys and in the type of the file."""

    bundle: Bundle
    path: Path
    lora: Mapping[str, Tensor]
    trainer_keys: bool = False

    def metadata(self, kind: str, title: str = "") -> dict[str, str]:
        """The header of a file about all names."""
        names = tuple(self.bundle.names)
        title = title or self.path.stem
        return build_metadata(self.bundle, title=title, lora=self.lora, names=names, kind=kind)


def whole(job: Job) -> Files:
    """One file in A1111's form."""
    return _one_file(job, trainer_keys=False)


def onetrainer(job: Job) -> Files:
    """A1111's form with the names that OneTrainer gives the encoders."""
    return _one_file(job, trainer_keys=True)


def _one_file(job: Job, *, trainer_keys: bool) -> Files:
    tensors = dict(job.lora)
    for name, encoder, rows in all_vectors(job.bundle):
        key = trainer_key(encoder) if trainer_keys else encoder
        tensors[a1111.embedding_key(name, key)] = rows
    return {job.path: tensor_file(tensors, job.metadata("bundle"), hashed=True)}


def all_vectors(bundle: Bundle) -> list[tuple[str, str, Tensor]]:
    """(name, key, rows in fp32) of every vector; beside output vectors stand zeros, as readers
    of that form expect."""
    found = [
        (name, key, rows.to(torch.float32))
        for name, vectors in bundle.embeddings.items()
        for key, rows in vectors.items()
    ]
    for name, vectors in bundle.outputs.items():
        for key, rows in vectors.items():
            after = rows.to(torch.float32)
            found += [(name, key, torch.zeros_like(after)), (name, key + OUTPUT, after)]
    return found


def in_header(job: Job) -> Files:
    """A plain LoRA with the embeddings in its header, as text."""
    vectors: dict[str, dict[str, Tensor]] = {}
    for name, key, rows in all_vectors(job.bundle):
        vectors.setdefault(name, {})[key] = rows
    metadata = job.metadata("bundle") | {header_form.FIELD: header_form.pack(vectors)}
    return {job.path: tensor_file(job.lora, metadata, hashed=bool(job.lora))}


def loose(job: Job) -> Files:
    """The LoRA's file, unless there is no LoRA, and a file per embedding in the same folder."""
    bundle, names = job.bundle, tuple(job.bundle.embeddings)
    if not names and not job.lora:
        raise ValueError("Only output embeddings are there, which loose files have no place for.")
    stems = file_stems(names, job.path.stem if job.lora else None)
    files = _lora(job)
    for name in names:
        tensors = _loose_tensors(bundle.embeddings[name], job.trainer_keys)
        metadata = build_metadata(bundle, title=name, lora={}, names=(name,), kind=embedding.KIND)
        files[job.path.with_name(stems[name] + SUFFIX)] = tensor_file(tensors, metadata)
    return files


def _lora(job: Job) -> Files:
    if not job.lora:
        return {}
    return {job.path: tensor_file(job.lora, job.metadata(loose_files.KIND), hashed=True)}


def _loose_tensors(vectors: Mapping[str, Tensor], trainer_keys: bool) -> dict[str, Tensor]:
    """A single CLIP encoder goes under kohya's `emb_params`, which every program reads."""
    rows = {encoder: tensor.to(torch.float32) for encoder, tensor in vectors.items()}
    single = next(iter(rows)) if len(rows) == 1 else ""
    if (single, rows[single].shape[1] if single else 0) in {("clip_l", 768), ("clip_h", 1024)}:
        return {"emb_params": rows[single]}
    return {trainer_key(key): t for key, t in rows.items()} if trainer_keys else rows


def diffusers_pair(job: Job) -> Files:
    """The LoRA, and `<name>_emb` with the rows of all names in one tensor for each encoder."""
    files = _lora(job)
    if job.bundle.embeddings:
        path = job.path.with_name(f"{job.path.stem}{diffusers.EMBEDDINGS}{SUFFIX}")
        tensors = {trainer_key(key): rows for key, rows in joined_rows(job.bundle).items()}
        # The scripts write no header at all; ours only says whose the rows are.
        header = {TOKEN_MAP: token_json(job.bundle), **kind_index(embedding.KIND)}
        files[path] = tensor_file(tensors, header)
    return _some(files)


def cog_folder(job: Job) -> Files:
    """`lora.safetensors`, `embeddings.pti` and `special_params.json`, under their fixed names."""
    if job.bundle.family != "sdxl" or not job.lora or not job.bundle.embeddings:
        raise ValueError(
            "cog-sdxl takes an SDXL LoRA together with embeddings: choose another form."
        )
    rows = {cog.KEYS[key]: value for key, value in joined_rows(job.bundle).items()}
    folder, tokens = job.path.parent, token_json(job.bundle)
    generic = to_generic(job.lora, job.bundle.family)
    return {
        folder / cog.LORA: tensor_file(_processors(generic), {}),
        folder / cog.EMBEDDINGS: tensor_file(rows, {}),
        folder / cog.TOKENS: lambda draft: draft.write_text(tokens, encoding="utf-8"),
    }


def _processors(lora: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Attention layers as diffusers' attention processors held them, which know no alpha."""
    found: dict[str, Tensor] = {}
    for key, tensor in lora.items():
        if key.endswith(".alpha"):
            down = lora.get(key.removesuffix("alpha") + "lora_down.weight")
            if down is None or float(tensor) != down.shape[0]:
                raise ValueError(
                    "cog-sdxl knows no alpha, and this LoRA's differs from its rank: "
                    "merge it with weight 1 to fold the alpha in."
                )
            continue
        layer = _PROCESSOR.fullmatch(key)
        if layer is None:
            raise ValueError(f"cog-sdxl knows attention layers alone, and there is {key}.")
        module, name = diffusers_module(layer[1]), layer[2].removesuffix(".0")
        found[f"{module}.processor.{name}_lora.{layer[3].removeprefix('lora_')}.weight"] = tensor
    return found


def joined_rows(bundle: Bundle) -> dict[str, Tensor]:
    """The rows of all names one after the other; ValueError where encoders do not match."""
    encoders = {frozenset(vectors) for vectors in bundle.embeddings.values()}
    counts = {tuple(len(r) for r in v.values()) for v in bundle.embeddings.values()}
    if len(encoders) > 1 or any(len(set(one)) > 1 for one in counts):
        raise ValueError(
            "This form needs as many vectors for each encoder in every name: choose another form."
        )
    names = list(bundle.embeddings.values())
    return {key: torch.cat([v[key].to(torch.float32) for v in names]) for key in names[0]}


def token_json(bundle: Bundle) -> str:
    """A token map as cog-sdxl's `special_params.json` has it."""
    return json.dumps(dict(_tokens(bundle)))


def token_text(bundle: Bundle) -> str:
    """A token map as text, `cat = <s0><s1>; dog = <s2>`."""
    return "; ".join(f"{name} = {slots}" for name, slots in _tokens(bundle))


def _tokens(bundle: Bundle) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    start = 0
    for name, vectors in bundle.embeddings.items():
        count = max(len(rows) for rows in vectors.values())
        found.append((name, "".join(f"<s{start + row}>" for row in range(count))))
        start += count
    return found


def _some(files: Files) -> Files:
    if not files:
        raise ValueError("This form has no place for output embeddings, and there is nothing else.")
    return files
