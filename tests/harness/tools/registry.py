"""What the registry gets: the archive that comfy-cli makes of the tracked files, and its checks.

Standard library only; comfy-cli lives in an environment of its own.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import venv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.tools.environment import ROOT, Command, Stop, cache_folder, pip, python_of, say

COMFY_CLI = "comfy-cli==1.23.0"
LINTER = "check-jsonschema==0.39.0"
AUTHOR = ("-c", "user.name=dev", "-c", "user.email=dev@example.invalid")
# What users need, by the first part of a path.
SHIPPED = {"__init__.py", "CHANGELOG.md", "LICENSE", "README.md", "SECURITY.md", "pyproject.toml"}
SHIPPED |= {"requirements.txt", "bundles", "example_workflows", "locales", "nodes", "training"}
SHIPPED |= {"web"}
SUFFIXES = {".py", ".md", ".js", ".css", ".json", ".jpg", ".png", ".svg", ".webp", ".toml"}
SUFFIXES |= {".txt", ""}
FLAGGED = {
    "eval": r"(?<![\w.])eval\s*\(",
    "exec": r"(?<![\w.])exec\s*\(",
    "a shell": r"\bsubprocess\b|\bos\.(system|popen|exec\w*|spawn\w*)\b",
    "the environment": r"\bos\.(environ|getenv|putenv)\b",
    "pickle": r"^\s*(import|from)\s+(pickle|cloudpickle|dill|marshal|shelve)\b",
    "the network": r"^\s*(import|from)\s+(requests|urllib|socket|http|httpx|ftplib|smtplib)\b",
    "rm -rf": r"\brm\s+-rf\b",
}
LONGEST_LINE = 400


def git(folder: Path, *words: str) -> str:
    """What git prints, run in a folder."""
    done = subprocess.run(["git", *AUTHOR, *words], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise Stop(f"git {words[0]} failed: {done.stderr.strip()}")
    return done.stdout


def snapshot(folder: Path) -> Path:
    """A repository of its own with one commit: the files of this checkout that git knows."""
    folder.mkdir(parents=True)
    for name in git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split(
        "\0"
    ):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    git(folder, "init", "-q", "-b", "main")
    commit(folder, "The tracked files")
    return folder


def commit(folder: Path, message: str) -> None:
    """Commit all that changed."""
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", message)


def shipped(folder: Path = ROOT) -> list[str]:
    """Every path of the archive, as .comfyignore leaves it."""
    ignored = set(
        git(folder, "ls-files", "-z", "-c", "-i", "--exclude-from=.comfyignore").split("\0")
    )
    tracked = git(folder, "ls-files", "-z").split("\0")
    return sorted(name for name in tracked if name and name not in ignored)


def strangers(names: list[str]) -> list[str]:
    """Paths that no user needs."""
    return [
        name
        for name in names
        if name.split("/")[0] not in SHIPPED or Path(name).suffix not in SUFFIXES
    ]


def flags(name: str, text: str) -> Iterator[str]:
    """What a scan would find in one file: words of Python code, and lines that look minified."""
    if name.endswith(".py"):
        for what, pattern in FLAGGED.items():
            if re.search(pattern, text, re.MULTILINE):
                yield f"{name} holds {what}"
    if (
        name.endswith((".js", ".css"))
        and max(map(len, text.splitlines()), default=0) > LONGEST_LINE
    ):
        yield f"{name} looks minified"


def program(package: str, name: str) -> Path:
    """A package's program, in an environment of its own that is made when it is missing."""
    folder = cache_folder() / package.replace("==", "-")
    found = python_of(folder).with_name(name)
    if not found.exists():
        say(f"installing {package}")
        venv.create(folder, clear=True, with_pip=True)
        log = folder / "install.log"
        pip(python_of(folder), log, f"install {package}", ["install", "-q", package])
    return found


def run_comfy(folder: Path, *words: str) -> str:
    """Everything that comfy-cli prints; Stop when it fails or warns."""
    command: Command = [
        program(COMFY_CLI, "comfy"),
        "--skip-prompt",
        "--no-enable-telemetry",
        *words,
    ]
    done = subprocess.run(list(map(str, command)), cwd=folder, capture_output=True, text=True)
    said = done.stdout + done.stderr
    if done.returncode or re.search(r"warn|error|S102|S307|E702", said, re.IGNORECASE):
        raise Stop(f"comfy {' '.join(words)} is not content:\n{said.strip()}")
    return said


def lint_workflows(folder: Path = ROOT / ".github" / "workflows") -> list[str]:
    """What is wrong with the hosted checks' files by their published schema."""
    command: Command = [program(LINTER, "check-jsonschema"), "--builtin-schema"]
    command += ["vendor.github-workflows", *sorted(folder.glob("*.yml"))]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    return (done.stdout + done.stderr).splitlines() if done.returncode else []


def archive(folder: Path) -> Path:
    """The zip file that comfy-cli makes of a snapshot."""
    run_comfy(folder, "node", "pack")
    return folder / "node.zip"


@contextmanager
def workplace() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="pivotal-", ignore_cleanup_errors=True) as name:
        yield Path(name)


def check_registry() -> int:
    """Validate and pack a snapshot, hold the archive against the rules, lint the hosted checks."""
    with workplace() as base:
        folder = snapshot(base / "pack")
        say(run_comfy(folder, "node", "validate").strip().splitlines()[-1])
        path = archive(folder)
        with zipfile.ZipFile(path) as held:
            names = sorted(name for name in held.namelist() if not name.endswith("/"))
            texts = {n: held.read(n).decode("utf-8", "replace") for n in names}
        found = strangers(names) + [flag for n, text in texts.items() for flag in flags(n, text)]
        if names != shipped(folder):
            found.append("the archive is not the tracked files without those of .comfyignore")
        say(f"the archive: {len(names)} files, {path.stat().st_size / 1e3:.0f} KB")
    linted = lint_workflows()
    say(f"the hosted checks by their schema: {'problems' if linted else 'all well'}")
    found += linted
    for problem in found:
        say(problem)
    return len(found)
