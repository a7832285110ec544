"""The suite in two processes, on a small repository of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CODE = (
    "import sys, pathlib; sys.path.insert(0, sys.argv[1])\n"
    "from harness.tools.suite import run_suite\n"
    "sys.exit(run_suite(pathlib.Path(sys.executable), pathlib.Path('h'), pathlib.Path('.')))\n"
)
# Each waits until the other runs, so neither ends when one runs after the other.
MEETING = """
import pathlib, time
def test_{name}():
    here = pathlib.Path(__file__).parents[{depth}]
    (here / "{name}").touch()
    while not (here / "{other}").exists():
        time.sleep(0.01)
    print("said by {name}")
    assert {holds}
"""


def suite(folder: Path, rest: str = "True", browser: str = "True") -> tuple[int, list[str]]:
    """Run two tests that meet; the exit code and the lines of the output."""
    (folder / "tests" / "browser").mkdir(parents=True)
    (folder / "pytest.ini").write_text("[pytest]\ntestpaths = tests\naddopts = -p no:cacheprovider")
    for path, name, other, holds in (
        ("tests/test_rest.py", "rest", "browser", rest),
        ("tests/browser/test_browser.py", "browser", "rest", browser),
    ):
        text = MEETING.format(name=name, other=other, holds=holds, depth=path.count("/"))
        (folder / path).write_text(text)
    command = [sys.executable, "-c", CODE, str(Path(__file__).parents[1])]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


def test_browser_tests_run_beside_the_others_and_one_line_counts_both(tmp_path):
    code, lines = suite(tmp_path)
    assert code == 0
    assert lines[-1].startswith("[dev] pytest: 2 passed in ")


def test_a_failure_of_the_browser_fails_the_suite_and_its_log_follows_whole(tmp_path):
    code, lines = suite(tmp_path, browser="False")
    assert code == 1
    assert lines[-1].startswith("[dev] pytest: 1 failed, 1 passed in ")
    heads = [n for n, line in enumerate(lines) if "test session starts" in line]
    ends = [n for n, line in enumerate(lines) if line.startswith("=") and " in " in line]
    assert heads[0] < ends[0] < heads[1] < lines.index("said by browser") < ends[1]


def test_a_process_that_dies_fails_the_suite_and_is_named(tmp_path):
    code, lines = suite(tmp_path, "False", "__import__('os')._exit(3)")
    assert code == 1 and "said by rest" in lines
    assert lines[-1].startswith("[dev] pytest: no report of apart: ")
