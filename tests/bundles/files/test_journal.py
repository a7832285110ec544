"""Journals: whole lines survive, cut ones are skipped."""

from __future__ import annotations

import os
from pathlib import Path

from pack.bundles.files.journal import Journal


def test_a_torn_line_is_passed_over_and_the_next_is_whole(tmp_path: Path):
    journal = Journal(tmp_path / "j.jsonl")
    journal.add({"n": 1, "text": "ü\ud800\n"})
    with open(journal.path, "ab") as file:
        file.write(b'{"n": 2, "te')
    journal.add({"n": 3})
    assert list(journal.entries()) == [{"n": 1, "text": "ü\ud800\n"}, {"n": 3}]
    assert os.path.getsize(journal.path) > 0 and list(Journal(tmp_path / "none").entries()) == []


def test_a_cut_line_of_an_unsynced_journal_is_skipped_too(tmp_path: Path):
    journal = Journal(tmp_path / "j.jsonl")
    journal.path.write_text('{"step": 1}\n{"step": 2, "los')
    journal.add({"step": 3}, sync=False)
    assert [entry["step"] for entry in journal.entries()] == [1, 3]


def test_a_last_line_that_lacks_only_its_end_counts_once(tmp_path: Path):
    journal = Journal(tmp_path / "j.jsonl")
    journal.path.write_text('{"step": 1}\n{"step": 2}')
    assert [entry["step"] for entry in journal.entries()] == [1, 2]
    journal.add({"step": 3})
    assert [entry["step"] for entry in journal.entries()] == [1, 2, 3]


def test_a_rewritten_journal_holds_the_given_lines_and_no_cut_one(tmp_path: Path):
    journal = Journal(tmp_path / "j.jsonl")
    journal.rewrite([])
    assert not journal.path.exists(), "nothing was there"
    for step in (1, 2, 3):
        journal.add({"step": step})
    with open(journal.path, "a") as file:
        file.write('{"step": 4')
    journal.rewrite([entry for entry in journal.entries() if entry["step"] < 3])
    assert journal.path.read_text() == '{"step": 1}\n{"step": 2}\n'
    before = journal.path.stat().st_ino
    journal.rewrite(journal.entries())
    assert journal.path.stat().st_ino == before, "nothing to change"
