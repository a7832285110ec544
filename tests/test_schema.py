"""Saved workflows hold widget values by position, so the schemas of the nodes are an interface."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("comfy_api", reason="needs ComfyUI: set PIVOTAL_COMFYUI")
pytestmark = pytest.mark.host

from pack.bundles.trim import Trimming  # noqa: E402
from pack.nodes.extension import NODES  # noqa: E402
from pack.nodes.host.run.continuation import Origin  # noqa: E402
from pack.nodes.host.sampling import Sampling  # noqa: E402
from pack.nodes.inputs import filled  # noqa: E402
from pack.training.adapters.dora import DoraConfig  # noqa: E402
from pack.training.adapters.loha import LoHaConfig  # noqa: E402
from pack.training.adapters.lokr import LoKrConfig  # noqa: E402
from pack.training.adapters.lora import LoraConfig  # noqa: E402
from pack.training.adapters.oft import OftConfig  # noqa: E402
from pack.training.adapters.targets import Targets  # noqa: E402
from pack.training.adapters.trilora import TriLoraConfig  # noqa: E402
from pack.training.config import TrainConfig  # noqa: E402
from pack.training.dataset.captioning.ask import Asking  # noqa: E402
from pack.training.dataset.folder.read import FolderOptions  # noqa: E402
from pack.training.dataset.records import Framing, Variation  # noqa: E402
from pack.training.objective import ObjectiveConfig  # noqa: E402
from pack.training.optimizers.choices import OptimizerConfig  # noqa: E402
from pack.training.validation import ValidationConfig  # noqa: E402
from pack.training.words.concepts import Concept  # noqa: E402

SNAPSHOT = Path(__file__).with_name("schemas.json")
FIRST = Path(__file__).with_name("first_inputs.json")
DOCS = Path(__file__).parents[1] / "web" / "docs"
KEYS = ("input", "input_order", "output", "output_name", "output_is_list")
CATEGORIES = {f"pivotal/{name}" for name in ("dataset", "training", "bundles", "evaluate")}
SOCKETS = {
    f"PIVOTAL_{name}"
    for name in (
        *("DATASET", "CONCEPTS", "CAPTIONER", "ADAPTER"),
        *("OPTIMIZER", "OBJECTIVE", "RUN", "BUNDLE", "PREVIEWS", "VALIDATION"),
    )
}
# Lists of a machine's folders and files, or of the host's own choices, and how many lead them.
VARYING = {
    "Pivotal_LoadDataset.folder": 0,
    "Pivotal_LoadBundle.file": 1,
    "Pivotal_LoadCaptioner.model": 0,
    "Pivotal_TagDataset.model": 0,
    "Pivotal_OpenBundle.file": 0,
    "Pivotal_ConvertBundle.file": 0,
    "Pivotal_PackBundle.lora": 1,
    "Pivotal_TrimLora.file": 1,
    "Pivotal_CompareGrid.sampler_name": 0,
    "Pivotal_CompareGrid.scheduler": 0,
    "Pivotal_ContinueRun.checkpoint": 0,
    "Pivotal_Previews.sampler_name": 0,
    "Pivotal_Previews.scheduler": 0,
    "Pivotal_ConceptReport.sampler_name": 0,
    "Pivotal_ConceptReport.scheduler": 0,
}
# Node and the dataclass that its widgets fill.
FILLS = {
    "Pivotal_Concept": Concept,
    "Pivotal_Lora": LoraConfig,
    "Pivotal_TriLora": TriLoraConfig,
    "Pivotal_Dora": DoraConfig,
    "Pivotal_LoHa": LoHaConfig,
    "Pivotal_LoKr": LoKrConfig,
    "Pivotal_Oft": OftConfig,
    "Pivotal_TrimLora": Trimming,
    "Pivotal_Optimizer": OptimizerConfig,
    "Pivotal_Objective": ObjectiveConfig,
    "Pivotal_TrainConcepts": TrainConfig,
    "Pivotal_PrepareImages": Framing,
    "Pivotal_VaryCaptions": Variation,
    "Pivotal_Validation": ValidationConfig,
    "Pivotal_ContinueRun": Origin,
    "Pivotal_LoadDataset": FolderOptions,
    "Pivotal_CaptionDataset": Asking,
    "Pivotal_Previews": Sampling,
    "Pivotal_CompareGrid": Sampling,
    "Pivotal_ConceptReport": Sampling,
}
# Fields that are filled otherwise than by an input of their name.
FILLED_OTHERWISE = {
    "Pivotal_TrainConcepts": {"objective", "optimizer", "embedding_optimizer"},
    "Pivotal_ContinueRun": {"run", "step"},
    "Pivotal_LoadDataset": {"masks", "every_kind"},
    "Pivotal_CaptionDataset": {"prompt"},
}
BY_ID = {node.GET_SCHEMA().node_id: node for node in NODES}


def described(node: Any) -> dict[str, Any]:
    """What the host tells the editor about a node."""
    return dataclasses.asdict(node.GET_SCHEMA().get_v1_info(node))


def widgets(node: Any) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Type and options of every input by its id, in their order."""
    groups = described(node)["input"]
    return {
        name: (spec[0], spec[1] if len(spec) > 1 else {})
        for group in ("required", "optional")
        for name, spec in groups.get(group, {}).items()
    }


