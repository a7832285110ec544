"""Law 1 (who may import whom), words that shipped code must not hold, and the limits of size."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("nodes", "training", "bundles")
SHIPPED = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
SHIPPED.append(ROOT / "__init__.py")

HOST = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "folder_paths", "nodes", "server"}
HOST |= {"execution", "latent_preview", "node_helpers", "comfyui_version"}
# Packages that the host requires and that only its adapter may use.
HOST |= {"tqdm", "aiohttp"}
ENGINE = {"torch", "safetensors", "PIL"}
LAZY = {"diffusers", "onnxruntime", "prodigyopt", "transformers"}
NETWORK_AND_SHELL = {"ftplib", "http", "multiprocessing", "pickle", "requests", "socket"}
NETWORK_AND_SHELL |= {"subprocess", "urllib", "xmlrpc"}
FORBIDDEN_WORDS = {
    r"(?<![\w.])eval\(": "eval",
    r"(?<![\w.])exec\(": "exec",
    r"(?<![\w.])print\(": "print",
    r"\bsubprocess\b": "subprocess",
    r"\bos\.environ\b": "os.environ",
    r"\bpickle\b": "pickle",
    r"\btorch\.load\(": "torch.load",
}
MAY_HOLD = {("bundles/files/torch.py", "torch.load")}


class Import:
    """One imported module: absolute as `torch.nn`, inside the pack as `/training/ports`."""

    def __init__(self, name: str, members: list[str], lazy: bool) -> None:
        self.name, self.members, self.lazy = name, members, lazy
        self.top = name.split(".")[0]


def within(path: Path, node: ast.ImportFrom) -> Iterator[str]:
    """Resolve a relative import to the module paths that it may mean, from the pack's root."""
    folder = path.relative_to(ROOT).parent
    for _ in range(node.level - 1):
        folder = folder.parent
    base = folder.joinpath(*(node.module or "").split("."))
    names = [alias.name for alias in node.names] if node.module is None else []
    yield from (f"/{(base / name).as_posix()}" for name in names or [""])


def imports(path: Path, node: ast.AST | None = None, lazy: bool = False) -> Iterator[Import]:
    """All imports of a file, each with whether it stands inside a function."""
    node = node or ast.parse(path.read_text(encoding="utf-8"))
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, [], lazy) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            members = [alias.name for alias in child.names]
            targets = within(path, child) if child.level else [child.module or ""]
            yield from (Import(target, members, lazy) for target in targets)
        else:
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            yield from imports(path, child, lazy or inside)


def outside(found: Import, packages: set[str]) -> bool:
    """Whether an absolute import is neither of the standard library nor of `packages`."""
    allowed = packages | (LAZY if found.lazy else set())
    return found.top not in sys.stdlib_module_names | allowed


def breaches(path: Path) -> Iterator[str]:
    """Every import of a file that Law 1 forbids."""
    folder = path.relative_to(ROOT).parts[0]
    for found in imports(path):
        if found.name.startswith("/"):
            bad = breaks_direction(path, folder, found.name)
        elif folder != "nodes":
            bad = outside(found, ENGINE)
        elif is_host_adapter(path):
            bad = outside(found, ENGINE | HOST)
        else:
            bad = outside(found, {"torch", "comfy_api"}) or found.lazy and found.top in LAZY
        if bad or found.top in NETWORK_AND_SHELL or is_private(path, found):
            yield f"{path.relative_to(ROOT)} imports {found.name}"


def is_host_adapter(path: Path) -> bool:
    return ROOT / "nodes" / "host" in path.parents


def breaks_direction(path: Path, folder: str, target: str) -> bool:
    """Whether an import inside the pack runs against the arrows: nodes -> training -> bundles."""
    other = target.split("/")[1]
    if folder == "training" and other == "bundles":
        return not target.startswith(("/bundles/files", "/bundles/lowrank"))
    if folder == "nodes":
        return other not in FOLDERS
    return path != ROOT / "__init__.py" and other != folder


def is_private(path: Path, found: Import) -> bool:
    """Node modules use public names only: of the host's API, of the engine and of the files."""
    parts = found.name.strip("/").replace("/", ".").split(".")
    foreign = not found.name.startswith("/nodes") and found.top != "__future__"
    node_module = (ROOT / "nodes") in path.parents and not is_host_adapter(path)
    return node_module and foreign and any(p.startswith("_") for p in parts + found.members)


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Name and number of lines of each function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", SHIPPED, ids=relative)
def test_imports_point_one_way(path: Path):
    assert list(breaches(path)) == []


@pytest.mark.parametrize("path", SHIPPED, ids=relative)
def test_no_word_that_the_registry_scan_flags(path: Path):
    text = path.read_text(encoding="utf-8")
    found = {word for pattern, word in FORBIDDEN_WORDS.items() if re.search(pattern, text)}
    assert {word for word in found if (relative(path), word) not in MAY_HOLD} == set()


@pytest.mark.parametrize("path", SHIPPED, ids=relative)
def test_functions_end_at_sixty_lines(path: Path):
    long = {n: size for n, size in functions(path) if size > 60 and n != "define_schema"}
    assert long == {}


def test_files_end_at_three_hundred_lines():
    files = [*SHIPPED, *(ROOT / "web").rglob("*.js")]
    sizes = {relative(path): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert {path: size for path, size in sizes.items() if size > 300} == {}


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("training/x.py", "import comfy.sd"),
        ("training/x.py", "from ..nodes.host.denoiser import port"),
        ("training/x.py", "from ..bundles.bundle import Bundle"),
        ("training/x.py", "from .. import nodes"),
        ("training/x.py", "import diffusers"),
        ("training/dataset/x.py", "from ...nodes import sockets"),
        ("bundles/x.py", "from ..training.loop import train"),
        ("bundles/x.py", "import urllib.request"),
        ("nodes/x.py", "import folder_paths"),
        ("nodes/x.py", "from comfy_api.latest._io import Schema"),
        ("nodes/x.py", "from ..training.loop import _step"),
        ("nodes/host/x.py", "import subprocess"),
    ],
)
def test_a_breach_is_seen(file: str, line: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Path, "read_text", lambda self, encoding: line)
    assert list(breaches(ROOT / file)) != []


def test_the_archive_holds_no_tool_and_no_test():
    ignored = ["git", "ls-files", "-c", "-i", "--exclude-from=.comfyignore"]
    listed = subprocess.run(ignored, cwd=ROOT, capture_output=True, text=True)
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode or not tracked.stdout:
        pytest.skip("not a git checkout")
    shipped = set(tracked.stdout.split("\n")) - set(listed.stdout.split("\n"))
    tools = re.compile(r"(tests|benchmarks|docs|\.ci|\.github)/|dev\.py$")
    assert [path for path in sorted(shipped) if tools.match(path)] == []
    assert "__init__.py" in shipped
