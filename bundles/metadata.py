"""The header of a bundle: ModelSpec 1.0.1, kohya's `ss_` fields, the graph and our index."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
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
_ARCHITECTURE_SD2_V = "stable-diffusion-v2-768-v"
_SS_BASE = {"sd15": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0"}
_SS_FAMILY = {"sd15": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl"}
_SD2_V = "sd_v2_v"
PHRASE = "modelspec.trigger_phrase"
_SIZES = frozenset({"ss_network_dim", "ss_network_alpha"})
# The ranks and alphas of convolutions and of single blocks are among these.
_SIZES_BY_HAND = frozenset({"ss_network_args"})
# No index of ours comes near these; anything longer is junk, or an attempt to fill the memory.
_MAX_INDEX, _MAX_TEXT, _MAX_THUMBNAIL = 16 * 1024**2, 10_000, 1024**2
_MAX_ENTRIES = 1000
_THUMBNAIL = re.compile(r"data:image/(?:jpeg|png|webp);base64,[A-Za-z0-9+/=]*")
_KEPT = ("ss_", "ot_")
_KEPT_SPEC = frozenset(
    f"modelspec.{name}"
    for name in ("author", "description", "license", "tags", "merged_from", "prediction_type")
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Index:
    """What a file says about itself, as far as it can be understood."""

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
    header: Mapping[str, str] = bundle.header if lora or kind == BUNDLE else {}
    metadata = dict(header) | _model_spec(bundle.family, title, names, kind)
    if bundle.dated:
        now = datetime.now(timezone.utc)
        metadata["modelspec.date"] = now.isoformat(timespec="seconds")
    if header.get("ss_base_model_version", "").startswith(_SD2_V):
        metadata["modelspec.architecture"] = metadata["modelspec.architecture"].replace(
            _ARCHITECTURES["sd2"], _ARCHITECTURE_SD2_V
        )
    if phrase := header.get(PHRASE, ""):
        ours = metadata.get(PHRASE, "")
        metadata[PHRASE] = ", ".join(dict.fromkeys(filter(None, (phrase, ours))))
    if lora:
        metadata |= _kohya_fields(bundle.family, title, lora, header)
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
    """The index of a file that states nothing but its kind."""
    return {INDEX: json.dumps({"version": VERSION, "kind": kind})}


def _described(bundle: Bundle, name: str) -> dict[str, object]:
    """A name as the index describes it; what is not known about it is left out."""
    fields = asdict(bundle.entry_of.get(name, Entry(name=name)))
    entry: dict[str, object] = {k: value for k, value in fields.items() if value or k == "name"}
    encoders = {key: list(rows.shape) for key, rows in bundle.embeddings.get(name, {}).items()}
    outputs = {key: list(rows.shape) for key, rows in bundle.outputs.get(name, {}).items()}
    return entry | {"encoders": encoders} | ({"outputs": outputs} if outputs else {})


def _first_thumbnail(bundle: Bundle, names: tuple[str, ...]) -> str:
    thumbnails = (entry.thumbnail for name, entry in bundle.entry_of.items() if name in names)
    return next(filter(None, thumbnails), "")


def read_index(metadata: Mapping[str, str]) -> Index:
    """Our index, if any; it may be anyone's text, so malformed parts are left out with a note."""
    notes: list[str] = []
    workflow = _read_workflow(metadata.get("workflow", ""), notes)
    fields = _parse(metadata.get(INDEX, "{}"))
    if fields is None:
        notes.append("The file's own description cannot be read and is left out.")
        fields = {}
    if isinstance(version := fields.get("version", VERSION), int) and version > VERSION:
        notes.append(
            "The file was made by a newer Pivotal: what this one does not know is left out."
        )
    return Index(
        family=_text(fields, "family", notes),
        kind=_text(fields, "kind", notes),
        entries=_read_entries(fields.get("entries", []), notes),
        recipe=_read_recipe(fields.get("recipe", {}), notes),
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
    }
    if names:
        # A prompt refers to an embedding in a file of its own by the name of the file.
        triggers = names if kind == BUNDLE else tuple(safe_stem(name) for name in names)
        fields["trigger_phrase"] = ", ".join(triggers)
        fields["usage_hint"] = "ComfyUI: " + ", ".join(f"embedding:{name}" for name in triggers)
    return {f"modelspec.{name}": value for name, value in fields.items()}


