"""The laws of the code: who may import whom, what shipped code must not hold, and names."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("nodes", "training", "bundles")
PACK = [ROOT / "__init__.py", *(path for name in FOLDERS for path in (ROOT / name).rglob("*.py"))]
"""Every module that a user's ComfyUI may import."""
ADAPTER = ROOT / "nodes" / "host"

HOST = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "folder_paths", "nodes", "server"}
HOST |= {"execution", "latent_preview", "node_helpers", "comfyui_version"}
# Packages that the host requires, jinja2 through torch, and that only its adapter may use.
HOST |= {"tqdm", "aiohttp", "jinja2"}
ENGINE = {"torch", "safetensors", "PIL"}
LAZY = {"diffusers", "prodigyopt", "transformers", "regex"}
PLOTS = {"training/evaluation", "bundles/trim.py"}
"""Where a function that draws may import matplotlib."""
ENGINE_FOR_FILES = ("/bundles/files", "/bundles/lowrank")
"""What training/ may import of bundles/."""
NETWORK_AND_SHELL = {"ftplib", "http", "multiprocessing", "pickle", "requests", "socket"}
NETWORK_AND_SHELL |= {"subprocess", "urllib", "xmlrpc"}
FORBIDDEN_WORDS = {
    "eval": r"(?<![\w.])eval\(",
    "exec": r"(?<![\w.])exec\(",
    "print": r"(?<![\w.])print\(",
    "subprocess": r"\bsubprocess\b",
    "os.environ": r"\bos\.environ\b",
    "pickle": r"\bpickle\b",
    "torch.load": r"\btorch\.load\(",
    "torch.save": r"\btorch\.save\(",
}
MAY_HOLD = {("bundles/files/torch.py", "torch.load"), ("bundles/files/torch.py", "torch.save")}
ROOMS = ("nodes/host", "training/dataset", "bundles")
"""Folders whose rooms, the folders and modules in them, never import each other in a circle."""


@dataclass(frozen=True, slots=True)
class Import:
    """One imported module: absolute as `torch.nn`, inside the pack as `/training/ports`."""

    path: Path
    """The importing file."""
    name: str
    members: Sequence[str]
    is_lazy: bool
    """Whether it stands inside a function."""

    @property
    def is_own(self) -> bool:
        return self.name.startswith("/")

    @property
    def top(self) -> str:
        """The package, or the pack's folder."""
        return self.name.strip("/").replace("/", ".").split(".")[0]

    def __str__(self) -> str:
        return f"{relative(self.path)} imports {self.name}"


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path, node: ast.AST, is_lazy: bool = False) -> Iterator[Import]:
    """All imports below a node of a file."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(path, alias.name, (), is_lazy) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            members = [alias.name for alias in child.names]
            targets = inside(path, child) if child.level else [child.module or ""]
            yield from (Import(path, target, members, is_lazy) for target in targets)
        else:
            function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            yield from imports(path, child, is_lazy or function)


def inside(path: Path, node: ast.ImportFrom) -> Iterator[str]:
    """Resolve a relative import to the modules that it may mean, from the pack's root."""
    folder = path.relative_to(ROOT).parent
    for _ in range(node.level - 1):
        folder = folder.parent
    base = folder.joinpath(*(node.module or "").split("."))
    for alias in node.names:
        module = base / alias.name
        is_module = node.module is None or (ROOT / module).with_suffix(".py").exists()
        yield f"/{(module if is_module else base).as_posix()}"


@cache
def all_imports() -> list[Import]:
    return [found for path in PACK for found in imports(path, tree_of(path))]


def is_adapter(path: Path) -> bool:
    return ADAPTER in path.parents


def is_node_module(path: Path) -> bool:
    return ROOT / "nodes" in path.parents and not is_adapter(path)


def runs_against_the_arrows(found: Import) -> bool:
    """Inside the pack the arrows are nodes -> training -> bundles."""
    if not found.is_own or found.path == ROOT / "__init__.py":
        return False
    folder = found.path.relative_to(ROOT).parts[0]
    if folder == "training" and found.top == "bundles":
        return not found.name.startswith(ENGINE_FOR_FILES)
    return found.top != folder and (folder != "nodes" or found.top not in FOLDERS)


def is_foreign(found: Import) -> bool:
    """Whether an import is of a package that its folder does not know."""
    if found.is_own or found.top in sys.stdlib_module_names:
        return False
    return found.top not in packages(found.path, found.is_lazy)


def packages(path: Path, is_lazy: bool) -> set[str]:
    """What a file may import beyond the standard library; more inside a function."""
    if is_node_module(path) or path == ROOT / "__init__.py":
        return {"torch", "comfy_api"}
    known = ENGINE | HOST if is_adapter(path) else ENGINE
    if not is_lazy:
        return known
    draws = any(relative(path).startswith(place) for place in PLOTS)
    return (
        known
        | LAZY
        | ({"matplotlib"} if draws else set())
        | ({"onnxruntime"} if is_adapter(path) else set())
    )


def is_private(found: Import) -> bool:
    """Whether a node module takes what is not public of the host's API, engine or files."""
    if not is_node_module(found.path) or found.name.startswith("/nodes"):
        return False
    parts = found.name.strip("/").replace("/", ".").split(".")
    return found.top != "__future__" and any(
        part.startswith("_") for part in [*parts, *found.members]
    )


def reaches_out(found: Import) -> bool:
    """Whether an import is of the network, of other processes or of pickle."""
    return found.top in NETWORK_AND_SHELL


BREACHES = (runs_against_the_arrows, is_foreign, is_private, reaches_out)


