"""What leaves a machine in a bundle, in reports and in answers: by default, nobody's name."""

from __future__ import annotations

import json
import os
import sys
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from host.run.test_cancel import server_graph
from host.run.test_routes import ask

from factories import write_pictures
from harness.faults.cancelling import furnish
from harness.host.runner import Host
from harness.host.server import Server, failure
from pack.bundles.files.safetensors import read_header
from pack.bundles.metadata import INDEX

USER, PERSON = "jane.doe", "maria_schmidt"
NAMED = (USER.encode(), PERSON.encode())
WORKFLOW = {"nodes": [{"id": 1, "widgets_values": [PERSON, "a note"]}], "version": 0.4}
RUN = "her run"


@pytest.fixture(scope="module")
def named(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server in a user's home."""
    base = tmp_path_factory.mktemp("machine") / "home" / USER / "ComfyUI"
    base.mkdir(parents=True)
    furnish(base)
    write_pictures(base / "input" / PERSON, ["a TOK", "TOK on grass"])
    comfyui = Path(os.environ["PIVOTAL_COMFYUI"])
    with Server(Path(sys.executable), comfyui, base, ["--cpu"]) as server:
        yield server


@pytest.fixture(scope="module")
def trained(named: Server) -> dict[str, Any]:
    """A run that was trained and saved, with its reports and the id of its reviewed dataset."""
    graph, base = server_graph()
    data = graph.add("Pivotal_LoadDataset", folder=PERSON)
    review = graph.add("Pivotal_ReviewDataset", dataset=data.out())
    drawn = graph.add(
        "Pivotal_Previews", prompts="a TOK", every=1, time_share=1.0, seeds="1", steps=1, width=64,
        height=64,
    )  # fmt: skip
    run = graph.train(
        base, "", dataset=review.out(), concepts=graph.concept(), steps=2, run_name=RUN,
        adapter=graph.add("Pivotal_Lora", rank=2).out(), previews=drawn.out(), checkpoint_every=1,
    )  # fmt: skip
    saved = graph.add("Pivotal_SaveBundle", bundle=run.out(), filename_prefix="loras/hers")
    unpacked = graph.add("Pivotal_UnpackBundle", bundle=run.out(), filename_prefix="loras/apart")
    inspected = graph.add("Pivotal_InspectBundle", bundle=saved.out())
    reports = [run.out(5), saved.out(1), unpacked.out(), inspected.out()]
    shown = [graph.add("PreviewAny", source=report) for report in reports]
    history = named.wait(named.queue(graph, WORKFLOW), 300)
    outputs = history["outputs"]
    return {
        "reports": {node: outputs[node] for node in (*shown, saved, unpacked, inspected)},
        "dataset": outputs[review]["review"][0]["dataset"],
    }


def files_of(server: Server, pattern: str) -> list[Path]:
    found = sorted((server.base / "output").glob(pattern))
    assert found
    return found


def holds_a_name(data: bytes) -> list[bytes]:
    return [name for name in NAMED if name in data]


def test_no_file_of_the_default_says_whose_it_is(named: Server, trained):
    saved = [*files_of(named, "loras/hers*"), *files_of(named, "loras/apart*/*")]
    of_the_run = files_of(named, f"pivotal/{RUN}/**/*.safetensors")
    for path in [*saved, *of_the_run, *files_of(named, f"pivotal/{RUN}/report*")]:
        assert holds_a_name(path.read_bytes()) == [], path
    (path,) = files_of(named, "loras/hers*")
    recipe = json.loads(read_header(path)[INDEX])["recipe"]
    assert recipe["dataset"] == {"pictures": 2} and recipe["train"]["steps"] == 2
    assert "workflow" not in read_header(path)


def test_no_report_says_more_than_the_user_typed(trained):
    text = json.dumps(trained["reports"]).encode()
    assert b"run folder: pivotal/her run in ComfyUI's output folder" in text
    assert b"saved loras/hers_00001.safetensors" in text
    assert holds_a_name(text) == []


def test_no_answer_of_a_route_says_it(named: Server, trained):
    run = urllib.parse.quote(RUN)
    dataset = trained["dataset"]
    paths = [
        "/pivotal/runs", f"/pivotal/runs/{run}", "/pivotal/runs/nobody",
        "/pivotal/bundle?file=loras/hers_00001.safetensors", "/pivotal/bundle?file=loras/gone",
        f"/pivotal/datasets/{dataset}/items",
    ]  # fmt: skip
    for path in paths:
        _, answer = ask(named, path)
        assert answer and holds_a_name(json.dumps(answer).encode()) == [], path


@pytest.mark.parametrize(
    ("metadata", "graph_is_in", "recipe_is_in"),
    [
        ("everything", True, True),
        (True, True, True),
        ("recipe without paths and folder names", False, True),
        (False, False, True),
        ("nothing beyond names and family", False, False),
    ],
)
def test_a_choice_holds_what_it_says(
    named: Server, trained, metadata: str | bool, graph_is_in: bool, recipe_is_in: bool
):
    """True and False are saved values of the switch that the choice took the place of."""
    graph, base = server_graph()
    data = graph.add("Pivotal_LoadDataset", folder=PERSON)
    run = graph.train(
        base, "", dataset=data.out(), concepts=graph.concept(), steps=1, run_name="choices",
        adapter=graph.add("Pivotal_Lora", rank=2).out(),
    )  # fmt: skip
    prefix = f"choices/{metadata}"
    graph.add("Pivotal_SaveBundle", bundle=run.out(), filename_prefix=prefix, metadata=metadata)
    history = named.wait(named.queue(graph, WORKFLOW), 300)
    assert failure(history) is None
    path = files_of(named, f"{prefix}*")[-1]
    header = read_header(path)
    assert (json.loads(header.get("workflow", "null")) == WORKFLOW) == graph_is_in
    index = json.loads(header[INDEX])
    assert bool(index["recipe"]) == recipe_is_in
    # The second time, the run is read from its folder, whose bundle leaves the name out.
    assert (index["recipe"].get("dataset", {}).get("name") == PERSON) == graph_is_in
    assert index["family"] == "sd15" and index["entries"][0]["name"]
    assert ("modelspec.date" in header) == recipe_is_in
    assert USER.encode() not in path.read_bytes()
