"""A batch is its pictures side by side: own captions, own sizes, latents scaled once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_clip_sdxl import CLIPTextEncodeSDXL
from comfy_extras.nodes_train import TrainLoraNode
from torch import Tensor

import nodes
from harness.host.measure import LONG, SHORT, Batch, Ports, borrowed, draw, make_batch, relative
from harness.host.runner import Loaded
from pack.nodes.host.codec import HostLatentCodec
from pack.training.ports import Caption, Crop

CAPTIONS: tuple[Caption, ...] = (SHORT, LONG, ("a red cat",))
PLAIN = ("a red ball", "a small cat on a chair", "two trees and a house")
RAW = 5.0
"""Standard deviation of the raw latents in these tests, about that of SD1.5's autoencoder."""


@pytest.fixture
def loaded(request: pytest.FixtureRequest) -> Loaded:
    """The models of the family that a test is parametrized with."""
    return request.getfixturevalue(request.param)


def outputs_and_gradients(ports: Ports, batch: Batch, weights: Tensor) -> list[Tensor]:
    output = ports.predict(batch)
    grads = ports.gradients_of((output.double() * weights).sum())
    return [output.detach(), *(grad.clone() for grad in grads)]


@pytest.mark.parametrize("loaded", ["sd15", "sdxl"], indirect=True)
@pytest.mark.parametrize("size", [(64, 96), (96, 64)], ids=["wide", "tall"])
def test_a_batch_is_the_same_as_its_pictures_one_by_one(loaded: Loaded, size: tuple[int, int]):
    """Also where captions of one and of two chunks meet in a batch."""
    height, width = size
    batch = make_batch(CAPTIONS, height=height, width=width)
    weights = torch.randn(batch.noise.shape, generator=draw(6), dtype=torch.float64)
    with borrowed(loaded, rank=4) as ports:
        output, *grads = outputs_and_gradients(ports, batch, weights)
        singles = [
            outputs_and_gradients(ports, batch.single(place), weights[place : place + 1])
            for place in range(len(CAPTIONS))
        ]
    alone = torch.cat([single[0] for single in singles])
    assert (output - alone).abs().max() < 1e-5 * alone.std()
    sums = [sum(parts) for parts in zip(*(single[1:] for single in singles), strict=True)]
    assert relative(grads, sums) < 1e-5


def test_another_caption_changes_what_is_predicted(sd15: Loaded):
    """So the agreement of batches and single pictures says something about captions."""
    batch = make_batch(CAPTIONS)
    with borrowed(sd15, rank=4) as ports, torch.no_grad():
        conditions = ports.text.encode(batch.captions)
        noised = batch.noised(ports.denoiser)
        own, turned = (
            ports.denoiser.predict(noised, order, batch.crops)
            for order in (conditions, conditions[1:] + conditions[:1])
        )
    assert ((own - turned).abs().amax((1, 2, 3)) > 1e-2 * own.std()).all()


@dataclass
class Watch:
    """What the network of a MODEL was given, row by row, and the clean latents behind it."""

    pictures: list[Tensor] = field(default_factory=list)
    captions: list[Tensor] = field(default_factory=list)
    clean: list[Tensor] = field(default_factory=list)

    def on(self, model: Any) -> Any:
        """A clone of the MODEL whose every use, by any trainer, is seen here."""
        watched = model.clone()
        watched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "watch", self._apply)
        watched.add_object_patch("model_sampling", self._sampling(model))
        return watched

    def _apply(self, run: Any, x: Tensor, t: Tensor, c_concat: Any, context: Tensor, *rest, **more):
        self.pictures += [row.detach().clone() for row in x]
        self.captions += [row.detach().clone() for row in context]
        return run(x, t, c_concat, context, *rest, **more)

    def _sampling(self, model: Any) -> Any:
        original, clean = model.get_model_object("model_sampling"), self.clean

        class Watched(type(original)):
            def noise_scaling(self, sigma, noise, latent_image, *rest):
                clean.append(latent_image.detach().clone())
                return super().noise_scaling(sigma, noise, latent_image, *rest)

        return Watched(model.model.model_config)

    def captions_of_each_picture(self, known: Sequence[Tensor]) -> list[set[int]]:
        """For each distinct picture that went in, the numbers of the captions it went in with."""
        found: dict[bytes, set[int]] = {}
        for picture, caption in zip(self.pictures, self.captions, strict=True):
            differences = [(caption - one).abs().max().item() for one in known]
            number = differences.index(min(differences))
            found.setdefault(picture.float().numpy().tobytes(), set()).add(number)
        return list(found.values())


