"""Objective: what a training step minimizes."""

from __future__ import annotations

from comfy_api.latest import io

from ...training.objective import ObjectiveConfig, Prior, Weighting
from ...training.timesteps import Density
from .. import sockets


class Objective(io.ComfyNode):
    """What a training step minimizes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_Objective",
            display_name="Objective",
            category="pivotal/training",
            description="What is minimized: the loss, where in the schedule, how it is weighted, "
            "and what is preserved.",
            search_aliases=[
                "loss",
                "min snr",
                "prior preservation",
                "noise offset",
                "dreambooth",
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
                    tooltip="Min-SNR weighting for noise- and v-prediction models, such as SD1.5 "
                    "and SDXL. 0 switches it off.",
                ),
                io.Float.Input(
                    "noise_offset",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Adds noise that is constant over a picture, for very dark or bright "
                    "results. 0.05 is usual.",
                ),
                io.Float.Input(
                    "caption_dropout",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Share of the samples that train with an empty caption.",
                ),
                io.Combo.Input(
                    "prior",
                    options=Prior,
                    default=Prior.NONE,
                    tooltip="Keeps what the model knows of the class: from class pictures, or from "
                    "the untrained model's own prediction, which needs no pictures but likes some.",
                ),
                io.Float.Input(
                    "prior_weight",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.05,
                    tooltip="Weight of the prior's loss beside the loss of the pictures.",
                ),
                io.Combo.Input(
                    "weighting",
                    options=Weighting,
                    default=Weighting.MIN_SNR,
                    tooltip="How noise levels weigh against each other in noise- and v-prediction "
                    "models. Flow models weigh them alike.",
                    optional=True,
                ),
                io.Float.Input(
                    "huber",
                    default=0.0,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    tooltip="Errors above this count linearly, which forgives odd pictures: 0.1 is "
                    "usual. 0 is the mean squared error.",
                    optional=True,
                ),
                io.Combo.Input(
                    "density",
                    options=Density,
                    default=Density.UNIFORM,
                    tooltip="Which noise levels are trained more often. Logit-normal prefers the "
                    "middle, as flow models were made.",
                    optional=True,
                ),
                io.Float.Input(
                    "logit_mean",
                    default=0.0,
                    min=-10.0,
                    max=10.0,
                    step=0.05,
                    tooltip="Logit-normal only: above 0 is noisier, below 0 cleaner.",
                    advanced=True,
                    optional=True,
                ),
                io.Float.Input(
                    "logit_std",
                    default=1.0,
                    min=0.01,
                    max=10.0,
                    step=0.05,
                    tooltip="Logit-normal only: how wide it is.",
                    advanced=True,
                    optional=True,
                ),
                io.Float.Input(
                    "mode_scale",
                    default=1.29,
                    min=-1.0,
                    max=1.75,
                    step=0.01,
                    tooltip="Mode only: above 0 prefers the middle, below 0 the ends.",
                    advanced=True,
                    optional=True,
                ),
                io.Float.Input(
                    "shift",
                    default=1.0,
                    min=0.01,
                    max=100.0,
                    step=0.05,
                    tooltip="Moves the density towards noise (above 1), on top of the model's own "
                    "shift. Larger pictures want more.",
                    optional=True,
                ),
                io.Float.Input(
                    "guidance",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="For models with built-in guidance, such as Flux dev: the value they "
                    "train under. 0 takes what ComfyUI takes, 3.5 for Flux.",
                    advanced=True,
                    optional=True,
                ),
                io.Float.Input(
                    "negative_guidance",
                    default=5.0,
                    min=1.0,
                    max=30.0,
                    step=0.5,
                    tooltip="For concepts with negative vectors: the cfg that they train for.",
                    advanced=True,
                    optional=True,
                ),
                io.Int.Input(
                    "prior_batch",
                    default=0,
                    min=0,
                    max=1024,
                    tooltip="Class pictures in each step: fewer than the batch make the prior "
                    "cheaper. 0 takes as many as pictures.",
                    advanced=True,
                    optional=True,
                ),
            ],
            outputs=[sockets.Objective.Output(display_name="objective")],
        )

    @classmethod
    def execute(
        cls,
        min_snr_gamma: float,
        noise_offset: float,
        caption_dropout: float,
        prior: str,
        prior_weight: float,
        weighting: str = Weighting.MIN_SNR,
        huber: float = 0.0,
        density: str = Density.UNIFORM,
        logit_mean: float = 0.0,
        logit_std: float = 1.0,
        mode_scale: float = 1.29,
        shift: float = 1.0,
        guidance: float = 0.0,
        negative_guidance: float = 5.0,
        prior_batch: int = 0,
    ) -> io.NodeOutput:
        return io.NodeOutput(
            ObjectiveConfig(
                min_snr_gamma=min_snr_gamma,
                noise_offset=noise_offset,
                caption_dropout=caption_dropout,
                prior=Prior(prior),
                prior_weight=prior_weight,
                weighting=Weighting(weighting),
                huber=huber,
                density=Density(density),
                logit_mean=logit_mean,
                logit_std=logit_std,
                mode_scale=mode_scale,
                shift=shift,
                guidance=guidance,
                negative_guidance=negative_guidance,
                prior_batch=prior_batch,
            )
        )


NODES = [Objective]
