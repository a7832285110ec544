"""The converter from saved workflows to prompts, on descriptions as the server gives them."""

from __future__ import annotations

import pytest

from harness.host.workflow import Unconvertible, to_prompt, with_values

CHECKPOINT = {"input": {"required": {"ckpt_name": [["a.safetensors", "b.safetensors"], {}]}}}
ENCODE = {
    "input": {"required": {"text": ["STRING", {"multiline": True}], "clip": ["CLIP", {}]}},
}
SAMPLER = {
    "input": {
        "required": {
            "model": ["MODEL"],
            "seed": ["INT", {"default": 0, "control_after_generate": True}],
            "steps": ["INT", {"default": 20}],
            "sampler_name": ["COMBO", {"options": ["euler", "heun"]}],
        },
        "optional": {
            "mask": ["MASK"],
            "strength": ["FLOAT", {"default": 0.5}],
            "forced": ["STRING", {"forceInput": True}],
        },
    },
    "input_order": {
        "required": ["model", "seed", "steps", "sampler_name"],
        "optional": ["mask", "strength", "forced"],
    },
}
LORA = {"input": {"required": {"model": ["MODEL"], "clip": ["CLIP"], "scale": ["FLOAT", {}]}}}
INFO = {"Checkpoint": CHECKPOINT, "Encode": ENCODE, "Sampler": SAMPLER, "Lora": LORA}


def node(number: int, kind: str, values: list | dict, *slots: tuple, mode: int = 0) -> dict:
    """A saved node; a slot is (name, type, link)."""
    inputs = [{"name": name, "type": kind, "link": link} for name, kind, link in slots]
    return {"id": number, "type": kind, "inputs": inputs, "widgets_values": values, "mode": mode}


def workflow(nodes: list[dict], *links: tuple) -> dict:
    """A saved workflow; a link is (id, from node, from slot, to node, to slot, type)."""
    return {"nodes": nodes, "links": [list(link) for link in links]}


LOADER = node(1, "Checkpoint", ["b.safetensors"])


def test_values_go_to_their_widgets_and_links_to_their_inputs():
    encode = node(2, "Encode", ["a cat"], ("clip", "CLIP", 7))
    prompt = to_prompt(workflow([LOADER, encode], (7, 1, 1, 2, 0, "CLIP")), INFO)
    assert prompt == {
        "1": {
            "class_type": "Checkpoint",
            "inputs": {"ckpt_name": "b.safetensors"},
            "_meta": {"title": "Checkpoint"},
        },
        "2": {
            "class_type": "Encode",
            "inputs": {"text": "a cat", "clip": ["1", 1]},
            "_meta": {"title": "Encode"},
        },
    }


def sampler_inputs(
    values: list | dict, *slots: tuple, nodes: tuple = (), links: tuple = ()
) -> dict:
    prompt = to_prompt(workflow([*nodes, node(3, "Sampler", values, *slots)], *links), INFO)
    return prompt["3"]["inputs"]


def test_the_control_of_a_seed_is_not_a_value_of_the_next_widget():
    found = sampler_inputs([42, "randomize", 5, "heun", 0.25])
    assert found == {"seed": 42, "steps": 5, "sampler_name": "heun", "strength": 0.25}


def test_values_that_an_older_file_lacks_are_the_defaults():
    found = sampler_inputs([42, "fixed", 5])
    assert (found["sampler_name"], found["strength"]) == ("euler", 0.5)


def test_values_saved_by_name_are_found():
    assert sampler_inputs({"steps": 7})["steps"] == 7


def test_a_list_is_wrapped_because_a_bare_one_is_a_link():
    assert sampler_inputs([1, "fixed", [1, 2], "euler"])["steps"] == {"__value__": [1, 2]}


def test_a_link_to_a_converted_widget_wins_and_its_value_keeps_its_place():
    inside = node(5, "Lora", [1.0])
    found = sampler_inputs(
        [42, "fixed", 5, "heun"],
        ("steps", "INT", 1),
        nodes=(inside,),
        links=((1, 5, 0, 3, 0, "INT"),),
    )
    assert (found["steps"], found["sampler_name"]) == (["5", 0], "heun")


def test_a_primitive_gives_its_value():
    primitive = node(5, "PrimitiveNode", [11, "fixed"])
    found = sampler_inputs(
        [42, "fixed", 5, "heun"],
        ("steps", "INT", 1),
        nodes=(primitive,),
        links=((1, 5, 0, 3, 0, "INT"),),
    )
    assert found["steps"] == 11


def test_an_optional_input_without_a_link_is_left_out():
    assert "mask" not in sampler_inputs([1, "fixed", 5, "heun"], ("mask", "MASK", None))


def test_reroutes_are_followed():
    reroutes = (node(5, "Reroute", [], ("", "*", 1)), node(6, "Reroute", [], ("", "*", 2)))
    links = ((1, 1, 0, 5, 0, "MODEL"), (2, 5, 0, 6, 0, "MODEL"), (3, 6, 0, 3, 0, "MODEL"))
    found = sampler_inputs([], ("model", "MODEL", 3), nodes=(LOADER, *reroutes), links=links)
    assert found["model"] == ["1", 0]


def lora(mode: int) -> dict:
    return node(4, "Lora", [1.0], ("model", "MODEL", 1), ("clip", "CLIP", 2), mode=mode)


AROUND_LORA = ((1, 1, 0, 4, 0, "MODEL"), (2, 1, 1, 4, 1, "CLIP"), (3, 4, 1, 2, 0, "CLIP"))


def test_a_bypassed_node_passes_on_the_input_of_the_same_type():
    encode = node(2, "Encode", ["a cat"], ("clip", "CLIP", 3))
    prompt = to_prompt(workflow([LOADER, lora(4), encode], *AROUND_LORA), INFO)
    assert prompt["2"]["inputs"]["clip"] == ["1", 1]
    assert "4" not in prompt


def test_a_muted_node_is_left_out_with_its_links():
    encode = node(2, "Encode", ["a cat"], ("clip", "CLIP", 3))
    prompt = to_prompt(workflow([LOADER, lora(2), encode], *AROUND_LORA), INFO)
    assert prompt.keys() == {"1", "2"}
    assert prompt["2"]["inputs"] == {"text": "a cat"}


def test_notes_are_left_out():
    nodes = [LOADER, node(8, "Note", ["x"]), node(9, "MarkdownNote", ["y"])]
    assert to_prompt(workflow(nodes), INFO).keys() == {"1"}


def test_an_unknown_node_is_named():
    with pytest.raises(Unconvertible, match="Nowhere"):
        to_prompt(workflow([node(1, "Nowhere", [])]), INFO)


def test_values_can_be_changed_by_type_and_by_title():
    named = {**node(4, "Sampler", [1, "fixed", 5, "heun"]), "title": "Second"}
    saved = workflow([node(3, "Sampler", [1, "fixed", 5, "heun"]), named])
    changed = with_values(saved, INFO, {"Sampler": {"steps": 9}, "Second": {"seed": 2}})
    assert changed["nodes"][0]["widgets_values"] == [1, "fixed", 9, "heun"]
    assert changed["nodes"][1]["widgets_values"] == [2, "fixed", 5, "heun"]
    assert saved["nodes"][0]["widgets_values"] == [1, "fixed", 5, "heun"]


def test_a_widget_that_an_older_file_lacks_can_be_set():
    saved = workflow([node(3, "Sampler", [1, "fixed", 5])])
    changed = with_values(saved, INFO, {"Sampler": {"strength": 0.9}})
    assert changed["nodes"][0]["widgets_values"] == [1, "fixed", 5, "euler", 0.9]