def _implementation(family: str) -> str:
    """The code base whose module names the LoRA's keys follow."""
    if family in DIFFUSERS_STYLE:
        return "diffusers"
    if family in SGM_STYLE:
        return "https://github.com/Stability-AI/generative-models"
    return "https://github.com/comfyanonymous/ComfyUI"


def _kohya_fields(
    family: str, title: str, lora: Mapping[str, Tensor], header: Mapping[str, str]
) -> dict[str, str]:
    """What other programs sort LoRA files by; rank and alpha only if all layers agree.

    What the header of before says of the same family and network stays.
    """
    fields = {"ss_output_name": title}
    if family in _SS_BASE:
        base, module = header.get("ss_base_model_version", ""), header.get("ss_network_module", "")
        fields |= {
            "ss_base_model_version": base
            if base.startswith(_SS_FAMILY[family])
            else _SS_BASE[family],
            "ss_v2": str(family == "sd2"),
            "ss_network_module": module or "networks.lora",
        }
    ranks = {tensor.shape[0] for key, tensor in lora.items() if key.endswith("lora_down.weight")}
    alphas = {float(tensor) for key, tensor in lora.items() if key.endswith(".alpha")}
    if len(ranks) == 1:
        fields["ss_network_dim"] = str(ranks.pop())
    if len(alphas) == 1:
        fields["ss_network_alpha"] = str(alphas.pop())
    return fields


def resized_header(header: Mapping[str, str]) -> dict[str, str]:
    """A header whose LoRA has got other ranks: what it said about them no longer holds.

    `Dynamic` is sd-scripts' word; saving replaces it where all layers agree.
    """
    return {
        key: "Dynamic" if key in _SIZES else text
        for key, text in header.items()
        if key not in _SIZES_BY_HAND
    }


def merged_header(headers: Sequence[Mapping[str, str]], title: str) -> dict[str, str]:
    """What holds of a merged LoRA: which files it is from, and every phrase that triggers it."""
    phrases = dict.fromkeys(header[PHRASE] for header in headers if header.get(PHRASE))
    merged = {"modelspec.merged_from": title, PHRASE: ", ".join(phrases)}
    return {key: text for key, text in merged.items() if text}


def _parse(text: str) -> dict[str, object] | None:
    """A JSON object, or None if the text is anything else."""
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


def _text(fields: Mapping[str, object], key: str, notes: list[str]) -> str:
    value = fields.get(key, "")
    if isinstance(value, str) and len(value) <= _MAX_TEXT and _is_unicode(value):
        return value
    notes.append(f"The file's description has no usable {key!r}: it is left out.")
    return ""


def _is_unicode(text: str) -> bool:
    """False for lone surrogates, which JSON can spell and no file or page can hold."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _read_recipe(value: object, notes: list[str]) -> Mapping[str, object]:
    if isinstance(value, dict):
        return cast("dict[str, object]", value)
    notes.append("The recipe in the file has the wrong form and is left out.")
    return {}


def _read_entries(value: object, notes: list[str]) -> tuple[Entry, ...]:
    items = cast("list[object]", value) if isinstance(value, list) else [value]
    if len(items) > _MAX_ENTRIES:
        notes.append(
            f"The file's description has {len(items)} concepts: the first {_MAX_ENTRIES} are read."
        )
        items = items[:_MAX_ENTRIES]
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
    """An image as a data URI, "" for anything else."""
    text = value if isinstance(value, str) and len(value) <= _MAX_THUMBNAIL else ""
    return text if _THUMBNAIL.fullmatch(text) else ""


def kept_header(metadata: Mapping[str, str]) -> dict[str, str]:
    """Header fields about training and author, which survive when the bundle is saved again."""
    kept = {
        key: value
        for key, value in metadata.items()
        if (key.startswith(_KEPT) or key in _KEPT_SPEC) and len(value) <= _MAX_INDEX
    }
    if phrase := _own_phrase(metadata):
        kept[PHRASE] = phrase
    return kept


def _own_phrase(metadata: Mapping[str, str]) -> str:
    """The trigger phrase without the names that saving put at its end, which may change."""
    phrase = metadata.get(PHRASE, "")
    if len(phrase) > _MAX_TEXT:
        return ""
    names = [entry.name for entry in read_index(metadata).entries]
    for ours in (", ".join(names), ", ".join(map(_stem, names))):
        if ours and f", {phrase}".endswith(f", {ours}"):
            return phrase.removesuffix(ours).removesuffix(", ")
    return phrase


def _stem(name: str) -> str:
    """A name as a file has it, "" where none can."""
    try:
        return safe_stem(name)
    except ValueError:
        return ""
