"""What a run trains and draws from: adapters, vectors, and pictures with their captions."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import replace

import torch
from torch import Tensor

from ....training.adapters import (
    MODEL,
    TEXT,
    Adapter,
    AdapterConfig,
    build_chosen,
    choose_layers,
)
from ....training.adapters.adapted import Adapters
from ....training.data import TrainingData
from ....training.dataset.batches import Batches
from ....training.dataset.pictures.buckets import latent_mask
from ....training.dataset.pictures.crops import crop_notes, plan_crops
from ....training.dataset.pictures.latents import BrokenLatents, LatentCache, encode_latents
from ....training.dataset.records import Dataset, Framing
from ....training.parts import Parts
from ....training.peers import peers_here
from ....training.state import RunState, check_fits
from ....training.trained import Trained, all_parameters
from ....training.words.concepts import ParsedDataset, with_negatives
from ....training.words.outputs import Outputs, initial_outputs
from ....training.words.vectors import Vectors, initial_vectors
from ..codec import HostLatentCodec
from ..denoiser.port import HostDenoiser
from ..denoiser.singular_values import cached_singular_values
from ..events import watched
from ..folders import file_facts, sweep_caches, user_folder
from ..text.port import HostTextEncoder
from .request import Checked, Request


def make_parts(
    checked: Checked,
    denoiser: HostDenoiser,
    text: HostTextEncoder,
    codec: HostLatentCodec,
    start: RunState | None = None,
) -> Parts:
    """Everything that the loop needs; settings that do not fit the model fail before encoding.

    So do those that do not fit the checkpoint `start`.
    """
    request, config = checked.request, checked.request.config
    seed, batch = config.seed, config.batch_size
    prior, held, size = checked.prior, checked.held_out, request.resolution
    prior_batch = config.objective.prior_batch or batch
    trained = make_trained(request, denoiser, text)
    if start is not None:
        check_fits(start, all_parameters(trained))
    return Parts(
        denoiser=denoiser,
        text=text,
        concepts=request.concepts,
        trained=trained,
        data=make_data(checked.training, size, codec, seed, batch),
        prior_data=make_data(prior, size, codec, seed + 1, prior_batch) if prior else None,
        held_out=make_data(held, size, codec, seed, batch) if held else None,
        peers=peers_here(),
    )


def make_trained(
    request: Request, denoiser: HostDenoiser, text: HostTextEncoder
) -> tuple[Trained, ...]:
    """What the run trains, in the order in which its parts are updated."""
    seed = request.config.seed
    adapters = make_adapters(request.adapter, denoiser, text, seed)
    things: list[Trained] = []
    read = [concept for concept in with_negatives(request.concepts) if not concept.output]
    returned = [concept for concept in with_negatives(request.concepts) if concept.output]
    if read:
        things.append(Vectors(initial_vectors(read, text, seed), text))
    if returned:
        things.append(Outputs(initial_outputs(returned, text, seed)))
    if request.adapter is not None:
        things.append(Adapters(request.adapter, adapters[MODEL], adapters[TEXT]))
    return tuple(things)


def make_adapters(
    config: AdapterConfig | None, denoiser: HostDenoiser, text: HostTextEncoder, seed: int
) -> dict[str, dict[str, Adapter]]:
    """The adapters of the diffusion model and of the text encoders, by their layers."""
    if config is None:
        return {MODEL: {}, TEXT: {}}
    text_layers = text.layers() if config.text_encoder else []
    with cached_singular_values() if config.reads_singular_values() else nullcontext() as kept:
        chosen = choose_layers(
            config,
            [replace(layer, kept=kept) for layer in denoiser.layers()],
            [replace(layer, kept=kept) for layer in text_layers],
        )
        return {
            part: build_chosen(config, chosen.get(part, []), seed, part) for part in (MODEL, TEXT)
        }


def make_data(
    parsed: ParsedDataset, resolution: int, codec: HostLatentCodec, seed: int, batch_size: int
) -> TrainingData:
    """What a run draws batches from; only pictures that no earlier run has encoded are read."""
    dataset, default = parsed.dataset, Framing(resolution=resolution)
    plans = plan_crops(dataset.records, default)
    owners = [item for item, crops in enumerate(plans) for _ in crops]
    crops = [crop for each in plans for crop in each]
    latents, notes = _latents(dataset, codec, crops, owners)
    records = [dataset.records[owner] for owner in owners]
    floors = [(record.framing or default).mask_floor for record in records]
    masks = [
        latent_mask(record, crop, (latent.shape[-2], latent.shape[-1]), floor, codec.step)
        for record, crop, latent, floor in zip(records, crops, latents, floors, strict=True)
    ]
    captions = [caption for row in parsed.captions for caption in row]
    return TrainingData(
        latents=latents,
        captions=captions,
        crops=crops,
        masks=masks if any(mask is not None for mask in masks) else (),
        views=_spread(plans) if len(crops) > len(plans) else (),
        texts=_spread(parsed.captions) if len(captions) > len(parsed.captions) else (),
        batches=Batches(
            # All views of a picture have its bucket.
            [(each[0].width, each[0].height) for each in plans],
            [record.repeats for record in dataset.records],
            batch_size,
            seed,
        ),
        notes=(*crop_notes(dataset.records, [each[0] for each in plans]), *notes),
    )


def _latents(
    dataset: Dataset, codec: HostLatentCodec, crops: list, owners: list[int]
) -> tuple[list[Tensor], list[str]]:
    """The latent of each crop, and a line for whatever the cache could not give or take."""
    sweep_caches()
    folder, shape = user_folder("latents"), codec.latent_shape
    cache = LatentCache(folder, codec.digest(), file_facts(), shape)
    latents: dict[int, Tensor] = {}
    encoded = encode_latents(dataset, crops, codec, owners=owners, cache=cache)
    with closing(cache.store), torch.no_grad():
        try:
            for index, latent in watched(encoded, len(crops)):
                latents[index] = latent
        except BrokenLatents as error:
            raise ValueError(codec.overflow(error.names)) from error
    return [latents[index] for index in range(len(crops))], cache.notes


def _spread(rows: Sequence[Sequence[object]]) -> list[tuple[int, ...]]:
    """The indices of each row's entries in the flat list of all entries."""
    ends, start = [], 0
    for row in rows:
        ends.append(tuple(range(start, start + len(row))))
        start += len(row)
    return ends
