"""The extension: every node, in the order of the menu."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import adapters, bundles, concepts, dataset, evaluate, recipe, train

NODES: list[type[io.ComfyNode]] = [
    *dataset.NODES,
    *concepts.NODES,
    *adapters.NODES,
    *recipe.NODES,
    *train.NODES,
    *bundles.NODES,
    *evaluate.NODES,
]


class Extension(ComfyExtension):
    """What ComfyUI asks the pack for."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Every node of the pack."""
        return NODES
