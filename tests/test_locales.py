"""Every text of the pack is there in every language; English is that of the schemas and of web/."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("comfy_api", reason="needs ComfyUI: set PIVOTAL_COMFYUI")
pytestmark = pytest.mark.host

from pack.nodes.extension import NODES  # noqa: E402
from pack.nodes.host.user_files import SHARED as SHARED_FILES  # noqa: E402
from pack.training.kept import KINDS  # noqa: E402
from pack.training.series import SERIES  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
LOCALES, WEB = ROOT / "locales", ROOT / "web"
# The English that the translations were made from.
ENGLISH = Path(__file__).with_name("english.json")
LANGUAGES = ("de", "fr", "ja", "ko", "zh")
FILES = {"nodeDefs.json", "main.json", "settings.json", "commands.json"}
SCRIPTS = {"zh": "[一-鿿]", "ja": "[ぁ-ヿ一-鿿]", "ko": "[가-힣]"}
# Words that a French or German sentence has no use for.
LEFT_OVER = r"(?i)\b(the|of|with|which|what|and|are|when|from)\b"
TERMS = {
    "CLIP",
    "CLIP Vision",
    "DoRA",
    "Huber",
    "LoHa",
    "LoKr",
    "LoRA",
    "OFT",
    "Pivotal",
    "TriLoRA",
}
TERMS |= {"VAE", "alpha", "cfg"}
# Words that are the same in the language, or that its users say in English.
SHARED = {
    "de": "adapter, bundle, bundle 1, bundle 2, bundle 3, bundle 4, checkpoint, dropout, "
    "embeddings, pivot, prompt, prompts, revision, scheduler, seed, seeds, suffix, text, training, "
    "weight decay, wildcards, bundles",
    "fr": "buckets, bundle, bundle 1, bundle 2, bundle 3, bundle 4, bundles, concept, concepts, "
    "distance, dropout, embeddings, format, images, patience, pivot, prompt, prompts, score, "
    "validation",
}
# In the pages of the editor these are states and events that come from the server.
FROM_SERVER = {"running", "finished", "stopped", "finish", "checkpoint", "preview", "pivot"}
UNITS = {"{rest} s", "{hours} h {minutes} min", "{minutes} min {rest} s", "{tokens} tokens"}
UNITS |= {"seed {seed}"}
Texts = dict[str, str]


def english() -> Texts:
    """Every text of every node by its path in nodeDefs.json."""
    found: Texts = {}
    for node in NODES:
        schema = node.GET_SCHEMA()
        info = schema.get_v1_info(node)
        found[f"{schema.node_id}.display_name"] = schema.display_name
        found[f"{schema.node_id}.description"] = schema.description
        for group in ("required", "optional"):
            for name, spec in info.input.get(group, {}).items():
                options = spec[1] if len(spec) > 1 else {}
                found[f"{schema.node_id}.inputs.{name}.name"] = options.get("display_name") or name
                found[f"{schema.node_id}.inputs.{name}.tooltip"] = options["tooltip"]
        for number, output in enumerate(schema.outputs):
            place = f"{schema.node_id}.outputs.{number}"
            found[f"{place}.name"] = output.display_name or output.id
            if output.tooltip:
                found[f"{place}.tooltip"] = output.tooltip
    return found


def flat(tree: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """The texts of nested objects by their paths."""
    for key, value in tree.items():
        inner = f"{place}.{key}" if place else key
        yield from flat(value, inner) if isinstance(value, dict) else [(inner, value)]


def read(language: str, name: str) -> Any:
    return json.loads((LOCALES / language / name).read_text(encoding="utf-8"))


def forget_stale(now: Texts, then: Texts) -> None:
    """Take out of the languages what was translated from other English, or is gone."""
    stale = {key for key, text in then.items() if now.get(key) != text}
    for language in LANGUAGES:
        path = LOCALES / language / "nodeDefs.json"
        tree = json.loads(path.read_text(encoding="utf-8"))
        for key in stale & dict(flat(tree)).keys():
            *way, last = key.split(".")
            at = tree
            for part in way:
                at = at[part]
            del at[last]
        path.write_text(json.dumps(tree, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def test_the_translations_were_made_from_the_english_of_today():
    """`UPDATE_LOCALES=1` notes today's English and takes out the translations of what changed."""
    now = english()
    then: Texts = json.loads(ENGLISH.read_text(encoding="utf-8")) if ENGLISH.exists() else {}
    if os.environ.get("UPDATE_LOCALES"):
        forget_stale(now, then)
        ENGLISH.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")
        then = now
    assert {key: text for key, text in now.items() if then.get(key) != text} == {}
    assert then.keys() - now.keys() == set()


def test_the_languages_are_those_that_the_pack_promises():
    assert {path.name for path in LOCALES.iterdir()} == set(LANGUAGES)
    for language in LANGUAGES:
        assert {path.name for path in (LOCALES / language).iterdir()} == FILES


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_of_every_node_is_translated_and_no_other(language: str):
    wanted, found = english().keys(), dict(flat(read(language, "nodeDefs.json"))).keys()
    assert wanted - found == set(), "not translated"
    assert found - wanted == set(), "of no node"


def plain(text: str) -> str:
    return text.replace("_", " ").casefold()


