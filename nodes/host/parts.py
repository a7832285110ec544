"""The parts of a run made from a request, and the bundle made from trained parts."""

from __future__ import annotations

from ...bundles.manifest import Bundle, Entry
from ...training.adapters import build_adapters, export_adapters
from ...training.embeddings import initial_vectors
from ...training.objective import Prior
from ...training.run import Parts
from .latents import HostLatentCodec
from .materials import make_data
from .models import HostDenoiser
from .request import Request
from .text import HostTextEncoder


def make_parts(
    request: Request, denoiser: HostDenoiser, text: HostTextEncoder, codec: HostLatentCodec
) -> Parts:
    """Everything the loop needs; settings that do not fit the model fail before any encoding."""
    seed, prior = request.config.seed, request.class_dataset
    adapters = build_adapters(request.adapter, denoiser.layers(), seed) if request.adapter else {}
    vectors = initial_vectors(request.concepts, text, seed)
    held = request.validation.dataset if request.validation else None
    wants_pictures = request.config.objective.prior is Prior.PICTURES
    return Parts(
        denoiser=denoiser,
        text=text,
        concepts=request.concepts,
        vectors=vectors,
        adapters=adapters,
        data=make_data(request, request.dataset, codec, seed),
        prior_data=make_data(request, prior, codec, seed + 1) if prior and wants_pictures else None,
        held_out=make_data(request, held, codec, seed) if held else None,
    )


def make_bundle(request: Request, parts: Parts, family: str, base: str = "") -> Bundle:
    """What was trained, with its recipe and the digest of the model that it was trained on."""
    lora = (
        export_adapters(request.adapter, parts.adapters, "diffusion_model")
        if request.adapter
        else {}
    )
    embeddings = {
        name: {key: rows.detach().to("cpu", copy=True) for key, rows in vectors.items()}
        for name, vectors in parts.vectors.items()
    }
    entries = [
        Entry(name=c.final_name, initial=c.initial, placeholder=c.placeholder)
        for c in request.concepts
    ]
    return Bundle(
        family=family,
        lora=lora,
        embeddings=embeddings,
        entries=tuple(entries),
        recipe=request.recipe() | ({"base_model": base} if base else {}),
    )