def train_with_the_hosts_node(model: Any, clip: Any, latents: Tensor, *, buckets: bool) -> None:
    """One step of core's Train LoRA on a batch of all pictures, in fp32."""
    TrainLoraNode.execute(
        model=[model],
        latents=[{"samples": latents}],
        positive=[nodes.CLIPTextEncode().encode(clip, text)[0] for text in PLAIN],
        batch_size=[len(latents)],
        grad_accumulation_steps=[1],
        steps=[1],
        learning_rate=[1e-4],
        rank=[1],
        optimizer=["SGD"],
        loss_function=["MSE"],
        seed=[0],
        training_dtype=["fp32"],
        lora_dtype=["fp32"],
        quantized_backward=[False],
        algorithm=["LoRA"],
        gradient_checkpointing=[False],
        checkpoint_depth=[1],
        offloading=[False],
        existing_lora=["[None]"],
        bucket_mode=[buckets],
        bypass_mode=[True],
    )


@pytest.mark.filterwarnings("ignore:In CPU autocast")
@pytest.mark.parametrize("buckets", [False, True], ids=["one size", "buckets"])
def test_unlike_the_hosts_trainer_ours_mixes_no_captions_and_scales_latents_once(
    sd15: Loaded, buckets: bool
):
    batch = make_batch([(text,) for text in PLAIN])
    known = [sd15.clip.encode(text)[0] for text in PLAIN]
    theirs, ours = Watch(), Watch()
    with torch.inference_mode():
        train_with_the_hosts_node(theirs.on(sd15.model), sd15.clip, batch.latents, buckets=buckets)
    with borrowed(sd15, model=ours.on(sd15.model), rank=1) as ports:
        ports.gradients(batch)
    everyone = set(range(3))
    assert ours.captions_of_each_picture(known) == [{0}, {1}, {2}]
    assert theirs.captions_of_each_picture(known) == [everyone] * 3
    assert (len(ours.pictures), len(theirs.pictures)) == (3, 9)
    assert ours.clean[0].std() == pytest.approx(0.18215 * RAW, rel=0.1)
    assert theirs.clean[0].std() == pytest.approx(RAW if buckets else 0.18215 * RAW, rel=0.1)


@pytest.mark.parametrize(
    ("loaded", "scale"), [("sd15", 0.18215), ("sdxl", 0.13025)], indirect=["loaded"]
)
def test_the_network_sees_the_autoencoders_latents_scaled_once(loaded: Loaded, scale: float):
    pixels = torch.rand((2, 64, 96, 3), generator=draw(7))
    with torch.no_grad():
        latents = HostLatentCodec(loaded.vae).encode(pixels)
    seen: list[Tensor] = []
    batch = make_batch([SHORT, LONG], width=96)
    with borrowed(loaded) as ports, torch.no_grad():
        network = ports.denoiser.patcher.model.diffusion_model
        hook = network.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
        noised = ports.denoiser.noised(latents, torch.zeros_like(latents), torch.zeros(2).double())
        ports.denoiser.predict(noised, ports.text.encode(batch.captions), batch.crops)
        hook.remove()
    shrunk = (noised.sigma.square() + 1).sqrt().reshape(-1, 1, 1, 1)
    assert torch.allclose(seen[0] * shrunk, scale * latents, rtol=1e-5, atol=1e-6)


@contextmanager
def inputs_of(network: torch.nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """By name, what reaches a network in the meantime, row by row."""
    seen: dict[str, list[Tensor]] = {"y": [], "context": []}

    def keep(_: Any, args: Any, given: dict[str, Any]) -> None:
        for name, rows in seen.items():
            rows += list(given[name].detach().clone())

    hook = network.register_forward_pre_hook(keep, with_kwargs=True)
    yield seen
    hook.remove()


def test_sdxl_sizes_and_crops_are_those_of_the_hosts_node(sdxl: Loaded):
    """Each sample gets what CLIP Text Encode (SDXL) and a sampler make of its numbers."""
    batch = make_batch([(text,) for text in PLAIN], width=96)
    network = sdxl.model.model.diffusion_model
    with inputs_of(network) as ours, borrowed(sdxl) as ports, torch.no_grad():
        ports.predict(batch)
    with inputs_of(network) as theirs:
        for text, crop in zip(PLAIN, batch.crops, strict=True):
            sample_with_sizes(sdxl, text, crop)
    for name, rows in theirs.items():
        assert torch.allclose(torch.stack(ours[name]), torch.stack(rows), atol=1e-5)
    sizes = [row[1280:] for row in ours["y"]]
    assert all(torch.equal(a, b[1280:]) for a, b in zip(sizes, theirs["y"], strict=True))
    assert len({row.numpy().tobytes() for row in sizes}) == 3


def sample_with_sizes(loaded: Loaded, text: str, crop: Crop) -> None:
    """One step of the host's sampler on the conditioning of CLIP Text Encode (SDXL)."""
    (condition,) = CLIPTextEncodeSDXL.execute(
        clip=loaded.clip,
        width=crop.original_width,
        height=crop.original_height,
        crop_w=crop.left,
        crop_h=crop.top,
        target_width=crop.width,
        target_height=crop.height,
        text_g=text,
        text_l=text,
    ).result
    empty = {"samples": torch.zeros(1, 4, crop.height // 8, crop.width // 8)}
    settings = (0, 1, 1.0, "euler", "normal")
    with torch.no_grad():
        nodes.common_ksampler(loaded.model, *settings, condition, condition, empty)
