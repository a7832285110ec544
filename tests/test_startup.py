"""The pack costs the host's start nothing: no heavy import, and no package that has to be there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.host

TESTS = Path(__file__).resolve().parent
HEAVY = {"diffusers", "prodigyopt"}
# A fresh process that knows the host's interface as main.py does before it loads any pack.
START = """
import asyncio, atexit, importlib.abc, json, sys
import conftest
atexit.register(conftest.pytest_unconfigure)
import comfy.sd, comfy_api.latest, comfy_extras.nodes_train, execution, folder_paths, nodes

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in REFUSED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuse())
before = set(sys.modules)
"""
LOAD = """
extension = asyncio.run(sys.modules["pack"].comfy_entrypoint())
found = asyncio.run(extension.get_node_list())
told = {"ids": [node.GET_SCHEMA().node_id for node in found]}
told["loaded"] = sorted(set(sys.modules) - before)
"""
TELL = "print(json.dumps({'new': sorted(set(sys.modules) - before), **told}))"


TRY = """
from pack.training.config import TrainConfig
from pack.training.optimizers.choices import Algorithm, OptimizerConfig
from pack.training.adapters.lora import LoraConfig
from pack.training.dataset.records import Dataset
from pack.nodes.host.run.request import Request

prodigy = OptimizerConfig(algorithm=Algorithm.PRODIGY)
config = TrainConfig(steps=2, optimizer=prodigy)
try:
    Request(dataset=Dataset(name="d", records=()), config=config, adapter=LoraConfig()).checked()
    told["sentence"] = ""
except ImportError as missing:
    told["sentence"] = str(missing)
"""


def run(code: str, refused: set[str] = frozenset()) -> dict:
    """What a fresh process tells: its new modules since the host was there, and `told`."""
    script = f"REFUSED = {set(refused)!r}\n{START}\n{code}\n{TELL}"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=TESTS,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


def heavy(modules: list[str]) -> set[str]:
    """Packages that cost seconds, and model classes of transformers."""
    return {
        name
        for name in modules
        if name.partition(".")[0] in HEAVY
        or (name.startswith("transformers.models.") and ".modeling_" in name)
    }


@pytest.fixture(scope="module")
def start() -> dict:
    """A start, and then a request that wants all packages."""
    return run(LOAD + TRY)


def test_the_pack_imports_nothing_heavy(start):
    assert "Pivotal_TrainConcepts" in start["ids"]
    assert any(name.startswith("pack.nodes") for name in start["loaded"])
    assert heavy(start["loaded"]) == set()


def test_what_is_put_off_is_imported_when_it_is_wanted(start):
    """The measure itself: here the same list does hold them."""
    assert heavy(start["new"]) >= HEAVY
    assert start["sentence"] == ""


def test_reading_the_packs_init_needs_no_host():
    """Tools import the file that lies at the root of a repository."""
    code = "import conftest, json, sys; print(json.dumps(sorted(sys.modules)))"
    environment = {key: value for key, value in os.environ.items() if key != "PIVOTAL_COMFYUI"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=TESTS, env=environment
    )
    modules = json.loads(done.stdout)
    assert "pack" in modules
    assert not {"torch", "comfy", "pack.nodes", "pack.training"} & set(modules)


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        ("prodigyopt", "Prodigy is not installed: run pip install prodigyopt"),
        (
            "diffusers",
            "Learning rate schedules need diffusers, which is not installed: "
            "run pip install diffusers",
        ),
    ],
)
def test_without_an_optional_package_the_pack_loads_and_says_what_to_run(start, missing, sentence):
    told = run(LOAD + TRY, refused={missing})
    assert told["ids"] == start["ids"]
    assert told["sentence"] == sentence
