"""Objective: what a training step minimizes."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...training.objective import Density, ObjectiveConfig, Prior, Weighting
from .. import sockets
from ..inputs import filled


class Objective(io.ComfyNode):
    """What a training step minimizes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_Objective",
            display_name="Objective",
            category="pivotal/training",
            description="What training minimizes: the loss, how noise levels are sampled and "
            "weighted, and what is preserved.",
            search_aliases=[
                "loss",
                "min snr",
                "prior preservation",
                "noise offset",
                "prior of dreambooth",
                "huber",
                "timestep sampling",
                "guidance",
            ],
            inputs=[
                io.Float.Input(
                    "min_snr_gamma",
                    default=5.0,
                    min=0.0,
                    max=100.0,
                    step=0.5,
                    tooltip="Gamma of the Min-SNR weighting for noise- and v-prediction models, "
                    "such as SD1.5 and SDXL. 0 turns it off.",
                ),
                io.Float.Input(
                    "noise_offset",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Adds noise that is constant across an image, for very dark or bright "
                    "results. 0.05 is a common value.",
                ),
                io.Float.Input(
                    "caption_dropout",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Share of the samples trained with an empty caption.",
                ),
                io.Combo.Input(
                    "prior",
                    options=Prior,
                    default=Prior.NONE,
                    tooltip="Preserves what the model knows about the class: from class images, or "
                    "from the untrained model's own predictions, which work without images but "
                    "benefit from some.",
                ),
                io.Float.Input(
                    "prior_weight",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.05,
                    tooltip="Weight of the prior loss relative to the loss of the training images.",
                ),
                io.Combo.Input(
                    "weighting",
                    options=Weighting,
                    default=Weighting.MIN_SNR,
                    tooltip="How noise levels are weighted in noise- and v-prediction models. Flow "
                    "models weight them equally.",
                    optional=True,
                ),
                io.Float.Input(
                    "huber",
                    default=0.0,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    tooltip="Errors above this value count linearly, so that outliers matter less: "
                    "0.1 is a common value. 0 uses the mean squared error.",
                    optional=True,
                ),
                io.Combo.Input(
                    "density",
                    options=Density,
                    default=Density.UNIFORM,
                    tooltip='Which noise levels are sampled more often. "logit-normal" favors the '
                    "middle, as in the original training of flow models.",
                    optional=True,
                ),
                io.Float.Input(
                    "logit_mean",
                    default=0.0,
                    min=-10.0,
                    max=10.0,
                    step=0.05,
                    tooltip='For "logit-normal": above 0 favors more noise, below 0 less.',
                    advanced=True,
                    optional=True,
                ),
                io.Float.Input(
                    "logit_std",
                    default=1.0,
                    min=0.01,
                    max=10.0,
                    step=0.05,
                    tooltip='For "logit-normal": width of the distribution.',
                    advanced=True,
                    optional=True,
                ),
                io.Float.Input(
                    "mode_scale",
                    default=1.29,
                    min=-1.0,
                    max=1.75,
                    step=0.01,
                    tooltip='For "mode": above 0 favors the middle, below 0 the ends.',
                    advanced=True,
                    optional=True,
                ),
                io.Float.Input(
                    "shift",
                    default=1.0,
                    min=0.01,
                    max=100.0,
                    step=0.05,
                    tooltip="Values above 1 shift the distribution toward noise, on top of the "
                    "model's own shift. Larger images need more.",
                    optional=True,
                ),
                io.Float.Input(
                    "guidance",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Guidance value passed to guidance-distilled models, such as Flux dev. "
                    "0 uses ComfyUI's default, 3.5 for Flux.",
                    advanced=True,
                    optional=True,
                ),
                io.Float.Input(
                    "negative_guidance",
                    default=5.0,
                    min=1.0,
                    max=30.0,
                    step=0.5,
                    tooltip="For concepts with negative vectors: the cfg that they are trained "
                    "for.",
                    advanced=True,
                    optional=True,
                ),
                io.Int.Input(
                    "prior_batch",
                    default=0,
                    min=0,
                    max=1024,
                    tooltip="Class images per step: fewer than the batch size make the prior "
                    "cheaper. 0 uses the batch size.",
                    advanced=True,
                    optional=True,
                ),
            ],
            outputs=[sockets.Objective.Output(display_name="objective")],
        )

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        return io.NodeOutput(filled(ObjectiveConfig, inputs))


NODES = [Objective]
