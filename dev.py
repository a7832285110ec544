"""Everything a developer runs: `demo`, `test`, `serve`, `bench`, `pictures` and the installers.

Each makes its environment (a virtual environment and ComfyUI, in the user's cache folder) when it
is not there yet. Standard library only: it runs before anything is installed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent
HOSTLESS = ("training", "bundles")
"""The folders that know no host."""
QUICK = ("tests/training", "tests/bundles", "tests/test_boundaries.py", "tests/test_docs.py")
sys.path.insert(0, str(ROOT / "tests"))

from harness.editor.browser import ensure_browser  # noqa: E402
from harness.host.server import ServerFailed  # noqa: E402
from harness.tools.demo import run_demo  # noqa: E402
from harness.tools.environment import (  # noqa: E402
    MODULES,
    TEST_MODULES,
    Command,
    Stop,
    cache_folder,
    existing_host,
    existing_python,
    link,
    make_environment,
    say,
    workspace,
)
from harness.tools.hosts import run_matrix  # noqa: E402
from harness.tools.manager import run_manager  # noqa: E402
from harness.tools.registry import check_registry  # noqa: E402
from harness.tools.suite import run_suite  # noqa: E402


def run(name: str, command: Command, **variables: str) -> int:
    """Run a command in the repository with its output on the terminal, and return its exit code."""
    say(name)
    words = [str(word) for word in command]
    return subprocess.run(words, cwd=ROOT, env=os.environ | variables, check=False).returncode


def linters(python: Path) -> list[str]:
    """Run ruff; the names of the checks that failed."""
    checks = {"ruff check": ["check", "--no-cache"], "ruff format --check": ["format", "--check"]}
    return [n for n, words in checks.items() if run(n, [python, "-m", "ruff", *words, "."])]


def check_types(python: Path, host: Path) -> int:
    """Run pyright with the host on its path, and the pack under the name that tests give it."""
    names = workspace("types") / "names"
    link(ROOT, names / "pack")
    paths = os.pathsep.join(map(str, [host, names, ROOT / "tests"]))
    typed = [*HOSTLESS, "nodes", "benchmarks", "tests/factories.py"]
    words = [python, "-m", "pyright", "--pythonpath", python, *typed]
    return run("pyright", words, PYTHONPATH=paths)


def verdict(failed: Sequence[str], code: int) -> int:
    """Name the checks that failed; pytest's exit code, or their number."""
    if failed:
        say(f"failed: {', '.join(failed)}")
    return code or len(failed)


def test(python: Path, host: Path, arguments: Sequence[str]) -> int:
    """Linters, types and tests; `test quick` needs no ComfyUI and takes two minutes."""
    ensure_browser(say)
    failed = linters(python)
    if check_types(python, host):
        failed.append("pyright")
    if arguments:
        command = [python, "-m", "pytest", *arguments]
        code = run("pytest", command, PIVOTAL_COMFYUI=str(host))
    else:
        code = run_suite(python, host)
    return verdict(failed, code)


def test_quick(python: Path, arguments: Sequence[str]) -> int:
    """Linters, types and tests of what knows no host: the engine, the bundles and the laws."""
    failed = linters(python)
    types = [python, "-m", "pyright", "--pythonpath", python, *HOSTLESS]
    os.environ["PIVOTAL_COMFYUI"] = ""
    # On the second core: neither pyright nor these tests can use two.
    with subprocess.Popen([str(w) for w in types], cwd=ROOT, stdout=subprocess.PIPE) as checking:
        code = run("pytest", [python, "-m", "pytest", *QUICK, *arguments])
        said, _ = checking.communicate()
    say("pyright, which ran at the same time")
    print(said.decode(errors="replace"), end="", flush=True)
    if checking.returncode:
        failed.append("pyright")
    return verdict(failed, code)


