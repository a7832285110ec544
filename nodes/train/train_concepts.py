"""Train Concepts: the run itself."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...training.config import TrainConfig
from ...training.objective import ObjectiveConfig
from ...training.optimizers.choices import EMBEDDING_OPTIMIZER, OptimizerConfig
from ...training.optimizers.schedule import Schedule
from .. import sockets
from ..host.bundle.apply import apply_bundle
from ..host.run.drive import run_training
from ..host.run.request import Checkpointing, Request
from ..host.run.result import RunResult
from ..inputs import filled


class TrainConcepts(io.ComfyNode):
    """Trains concepts, an adapter or both on the models of the graph."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_TrainConcepts",
            display_name="Train Concepts",
            category="pivotal/training",
            description="Pivotal tuning: learns concepts and an adapter together on the MODEL and "
            "CLIP of this graph. Concepts alone are textual inversion; an adapter alone is LoRA "
            "training.",
            is_output_node=True,
            search_aliases=[
                "train lora",
                "lora training",
                "lora trainer",
                "pivotal tuning",
                "textual inversion",
                "dreambooth",
                "flux train",
                "sdxl train",
                "finetune",
                "training",
            ],
            inputs=[
                io.Model.Input(
                    "model", tooltip="The diffusion model to train on. It is not changed."
                ),
                io.Clip.Input("clip", tooltip="The text encoder of the model. It is not changed."),
                io.Vae.Input("vae", tooltip="The VAE that encodes the images."),
                sockets.Dataset.Input("dataset", tooltip="Images and captions to learn from."),
                io.Int.Input(
                    "steps",
                    default=1000,
                    min=1,
                    max=1000000,
                    tooltip="Number of optimizer steps.",
                ),
                io.Int.Input(
                    "batch_size",
                    default=1,
                    min=1,
                    max=256,
                    tooltip="Images per batch. Larger batches are steadier and use more memory.",
                ),
                io.Int.Input(
                    "accumulation",
                    default=1,
                    min=1,
                    max=256,
                    tooltip="Number of batches whose gradients are accumulated in one step: the "
                    "effect of a larger batch with less memory.",
                ),
                io.Int.Input(
                    "resolution",
                    default=512,
                    min=64,
                    max=4096,
                    step=64,
                    tooltip="Images are resized to the area of a square with this side. Each keeps "
                    "its aspect ratio as closely as steps of 64 pixels allow.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**53,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="The same seed on the same device gives the same result, bit for bit.",
                ),
                io.Combo.Input(
                    "schedule",
                    options=Schedule,
                    default=Schedule.CONSTANT,
                    tooltip="Learning rate schedule after the warm-up.",
                ),
                io.Int.Input(
                    "warmup_steps",
                    default=0,
                    min=0,
                    max=100000,
                    tooltip="Steps over which the learning rates rise from 0.",
                ),
                io.Combo.Input(
                    "checkpointing",
                    options=Checkpointing,
                    default=Checkpointing.AUTO,
                    tooltip='Gradient checkpointing. "on" recomputes the blocks in the backward '
                    'pass: less memory, more time, the same result. "auto" measures one step and '
                    "recomputes only as many blocks as memory requires; it also splits a batch "
                    "that does not fit.",
                ),
                io.String.Input(
                    "run_name",
                    default="concept",
                    tooltip="Name of the run and of its folder, under pivotal in ComfyUI's output "
                    "folder.",
                ),
                io.Float.Input(
                    "max_grad_norm",
                    default=1.0,
                    min=0.001,
                    max=1000.0,
                    step=0.1,
                    tooltip="Maximum gradient norm of each part; larger gradients are clipped.",
                    advanced=True,
                ),
                io.Float.Input(
                    "norm_pull",
                    default=0.1,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How far each step pulls the vectors toward the norm of ordinary "
                    "words.",
                    advanced=True,
                ),
                io.Int.Input(
                    "checkpoint_every",
                    default=250,
                    min=0,
                    max=1000000,
                    tooltip="Steps between checkpoints. One is also saved at the end and on "
                    "Cancel; with 0, only then. Queue the same graph again to resume from there.",
                    advanced=True,
                    optional=True,
                ),
                sockets.Concepts.Input(
                    "concepts", optional=True, tooltip="Concepts to learn as new words."
                ),
                sockets.Adapter.Input(
                    "adapter",
                    optional=True,
                    tooltip="The adapter to train, such as LoRA.",
                ),
                sockets.Optimizer.Input(
                    "optimizer", optional=True, tooltip="For the adapter; AdamW if not connected."
                ),
                sockets.Optimizer.Input(
                    "embedding_optimizer",
                    optional=True,
                    tooltip="For the concepts; AdamW if not connected.",
                ),
                sockets.Objective.Input(
                    "objective",
                    optional=True,
                    tooltip="What to minimize; Min-SNR with gamma 5 if not connected.",
                ),
                sockets.Dataset.Input(
                    "class_dataset",
                    optional=True,
                    tooltip="Images of what the model must not forget, for an objective with a "
                    "prior.",
                ),
                sockets.Previews.Input(
                    "previews", optional=True, tooltip="Preview images to render during training."
                ),
                sockets.Validation.Input(
                    "validation",
                    optional=True,
                    tooltip="Held-out images to validate on, and how to act on the result.",
                ),
                sockets.Run.Input(
                    "continue_from",
                    optional=True,
                    tooltip="A checkpoint of another run to start from.",
                ),
                io.Int.Input(
                    "keep_checkpoints",
                    default=3,
                    min=0,
                    max=1000000,
                    tooltip="How many of the newest checkpoints to keep with their bundles, in "
                    "addition to those requested in the Training panel; 0 keeps all.",
                    advanced=True,
                    optional=True,
                ),
                io.Float.Input(
                    "ema_decay",
                    default=0.0,
                    min=0.0,
                    max=0.99999,
                    step=0.001,
                    round=False,
                    tooltip="Makes the result a moving average over the steps, which is smoother: "
                    "0.99 to 0.9999, higher for longer runs. 0 turns it off.",
                    advanced=True,
                    optional=True,
                ),
            ],
            hidden=[io.Hidden.unique_id],
            outputs=[
                sockets.Bundle.Output(display_name="bundle"),
                io.Model.Output(display_name="model"),
                io.Clip.Output(display_name="clip"),
                io.LoraModel.Output(display_name="lora"),
                io.LossMap.Output(display_name="loss"),
                io.String.Output(display_name="report"),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        dataset: Any,
        resolution: int,
        checkpointing: str,
        run_name: str,
        checkpoint_every: int = 250,
        concepts: Any = (),
        adapter: Any = None,
        optimizer: OptimizerConfig | None = None,
        embedding_optimizer: OptimizerConfig | None = None,
        objective: ObjectiveConfig | None = None,
        class_dataset: Any = None,
        previews: Any = None,
        validation: Any = None,
        continue_from: Any = None,
        keep_checkpoints: int = 3,
        **inputs: Any,
    ) -> io.NodeOutput:
        parts = {
            "objective": objective or ObjectiveConfig(),
            "optimizer": optimizer or OptimizerConfig(),
            "embedding_optimizer": embedding_optimizer or EMBEDDING_OPTIMIZER,
        }
        request = Request(
            dataset=dataset,
            config=filled(TrainConfig, {**inputs, **parts}),
            concepts=concepts,
            adapter=adapter,
            class_dataset=class_dataset,
            resolution=resolution,
            checkpointing=Checkpointing(checkpointing),
            run_name=run_name,
            checkpoint_every=checkpoint_every,
            keep_checkpoints=keep_checkpoints,
            previews=previews,
            validation=validation,
            origin=continue_from,
            node=cls.hidden.unique_id or "",
        )
        return given(model, clip, run_training(model, clip, vae, request))


def given(model: Any, clip: Any, trained: RunResult) -> io.NodeOutput:
    """The bundle by itself, applied to the models, and in the forms that core nodes take."""
    origin = f"the run {trained.folder.name}"
    new_model, new_clip, _, notes = apply_bundle(model, clip, trained.bundle, origin=origin)
    return io.NodeOutput(
        trained.bundle,
        new_model,
        new_clip,
        dict(trained.bundle.lora),
        {"loss": trained.losses},
        "\n".join([trained.report, *notes]),
    )


NODES = [TrainConcepts]
