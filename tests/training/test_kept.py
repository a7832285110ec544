"""What is kept in the user folder is counted by kind, and removed as it was shown."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pack.training.kept import (
    DAY,
    KINDS,
    Changed,
    Pruning,
    kept_files,
    main,
    parser,
    prune,
    sums,
)

SCRIPT = Path(__file__).resolve().parents[2] / "training" / "kept.py"
LATENT = f"latents/ab/{'ab' * 32}.safetensors"
FILES = {
    # name: (bytes, days)
    LATENT: (400, 40),
    f"latents/cd/{'cd' * 32}.safetensors": (300, 3),
    f"pictures/{'1' * 32}.png": (200, 20),
    f"thumbs/{'2' * 32}.webp": (20, 50),
    f"thumbs/{'2' * 32}_{'3' * 12}.webp": (30, 2),
    f"captions/{'4' * 24}.jsonl": (50, 60),
    f"reviews/{'5' * 16}.jsonl": (10, 90),
    "facts.sqlite": (100, 1),
    "facts.sqlite.broken": (100, 70),
    "history.jsonl": (5, 5),
    "history_Alice Müller.jsonl": (7, 80),
}
NEVER = [
    "salt.txt", "folders.txt", "notes.txt", f"{'5' * 16}.jsonl", "reviews/mine.jsonl",
    f"latents/{'ab' * 32}.safetensors", f"latents/ab/cd/{'ab' * 32}.safetensors",
    f"thumbs/deep/{'2' * 32}.webp", "facts.sqlite-journal.txt", "captions/.pivotal-0.tmp",
]  # fmt: skip
EVERYTHING = tuple(one.kind for one in KINDS)


def put(root: Path, name: str, size: int, days: float) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    at = time.time() - days * DAY
    os.utime(path, (at, at))
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "pivotal"
    for name, (size, days) in FILES.items():
        put(root, name, size, days)
    for name in NEVER:
        put(root, name, 1000, 1000)
    return root


def there(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def names(pruned) -> list[str]:
    return [file.name for file in pruned.files]


def test_every_kind_is_counted_with_its_dates_and_its_cost(root: Path):
    found = {one.kind.kind: one for one in sums(kept_files(root))}
    assert {kind: (one.files, one.size) for kind, one in found.items()} == {
        "latents": (2, 700), "pictures": (1, 200), "thumbs": (2, 50), "captions": (1, 50),
        "facts": (2, 200), "reviews": (1, 10), "history": (2, 12),
    }  # fmt: skip
    ages = [(time.time() - at) / DAY for at in (found["latents"].oldest, found["latents"].newest)]
    assert ages == pytest.approx([40, 3], abs=0.01)
    assert all(one.kind.lost.endswith(".") for one in found.values())


def test_an_empty_or_missing_folder_keeps_nothing(tmp_path: Path):
    for folder in (tmp_path, tmp_path / "missing"):
        assert kept_files(folder) == []
        assert [(one.files, one.oldest) for one in sums([])] == [(0, None)] * len(KINDS)
        assert prune(folder, Pruning(), dry_run=False).files == ()


@pytest.mark.parametrize(
    "pruning",
    [
        Pruning(),
        Pruning(kinds=EVERYTHING),
        Pruning(kinds=["latents", "thumbs"], older_than_days=10),
        Pruning(most_bytes=500),
        Pruning(kinds=EVERYTHING, older_than_days=30, most_bytes=100),
    ],
    ids=str,
)
def test_a_dry_run_says_what_the_real_run_removes(root: Path, pruning: Pruning):
    before = there(root)
    planned = prune(root, pruning)
    assert there(root) == before
    done = prune(root, pruning, dry_run=False, planned=planned.identity)
    assert done.files == planned.files != () and done.left == ()
    assert before - there(root) == set(names(planned))
    assert set(NEVER) <= there(root)


def test_a_persons_work_is_removed_only_when_it_is_named(root: Path):
    work = {name for name in FILES if name.startswith(("reviews", "history"))}
    prune(root, Pruning(), dry_run=False)
    assert there(root) == work | set(NEVER)
    prune(root, Pruning(kinds=["reviews", "history"]), dry_run=False)
    assert there(root) == set(NEVER)


def test_only_the_oldest_are_removed_until_the_rest_is_small_enough(root: Path):
    pruning = Pruning(kinds=["latents", "pictures", "thumbs"], most_bytes=540)
    assert names(prune(root, pruning)) == [f"thumbs/{'2' * 32}.webp", LATENT]
    assert prune(root, Pruning(most_bytes=10**6)).files == ()


def test_nothing_younger_than_asked_is_removed_however_large_the_rest_is(root: Path):
    pruning = Pruning(kinds=["latents"], older_than_days=10, most_bytes=0)
    assert names(prune(root, pruning)) == [LATENT]


def test_what_is_in_use_is_left(root: Path):
    used = root / LATENT
    (root / "facts.sqlite-journal").write_bytes(b"x")
    done = prune(root, Pruning(kinds=EVERYTHING), dry_run=False, in_use=lambda p: p == used)
    assert set(FILES) - set(names(done)) == {LATENT, "facts.sqlite"}
    assert used.exists() and (root / "facts.sqlite").exists()


def test_other_files_than_those_that_were_shown_are_not_removed(root: Path):
    planned = prune(root, Pruning())
    put(root, LATENT, 401, 40)
    before = there(root)
    with pytest.raises(Changed, match="look again"):
        prune(root, Pruning(), dry_run=False, planned=planned.identity)
    assert there(root) == before


def test_a_file_that_changes_in_the_middle_is_left_and_reported(root: Path):
    """Whoever asks whether a file is in use has it written again in that moment."""
    asked: list[Path] = []

    def writes(path: Path) -> bool:
        asked.append(path)
        if asked.count(root / LATENT) == 1 and path == root / f"thumbs/{'2' * 32}.webp":
            put(root, LATENT, 400, 0)
        return False

    planned = [file for file in kept_files(root) if file.kind in ("latents", "thumbs")]
    done = prune(root, Pruning(kinds=["thumbs", "latents"]), dry_run=False, in_use=writes)
    assert len(done.files) + len(done.left) == len(planned)
    assert [file.name for file in done.left] == [LATENT] and (root / LATENT).exists()


@pytest.mark.skipif(os.name == "nt", reason="needs links")
def test_links_are_neither_counted_nor_followed(root: Path, tmp_path: Path):
    theirs = tmp_path / "theirs"
    name = f"{'9' * 32}.png"
    put(theirs, name, 10, 100)
    put(theirs / "ee", f"{'ee' * 32}.safetensors", 10, 100)
    (root / "pictures" / name).symlink_to(theirs / name)
    (root / "latents" / "ee").symlink_to(theirs / "ee")
    (root / "captions" / f"{'4' * 24}.jsonl").unlink()
    (root / "captions" / ".pivotal-0.tmp").unlink()
    (root / "captions").rmdir()
    put(theirs / "captions", f"{'8' * 24}.jsonl", 10, 100)
    (root / "captions").symlink_to(theirs / "captions")
    held = there(theirs)
    done = prune(root, Pruning(kinds=EVERYTHING), dry_run=False)
    assert there(theirs) == held
    assert set(names(done)) == set(FILES) - {f"captions/{'4' * 24}.jsonl"}


@pytest.mark.parametrize(
    "values",
    [
        {"kinds": ["latents", "salt"]},
        {"kinds": ["../.."]},
        {"older_than_days": -1},
        {"older_than_days": float("nan")},
        {"older_than_days": float("inf")},
        {"older_than_days": 10**400},
        {"most_bytes": -1},
    ],
    ids=str,
)
def test_a_wrong_order_is_refused(values: dict):
    with pytest.raises(ValueError, match=r"\.$"):
        Pruning(**values)


def test_the_command_shows_lists_and_removes(root: Path, capsys: pytest.CaptureFixture[str]):
    folder = ["--folder", str(root)]
    assert main(["show", *folder]) == 0
    shown = capsys.readouterr().out
    assert all(one.kind in shown and one.lost in shown for one in KINDS)
    ask = ["prune", "latents", "--days", "10", *folder]
    before = there(root)
    assert main(ask) == 0
    listed = capsys.readouterr().out
    assert LATENT in listed and "1 file would be removed" in listed and there(root) == before
    assert main([*ask, "--remove"]) == 0
    assert "1 file removed" in capsys.readouterr().out
    assert before - there(root) == {LATENT}


@pytest.mark.parametrize(
    "wrong", [["prune", "everything"], ["prune", "--days", "-1"], ["show", "--folder", "/nowhere"]]
)
def test_the_command_answers_a_mistake_with_a_sentence(root: Path, wrong: list[str], capsys):
    folder = [] if "--folder" in wrong else ["--folder", str(root)]
    assert main([*wrong, *folder]) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.endswith(".\n") and "Traceback" not in said.err


def test_the_command_runs_by_its_path_from_anywhere(root: Path, tmp_path: Path):
    """As in ComfyUI's portable version, whose Python looks in no folder of the user's."""
    script = [sys.executable, "-I", str(SCRIPT)]
    ask = {"cwd": tmp_path, "capture_output": True, "timeout": 60}
    done = subprocess.run([*script, "show", "--folder", str(root)], **ask)
    assert done.returncode == 0, done.stderr
    assert b"latents" in done.stdout


def test_a_console_without_a_letter_shows_the_rest(root: Path):
    plain = {"PYTHONIOENCODING": "ascii:strict", "PYTHONUTF8": "0"}
    ask = [sys.executable, str(SCRIPT), "prune", "history", "--remove", "--folder", str(root)]
    done = subprocess.run(ask, capture_output=True, timeout=60, env={**os.environ, **plain})
    assert done.returncode == 0 and done.stderr == b""
    assert b"history_Alice M\\xfcller.jsonl" in done.stdout


def test_the_usual_folder_is_that_of_the_comfyui_around_the_pack():
    usual = parser().parse_args(["show"]).folder
    assert usual == SCRIPT.parents[3] / "user" / "pivotal"
