"""Inputs that several nodes share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, TypeVar, get_type_hints

import torch
from comfy_api.latest import io

from ..training.adapters.targets import Targets
from .host.folders import as_listed, bundle_files
from .host.sampling import sampler_names, scheduler_names

Settings = TypeVar("Settings")
KEEP = "as in the file"


def filled(kind: type[Settings], inputs: Mapping[str, Any]) -> Settings:
    """A dataclass whose fields are the inputs of their names, texts of choices as its enums.

    An input that a saved prompt lacks has the field's default. TypeError for an input without a
    field, and for a field that neither an input nor a default fills.
    """
    hints = get_type_hints(kind)
    return kind(**{name: _chosen(hints.get(name), value) for name, value in inputs.items()})


def _chosen(hint: Any, value: Any) -> Any:
    return hint(value) if isinstance(hint, type) and issubclass(hint, Enum) else value


def sentence_of(opened: Callable[..., object], *values: Any) -> bool | str:
    """True if these values can be opened, else what is wrong with them, for `validate_inputs`."""
    try:
        opened(*values)
    except (ValueError, OSError) as error:
        return str(error)
    return True


class FilePrecision(str, Enum):
    """Number format of the saved LoRA."""

    FP16 = "fp16"
    BF16 = "bf16"
    FP32 = "fp32"

    @property
    def dtype(self) -> torch.dtype:
        """As torch names it."""
        return {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}[self.value]


def rank_input(default: int, tooltip: str, least: int = 1) -> io.Int.Input:
    """The size of an adapter."""
    return io.Int.Input("rank", default=default, min=least, max=1024, tooltip=tooltip)


def alpha_input(default: float, tooltip: str, least: float = 0.01) -> io.Float.Input:
    """What the size is measured against."""
    return io.Float.Input(
        "alpha", default=default, min=least, max=1024.0, step=0.5, tooltip=tooltip
    )


def target_inputs() -> list[io.Input]:
    """Where an adapter sits."""
    return [
        io.Combo.Input(
            "targets",
            options=Targets,
            default=Targets.ATTENTION,
            tooltip='Layers to adapt. "cross-attention keys and values" is the low-rank form of '
            "Custom Diffusion. The training report counts the adapted layers.",
            optional=True,
        ),
        io.String.Input(
            "patterns",
            default="",
            multiline=True,
            tooltip="Rules that refine targets, one per line: a regular expression to search for "
            "in the layer names, optionally followed by = rank : alpha, such as attn2 = 32 : 16. "
            "A line that starts with - excludes layers. The first matching line applies.",
            optional=True,
        ),
        io.Boolean.Input(
            "text_encoder",
            default=False,
            tooltip="Also adapt the text encoders. Every caption is then encoded at every step.",
            optional=True,
        ),
        io.Float.Input(
            "text_rate",
            default=0.5,
            min=0.001,
            max=10.0,
            step=0.05,
            tooltip="Learning rate of the text encoders as a share of the adapter's.",
            advanced=True,
            optional=True,
        ),
    ]


def file_input(name: str, tooltip: str, *first: str, kinds: tuple[str, ...] = ()) -> io.Input:
    """A choice among the files of the bundle folders, with other choices before them."""
    return io.Combo.Input(name, options=[*first, *bundle_files(*kinds)], tooltip=tooltip)


def token_map_input(*, optional: bool = False) -> io.Input:
    """Which rows of one tensor belong to which concept."""
    return io.String.Input(
        "token_map",
        default="",
        multiline=True,
        optional=optional,
        tooltip="For files that hold several concepts in one tensor (_emb files from diffusers' "
        "scripts): TOK = <s0><s1>, one line per concept.",
    )


def model_inputs() -> list[io.Input]:
    """The base that bundles are put onto."""
    return [
        io.Model.Input("model", tooltip="The base model that bundles are applied to."),
        io.Clip.Input("clip", tooltip="The text encoder of the model."),
        io.Vae.Input("vae", tooltip="The VAE of the model."),
    ]


def sampling_inputs() -> list[io.Input]:
    """KSampler's settings and the size of the pictures."""
    return [
        io.String.Input(
            "seeds", default="1, 2", tooltip="Whole numbers and ranges, such as 1, 2, 5-9."
        ),
        io.Int.Input("steps", default=20, min=1, max=10000, tooltip="Sampling steps per image."),
        io.Float.Input(
            "cfg",
            default=7.0,
            min=0.0,
            max=100.0,
            step=0.1,
            round=0.01,
            tooltip="How strongly the prompt is followed.",
        ),
        io.Combo.Input("sampler_name", options=sampler_names(), tooltip="As in KSampler."),
        io.Combo.Input("scheduler", options=scheduler_names(), tooltip="As in KSampler."),
        io.Int.Input(
            "width", default=512, min=16, max=16384, step=8, tooltip="Width of each image."
        ),
        io.Int.Input(
            "height", default=512, min=16, max=16384, step=8, tooltip="Height of each image."
        ),
    ]


def saving_inputs(prefix: str) -> list[io.Input]:
    """How large the pictures are in the grid, and where it is saved."""
    return [
        io.Int.Input(
            "cell_size",
            default=512,
            min=16,
            max=16384,
            tooltip="Longest side of an image in the grid; larger images are scaled down.",
        ),
        io.String.Input(
            "filename_prefix",
            default=prefix,
            tooltip="Folder and name inside ComfyUI's output folder. A number is added, so nothing "
            "is overwritten.",
        ),
    ]


def checked_file(file: str | None, *others: str) -> bool | str:
    """For `validate_inputs`: whether a file is listed, with either slash; a sentence if not.

    None stands for a link, whose value is not known yet.
    """
    if file is None or file in others or as_listed(file) is not None:
        return True
    return f'There is no bundle "{file}": choose another file or refresh the list.'
