"""The extension: every node, in the order of the menu."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import replacements
from .bundle import (
    convert_bundle as bundle_reading,
)
from .bundle import (
    edit_bundle as bundle_editing,
)
from .bundle import (
    encode,
)
from .bundle import (
    save_load_bundle as bundles,
)
from .bundle import (
    trim_lora as spectrum,
)
from .dataset import (
    caption_dataset as captions,
)
from .dataset import (
    check_dataset as preparing,
)
from .dataset import (
    dataset_lists as bridges,
)
from .dataset import (
    edit_captions as editing,
)
from .dataset import (
    load_dataset as dataset,
)
from .dataset import (
    review_dataset as review,
)
from .dataset import (
    tagging,
)
from .evaluate import compare as evaluate
from .host import routes, versions
from .host.bundle import routes as bundle_routes
from .host.dataset import gallery as review_routes
from .host.run import routes as run_routes
from .train import (
    adapters,
    objective,
    variants,
)
from .train import (
    concept as concepts,
)
from .train import (
    optimizer as recipe,
)
from .train import (
    train_concepts as train,
)
from .train import (
    watch_run as runs,
)

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
        versions.report_missing()
        routes.register(ROUTES)
        await replacements.register()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Every node of the pack."""
        return NODES
