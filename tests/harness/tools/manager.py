"""ComfyUI-Manager installs, disables, updates and uninstalls the pack, as users let it.

The real comfyui_manager of the version that the host pins works on a fresh ComfyUI; the git remote
and the registry are a web server on this machine. Standard library only.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness.host.server import Server
from harness.tools import registry
from harness.tools.claims import Check, record
from harness.tools.environment import PACK, ROOT, Stop, say
from harness.tools.fresh_host import FreshHost, closure
from harness.tools.loopback import Registry, served

# The PyPI lines of packs that many people have.
OTHERS = {
    "KJNodes": ["librosa", "numpy", "pillow>=10.3.0", "scipy", "color-matcher", "matplotlib",
                "huggingface_hub"],
    "Impact Pack": ["segment-anything", "scikit-image", "piexif", "transformers",
                    "opencv-python-headless"],
    "Easy-Use": ["diffusers", "accelerate", "clip_interrogator", "lark", "onnxruntime",
                 "opencv-python-headless", "sentencepiece", "spandrel", "matplotlib", "peft"],
}  # fmt: skip
UNTOUCHED = ("torch", "torchvision", "torchaudio", "transformers", "numpy", "safetensors", "pillow")
NEXT = "0.1.1"
# The file that the next version adds, and the one that it drops.
NEW, DROPPED = Path("web", "docs", "new.md"), Path("CHANGELOG.md")
FOLDERS = ("custom_nodes", "user", "output", "models")
# What ComfyUI and Manager write for themselves.
HOSTS = ("user/__manager/", "user/default/", "user/comfyui", "custom_nodes/.disabled/.manager")
YOURS = ("output/pivotal/", "user/pivotal/")


def run_manager(python: Path, host: Path, words: Sequence[str]) -> int:
    """Ways of installing, each on a fresh host; return how many claims did not hold.

    The words name them, by default the whole ones; "record" writes benchmarks/results.
    """
    strange = set(words) - STORIES.keys() - {"record"}
    if strange:
        raise Stop(
            f"Unknown: {', '.join(sorted(strange))}. There are record, {', '.join(STORIES)}."
        )
    failed = 0
    for name in [name for name in STORIES if name in words] or WHOLE:
        check = Check()
        with registry.workplace() as base:
            tell(name, python, host, base / name, check)
        if "record" in words:
            record(name, check, (host / "manager_requirements.txt").read_text("utf-8").strip())
        say(f"{check.failed()} of {len(check.claims)} claims did not hold")
        failed += check.failed()
    return failed


def tell(name: str, python: Path, host: Path, base: Path, check: Check) -> None:
    """One story on a host of its own, with remotes of its own."""
    say(f"a fresh host for {name}")
    base.mkdir()
    remote = Remote(base / "served")
    with served(remote.folder, remote.registry) as address:
        fresh = FreshHost(python, host, base / "host")
        fresh.install("ComfyUI-Manager", "-r", fresh.comfyui / "manager_requirements.txt")
        STORIES[name](fresh, remote, Manager(fresh, address), check)


class Remote:
    """A bare repository and the archives, in the folder that is served."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.work = folder, folder.parent / "work"
        self.registry = Registry(pack=PACK)
        registry.snapshot(self.work)
        folder.mkdir()
        registry.git(folder, "clone", "-q", "--bare", str(self.work), f"{PACK}.git")
        registry.git(self.work, "remote", "add", "origin", str(folder / f"{PACK}.git"))
        self.publish()

    def publish(self) -> None:
        """Push what is committed; a plain web server then serves the repository."""
        registry.git(self.work, "push", "-q", "origin", "main")
        registry.git(self.folder / f"{PACK}.git", "update-server-info")

    def next_version(self) -> None:
        """Another version with a file more and a file less."""
        project = self.work / "pyproject.toml"
        text = project.read_text(encoding="utf-8")
        project.write_text(re.sub(r'(?m)^version = ".*"', f'version = "{NEXT}"', text), "utf-8")
        (self.work / NEW).write_text("# New\n", encoding="utf-8")
        (self.work / DROPPED).unlink()
        registry.commit(self.work, "The next version")

    def add_archive(self, version: str) -> None:
        """Put what comfy-cli packs now into the registry."""
        shutil.copy(registry.archive(self.work), self.folder / f"{version}.zip")
        (self.work / "node.zip").unlink()
        self.registry.archives[version] = f"{version}.zip"


