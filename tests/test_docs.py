"""docs/nodes.md is the table of node ids, inputs and outputs, as the schema snapshot has them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "nodes.md"
HEAD = """# Nodes

Ids, inputs and outputs of every node. Saved workflows rely on them: inputs are never renamed or
reordered, new ones come at the end. Each node's help page, in `web/docs`, says what they mean.
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


def test_the_table_of_nodes_is_that_of_the_schemas():
    if os.environ.get("UPDATE_SCHEMAS"):
        PAGE.write_text(table(), encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == table()
