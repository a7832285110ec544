"""A mask weighs the places of the latents that its pixels go to, in every family."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import comfy.model_management as management
import pytest
import torch
from PIL import Image

from harness.host.trial import SMALL, Models, load_small
from pack.nodes.host.codec import HostLatentCodec
from pack.nodes.host.denoiser.port import HostDenoiser
from pack.nodes.host.run.drive import gradients
from pack.nodes.host.run.prepare import make_data
from pack.nodes.host.text.port import HostTextEncoder
from pack.training.config import TrainConfig
from pack.training.data import TrainingData, draw_batch
from pack.training.dataset.folder.read import read_folder
from pack.training.dataset.pictures.buckets import latent_mask
from pack.training.dataset.records import Dataset, Framing
from pack.training.loop import batch_errors
from pack.training.objective import ObjectiveConfig
from pack.training.parts import Parts
from pack.training.run import Run
from pack.training.words.concepts import parse_dataset

WIDTH, HEIGHT = 96, 64
BLOCK = (32, 16, 48, 32)
"""What a mask leaves, (left, top, right, bottom): whole places of 8 pixels and of 16"""


@dataclass(frozen=True, kw_only=True)
class Masked:
    """A family's models, and one picture with a mask made ready for them."""

    models: Models
    dataset: Dataset
    data: TrainingData

    @property
    def places(self) -> tuple[slice, slice]:
        """Rows and columns of the latent under the block."""
        pixels = HEIGHT // self.data.latents[0].shape[-2]
        left, top, right, bottom = (edge // pixels for edge in BLOCK)
        return slice(top, bottom), slice(left, right)


def write_picture(folder: Path) -> Dataset:
    """A picture with a mask, its framing such that no pixel of it is lost."""
    folder.mkdir(exist_ok=True)
    Image.linear_gradient("L").resize((WIDTH, HEIGHT)).convert("RGB").save(folder / "a.png")
    mask = Image.new("L", (WIDTH, HEIGHT))
    mask.paste(255, BLOCK)
    mask.save(folder / "a_mask.png")
    dataset = read_folder(folder)
    (record,) = dataset.records
    framing = Framing(resolution=80, bucket_step=16, mask_floor=0.0)
    return replace(dataset, records=(replace(record, framing=framing),))


@pytest.fixture(scope="module", params=SMALL)
def masked(
    host: Any, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Masked]:
    with torch.inference_mode():
        models = load_small(request.param)
    dataset = write_picture(tmp_path_factory.mktemp("masked"))
    with gradients():
        parsed = parse_dataset(dataset, (), seed=0)
        data = make_data(parsed, 512, HostLatentCodec(models[2]), seed=0, batch_size=1)
    yield Masked(models=models, dataset=dataset, data=data)
    management.unload_all_models()
    gc.collect()


def test_the_mask_has_the_latents_places(masked: Masked):
    (latent,), (mask,) = masked.data.latents, masked.data.masks
    wanted = torch.zeros(latent.shape[-2:])
    wanted[masked.places] = 1
    assert torch.equal(mask, wanted)


def test_a_change_under_the_mask_is_a_change_of_these_places(masked: Masked):
    """The autoencoder's places lie in the picture as the mask's do, also across the wide side."""
    if masked.data.latents[0].ndim == 4:
        pytest.skip("with random weights the autoencoder of videos spreads any change everywhere")
    codec, left_top = HostLatentCodec(masked.models[2]), BLOCK[:2]
    pixels = torch.full((2, HEIGHT, WIDTH, 3), 0.5)
    pixels[1, left_top[1] : BLOCK[3], left_top[0] : BLOCK[2]] = 1.0
    with gradients(), torch.no_grad():
        before, after = codec.encode(pixels)
    change = (after - before).square().flatten(0, -3).sum(0)
    share = change[masked.places].mean() / change.mean()
    assert share > 3, change


def test_the_loss_is_the_mean_over_the_places_that_count(masked: Masked):
    model, clip, _ = masked.models
    config = TrainConfig(steps=1, objective=ObjectiveConfig(min_snr_gamma=0))
    with gradients(), torch.no_grad():
        text, denoiser = HostTextEncoder(clip), HostDenoiser(model, checkpointing=False)
        parts = Parts(denoiser=denoiser, text=text, data=masked.data, concepts=(), trained=())
        batch = draw_batch(masked.data, config.seed, 0, dropout=0.0)
        with text.attach({}), denoiser.attach({}):
            run = Run(parts, config)
            conditions = run.conditions.of_step(batch.captions)
            found, noised = batch_errors(run, batch, conditions)
            output = denoiser.predict(noised, conditions.of(batch.captions), batch.crops)
    error = (output.double() - noised.target.double()).square()
    rows, columns = masked.places
    wanted = error[..., rows, columns].mean()
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert found.item() != pytest.approx(error.mean().item(), rel=1e-3)


def test_what_the_host_cuts_off_a_picture_is_cut_off_its_mask(masked: Masked):
    """A VAE of 16 pixels a place takes the middle 64 of 72, whose left half the mask is."""
    record = masked.dataset.records[0]
    half = Image.new("L", (72, 72))
    half.paste(255, (0, 0, 36, 72))
    half.save(record.mask)
    step = HostLatentCodec(masked.models[2]).step
    (crop,) = {replace(crop, width=72, height=72) for crop in masked.data.crops}
    crop = replace(crop, left=0, top=0, original_width=72, original_height=72)
    with gradients(), torch.no_grad():
        latent = HostLatentCodec(masked.models[2]).encode(torch.full((1, 72, 72, 3), 0.5))[0]
    mask = latent_mask(record, crop, latent.shape[-2:], 0.0, step)
    places = latent.shape[-1]
    assert places == 72 // step
    # The edge is smoothed a little where the mask takes the picture's size.
    assert mask[:, : places // 2].min() > 0.95 and mask[:, -(places // 2) :].max() < 0.05