class Manager:
    """Manager's command line on one host."""

    def __init__(self, fresh: FreshHost, address: str) -> None:
        self.fresh, self.address = fresh, address

    def __call__(self, *words: str) -> str:
        """Run one command; Stop when it ends badly."""
        comfyui = str(self.fresh.comfyui)
        script = str(ROOT / "tests" / "harness" / "tools" / "manager_call.py")
        command = [str(self.fresh.python), script, self.address, comfyui, *words]
        environment = os.environ | {"COMFYUI_PATH": comfyui, "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(command, cwd=comfyui, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise Stop(f"Manager {words[0]} failed:\n{(done.stdout + done.stderr)[-3000:]}")
        return done.stdout


def from_git(fresh: FreshHost, remote: Remote, manager: Manager, check: Check) -> None:
    """From a git URL on a host that has nothing else; then without one of the requirements."""
    pack, before = fresh.comfyui / "custom_nodes" / PACK, fresh.freeze()
    kept = fresh.files(*FOLDERS)
    manager("install", f"{manager.address}/{PACK}.git", "--mode", "local")
    check.that((pack / "__init__.py").exists(), "git: Manager installs the pack from a git URL")
    check_packages(fresh, before, check, "git: install")
    check_start(fresh, check, "git: a start")
    turn_off_and_on(manager, pack, check, "git")
    remote.next_version()
    remote.publish()
    manager("update", PACK, "--mode", "local")
    check.that((pack / NEW).exists(), "git: Manager updates the pack")
    check.that(not (pack / DROPPED).exists(), "git: a file that the new version drops is gone")
    check_packages(fresh, before, check, "git: update")
    check_missing(fresh, check)
    users_files(fresh)
    manager("uninstall", PACK, "--mode", "local")
    check_gone(fresh, kept, check, "git")
    check_yours(fresh, check)


def from_archive(fresh: FreshHost, remote: Remote, manager: Manager, check: Check) -> None:
    """From the registry's archive, beside the requirements of three packs that many have."""
    for name, lines in OTHERS.items():
        fresh.install(f"what {name} requires", *lines)
    pack, before = fresh.comfyui / "custom_nodes" / PACK, fresh.freeze()
    kept = fresh.files(*FOLDERS)
    remote.add_archive("0.1.0")
    manager("install", PACK, "--mode", "local")
    check.that((pack / ".tracking").exists(), "archive: Manager installs the pack by its id")
    check_packages(fresh, before, check, f"archive, beside {', '.join(OTHERS)}: install")
    turn_off_and_on(manager, pack, check, "archive")
    remote.next_version()
    remote.add_archive(NEXT)
    manager("update", PACK, "--mode", "local")
    check_start(fresh, check, "archive: the start after an update")
    check_update(pack, check)
    check_packages(fresh, before, check, "archive: update")
    manager("uninstall", PACK, "--mode", "local")
    check_gone(fresh, kept, check, "archive")
    check_packages(fresh, before, check, "archive: uninstall")


def at_a_glance(fresh: FreshHost, remote: Remote, manager: Manager, check: Check) -> None:
    """The share of the stories that fits into every run of the tests."""
    pack, before = fresh.comfyui / "custom_nodes" / PACK, fresh.freeze()
    kept = fresh.files(*FOLDERS)
    manager("install", f"{manager.address}/{PACK}.git", "--mode", "local")
    check.that((pack / "__init__.py").exists(), "short: Manager installs the pack from a git URL")
    check_packages(fresh, before, check, "short: install")
    manager("uninstall", PACK, "--mode", "local")
    check_gone(fresh, kept, check, "short")


STORIES = {"git": from_git, "archive": from_archive, "short": at_a_glance}
WHOLE = ("git", "archive")


def check_packages(fresh: FreshHost, before: dict[str, str], check: Check, when: str) -> None:
    """Nothing is changed or removed, and what is new is what requirements.txt needs."""
    now = fresh.freeze()
    changed = {n: (v, now.get(n)) for n, v in before.items() if now.get(n) != v}
    needed = closure(fresh.python, (ROOT / "requirements.txt").read_text(encoding="utf-8"))
    new = sorted(now.keys() - before.keys())
    check.packages[when] = {"before": len(before), "added": {n: now[n] for n in new}}
    check.packages[when]["changed"] = changed
    check.that(not changed, f"{when} changes no package ({changed or 'none'})")
    check.that(set(new) <= needed.keys(), f"{when} adds only what it needs: {', '.join(new)}")
    same = all(now.get(name) == before.get(name) for name in UNTOUCHED)
    check.that(same, f"{when} leaves {', '.join(UNTOUCHED)} as they are")


def turn_off_and_on(manager: Manager, pack: Path, check: Check, how: str) -> None:
    """Disable moves the pack away, enable brings it back."""
    manager("disable", PACK, "--mode", "local")
    check.that(not pack.exists(), f"{how}: Manager disables the pack")
    manager("enable", PACK, "--mode", "local")
    check.that((pack / "__init__.py").exists(), f"{how}: Manager enables the pack")


def started(fresh: FreshHost, act: Callable[[Server], Any]) -> Any:
    """What `act` finds out about a running server of the fresh host."""
    with Server(
        fresh.python, fresh.comfyui, fresh.comfyui, ["--cpu", "--enable-manager"]
    ) as server:
        return act(server)


def check_start(fresh: FreshHost, check: Check, when: str) -> None:
    """The host starts with Manager and has the nodes; nothing is said of missing packages."""
    found, log = started(fresh, lambda server: (server.object_info(), server.log()))
    check.that("Pivotal_TrainConcepts" in found, f"{when} has the nodes")
    quiet = "Pivotal misses" not in log and "IMPORT FAILED" not in log
    check.that(quiet, f"{when} complains of nothing")


def check_update(pack: Path, check: Check) -> None:
    """Manager unpacks a registry's update at the next start, before the nodes are loaded.

    Of dropped files nothing is claimed: Manager 4.2.2 looks for them beside the pack's folder
    (execute_lazy_cnr_switch) and leaves them.
    """
    project = (pack / "pyproject.toml").read_text(encoding="utf-8")
    new = (pack / NEW).exists() and f'version = "{NEXT}"' in project
    check.that(new, "archive: Manager updates the pack, at the next start")
    listed = (pack / ".tracking").read_text(encoding="utf-8").splitlines()
    check.that(NEW.as_posix() in listed, "archive: Manager's list of files has the new one")


def check_missing(fresh: FreshHost, check: Check) -> None:
    """Without one of its packages the host starts, has the nodes, and names it once."""
    command = [str(fresh.python), "-m", "pip", "uninstall", "-q", "-y", "prodigyopt"]
    subprocess.run(command, check=True)
    found, log = started(fresh, lambda server: (server.object_info(), server.log()))
    check.that("Pivotal_TrainConcepts" in found, "without prodigyopt a start has the nodes")
    said = [line for line in log.splitlines() if "misses prodigyopt" in line]
    check.that(len(said) == 1, f"without prodigyopt the log names it once ({len(said)})")


def users_files(fresh: FreshHost) -> None:
    """What a user of the pack has made by now, in the folders that docs/install.md names."""
    for folder in YOURS:
        (fresh.comfyui / folder).mkdir(parents=True, exist_ok=True)
        (fresh.comfyui / folder / "mine.txt").write_text("mine\n", encoding="utf-8")


def check_yours(fresh: FreshHost, check: Check) -> None:
    """Uninstall keeps what the user made."""
    kept = all((fresh.comfyui / folder / "mine.txt").exists() for folder in YOURS)
    check.that(kept, f"uninstall keeps the user's files in {' and '.join(YOURS)}")


def check_gone(fresh: FreshHost, kept: list[str], check: Check, how: str) -> None:
    """Uninstall leaves no file; those of the user, of ComfyUI and of Manager stay."""
    left = set(fresh.files(*FOLDERS)) - set(kept)
    ours = sorted(path for path in left if not path.startswith((*HOSTS, *YOURS)))
    check.that(ours == [], f"{how}: uninstall leaves no file of the pack ({ours or 'none'})")
