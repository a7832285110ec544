"""Say which names of a ComfyUI the pack uses and that ComfyUI lacks.

`python -m harness.tools.uses HOST` prints a line for each; names that are looked up by
getattr are fine.
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
OWNED = ("comfy", "comfy_api", "comfy_execution", "folder_paths", "latent_preview", "server")


def lacking(path: Path) -> Iterator[str]:
    """Names that one module imports or reaches for in vain."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    known: dict[str, Any] = {}
    for node in ast.walk(tree):
        for wanted, name in imported(node):
            found = reach(wanted)
            if found is None:
                yield f"{path.name} line {node.lineno}: {wanted}"
            known[name] = found
    for node in ast.walk(tree):
        owner = known.get(ast.unparse(node.value)) if isinstance(node, ast.Attribute) else None
        if owner is not None and not hasattr(owner, node.attr):
            yield f"{path.name} line {node.lineno}: {ast.unparse(node)}"


def imported(node: ast.AST) -> Iterator[tuple[str, str]]:
    """The host's names that an import brings, each with the word that stands for it."""
    if isinstance(node, ast.Import):
        pairs = [(alias.name, alias.asname or alias.name) for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and not node.level:
        pairs = [(f"{node.module}.{a.name}", a.asname or a.name) for a in node.names]
    else:
        pairs = []
    yield from (pair for pair in pairs if pair[0].split(".")[0] in OWNED)


def reach(wanted: str) -> Any:
    """A module, or a name inside one; None where there is neither."""
    try:
        return importlib.import_module(wanted)
    except ModuleNotFoundError:
        module, _, name = wanted.rpartition(".")
        return getattr(importlib.import_module(module), name, None) if module else None


if __name__ == "__main__":
    host = sys.argv.pop(1)
    sys.path.insert(0, host)
    import comfy.options  # noqa: F401  - must come before cli_args
    from comfy.cli_args import args

    args.cpu = True
    import utils.extra_config  # noqa: F401  - as main.py does, before other modules named utils

    for module in sorted((ROOT / "nodes").rglob("*.py")):
        for line in lacking(module):
            print(line)
