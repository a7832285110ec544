"""The text in a bundle's header: ModelSpec 1.0.1, kohya's `ss_` fields, the graph, our index."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import cast

from torch import Tensor

from .bundle import Bundle, Entry
from .file_names import safe_stem
from .layers.generic import DIFFUSERS_STYLE, SGM_STYLE

INDEX = "pivotal.index"
VERSION = 1
BUNDLE, LORA, EMBEDDING = "bundle", "lora", "embedding"
"""What the index of a file calls it: everything in one, a LoRA with files next to it, or a name."""
_ARCHITECTURES = {
    "sd15": "stable-diffusion-v1",
    "sd2": "stable-diffusion-v2-512",
    "sdxl": "stable-diffusion-xl-v1-base",
}
_SS_BASE = {"sd15": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0"}
# No index of ours comes near these; more is junk, or an attempt to fill the memory.
_MAX_INDEX, _MAX_TEXT, _MAX_THUMBNAIL = 16 * 1024**2, 10_000, 1024**2
_THUMBNAIL = re.compile(r"data:image/(?:jpeg|png|webp);base64,[A-Za-z0-9+/=]*")
_KEPT = ("ss_", "ot_")
_KEPT_SPEC = frozenset(
    f"modelspec.{name}"
    for name in ("author", "description", "license", "tags", "merged_from", "prediction_type")
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Index:
    """What a file says about itself, as far as it could be understood."""

    family: str = ""
    kind: str = ""
    entries: tuple[Entry, ...] = ()
    recipe: Mapping[str, object] = field(default_factory=dict[str, object])
    workflow: str = ""
    thumbnail: str = ""
    notes: tuple[str, ...] = ()


def build_metadata(
    bundle: Bundle, *, title: str, lora: Mapping[str, Tensor], names: tuple[str, ...], kind: str
) -> dict[str, str]:
    """All fields of a file that announces `names`."""
    metadata = dict(bundle.header) if lora or kind == BUNDLE else {}
    metadata |= _model_spec(bundle.family, title, names, kind)
    if lora:
        metadata |= _kohya_fields(bundle.family, title, lora)
    if thumbnail := bundle.thumbnail or _first_thumbnail(bundle, names):
        metadata["modelspec.thumbnail"] = thumbnail
    index = {
        "version": VERSION,
        "kind": kind,
        "family": bundle.family,
        "entries": [_described(bundle, name) for name in names],
        "recipe": dict(bundle.recipe),
    }
    if bundle.source:
        index["source"] = bundle.source
    try:
        metadata[INDEX] = json.dumps(index, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"The recipe holds what JSON cannot: {error}.") from error
    if bundle.workflow:
        metadata["workflow"] = bundle.workflow
    return metadata


def kind_index(kind: str) -> dict[str, str]:
    """The index of a file that says only what it is."""
    return {INDEX: json.dumps({"version": VERSION, "kind": kind})}


def _described(bundle: Bundle, name: str) -> dict[str, object]:
    """A name in the index, without what is not known of it."""
    known = asdict(bundle.entry_of.get(name, Entry(name=name)))
    made: dict[str, object] = {k: value for k, value in known.items() if value or k == "name"}
    encoders = {key: list(rows.shape) for key, rows in bundle.embeddings.get(name, {}).items()}
    outputs = {key: list(rows.shape) for key, rows in bundle.outputs.get(name, {}).items()}
    return made | {"encoders": encoders} | ({"outputs": outputs} if outputs else {})


def _first_thumbnail(bundle: Bundle, names: tuple[str, ...]) -> str:
    pictures = (entry.thumbnail for name, entry in bundle.entry_of.items() if name in names)
    return next(filter(None, pictures), "")


def read_index(metadata: Mapping[str, str]) -> Index:
    """Our index, if any; the text may be anyone's, so what is malformed is left out with a note."""
    notes: list[str] = []
    workflow = _read_workflow(metadata.get("workflow", ""), notes)
    found = _parse(metadata.get(INDEX, "{}"))
    if found is None:
        notes.append("The file's own description cannot be read and is left out.")
        found = {}
    if isinstance(version := found.get("version", VERSION), int) and version > VERSION:
        notes.append(
            "The file was made by a newer Pivotal: what this one does not know is left out."
        )
    return Index(
        family=_text(found, "family", notes),
        kind=_text(found, "kind", notes),
        entries=_read_entries(found.get("entries", []), notes),
        recipe=_read_recipe(found.get("recipe", {}), notes),
        workflow=workflow,
        thumbnail=_read_thumbnail(metadata.get("modelspec.thumbnail", "")),
        notes=tuple(notes),
    )


