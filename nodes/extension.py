"""The extension: every node, in the order of the menu."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import (
    adapters,
    bridges,
    bundle_editing,
    bundle_reading,
    bundles,
    captions,
    concepts,
    dataset,
    editing,
    encode,
    evaluate,
    objective,
    preparing,
    recipe,
    replacements,
    review,
    runs,
    spectrum,
    tagging,
    train,
    variants,
)
from .host import bundle_routes, packages, routes, run_routes
from .host import review as review_routes

NODES: list[type[io.ComfyNode]] = [
    *dataset.NODES,
    *captions.NODES,
    *tagging.NODES,
    *editing.NODES,
    *preparing.NODES,
    *review.NODES,
    *bridges.NODES,
    *concepts.NODES,
    *adapters.NODES,
    *variants.NODES,
    *recipe.NODES,
    *objective.NODES,
    *train.NODES,
    *runs.NODES,
    *bundles.NODES,
    *bundle_reading.NODES,
    *bundle_editing.NODES,
    *encode.NODES,
    *spectrum.NODES,
    *evaluate.NODES,
]

ROUTES: list[routes.Route] = [
    *run_routes.ROUTES,
    *review_routes.ROUTES,
    *bundle_routes.ROUTES,
]


class Extension(ComfyExtension):
    """What ComfyUI asks the pack for."""

    async def on_load(self) -> None:
        """Add the pack's routes while the server is still being built; say what is missing."""
        packages.report_missing()
        routes.register(ROUTES)
        await replacements.register()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Every node of the pack."""
        return NODES
