"""Models that take an image beside the noise train as they are sampled without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from factories import write_pictures
from harness.host.graphs import Graph
from harness.host.runner import Loaded
from pack.nodes.host.denoiser.families import image_note
from world.checkpoints import load_short

FIRST = "model.diffusion_model.input_blocks.0.0.weight"
NOTE = "The MODEL also takes an image, for inpainting, control or edits"


def with_channels(path: Path, made: Path, channels: int) -> Loaded:
    """The checkpoint with a first layer that reads more channels, as inpainting models have it."""
    tensors = load_file(path)
    shape = list(tensors[FIRST].shape)
    draw = torch.Generator().manual_seed(1)
    tensors[FIRST] = torch.randn(shape[0], channels, *shape[2:], generator=draw) * 0.1
    save_file(tensors, made)
    with torch.inference_mode():
        model, clip, vae = load_short(made)
    return Loaded(model=model, clip=clip, vae=vae, path=made)


@pytest.mark.parametrize(("family", "channels"), [("sd15", 9), ("sd15", 8), ("sdxl", 9)])
def test_a_model_for_inpainting_trains_and_the_report_says_on_what(
    request: Any, host: Any, run_graph: Any, tmp_path: Path, family: str, channels: int
):
    plain = request.getfixturevalue(family)
    assert image_note(plain.model) == ""
    write_pictures(host.base / "input" / "extra", ["a TOK"])
    name = f"{family} {channels}"
    host.loaded[name] = with_channels(plain.path, tmp_path / "wide.safetensors", channels)
    try:
        graph = Graph()
        run = graph.train(
            graph.base(name), "extra", concepts=graph.concept(pivot=0.5), steps=2,
            adapter=graph.add("Pivotal_Lora", rank=2).out(), run_name=name,
        )  # fmt: skip
        report = graph.keep(run.out(5))
        sampled = graph.sample(run.out(1), run.out(2), "a embedding:tok")
        made = run_graph(graph)
        assert NOTE in made[report, 0]
        assert made[sampled, 0]["samples"].isfinite().all()
        first = host.loaded[name].model.model.diffusion_model.input_blocks[0][0]
        assert first.weight.shape[1] == channels, "the host has read it as such a model"
    finally:
        del host.loaded[name]


def test_the_network_gets_what_the_host_gives_it_for_an_empty_latent(
    host: Any, sd15: Loaded, tmp_path: Path
):
    """All of the mask set, and the latent of a gray image: as KSampler without a mask."""
    from pack.nodes.host.denoiser.port import HostDenoiser
    from pack.training.ports import Conditioning, Crop

    loaded = with_channels(sd15.path, tmp_path / "wide.safetensors", 9)
    model, noisy = loaded.model, torch.randn(1, 4, 8, 8)
    crop = Crop(original_width=64, original_height=64, left=0, top=0, width=64, height=64)
    given = HostDenoiser(model, checkpointing=False)._sample_inputs(
        noisy, Conditioning({"cond": torch.zeros(1, 77, 768)}), crop
    )
    expected = model.model.extra_conds(
        noise=noisy, latent_image=torch.zeros_like(noisy), denoise_mask=None, device=noisy.device,
        cross_attn=torch.zeros(1, 77, 768),
    )["c_concat"].cond  # fmt: skip
    assert torch.equal(given["c_concat"].cond, expected) and expected.shape == (1, 5, 8, 8)
