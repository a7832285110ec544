"""docs/nodes.md is the table of node ids, inputs and outputs, as the schema snapshot has them."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "nodes.md"
HEAD = """# Nodes

The ids, inputs and outputs of every node. Saved workflows rely on them, so inputs are never renamed
or reordered, and new ones are added at the end. The help pages in `web/docs` explain them.
"""


def table() -> str:
    """The page, made from tests/schemas.json."""
    schemas = json.loads((ROOT / "tests" / "schemas.json").read_text(encoding="utf-8"))
    return HEAD + "".join(section(name, schemas[name]) for name in sorted(schemas))


def section(name: str, schema: dict[str, Any]) -> str:
    lines = ["", f"## {name}", "", "| input | type | default |", "|---|---|---|"]
    for group in ("required", "optional"):
        for identity in schema["input_order"].get(group, []):
            kind, *options = schema["input"][group][identity]
            lines.append(f"| {identity} | {typed(kind)} | {default(group, options)} |")
    outputs = zip(schema["output_name"], schema["output"], strict=True)
    listed = ", ".join(f"{label} ({typed(kind)})" for label, kind in outputs)
    return "\n".join([*lines, "", f"Outputs: {listed}", ""])


def typed(kind: Any) -> str:
    return kind if isinstance(kind, str) else "COMBO"


def default(group: str, options: list[dict[str, Any]]) -> str:
    value = options[0].get("default") if options else None
    if value is None:
        return "optional" if group == "optional" else ""
    return json.dumps(value)


def papers(*patterns: str) -> set[str]:
    """Numbers of arXiv papers that some files name."""
    paths = [path for pattern in patterns for path in ROOT.glob(pattern)]
    return {
        one for path in paths for one in re.findall(r"\b\d{4}\.\d{5}\b", path.read_text("utf-8"))
    }


def test_the_documents_name_every_paper_that_the_code_follows():
    code = papers("training/**/*.py", "bundles/**/*.py")
    assert code and code - papers("docs/mathematics.md", "docs/methods.md") == set()


LINK = re.compile(r"\]\(([^)#\s]+)\)|src=\"([^\"]+)\"")
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "web" / "docs").glob("*.md")]


def test_what_a_page_links_to_is_there():
    links = [
        (page, "".join(pair))
        for page in PAGES
        for pair in LINK.findall(page.read_text(encoding="utf-8"))
    ]
    near = [(page, link) for page, link in links if "://" not in link]
    dead = [(page.name, link) for page, link in near if not (page.parent / link).exists()]
    assert dead == []


HELP = sorted((ROOT / "web" / "docs").glob("*.md"))
MOST_BYTES = 2_000_000


def test_a_help_page_shows_its_node_in_use():
    linked = {
        page.stem: f"](pictures/{page.stem}.webp)" in page.read_text("utf-8") for page in HELP
    }
    assert [name for name, is_linked in linked.items() if not is_linked] == []
    empty = []
    for page in HELP:
        with Image.open(page.parent / "pictures" / f"{page.stem}.webp") as picture:
            is_large = picture.width >= 300 and picture.height >= 80
            if not is_large or picture.convert("L").getextrema() == (0, 0):
                empty.append(page.stem)
    assert empty == []


def test_the_pictures_are_those_of_the_pages_and_small():
    drawn = {path.stem: path.stat().st_size for path in (ROOT / "web").rglob("*.webp")}
    assert drawn.keys() == {page.stem for page in HELP}
    assert sum(drawn.values()) < MOST_BYTES


TEMPLATES = sorted((ROOT / "example_workflows").glob("*.json"))


def test_a_template_has_a_square_thumbnail_and_notes():
    wrong = {}
    for template in TEMPLATES:
        with Image.open(template.with_suffix(".jpg")) as picture:
            is_square = picture.width == picture.height >= 64
            is_drawn = len(picture.convert("RGB").getcolors(1_000_000) or []) > 16
        nodes = json.loads(template.read_text("utf-8"))["nodes"]
        has_notes = "MarkdownNote" in {node["type"] for node in nodes}
        if not (is_square and is_drawn and has_notes):
            wrong[template.stem] = {"square": is_square, "drawn": is_drawn, "notes": has_notes}
    assert wrong == {}


def test_the_table_of_nodes_is_that_of_the_schemas():
    if os.environ.get("UPDATE_SCHEMAS"):
        PAGE.write_text(table(), encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == table()
