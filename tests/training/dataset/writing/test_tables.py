"""A caption table that is written again keeps what it was not asked to change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pack.training.dataset.folder.sidecars import NAME_COLUMNS
from pack.training.dataset.records import Record
from pack.training.dataset.writing.tables import Csv, JsonLines, Kohya

PICTURE = Record(path=Path("/set/b.png"), caption="", width=8, height=8)


def put(table, text: str = "new") -> str:
    table.put(PICTURE, text)
    return table.text()


@pytest.mark.parametrize("column", NAME_COLUMNS)
def test_rows_are_found_by_any_name_column_and_the_others_stay(column: str):
    before = f"{column},caption\na.png,one\nsub/b.png,two\nc.png,three\n"
    table = Csv(before)
    assert table.caption(PICTURE) == "two"
    assert put(table) == before.replace("two", "new")
    rows = [{column: name, "prompt": name[0]} for name in ("a.png", "b.png")]
    table = JsonLines("".join(json.dumps(row) + "\n" for row in rows))
    lines = [json.loads(line) for line in put(table).splitlines()]
    assert lines == [rows[0], {column: "b.png", "prompt": "new"}]


def test_a_picture_without_a_row_gets_one_in_the_columns_that_are_there():
    assert put(Csv("image,caption\na.png,one\n")) == "image,caption\na.png,one\nb.png,new\n"
    assert put(Csv("")) == "file_name,text\nb.png,new\n"
    assert put(Csv("image,width\na.png,8\n")) == "image,width,text\na.png,8\nb.png,,new\n"


def test_the_mark_and_line_ends_of_a_spreadsheet_stay():
    before = "\ufefffile_name,text\r\na.png,one\r\nb.png,two\r\n"
    assert put(Csv(before)) == before.replace("two", "new")
    line = '{"file_name": "b.png", "text": "two"}\n'
    assert put(JsonLines("\ufeff" + line)) == "\ufeff" + line.replace("two", "new")


def test_cells_without_a_column_stay():
    assert put(Csv("file_name,text\na.png,one, and more\nb.png,two\n")) == (
        "file_name,text\na.png,one, and more\nb.png,new\n"
    )
    assert put(Csv("file_name\nb.png,extra\n")) == "file_name,,text\nb.png,extra,new\n"


def test_lines_that_are_of_no_picture_or_not_asked_for_stay_as_they_are_written():
    before = '[1,  2]\n{"note":"x"}\n{"file_name":"a.png","text":"caf\\u00e9\u2028"}\n'
    assert put(JsonLines(before)) == before + '{"file_name": "b.png", "text": "new"}\n'


def test_kohyas_rows_are_found_by_path_name_or_stem_and_keep_their_tags():
    for key in ("b", "b.png", "/elsewhere/b.png", "C:\\pictures\\b.png"):
        rows = {"a": {"caption": "one"}, key: {"tags": "x", "caption": "two"}}
        table = Kohya(json.dumps(rows))
        assert table.caption(PICTURE) == "two"
        assert json.loads(put(table)) == {**rows, key: {"tags": "x", "caption": "new"}}


@pytest.mark.parametrize(
    ("table", "text", "said"),
    [
        (Csv, "name;words\nb.png;two\n", "has no column file_name"),
        (JsonLines, '{"a": 1}\n{oops\n', "Line 2 of metadata.jsonl is not JSON"),
        (Kohya, "[]", "is not a table of captions"),
        (Kohya, '{"b": "two"}', "is not a table of captions"),
        (Kohya, "{", "meta.json is not JSON"),
    ],
)
def test_a_table_that_cannot_be_kept_whole_is_refused(table, text: str, said: str):
    with pytest.raises(ValueError, match=said):
        table(text)
