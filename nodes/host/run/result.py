"""What a run has trained, as a bundle and as a file for diffusers."""

from __future__ import annotations

from torch import Tensor

from ....bundles.bundle import Bundle, Entry
from ....bundles.layers.generic import KOHYA_FAMILIES
from ....bundles.layers.peft_keys import to_peft
from ....training.adapters.adapted import Adapters
from ....training.parts import Parts
from ....training.trained import all_learned
from ....training.words.concepts import with_negatives
from .request import Request


def make_peft(parts: Parts, family: str) -> dict[str, Tensor]:
    """The layers of a UNet that PEFT reads in another form than their own; empty for most kinds."""
    things = [thing for thing in parts.trained if isinstance(thing, Adapters)]
    layers = {
        name: {end: tensor.detach().to("cpu", copy=True) for end, tensor in tensors.items()}
        for thing in things
        for name, adapter in thing.layers.items()
        if (tensors := adapter.peft_tensors())
    }
    return to_peft(layers, family) if layers and family in KOHYA_FAMILIES else {}


def make_bundle(request: Request, parts: Parts, family: str, base: str = "") -> Bundle:
    """What was trained, with its recipe and the digest of the model that it was trained on."""
    learned = all_learned(parts.trained)
    entries = [
        Entry(name=c.final_name, initial=c.initial, placeholder=c.placeholder)
        for c in with_negatives(request.concepts)
    ]
    return Bundle(
        family=family,
        lora=learned.lora,
        embeddings=learned.embeddings,
        outputs=learned.outputs,
        entries=tuple(entries),
        recipe=request.recipe() | ({"base_model": base} if base else {}),
    )
