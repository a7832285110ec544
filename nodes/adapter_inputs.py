"""Inputs that the nodes of all adapters share, so that a graph swaps one for another."""

from __future__ import annotations

from comfy_api.latest import io

from ..training.adapters.targets import Targets


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
            tooltip="The layers that are adapted. cross-attention keys and values is the low-rank "
            "form of Custom Diffusion. The report of the training counts them.",
            optional=True,
        ),
        io.String.Input(
            "patterns",
            default="",
            multiline=True,
            tooltip="One line a rule on top of targets: a regular expression that is searched in "
            "the names of layers, then = rank : alpha if you like, such as attn2 = 32 : 16. "
            "A line that begins with - leaves layers out. The first line that fits decides.",
            optional=True,
        ),
        io.Boolean.Input(
            "text_encoder",
            default=False,
            tooltip="Adapt the text encoders too. Every caption is then encoded in every step.",
            optional=True,
        ),
        io.Float.Input(
            "text_rate",
            default=0.5,
            min=0.001,
            max=10.0,
            step=0.05,
            tooltip="Learning rate of the text encoders as a share of that of the adapter.",
            advanced=True,
            optional=True,
        ),
    ]
