"""What the registry gets: the files that users need, and nothing that its scan would flag."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.tools import registry
from harness.tools.environment import Stop

ROOT = Path(__file__).resolve().parents[2]
USED = (".py", ".js", ".md", ".json", ".webp")


@pytest.fixture(scope="module")
def shipped() -> list[str]:
    try:
        return registry.shipped()
    except (Stop, OSError):
        pytest.skip("not a git checkout")


def test_the_archive_holds_only_what_users_need(shipped):
    assert registry.strangers(shipped) == []


def test_the_archive_holds_the_whole_pack(shipped):
    tops = {name.split("/")[0] for name in shipped}
    assert tops >= registry.SHIPPED
    folders = ("nodes", "training", "bundles", "web", "locales")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*")]
    code = {path.relative_to(ROOT).as_posix() for path in files if path.suffix in USED}
    assert code <= set(shipped) | set(registry.git(ROOT, "ls-files", "-o").splitlines())


def test_no_file_of_the_archive_is_flagged(shipped):
    texts = {name: (ROOT / name).read_text("utf-8", "replace") for name in shipped}
    flags = [flag for name, text in texts.items() for flag in registry.flags(name, text)]
    # Old embedding files are pickles; torch reads them with weights_only=True.
    assert [flag for flag in flags if not flag.startswith("bundles/files/torch.py")] == []


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("a.py", "value = eval(text)", "eval"),
        ("a.py", "import subprocess", "a shell"),
        ("a.py", "os.environ['X'] = ''", "the environment"),
        ("a.py", "import pickle", "pickle"),
        ("a.py", "    from urllib.request import urlopen", "the network"),
        ("a.js", "x" * 500, "minified"),
    ],
)
def test_a_flag_is_seen(name, text, what):
    assert what in " ".join(registry.flags(name, text))


@pytest.mark.parametrize("name", ["tests/a.py", "dev.py", "web/logo.psd", ".ci/run"])
def test_a_stranger_is_seen(name):
    assert registry.strangers([name]) == [name]


def test_the_changelog_knows_the_version():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (version,) = re.findall(r'(?m)^version = "(\d+\.\d+\.\d+)"$', project)
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_icon_and_banner_have_the_registrys_sizes():
    from PIL import Image

    with Image.open(ROOT / "icon.png") as icon, Image.open(ROOT / "banner.png") as banner:
        assert icon.size == (400, 400)
        assert banner.width * 9 == banner.height * 21
