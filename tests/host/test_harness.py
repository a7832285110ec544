"""The test tools themselves: a core graph runs in this process and through a real server."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import folder_paths
import pytest

import nodes
from harness.host.runner import GraphFailed, GraphInterrupted
from harness.host.server import ServerFailed, failure
from harness.host.workflow import to_prompt


def core_graph(checkpoint: dict, *, steps: int = 2) -> dict:
    """Load, encode, sample a 64 pixel picture, decode and save."""
    return {
        "1": checkpoint,
        "2": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": "a red ball"}},
        "3": {
            "class_type": "EmptyLatentImage",
            "inputs": {"width": 64, "height": 64, "batch_size": 1},
        },
        "4": {
            "class_type": "KSampler",
            "inputs": {
                "model": ["1", 0],
                "positive": ["2", 0],
                "negative": ["2", 0],
                "latent_image": ["3", 0],
                "seed": 1,
                "steps": steps,
                "cfg": 1.0,
                "sampler_name": "euler",
                "scheduler": "normal",
                "denoise": 1.0,
            },
        },
        "5": {"class_type": "VAEDecode", "inputs": {"samples": ["4", 0], "vae": ["1", 2]}},
        "6": {"class_type": "SaveImage", "inputs": {"images": ["5", 0], "filename_prefix": "x"}},
    }


def from_fixture(family: str) -> dict:
    return {"class_type": "Harness_Checkpoint", "inputs": {"family": family}}


FROM_FILE = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd15.safetensors"}}


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_a_core_graph_runs_in_process(family, request, host, run_graph):
    request.getfixturevalue(family)
    outputs = run_graph(core_graph(from_fixture(family)))
    assert outputs["5", 0].shape == (1, 64, 64, 3)
    picture = outputs.ui["6"]["images"][0]
    assert (host.base / "output" / picture["filename"]).exists()


def test_models_are_loaded_as_the_executor_loads_them(sd15):
    assert next(sd15.model.model.parameters()).is_inference()


def test_an_executor_that_is_used_again_keeps_its_cache(sd15, host, run_graph):
    executor, graph = host.executor(), core_graph(from_fixture("sd15"))
    first = run_graph(graph, executor)["4", 0]["samples"]
    assert run_graph(graph, executor)["4", 0]["samples"] is first
    assert run_graph(graph)["4", 0]["samples"] is not first


def test_a_node_that_raises_gives_its_sentence(sd15, host, run_graph):
    graph = {"1": from_fixture("missing"), "2": keep(["1", 0])}
    with pytest.raises(GraphFailed, match="missing") as caught:
        run_graph(graph)
    assert (caught.value.node, caught.value.kind) == ("1", "KeyError")


def test_a_refused_prompt_gives_its_sentence(sd15, run_graph):
    graph = core_graph(from_fixture("sd15"))
    del graph["4"]["inputs"]["positive"]
    with pytest.raises(GraphFailed, match="Required input is missing: positive"):
        run_graph(graph)


def test_cancel_is_seen(sd15, run_graph):
    cancel = threading.Timer(1.0, nodes.interrupt_processing)
    cancel.start()
    with pytest.raises(GraphInterrupted):
        run_graph(core_graph(from_fixture("sd15"), steps=10_000))


def keep(link: list) -> dict:
    return {"class_type": "Harness_Keep", "inputs": {"value": link}}


def test_the_host_writes_only_into_the_temporary_folder(host):
    for kind in ("output", "input", "temp", "user"):
        folder = getattr(folder_paths, f"get_{kind}_directory")()
        assert host.base in Path(folder).parents


def test_a_core_graph_runs_through_the_server(server):
    history = server.run(core_graph(FROM_FILE), timeout=120)
    picture = history["outputs"]["6"]["images"][0]
    assert (server.base / "output" / picture["filename"]).exists()
    assert "IMPORT FAILED" not in server.log()


def test_the_server_refuses_with_a_sentence(server):
    graph = core_graph({**FROM_FILE, "inputs": {"ckpt_name": "absent.safetensors"}})
    with pytest.raises(ServerFailed, match="absent.safetensors"):
        server.queue(graph)


def test_the_server_stops_on_cancel_and_goes_on(server):
    prompt = server.queue(core_graph(FROM_FILE, steps=10_000))
    while not server.get("/queue")["queue_running"]:
        time.sleep(0.05)
    time.sleep(2.0)
    server.interrupt()
    assert "Interrupted" in failure(server.wait(prompt, timeout=60))
    server.run(core_graph(FROM_FILE, steps=1), timeout=60)


def test_a_workflow_of_the_editor_runs_through_the_server(server):
    templates = pytest.importorskip("comfyui_workflow_templates_json")
    path = Path(templates.__file__).parent / "templates" / "default.json"
    workflow = json.loads(path.read_text(encoding="utf-8"))
    small = {
        "CheckpointLoaderSimple": ["sd15.safetensors"],
        "EmptyLatentImage": [64, 64, 1],
        "KSampler": [7, "randomize", 1, 8, "euler", "normal", 1],
    }
    for node in workflow["nodes"]:
        node["widgets_values"] = small.get(node["type"], node.get("widgets_values"))
    prompt = to_prompt(workflow, server.object_info())
    sampler = next(node for node in prompt.values() if node["class_type"] == "KSampler")
    assert (sampler["inputs"]["seed"], sampler["inputs"]["steps"]) == (7, 1)
    history = server.run(prompt, timeout=120)
    assert any(shown.get("images") for shown in history["outputs"].values())


def test_the_pack_is_loaded_by_the_hosts_own_loader(host):
    from pack.nodes.extension import NODES

    registered = {node.GET_SCHEMA().node_id: node for node in NODES}
    assert registered.items() <= nodes.NODE_CLASS_MAPPINGS.items()
    assert nodes.LOADED_MODULE_DIRS["pack"] == str(host.base / "custom_nodes" / "pack")