def _model_spec(family: str, title: str, names: tuple[str, ...], kind: str) -> dict[str, str]:
    adapter = "textual-inversion" if kind == EMBEDDING else "lora"
    fields = {
        "sai_model_spec": "1.0.1",
        "architecture": f"{_ARCHITECTURES.get(family, family or 'unknown')}/{adapter}",
        "implementation": _implementation(family),
        "title": title,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    if names:
        # A name in a file of its own is called by the file.
        called = names if kind == BUNDLE else tuple(safe_stem(name) for name in names)
        fields["trigger_phrase"] = ", ".join(called)
        fields["usage_hint"] = "ComfyUI: " + ", ".join(f"embedding:{name}" for name in called)
    return {f"modelspec.{name}": value for name, value in fields.items()}


def _implementation(family: str) -> str:
    """The code base whose module names the tensors follow."""
    if family in DIFFUSERS_STYLE:
        return "diffusers"
    if family in SGM_STYLE:
        return "https://github.com/Stability-AI/generative-models"
    return "https://github.com/comfyanonymous/ComfyUI"


def _kohya_fields(family: str, title: str, lora: Mapping[str, Tensor]) -> dict[str, str]:
    """What other programs sort LoRA files by; rank and alpha only where all layers agree."""
    fields = {"ss_output_name": title}
    if family in _SS_BASE:
        fields |= {
            "ss_base_model_version": _SS_BASE[family],
            "ss_v2": str(family == "sd2"),
            "ss_network_module": "networks.lora",
        }
    ranks = {tensor.shape[0] for key, tensor in lora.items() if key.endswith("lora_down.weight")}
    alphas = {float(tensor) for key, tensor in lora.items() if key.endswith(".alpha")}
    if len(ranks) == 1:
        fields["ss_network_dim"] = str(ranks.pop())
    if len(alphas) == 1:
        fields["ss_network_alpha"] = str(alphas.pop())
    return fields


def _parse(text: str) -> dict[str, object] | None:
    """A JSON object, or None for whatever else the text is."""
    if len(text) > _MAX_INDEX:
        return None
    try:
        parsed: object = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, object]", parsed) if isinstance(parsed, dict) else None


def _refuse_constant(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")


def _read_workflow(text: str, notes: list[str]) -> str:
    if not text or _parse(text) is not None:
        return text
    notes.append("The graph in the file cannot be read and is left out.")
    return ""


def _text(found: Mapping[str, object], key: str, notes: list[str]) -> str:
    value = found.get(key, "")
    if isinstance(value, str) and len(value) <= _MAX_TEXT and _is_unicode(value):
        return value
    notes.append(f"The file's description has no usable {key!r}: it is left out.")
    return ""


def _is_unicode(text: str) -> bool:
    """False for lone surrogates, which JSON can spell but no file or page can hold."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _read_recipe(value: object, notes: list[str]) -> Mapping[str, object]:
    if isinstance(value, dict):
        return cast("dict[str, object]", value)
    notes.append("The recipe in the file has the wrong form and is left out.")
    return {}


def _read_entries(value: object, notes: list[str]) -> tuple[Entry, ...]:
    items = cast("list[object]", value) if isinstance(value, list) else [value]
    entries: dict[str, Entry] = {}
    for item in items:
        entry = _read_entry(item)
        if entry is not None:
            entries.setdefault(entry.name, entry)
    if len(entries) < len(items):
        notes.append("Concepts in the file's description have the wrong form and are left out.")
    return tuple(entries.values())


def _read_entry(item: object) -> Entry | None:
    if not isinstance(item, dict):
        return None
    problems: list[str] = []
    fields = cast("dict[str, object]", item)
    name, initial, placeholder = (
        _text(fields, key, problems) for key in ("name", "initial", "placeholder")
    )
    if problems or not name:
        return None
    thumbnail = _read_thumbnail(fields.get("thumbnail", ""))
    return Entry(name=name, initial=initial, placeholder=placeholder, thumbnail=thumbnail)


def _read_thumbnail(value: object) -> str:
    """A picture as a data URI; whatever else stands there is left out."""
    text = value if isinstance(value, str) and len(value) <= _MAX_THUMBNAIL else ""
    return text if _THUMBNAIL.fullmatch(text) else ""


def kept_header(metadata: Mapping[str, str]) -> dict[str, str]:
    """What a file's header says about its training and its author, which saving again keeps."""
    return {
        key: value
        for key, value in metadata.items()
        if (key.startswith(_KEPT) or key in _KEPT_SPEC) and len(value) <= _MAX_INDEX
    }
