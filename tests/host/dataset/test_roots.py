"""Which folders of images a server reads for whom."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import folder_paths
import pytest
from comfy.cli_args import args

from factories import write_pictures
from harness.host.graphs import Graph
from harness.host.runner import GraphFailed, Host
from pack.nodes.host.folders import user_folder
from pack.nodes.host.roots import OWNERS_FILE, is_alone

OPEN = {
    "--listen": {"listen": "0.0.0.0,::"},
    "--listen of a network": {"listen": "192.168.1.5"},
    "--listen of both": {"listen": "127.0.0.1,10.0.0.1"},
    "--listen of a name": {"listen": "studio.local"},
    "--multi-user": {"multi_user": True},
}


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    write_pictures(tmp_path / "pictures", ["a cat"])
    return tmp_path / "pictures"


@pytest.fixture
def owners(host: Host) -> Any:
    """The owner's file of named folders, which is gone after the test."""
    path = user_folder() / OWNERS_FILE
    yield path
    path.unlink(missing_ok=True)


def load(run: Any, host: Host, path: str, **settings: Any) -> tuple[list[str], str]:
    (host.base / "input" / "some").mkdir(exist_ok=True)
    graph = Graph()
    node = graph.add("Pivotal_LoadDataset", folder="some", path=path, **settings)
    graph.keep(node.out())
    graph.keep(node.out(1))
    found = run(graph)
    return [record.caption for record in found[node, 0].records], found[node, 1]


def opened(monkeypatch: pytest.MonkeyPatch, **flags: Any) -> None:
    for name, value in flags.items():
        monkeypatch.setattr(args, name, value)


@pytest.mark.parametrize("listen", ["127.0.0.1", "127.0.0.1,::1", "localhost", "127.2.2.2"])
def test_a_server_that_only_this_computer_reaches_reads_any_folder_with_a_line(
    host, run_graph, elsewhere, monkeypatch, listen
):
    opened(monkeypatch, listen=listen)
    captions, report = load(run_graph, host, str(elsewhere))
    assert captions == ["a cat"]
    assert f"{elsewhere} is outside ComfyUI's folders. It is read because only this" in report


@pytest.mark.parametrize("kind", OPEN)
def test_a_server_that_others_reach_reads_no_folder_elsewhere(
    host, run_graph, elsewhere, monkeypatch, kind
):
    opened(monkeypatch, **OPEN[kind])
    assert not is_alone()
    sentences = []
    for path in (elsewhere, elsewhere.parent / "not there"):
        with pytest.raises(GraphFailed, match="outside the folders of this server") as error:
            load(run_graph, host, str(path))
        sentences.append(str(error.value).replace(str(path), "X"))
    assert sentences[0] == sentences[1], "whether it exists would be told"


@pytest.mark.parametrize("kind", OPEN)
def test_a_folder_that_the_owner_named_is_read_by_all(
    host, run_graph, elsewhere, monkeypatch, owners, kind
):
    opened(monkeypatch, **OPEN[kind])
    owners.write_text(f"# pictures of the studio\n\n{elsewhere.parent}\nrelative/path\n")
    captions, report = load(run_graph, host, str(elsewhere))
    assert captions == ["a cat"] and "outside" not in report


TRICKS = ["{root}/../other", "{root}/link", "{root}x", "{root}/./../other/", "~/other"]


@pytest.mark.parametrize("trick", TRICKS)
def test_a_named_folder_opens_no_other(
    host, run_graph, elsewhere, monkeypatch, owners, tmp_path, trick
):
    opened(monkeypatch, listen="0.0.0.0")
    owners.write_text(str(elsewhere))
    write_pictures(tmp_path / "other", ["a secret"])
    write_pictures(tmp_path / "picturesx", ["a secret"])
    (elsewhere / "link").symlink_to(tmp_path / "other", target_is_directory=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(GraphFailed, match="outside the folders of this server"):
        load(run_graph, host, trick.format(root=elsewhere))


def test_the_hosts_own_folders_are_read_by_path_too(host, run_graph, monkeypatch):
    opened(monkeypatch, listen="0.0.0.0")
    folder = Path(folder_paths.get_output_directory(), "pictures")
    write_pictures(folder, ["drawn here"])
    captions, report = load(run_graph, host, str(folder))
    assert captions == ["drawn here"] and "outside" not in report


@pytest.mark.parametrize("extension", [".pem", ".py", ".ssh", "env", ".yaml"])
def test_files_that_are_no_captions_are_read_as_such_nowhere_else(
    host, run_graph, elsewhere, owners, extension
):
    (elsewhere / f"0.{extension.lstrip('.')}").write_text("a key")
    with pytest.raises(GraphFailed, match="outside ComfyUI's folders, use one of .blip"):
        load(run_graph, host, str(elsewhere), caption_extension=extension)
    # As before, in a folder that is ComfyUI's or the owner's.
    owners.write_text(str(elsewhere))
    captions, _ = load(run_graph, host, str(elsewhere), caption_extension=extension)
    assert captions == ["a key"]


def test_what_is_no_list_of_folders_names_none(host, owners, elsewhere, monkeypatch, run_graph):
    opened(monkeypatch, listen="0.0.0.0")
    for data in (b"\xff\xfe\x00", b"\n" * 10, os.fsencode(elsewhere.name)):
        owners.write_bytes(data)
        with pytest.raises(GraphFailed, match="outside the folders of this server"):
            load(run_graph, host, str(elsewhere))
