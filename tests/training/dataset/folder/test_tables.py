"""A caption table that is written again keeps what it was not asked to change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pack.training.dataset.folder.tables import (
    NAME_COLUMNS,
    Csv,
    JsonLines,
    Kohya,
    match_rows,
)

FOLDER = Path("/set")
PICTURE = FOLDER / "b.png"


def row(table) -> int | None:
    return match_rows(table, [PICTURE], FOLDER).rows.get(PICTURE)


def put(table, text: str = "new") -> str:
    table.put(row(table), PICTURE.name, text)
    return table.text()


@pytest.mark.parametrize("column", NAME_COLUMNS)
def test_rows_are_found_by_any_name_column_and_the_others_stay(column: str):
    before = f"{column},caption\na.png,one\nsub/b.png,two\nc.png,three\n"
    table = Csv(before)
    assert table.caption(row(table)) == "two"
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


def test_kohyas_rows_are_found_by_path_name_or_stem():
    for key in ("b", "b.png", "/elsewhere/b.png", "C:\\pictures\\b.png"):
        rows = {"a": {"caption": "one"}, key: {"width": 8, "caption": "two"}}
        table = Kohya(json.dumps(rows))
        assert table.caption(row(table)) == "two"
        assert json.loads(put(table)) == {**rows, key: {"width": 8, "caption": "new"}}


@pytest.mark.parametrize(
    ("text", "caption", "tags"),
    [("new, x, y", "new", "x, y"), ("x, y", "", "x, y"), ("new", "new", ""), ("y", "y", "")],
)
def test_kohyas_tags_stay_apart_while_the_text_ends_with_them_and_are_never_doubled(
    text: str, caption: str, tags: str
):
    table = Kohya(json.dumps({"b": {"caption": "two", "tags": "x, y"}}))
    assert table.caption(row(table)) == "two, x, y"
    assert json.loads(put(table, text)) == {"b": {"caption": caption, "tags": tags}}
    assert table.caption(row(table)) == text


@pytest.mark.parametrize(
    ("table", "text", "why"),
    [
        (Csv, "name;words\nb.png;two\n", "it has no column file_name"),
        (JsonLines, '{"a": 1}\n{oops\n', "its line 2 is not JSON"),
        (Kohya, "[]", "it is not a table of captions"),
        (Kohya, '{"b": "two"}', "it is not a table of captions"),
    ],
)
def test_a_table_that_cannot_be_kept_whole_says_why_it_is_not_written(table, text: str, why: str):
    assert table(text).unsafe.startswith(why)


@pytest.mark.parametrize(
    ("table", "text", "why"),
    [
        (Kohya, "{", "it is not JSON"),
        (Kohya, "[" * 100_000, "it is not JSON: its brackets are nested too deeply"),
        (Csv, "file_name,text\nb.png," + "x" * 131_073, "it is not a table: field larger"),
    ],
)
def test_a_file_that_is_no_table_says_why(table, text: str, why: str):
    with pytest.raises(ValueError, match=why):
        table(text)


def test_a_line_of_brackets_without_an_end_is_a_line_that_is_no_caption():
    deep = "[" * 100_000
    table = JsonLines(f'{deep}\n{{"file_name": "b.png", "text": "two"}}\n')
    assert table.caption(row(table)) == "two"
    assert table.oddities == ["Line 1 of metadata.jsonl is not a caption of an image: correct it."]


SPREADSHEETS = {
    "semicolons": "file_name;text\na.png;one\nb.png;two, and more\n",
    "tabs": "file_name\ttext\na.png\tone\nb.png\ttwo, and more\n",
    "bars": "text|image\none|a.png\ntwo, and more|b.png\n",
    "capitals": 'File_Name,TEXT\na.png,one\nb.png,"two, and more"\n',
    "blanks": 'Image File, Caption \na.png,one\nb.png,"two, and more"\n',
    "semicolons and commas": "id;file_name;text\n1,5;a.png;one\n2;b.png;two, and more\n",
}


@pytest.mark.parametrize("kind", SPREADSHEETS)
def test_what_a_spreadsheet_makes_of_a_table_is_read_and_written_as_it_is(kind: str):
    before = SPREADSHEETS[kind]
    table = Csv(before)
    assert table.caption(row(table)) == "two, and more" and table.oddities == []
    assert put(table, "new, and more") == before.replace("two, and more", "new, and more")


def test_captions_that_begin_a_csv_without_a_header_are_said_to_be_none():
    (oddity,) = Csv("a.png,one\nb.png,two\n").oddities
    assert oddity.startswith("metadata.csv has no column file_name and is not read")


NAMED = {  # (pictures, rows) -> (matched, lost, vague)
    "their folders": (
        ("cat/1.png", "dog/1.png"),
        ("dog/1.png", "cat/1.png"),
        ({"dog/1.png": 0, "cat/1.png": 1}, [], []),
    ),
    "stems in folders": (("cat/1.png", "dog/1.png"), ("dog/1",), ({"dog/1.png": 0}, [], [])),
    "slashes of Windows and a dot": (("cat/1.png",), (r".\cat\1.PNG",), ({"cat/1.png": 0}, [], [])),
    "a full path of another machine": (
        ("cat/1.png", "dog/1.png", "1.png"),
        ("C:\\data\\cat\\1.png", "/home/me/set/dog/1.png"),
        ({"cat/1.png": 0, "dog/1.png": 1}, [], []),
    ),
    "a name alone that is of one": (("cat/1.png", "2.png"), ("1.png",), ({"cat/1.png": 0}, [], [])),
    "a name alone that is of several": (
        ("cat/1.png", "dog/1.png"),
        ("1.png",),
        ({}, [], ["1.png"]),
    ),
    "the one beside the table": (("1.png", "cat/1.png"), ("1.png",), ({"1.png": 0}, [], [])),
    "no image": (("cat/1.png",), ("bird/1.png", "2.png"), ({}, ["bird/1.png", "2.png"], [])),
    "accents in two forms": (
        ("caf\u00e9/1.png",),
        ("cafe\u0301/1.png",),
        ({"caf\u00e9/1.png": 0}, [], []),
    ),
}


@pytest.mark.parametrize("kind", NAMED)
def test_rows_are_matched_by(kind: str):
    pictures, rows, (matched, lost, vague) = NAMED[kind]
    lines = [json.dumps({"file_name": name, "text": name}) for name in rows]
    found = match_rows(JsonLines("\n".join(lines)), [FOLDER / p for p in pictures], FOLDER)
    assert found.rows == {FOLDER / name: place for name, place in matched.items()}
    assert (found.lost, found.vague) == (lost, vague)


def test_of_several_rows_the_last_counts_unless_they_are_of_images_that_are_not_here():
    def matches(*rows: str):
        lines = [json.dumps({"file_name": n, "text": f"{i}"}) for i, n in enumerate(rows)]
        return match_rows(JsonLines("\n".join(lines)), [PICTURE], FOLDER)

    assert matches("b.png", "b.png").rows == {PICTURE: 1}
    assert matches("b.png", "b.png").twice == [PICTURE]
    assert matches("b.png", "/cat/b.png").rows == {PICTURE: 0}
    apart = matches("/cat/b.png", "/dog/b.png")
    assert (apart.rows, apart.alike) == ({}, [PICTURE])


def test_the_caption_of_an_image_that_is_not_read_is_not_given_to_another_of_its_name(tmp_path):
    for name in ("1.png", "cat/1.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    for row in ("cat/1.png", "/elsewhere/cat/1.png"):
        table = JsonLines(json.dumps({"file_name": row, "text": "a cat"}))
        found = match_rows(table, [tmp_path / "1.png"], tmp_path)
        assert (found.rows, found.lost, found.vague) == ({}, [], [])
