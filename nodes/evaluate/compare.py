"""Compare Grid and Concept Report: what bundles do, seen in pictures."""

from __future__ import annotations

from enum import Enum
from typing import Any

from comfy_api.latest import io, ui

from ...bundles.bundle import Bundle
from .. import sockets
from ..host.evaluate.grid_run import Compared, GridRequest, compare_bundles, report_concepts
from ..host.sampling import Sampling
from ..inputs import filled, model_inputs, sampling_inputs, saving_inputs
from ..widget_text import lines, numbers, seed_numbers


class GridDirection(str, Enum):
    """What goes down the grid, and what across."""

    PROMPTS_DOWN = "prompts down, bundles across"
    BUNDLES_DOWN = "bundles down, prompts across"


def result_outputs() -> list[io.Output]:
    """The grid, its pictures and the report."""
    return [
        io.Image.Output(display_name="grid", tooltip="The labeled grid, as saved."),
        io.Image.Output(
            display_name="pictures",
            tooltip="All images at full size as a batch, column by column.",
        ),
        io.String.Output(display_name="report"),
    ]


def shown(node: type[io.ComfyNode], result: Compared, filename_prefix: str) -> io.NodeOutput:
    """Save the grid, and show it with the report."""
    saved = ui.ImageSaveHelper.get_save_images_ui(result.grid, filename_prefix, cls=node)
    told = {**saved.as_dict(), "text": (result.report,)}
    return io.NodeOutput(result.grid, result.pictures, result.report, ui=told)


class CompareGrid(io.ComfyNode):
    """Samples prompts with and without bundles into one labelled grid."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_CompareGrid",
            display_name="Compare Grid",
            category="pivotal/evaluate",
            description="Samples each prompt and seed without a bundle and with up to four bundles "
            "at several strengths, and saves one labeled grid.",
            search_aliases=["xy plot", "lora comparison", "grid", "lora strength test"],
            is_output_node=True,
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            inputs=[
                *model_inputs(),
                io.String.Input(
                    "prompts",
                    default="a photo of {name}",
                    multiline=True,
                    tooltip="One prompt per line. {name} is replaced by all names of the bundle, "
                    "{cat} by its name cat; where the bundle is not used, both are replaced by "
                    'the value of "without".',
                ),
                io.String.Input("negative", default="", multiline=True, tooltip="Negative prompt."),
                io.String.Input(
                    "without",
                    default="",
                    tooltip="Word to use in a prompt where there is no name, such as: dog",
                ),
                io.String.Input(
                    "strengths",
                    default="1",
                    tooltip="Strengths of the bundles' LoRAs, such as 0, 0.5, 1. At 0, only the "
                    "names take effect.",
                ),
                *sampling_inputs(),
                io.Boolean.Input(
                    "with_base", default=True, tooltip="Also sample without any bundle."
                ),
                io.String.Input(
                    "labels",
                    default="",
                    multiline=True,
                    tooltip="Labels of the bundles in the grid, one per line. If empty, their "
                    "names are used.",
                ),
                io.Combo.Input(
                    "layout",
                    options=GridDirection,
                    default=GridDirection.PROMPTS_DOWN,
                    tooltip="What the rows and columns show.",
                ),
                *saving_inputs("pivotal/compare"),
                *(
                    sockets.Bundle.Input(
                        f"bundle_{n}", optional=True, tooltip="A bundle to compare."
                    )
                    for n in (1, 2, 3, 4)
                ),
            ],
            outputs=result_outputs(),
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        prompts: str,
        negative: str,
        without: str,
        strengths: str,
        seeds: str,
        with_base: bool,
        labels: str,
        layout: str,
        cell_size: int,
        filename_prefix: str,
        bundle_1: Bundle | None = None,
        bundle_2: Bundle | None = None,
        bundle_3: Bundle | None = None,
        bundle_4: Bundle | None = None,
        **sampling: Any,
    ) -> io.NodeOutput:
        result = compare_bundles(
            GridRequest(
                model=model,
                clip=clip,
                vae=vae,
                prompts=lines(prompts),
                negative=negative,
                seeds=seed_numbers(seeds),
                sampling=filled(Sampling, sampling),
                without=without.strip(),
                largest_side=cell_size,
            ),
            [bundle_1, bundle_2, bundle_3, bundle_4],
            lines(labels),
            numbers(strengths, "strengths"),
            with_base=with_base,
            bundles_down=GridDirection(layout) is GridDirection.BUNDLES_DOWN,
        )
        return shown(cls, result, filename_prefix)


class ConceptReport(io.ComfyNode):
    """Samples each name of a bundle beside what it replaces."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_ConceptReport",
            display_name="Concept Report",
            category="pivotal/evaluate",
            description="Samples each name of a bundle with it, without it and with another name "
            "in its place, from the same seeds, and saves one labeled grid.",
            search_aliases=["concept leakage", "test lora", "test embedding", "before after"],
            is_output_node=True,
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            inputs=[
                *model_inputs(),
                sockets.Bundle.Input("bundle", tooltip="The bundle whose names to test."),
                io.String.Input(
                    "prompt",
                    default="a photo of {name}",
                    multiline=True,
                    tooltip="{name} is replaced by each name in turn.",
                ),
                io.String.Input("negative", default="", multiline=True, tooltip="Negative prompt."),
                io.String.Input(
                    "without",
                    default="",
                    tooltip="Used in place of each name where it is left out, such as: dog. If "
                    "empty, the words that the name's vectors started from.",
                ),
                *sampling_inputs(),
                *saving_inputs("pivotal/concepts"),
            ],
            outputs=result_outputs(),
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        bundle: Bundle,
        prompt: str,
        negative: str,
        without: str,
        seeds: str,
        cell_size: int,
        filename_prefix: str,
        **sampling: Any,
    ) -> io.NodeOutput:
        request = GridRequest(
            model=model,
            clip=clip,
            vae=vae,
            prompts=[prompt.strip()],
            negative=negative,
            seeds=seed_numbers(seeds),
            sampling=filled(Sampling, sampling),
            without=without.strip(),
            largest_side=cell_size,
        )
        return shown(cls, report_concepts(request, bundle), filename_prefix)


NODES = [CompareGrid, ConceptReport]