@pytest.mark.parametrize("is_breach", BREACHES, ids=lambda law: law.__name__)
def test_no_import_breaks_a_law(is_breach):
    assert [str(found) for found in all_imports() if is_breach(found)] == []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("training/x.py", "import comfy.sd"),
        ("training/x.py", "from ..nodes.host.denoiser import port"),
        ("training/x.py", "from ..bundles.bundle import Bundle"),
        ("training/x.py", "from .. import nodes"),
        ("training/x.py", "import diffusers"),
        ("training/x.py", "def draw():\n    import matplotlib"),
        ("training/dataset/x.py", "from ...nodes import sockets"),
        ("bundles/x.py", "from ..training.loop import train"),
        ("bundles/x.py", "import urllib.request"),
        ("nodes/x.py", "import folder_paths"),
        ("nodes/x.py", "def run():\n    import transformers"),
        ("nodes/x.py", "from comfy_api.latest._io import Schema"),
        ("nodes/x.py", "from ..training.loop import _step"),
        ("nodes/host/x.py", "import subprocess"),
    ],
)
def test_a_breach_is_seen(file: str, line: str):
    found = list(imports(ROOT / file, ast.parse(line)))
    assert any(is_breach(one) for one in found for is_breach in BREACHES)


def test_no_word_that_the_registry_scan_flags():
    shipped = [*PACK, *(path for path in ROOT.glob("*.py") if path.name != "dev.py")]
    held = {
        (relative(path), word)
        for path in shipped
        for word, pattern in FORBIDDEN_WORDS.items()
        if re.search(pattern, path.read_text(encoding="utf-8"))
    }
    assert sorted(held - MAY_HOLD) == []


OPENS_PICTURES = re.compile(
    r"\bImage\.open\b|ImageFile\.Parser|PIL\.Image import .*\bopen\b|Jpeg\w+File\("
)


def test_pictures_are_opened_in_one_place():
    """There the formats and the pixels are limited."""
    places = [
        relative(path) for path in PACK if OPENS_PICTURES.search(path.read_text(encoding="utf-8"))
    ]
    assert places == ["bundles/files/picture.py"]


@pytest.mark.parametrize("folder", ROOMS)
def test_rooms_import_each_other_in_no_circle(folder: str):
    ways: dict[str, set[str]] = defaultdict(set)
    for found in all_imports():
        own, other = room(folder, relative(found.path)), room(folder, found.name.strip("/"))
        if found.is_own and own and other and own != other:
            ways[own].add(other)
    assert [one for one in sorted(ways) if one in reached(ways, one)] == []


def room(folder: str, place: str) -> str:
    """The first part of a place below a folder, without the suffix of a module; "" outside."""
    below = place.removeprefix(f"{folder}/")
    return "" if below == place else below.split("/")[0].removesuffix(".py")


def reached(ways: Mapping[str, set[str]], start: str) -> set[str]:
    """Everything that arrows lead to from here."""
    seen: set[str] = set()
    left = [start]
    while left:
        fresh = ways.get(left.pop(), set()) - seen
        seen |= fresh
        left += fresh
    return seen


def test_a_module_name_stands_for_one_thing():
    """Each port and each room's routes have the same name; folders may repeat."""
    rooms = [ADAPTER, ROOT / "training", ROOT / "bundles"]
    modules = chain.from_iterable(folder.rglob("*.py") for folder in rooms)
    twice = repeated((path.stem, relative(path)) for path in modules)
    assert {
        n: places for n, places in twice.items() if n not in {"__init__", "port", "routes"}
    } == {}


def repeated(named: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """The names that stand in several places."""
    places: dict[str, list[str]] = defaultdict(list)
    for name, place in named:
        places[name].append(place)
    return {name: found for name, found in places.items() if len(found) > 1}


def classes(path: Path) -> Iterator[ast.ClassDef]:
    """The public classes of a module."""
    for node in tree_of(path).body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield node


def is_node(found: ast.ClassDef) -> bool:
    return any(ast.unparse(base) == "io.ComfyNode" for base in found.bases)


def test_a_public_class_name_stands_for_one_thing():
    """A node may be called like what it makes."""
    for nodes in (True, False):
        found = [
            (one.name, relative(path))
            for path in PACK
            for one in classes(path)
            if is_node(one) is nodes
        ]
        assert repeated(found) == {}


def test_no_public_name_is_used_by_tests_alone():
    """Benchmarks are users. Methods count where no base class may call them."""
    users = [*PACK, *(ROOT / "benchmarks").rglob("*.py")]
    used = sum((mentions(tree_of(path)) for path in users), Counter[str]())
    unused = [
        f"{relative(path)}: {node.name}"
        for path in PACK
        for node in definitions(tree_of(path))
        if used[node.name] == mentions(node)[node.name]
    ]
    assert unused == []


Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
CALLED_BY_THE_HOST = {"comfy_entrypoint"}


def definitions(node: ast.Module | ast.ClassDef) -> Iterator[Definition]:
    """Public functions, classes and methods."""
    for child in node.body:
        if not isinstance(child, Definition) or child.name.startswith("_"):
            continue
        if child.name not in CALLED_BY_THE_HOST:
            yield child
        if isinstance(child, ast.ClassDef) and not child.bases:
            yield from definitions(child)


def mentions(node: ast.AST) -> Counter[str]:
    """How often each name is used below a node; an import alone is no use."""
    found = Counter[str]()
    for child in ast.walk(node):
        if isinstance(child, ast.Name):
            found[child.id] += 1
        elif isinstance(child, ast.Attribute):
            found[child.attr] += 1
    return found


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
