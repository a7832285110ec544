"""A ComfyUI as a user has it: its own requirements and nothing else, in an overlay of links.

Standard library only.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import venv
from pathlib import Path

from harness.tools.environment import pip, python_of
from harness.tools.hosts import ask

# Run by the shared environment: what the lines of a requirements file need, by their metadata.
CLOSURE = """
import importlib.metadata as metadata, json, re, sys
from packaging.requirements import Requirement

def name(text): return re.sub(r"[-_.]+", "-", text).lower()

wanted = [Requirement(line) for line in sys.argv[1].splitlines() if line[:1] not in ("", "#")]
found, places = {}, set()
while wanted:
    one = wanted.pop()
    key = (name(one.name), *sorted(one.extras))
    if key in found:
        continue
    try:
        dist = metadata.distribution(one.name)
    except metadata.PackageNotFoundError:
        continue
    found[key] = dist.version
    places |= {path.parts[0] for path in dist.files or () if path.parts[0] != ".."}
    for line in dist.requires or ():
        need = Requirement(line)
        environments = [{"extra": extra} for extra in one.extras or {""}]
        if need.marker is None or any(need.marker.evaluate(e) for e in environments):
            wanted.append(need)
names = {key[0]: version for key, version in found.items()}
print(json.dumps({"names": names, "places": sorted(places - {"__pycache__"})}))
"""


def closure(python: Path, requirements: str) -> dict[str, str]:
    """Name and version of all that some requirement lines need, in an environment."""
    return _closure(python, requirements)["names"]


def _closure(python: Path, requirements: str) -> dict:
    done = subprocess.run(
        [str(python), "-c", CLOSURE, requirements], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


class FreshHost:
    """ComfyUI and a Python in which only the host's requirements are to be seen."""

    def __init__(self, shared: Path, host: Path, folder: Path) -> None:
        self.folder, self.comfyui = folder, folder / "ComfyUI"
        shutil.copytree(host, self.comfyui, ignore=shutil.ignore_patterns("__pycache__"))
        self.python = self._overlay(shared, (host / "requirements.txt").read_text("utf-8"))

    def _overlay(self, shared: Path, requirements: str) -> Path:
        """Links to the shared packages lie outside the overlay, so that pip never removes one."""
        source = Path(ask(shared, "import sysconfig; print(sysconfig.get_path('purelib'))"))
        links = self.folder / "packages"
        links.mkdir()
        for place in _closure(shared, requirements + "\npip\nsetuptools\n")["places"]:
            if (source / place).exists():
                (links / place).symlink_to(source / place)
        venv.create(self.folder / "venv", with_pip=False)
        python = python_of(self.folder / "venv")
        site = Path(ask(python, "import sysconfig; print(sysconfig.get_path('purelib'))"))
        (site / "shared.pth").write_text(f"{links}\n", encoding="utf-8")
        return python

    def install(self, what: str, *words: str | Path) -> None:
        """pip install, as a person does it."""
        pip(self.python, self.folder / "install.log", f"install {what}", ["install", "-q", *words])

    def freeze(self) -> dict[str, str]:
        """Every package and its version."""
        command = [str(self.python), "-m", "pip", "list", "--format=json"]
        command.append("--disable-pip-version-check")
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return {
            one["name"].lower().replace("_", "-"): one["version"] for one in json.loads(done.stdout)
        }

    def files(self, *names: str) -> list[str]:
        """Every file below some folders of ComfyUI, without what Python compiles."""
        found = [p for name in names for p in (self.comfyui / name).rglob("*") if p.is_file()]
        paths = [p.relative_to(self.comfyui) for p in found if "__pycache__" not in p.parts]
        return sorted(path.as_posix() for path in paths)
