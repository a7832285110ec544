"""The extension: every node, in the order of the menu."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import replacements
from .bundle import convert_bundle, edit_bundle, output_embeddings, save_load_bundle, trim_lora
from .dataset import (
    caption_dataset,
    check_dataset,
    dataset_lists,
    edit_captions,
    load_dataset,
    review_dataset,
)
from .evaluate import compare, scores
from .host import routes, user_files, users, versions
from .host.bundle import routes as bundle_routes
from .host.dataset import gallery
from .host.run import routes as run_routes
from .links import guarded
from .train import adapters, concept, objective, optimizer, train_concepts, watch_run

MODULES = (
    load_dataset,
    caption_dataset,
    edit_captions,
    check_dataset,
    review_dataset,
    dataset_lists,
    concept,
    adapters,
    optimizer,
    objective,
    train_concepts,
    watch_run,
    save_load_bundle,
    convert_bundle,
    edit_bundle,
    output_embeddings,
    trim_lora,
    compare,
    scores,
)
NODES: list[type[io.ComfyNode]] = [guarded(node) for module in MODULES for node in module.NODES]

ROUTES: list[routes.Route] = [
    *run_routes.ROUTES,
    *gallery.ROUTES,
    *bundle_routes.ROUTES,
    *user_files.ROUTES,
]


class Extension(ComfyExtension):
    """What ComfyUI asks the pack for."""

    async def on_load(self) -> None:
        """Add the pack's routes while the server is still being built; say what is missing."""
        versions.report_missing()
        users.register()
        routes.register(ROUTES)
        await replacements.register()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Every node of the pack."""
        return NODES
