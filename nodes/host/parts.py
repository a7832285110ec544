"""The parts of a run made from a request, and the bundle made from trained parts."""

from __future__ import annotations

import comfy.model_management as management
import torch
from torch import Tensor

from ...bundles.manifest import Bundle, Entry
from ...training.adapters import build_adapters, export_adapters
from ...training.concepts import parse_caption
from ...training.data import TrainingData
from ...training.dataset.buckets import bucket_sizes, choose_crop
from ...training.dataset.latents import encode_latents
from ...training.dataset.order import Batches
from ...training.dataset.records import Dataset
from ...training.embeddings import initial_vectors
from ...training.loop import Parts
from ...training.objective import Prior
from .latents import HostLatentCodec
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
    wants_pictures = request.config.objective.prior is Prior.PICTURES
    return Parts(
        denoiser=denoiser,
        text=text,
        concepts=request.concepts,
        vectors=vectors,
        adapters=adapters,
        data=_make_data(request, request.dataset, codec, seed),
        prior_data=_make_data(request, prior, codec, seed + 1)
        if prior and wants_pictures
        else None,
    )


def _make_data(
    request: Request, dataset: Dataset, codec: HostLatentCodec, seed: int
) -> TrainingData:
    sizes = bucket_sizes(request.resolution)
    crops = [choose_crop(record.width, record.height, sizes) for record in dataset.records]
    latents: dict[int, Tensor] = {}
    with torch.no_grad():
        for index, latent in encode_latents(dataset, crops, codec, request.config.batch_size):
            management.throw_exception_if_processing_interrupted()
            latents[index] = latent
    return TrainingData(
        latents=[latents[index] for index in range(len(crops))],
        captions=[parse_caption(record.caption, request.concepts) for record in dataset.records],
        crops=crops,
        batches=Batches(
            [(crop.width, crop.height) for crop in crops],
            [record.repeats for record in dataset.records],
            request.config.batch_size,
            seed,
        ),
    )


def make_bundle(request: Request, parts: Parts, family: str) -> Bundle:
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
        recipe=request.recipe(),
    )