def serve(python: Path, host: Path, arguments: Sequence[str]) -> int:
    """ComfyUI with the pack, until Ctrl+C."""
    base = workspace("serve")
    options = [*arguments] if has_accelerator(python) else ["--cpu", *arguments]
    options += ["--base-directory", base]
    options += ["--database-url", f"sqlite:///{(base / 'user' / 'comfyui.db').as_posix()}"]
    say(f"checkpoints go into {base / 'models' / 'checkpoints'}; Ctrl+C ends the server")
    process = subprocess.Popen([str(word) for word in [python, host / "main.py", *options]])
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            # The server got it too and ends by itself.
            continue


def has_accelerator(python: Path) -> bool:
    """Ask the environment's torch, in a process of its own."""
    code = "import sys, torch; sys.exit(not torch.accelerator.is_available())"
    return subprocess.run([str(python), "-c", code], check=False).returncode == 0


def demo(python: Path, host: Path, arguments: Sequence[str]) -> int:
    """Train and use a concept on a real server, on the CPU."""
    try:
        run_demo(python, host, workspace("demo"), say)
    except ServerFailed as failed:
        raise Stop(f"The demo failed: {failed}") from failed
    return 0


def bench(python: Path, host: Path, arguments: Sequence[str]) -> int:
    """Measurements: `startup`, `learning`, `speed`, `runs`, `names`, `fuzz` and more."""
    variables = {"PIVOTAL_COMFYUI": str(host), "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
    return run(f"bench {arguments[0]}", [python, ROOT / "benchmarks", *arguments], **variables)


def pictures(python: Path, host: Path, arguments: Sequence[str]) -> int:
    """Pictures of the help pages and, unless nodes are named, the thumbnails of the templates."""
    ensure_browser(say)
    words = [python, "-m", "harness.tools.pictures", host, workspace("pictures"), *arguments]
    return run("pictures", words, PYTHONPATH=str(ROOT / "tests"), HF_HUB_OFFLINE="1")


def hosts(python: Path, host: Path, arguments: Sequence[str]) -> int:
    """The pack on older versions of ComfyUI, or on those that are named, one after the other."""
    return run_matrix(python, cache_folder() / "hosts", arguments)


def manager(python: Path, host: Path, arguments: Sequence[str]) -> int:
    """ComfyUI-Manager installs, updates, disables and uninstalls the pack on a fresh host."""
    return run_manager(python, host, arguments)


def registry(python: Path, host: Path, arguments: Sequence[str]) -> int:
    """comfy-cli validates the pack and makes the archive that users get."""
    return check_registry()


COMMANDS = {"demo": demo, "test": test, "serve": serve, "bench": bench, "hosts": hosts}
COMMANDS |= {"manager": manager, "registry": registry, "pictures": pictures}


def parse(words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Read the command line; what a command does not know goes to pytest, ComfyUI or the bench."""
    common = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    common.add_argument("--comfyui", type=Path, help="use the ComfyUI in this folder")
    common.add_argument("--python", type=Path, help="the Python of that ComfyUI")
    parser = argparse.ArgumentParser(prog="dev.py", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name, function in COMMANDS.items():
        options = {"parents": [common], "allow_abbrev": False}
        sub = commands.add_parser(name, help=(function.__doc__ or "").split("\n")[0], **options)
        if name == "bench":
            what = ["startup", "learning", "speed", "dataset", "names", "fuzz", "adapters"]
            what += ["families", "runs", "kernels", "identity", "flags", "routes"]
            sub.add_argument("what", choices=what)
    known, rest = parser.parse_known_args(words)
    if rest and known.command in ("demo", "registry"):
        parser.error(f"{known.command} does not know {' '.join(rest)}")
    return known, [known.what, *rest] if known.command == "bench" else rest


def main(words: Sequence[str]) -> int:
    """Prepare the environment, then run the command."""
    known, rest = parse(words)
    if known.command == "test" and rest[:1] == ["quick"]:
        return test_quick(existing_python(known.python), rest[1:])
    modules = MODULES + (TEST_MODULES if known.command == "test" else ())
    if known.comfyui is None:
        python, host = make_environment()
    else:
        python, host = existing_host(known.comfyui, known.python, modules)
    return COMMANDS[known.command](python, host, rest)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Stop as stop:
        sys.exit(f"[dev] {stop}")
    except KeyboardInterrupt:
        sys.exit("[dev] stopped")