def interface(node: Any) -> dict[str, Any]:
    """What a saved workflow relies on: texts for people and a machine's lists are left out."""
    info = {key: value for key, value in described(node).items() if key in KEYS}
    name = node.GET_SCHEMA().node_id
    for group in info["input"].values():
        for identity, spec in group.items():
            group[identity] = [spec[0], *(fixed(one, f"{name}.{identity}") for one in spec[1:])]
    return json.loads(json.dumps(info))


def fixed(options: dict[str, Any], place: str) -> dict[str, Any]:
    kept = {key: value for key, value in options.items() if key != "tooltip"}
    if place in VARYING:
        kept["options"] = [*kept["options"][: VARYING[place]], "..."]
    return kept


def test_schemas_are_those_of_the_snapshot():
    """`UPDATE_SCHEMAS=1` writes a new one; look at what it changes for saved workflows."""
    now = {node.GET_SCHEMA().node_id: interface(node) for node in NODES}
    if os.environ.get("UPDATE_SCHEMAS"):
        SNAPSHOT.write_text(json.dumps(now, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    known = json.loads(SNAPSHOT.read_text(encoding="utf-8"))
    assert sorted(now) == sorted(known)
    for name, schema in now.items():
        assert schema == known[name], name


def test_only_what_a_node_had_from_the_first_is_required():
    """The host refuses a prompt without a required input: what came later is optional."""
    required = {
        node.GET_SCHEMA().node_id: list(described(node)["input"].get("required", {}))
        for node in NODES
    }
    first = json.loads(FIRST.read_text(encoding="utf-8"))
    if os.environ.get("UPDATE_SCHEMAS"):
        first = required | first
        FIRST.write_text(json.dumps(first, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    assert sorted(first) == sorted(required)
    for name, inputs in required.items():
        assert inputs == first[name], name


def test_a_prompt_without_an_optional_widget_gets_what_the_editor_shows():
    wrong = []
    for node_id, node in BY_ID.items():
        named, copied = parameters_of(node)
        fields = dataclasses.fields(FILLS[node_id]) if copied else ()
        defaults = {field.name: field.default for field in fields}
        defaults |= {name: parameter.default for name, parameter in named.items()}
        for name, spec in described(node)["input"].get("optional", {}).items():
            options = spec[1] if len(spec) > 1 else {}
            shown = "default" in options and spec[0] != "BOUNDING_BOX"
            if shown and defaults[name] != options["default"]:
                wrong.append(f"{node_id}.{name}")
    assert wrong == []


def parameters_of(node: Any) -> tuple[dict[str, inspect.Parameter], bool]:
    """The inputs that `execute` names, and whether it copies all others into a dataclass."""
    parameters = inspect.signature(node.execute).parameters
    others = {name for name, one in parameters.items() if one.kind is one.VAR_KEYWORD}
    named = {name: one for name, one in parameters.items() if name not in others}
    return named, bool(others - {"others"})


def test_what_a_node_copies_is_what_its_dataclass_holds():
    """An input for each field and a field for each input, with the same default."""
    copying = [node_id for node_id, node in BY_ID.items() if parameters_of(node)[1]]
    assert len(copying) >= 18
    wrong = []
    for node_id in copying:
        node, fields = BY_ID[node_id], {f.name: f for f in dataclasses.fields(FILLS[node_id])}
        named, _ = parameters_of(node)
        copied = {name: spec for name, spec in widgets(node).items() if name not in named}
        unmatched = copied.keys() ^ (fields.keys() - FILLED_OTHERWISE.get(node_id, set()))
        wrong += [f"{node_id}.{name} is no input, or no field" for name in unmatched]
        for name in copied.keys() & fields.keys():
            default = fields[name].default
            if default is dataclasses.MISSING:
                fits = name in described(node)["input"]["required"]
            else:
                fits = default == copied[name][1].get("default")
            wrong += [] if fits else [f"{node_id}.{name} has another default than its field"]
    assert wrong == []


def test_filled_is_strict_and_knows_choices():
    made = filled(LoraConfig, {"rank": 4, "targets": "all linear"})
    assert made == LoraConfig(rank=4, targets=Targets.LINEAR) and made.targets is Targets.LINEAR
    with pytest.raises(TypeError, match="unexpected keyword argument 'ranks'"):
        filled(LoraConfig, {"ranks": 4})
    with pytest.raises(TypeError, match="required keyword-only argument: 'steps'"):
        filled(TrainConfig, {"batch_size": 2})
    with pytest.raises(ValueError, match="'everything' is not a valid Targets"):
        filled(LoraConfig, {"targets": "everything"})


def test_what_varies_is_a_list_of_a_node():
    every = {f"{node_id}.{one}" for node_id, node in BY_ID.items() for one in widgets(node)}
    assert VARYING.keys() <= every


def test_names_follow_the_rules():
    rules = {
        "id": lambda schema: re.fullmatch(r"Pivotal_[A-Z][A-Za-z]+", schema.node_id),
        "category": lambda schema: schema.category in CATEGORIES,
        "title": lambda schema: (
            schema.display_name and "pivotal" not in schema.display_name.lower()
        ),
        "description": lambda schema: schema.description and schema.description.endswith("."),
        "synonyms": lambda schema: schema.search_aliases,
        "synonyms in lower case": lambda schema: all(
            alias == alias.lower() for alias in schema.search_aliases
        ),
    }
    schemas = [node.GET_SCHEMA() for node in NODES]
    wrong = [
        (schema.node_id, rule)
        for schema in schemas
        for rule, holds in rules.items()
        if not holds(schema)
    ]
    assert wrong == []


def test_every_input_has_an_id_in_snake_case_and_a_tooltip():
    wrong = [
        f"{node_id}.{name}"
        for node_id, node in BY_ID.items()
        for name, (_, options) in widgets(node).items()
        if not re.fullmatch(r"[a-z]+(_[a-z0-9]+)*", name) or not options.get("tooltip", "").strip()
    ]
    assert wrong == []


def test_sockets_are_those_of_the_pack_or_of_the_host():
    strange = {}
    for node_id, node in BY_ID.items():
        types = [kind for kind, _ in widgets(node).values() if isinstance(kind, str)]
        types += described(node)["output"]
        strange[node_id] = {kind for kind in types if kind.startswith("PIVOTAL")} - SOCKETS
    assert {node_id: kinds for node_id, kinds in strange.items() if kinds} == {}


def test_every_node_has_a_help_page_that_names_all_of_it():
    wrong = {}
    for node_id, node in BY_ID.items():
        page = (DOCS / f"{node_id}.md").read_text(encoding="utf-8")
        bold = " ".join(re.findall(r"\*\*(.+?)\*\*", page))
        names = {*widgets(node), *described(node)["output_name"]}
        # "bundle_1 to bundle_4" names those between, too.
        unnamed = numberless(names) - numberless(set(re.findall(r"\w+", bold)))
        if unnamed or not page.startswith(f"# {node.GET_SCHEMA().display_name}\n"):
            wrong[node_id] = sorted(unnamed)
    assert wrong == {}


def numberless(names: set[str]) -> set[str]:
    return {re.sub(r"_\d+$", "", name) for name in names}


def test_no_help_page_is_left_of_a_node_that_is_gone():
    assert {path.stem for path in DOCS.glob("*.md")} <= BY_ID.keys()


def test_a_widget_is_a_field_of_the_dataclass_that_it_fills():
    """Same word and same default, so that the documents of one hold for the other."""
    wrong = []
    for node_id, settings in FILLS.items():
        fields = {field.name: field for field in dataclasses.fields(settings)}
        shared = {
            name: options["default"]
            for name, (_, options) in widgets(BY_ID[node_id]).items()
            if name in fields.keys() - FILLED_OTHERWISE.get(node_id, set()) and "default" in options
        }
        if len(shared) < len(fields) - 3:
            wrong.append(f"{node_id} shares only {sorted(shared)}")
        wrong += [
            f"{node_id}.{name}"
            for name, default in shared.items()
            if fields[name].default not in (dataclasses.MISSING, default)
        ]
    assert wrong == []
