"""A workflow with a retired node runs on: the host puts the new node in its place."""

from __future__ import annotations

import asyncio

from harness.host.graphs import Graph
from harness.host.runner import Host
from pack.nodes.extension import NODES
from pack.nodes.replacements import RETIRED, Retired, register

GONE = Retired(
    old="Pivotal_HarnessGone",
    new="Pivotal_Lora",
    widgets=("size",),
    inputs={"rank": "size"},
    values={"alpha": 3.0},
    outputs=(0,),
)
SCHEMAS = {node.GET_SCHEMA().node_id: node.GET_SCHEMA() for node in NODES}


def test_a_retired_node_is_swapped_and_gives_what_the_new_one_gives(host: Host):
    asyncio.run(register([GONE]))
    graph = Graph()
    end = graph.keep(["old", 0])
    graph["old"] = {"class_type": GONE.old, "inputs": {"size": 5}, "_meta": {"title": "old"}}
    for node in graph.values():
        node.setdefault("_meta", {"title": ""})
    host.server.node_replace_manager.apply_replacements(graph)
    adapter = host.run(graph)[end, 0]
    assert (adapter.rank, adapter.alpha) == (5, 3.0)


def test_every_retired_node_is_gone_and_its_heir_is_there():
    for one in RETIRED:
        assert one.old not in SCHEMAS and one.new in SCHEMAS
        inputs = {i.id: i for i in SCHEMAS[one.new].inputs}
        required = {name for name, one in inputs.items() if not one.optional}
        assert required <= one.inputs.keys() | one.values.keys() <= inputs.keys()
        assert len(one.outputs) <= len(SCHEMAS[one.new].outputs)