def untranslated(language: str, pairs: dict[str, tuple[str, str]]) -> dict[str, str]:
    """The texts that are still English, though they are no terms."""
    allowed = {plain(term) for term in TERMS | set(SHARED.get(language, "").split(", "))}
    left = {}
    for place, (source, text) in pairs.items():
        same = plain(source) == plain(text) and plain(text) not in allowed
        words = text.count(" ") >= 4
        foreign = words and not re.search(SCRIPTS.get(language, "."), text)
        over = words and language not in SCRIPTS and re.search(LEFT_OVER, without_quotes(text))
        if not text.strip() or same or foreign or over:
            left[place] = text
    return left


def without_quotes(text: str) -> str:
    """A text without holes and quotes: values, examples and names of options stay English."""
    return re.sub(r"\{\w+\}|„.*?“|« .*? »|\".*?\"|'.*?'|: a photo of \S+|faces == .*", "", text)


@pytest.mark.parametrize("language", LANGUAGES)
def test_nothing_of_the_nodes_is_left_in_english(language: str):
    found = dict(flat(read(language, "nodeDefs.json")))
    pairs = {key: (text, found[key]) for key, text in english().items()}
    assert untranslated(language, pairs) == {}


def signs(text: str) -> set[str]:
    """What a translation keeps as it is: numbers, holes, file names and what is typed."""
    typed = (
        r"\{\w+\}|embedding:|[\w-]+\.(?:txt|png|json|jsonl|csv|onnx|safetensors)|<s0><s1>|\bTOK\b"
    )
    return set(re.findall(typed, text)) | set(re.findall(r"\d+(?:\.\d+)?", text))


@pytest.mark.parametrize("language", LANGUAGES)
def test_numbers_and_what_is_typed_are_those_of_the_english(language: str):
    found = dict(flat(read(language, "nodeDefs.json")))
    lost = {key: signs(text) - signs(found[key]) for key, text in english().items()}
    assert {key: one for key, one in lost.items() if one} == {}


@pytest.mark.parametrize("language", LANGUAGES)
def test_names_and_descriptions_hold_no_sign_that_the_editor_reads_as_a_command(language: str):
    found = dict(flat(read(language, "nodeDefs.json")))
    shown = {key: text for key, text in found.items() if not key.endswith("tooltip")}
    assert [key for key, text in shown.items() if re.search(r"[{}@|]", text)] == []


def spoken() -> set[str]:
    """Every text that the pages of the editor hand to `say` or `word`, the server's included."""
    source = "\n".join(path.read_text(encoding="utf-8") for path in sorted(WEB.rglob("*.js")))
    text = r"""("(?:[^"\\]|\\.)*"|'[^']*')"""
    found = re.findall(rf"\bsay\(\s*(?:\w+ \? )?{text}", source)
    found += re.findall(rf"\bsay\(\s*\w+ \? {text} : {text}", source)
    found += re.findall(rf"""^  \["\w+", {text}(?:, {text})?\],$""", source, re.M)
    found += re.findall(rf"\b(?:button|keep)\({text}(?:, {text})?", source)
    found += re.findall(rf"^const [A-Z]+ = {text};$", source, re.M)
    parts = {
        one for entry in found for one in ([entry] if isinstance(entry, str) else entry) if one
    }
    spelled = {part[1:-1] for part in parts if " " in part or part[1:2].isalpha()}
    served = {text for one in SERIES for text in (one.title, one.unit) if text}
    served |= {text for one in KINDS for text in (one.title, one.lost)} | {SHARED_FILES}
    return spelled | FROM_SERVER | served


NOT_SPOKEN = re.compile(r"^(Pivotal[_.].*|pivotal\..*|\(connected bundle\)|https://.*|en)$")


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_word_of_the_panels_is_translated_and_no_other(language: str):
    wanted = {text for text in spoken() if not NOT_SPOKEN.match(text)}
    words = read(language, "main.json")["pivotal"]
    assert wanted - words.keys() == set(), "not translated"
    assert words.keys() - wanted == set(), "never said"
    pairs = {text: (text, said) for text, said in words.items() if text not in UNITS}
    assert untranslated(language, pairs) == {}
    assert {text for text, said in words.items() if signs(text) - signs(said)} == set()


@pytest.mark.parametrize("language", LANGUAGES)
def test_settings_categories_and_commands_are_translated(language: str):
    source = (WEB / "editor" / "settings.js").read_text(encoding="utf-8")
    identities = re.findall(r'^const \w+ = "(Pivotal\.[\w.]+)";$', source, re.M)
    tips = source.count("tooltip:")
    settings = read(language, "settings.json")
    assert settings.keys() == {identity.replace(".", "_") for identity in identities}
    assert all(one["name"].strip() for one in settings.values())
    assert sum("tooltip" in one for one in settings.values()) == tips
    main = read(language, "main.json")
    categories = {part for node in NODES for part in node.GET_SCHEMA().category.split("/")}
    assert main["nodeCategories"].keys() == categories
    groups = re.findall(r'category: \["(\w+)", "(\w+)"', source)
    assert main["settingsCategories"].keys() == {word for pair in groups for word in pair}
    (command,) = read(language, "commands.json").items()
    assert command[0] == "Workspace_ToggleBottomPanelTab_pivotal_runs" and command[1]["label"]
