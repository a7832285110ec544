"""Where a bundle is saved: under the name that ComfyUI's own save nodes would give it."""

from __future__ import annotations

import json
from pathlib import Path

import folder_paths
import pytest

from pack.nodes.bundle.save_load_bundle import sent_workflow
from pack.nodes.host import folders
from pack.nodes.host.folders import checked_run_name, dataset_folder, new_bundle_path


@pytest.fixture
def output(host, tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("prefix", ["loras/%year%-%month%-%day%", "%year%/%month%/cat"])
def test_words_for_the_date_are_filled_in_as_by_the_host(output: Path, prefix: str):
    folder, name, *_ = folder_paths.get_save_image_path(prefix, str(output))
    assert new_bundle_path(prefix) == Path(folder, f"{name}_00001.safetensors")


@pytest.mark.parametrize(
    ("prefix", "right"),
    [
        ("loras\\sub\\cat", "loras/sub/cat"),
        ("loras/cat\n", "loras/cat"),
        ("100%", "100%"),
        ("loras/猫", "loras/猫"),
    ],
)
def test_a_name_stays_what_it_is(output: Path, prefix: str, right: str):
    assert new_bundle_path(prefix) == output / f"{right}_00001.safetensors"


@pytest.mark.parametrize(
    "prefix",
    ["C:\\models\\cat", "d:/cat", "E:cat", "\\\\nas\\loras\\cat", "../cat", "a\0b"],
)
def test_a_place_elsewhere_is_refused_on_every_system(output: Path, prefix: str):
    with pytest.raises(ValueError, match="leads outside ComfyUI's output folder"):
        new_bundle_path(prefix)


@pytest.mark.parametrize("prefix", ["a" * 300, "loras/" + "猫" * 100, "b" * 300 + "/cat"])
def test_a_name_too_long_for_a_file_is_refused_in_one_sentence(output: Path, prefix: str):
    with pytest.raises(ValueError, match="too long for a file") as caught:
        new_bundle_path(prefix)
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize("part", ["aux", "CON", "com1.x", "lpt9 ", "a:b", "cat?", "loras.", "a "])
def test_a_name_that_windows_has_no_room_for_is_known(part: str):
    assert folders._is_refused_by_windows(part)


@pytest.mark.parametrize("part", ["auxiliary", "con_1", "com10", "v1.0", "猫", "a b"])
def test_a_name_that_windows_allows_is_allowed(part: str):
    assert not folders._is_refused_by_windows(part)


@pytest.mark.parametrize(
    "extra", [None, {}, "workflow", ["workflow"], {"workflow": None}, {"workflow": "{}"}, 5]
)
def test_a_client_that_sends_no_graph_saves_none(extra):
    assert sent_workflow(extra) == ""


def test_the_graph_that_the_editor_sends_is_saved():
    assert json.loads(sent_workflow({"workflow": {"nodes": []}})) == {"nodes": []}


@pytest.mark.parametrize(
    "use", [new_bundle_path, checked_run_name, lambda name: dataset_folder("", f"/{name}")]
)
def test_letters_that_the_file_system_lacks_are_named_in_one_sentence(output: Path, use):
    """As any Chinese name in a server that was started with LC_ALL=C and without UTF-8."""
    with pytest.raises(ValueError, match="start it with PYTHONUTF8=1") as caught:
        use("a\ud800b")
    assert "\\ud800" in str(caught.value)


SHARES = [
    "//host/share",
    "\\\\host\\share",
    "/\\host/share",
    "\\/host",
    " //host/share",
    '"//host/x"',
]


@pytest.mark.parametrize("name", SHARES)
def test_a_folder_of_another_machine_is_refused_by_its_letters(
    output: Path, monkeypatch, name: str
):
    """To look whether there is one, Windows would sign in to the other machine."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("asked the file system")

    monkeypatch.setattr(folders, "is_within", refuse)
    monkeypatch.setattr(folders.folder_paths, "get_full_path", refuse)
    for call in ("stat", "is_dir", "exists", "resolve"):
        monkeypatch.setattr(Path, call, refuse)
    with pytest.raises(ValueError, match="is a folder of another machine: connect it as a drive"):
        dataset_folder("", name)
    bare = name.strip('"')
    with pytest.raises(ValueError, match="is a folder of another machine"):
        folders.input_folder(bare)
    with pytest.raises(ValueError, match="leads outside ComfyUI's output folder"):
        new_bundle_path(bare)
    with pytest.raises(ValueError, match="cannot be a folder"):
        checked_run_name(bare)
    with pytest.raises(FileNotFoundError, match="There is no bundle"):
        folders.bundle_path(f"loras/{bare}")
