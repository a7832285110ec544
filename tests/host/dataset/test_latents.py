"""The host's VAE: how many pictures go through it at once, and that a run does not see it."""

from __future__ import annotations

import pytest
import torch
from host.run.test_continue import LORA, cancel_after, pictures, same, training  # noqa: F401 - a fixture

from harness.host.runner import GraphInterrupted, Loaded
from pack.nodes.host import codec
from pack.nodes.host.codec import HostLatentCodec
from pack.nodes.host.folders import user_folder

SIZE = 64


@pytest.mark.parametrize(
    ("device", "axes", "together"),
    [("cuda", 2, (4, 1, 1)), ("cuda", 3, (1, 1, 1)), ("cpu", 2, (1, 1, 1))],
    ids=["GPU", "GPU, a VAE of videos", "CPU"],
)
def test_as_many_pictures_go_at_once_as_make_one_of_1024(
    sd15: Loaded, monkeypatch: pytest.MonkeyPatch, device: str, axes: int, together: tuple
):
    monkeypatch.setattr(sd15.vae, "device", torch.device(device))
    monkeypatch.setattr(sd15.vae, "latent_dim", axes)
    port = HostLatentCodec(sd15.vae)
    sizes = [(512, 512), (1024, 1024), (1536, 1024)]
    assert tuple(port.together(*size) for size in sizes) == together


def test_a_batch_of_pictures_gives_the_latents_of_each(sd15: Loaded):
    pixels = torch.rand((3, SIZE, SIZE, 3), generator=torch.Generator().manual_seed(0))
    port = HostLatentCodec(sd15.vae)
    with torch.no_grad():
        whole = port.encode(pixels)
        alone = torch.cat([port.encode(one) for one in pixels.split(1)])
    assert (whole - alone).abs().max() < 1e-5 * alone.std()


def test_the_host_is_asked_for_the_room_of_a_whole_batch(sd15: Loaded, monkeypatch):
    asked = []
    load = codec.management.load_models_gpu
    monkeypatch.setattr(
        codec.management,
        "load_models_gpu",
        lambda models, memory_required=0, **rest: (
            asked.append(memory_required),
            load(models, memory_required=memory_required, **rest),
        ),
    )
    with torch.no_grad():
        HostLatentCodec(sd15.vae).encode(torch.rand(3, SIZE, SIZE, 3))
    batch, single = asked
    assert batch == 3 * single


def test_a_run_with_batches_goes_on_bit_for_bit_when_kept_latents_are_lost(
    host, run_graph, monkeypatch
):
    """What is lost is encoded again beside the pictures that it was encoded with."""
    encoded: list[int] = []
    encode = HostLatentCodec.encode
    monkeypatch.setattr(HostLatentCodec, "together", lambda *_: 3)
    monkeypatch.setattr(
        HostLatentCodec, "encode", lambda self, p: (encoded.append(len(p)), encode(self, p))[1]
    )
    whole, node = training("whole_batches", LORA)
    outputs = run_graph(whole)
    assert encoded == [3, 1]
    cancel_after(monkeypatch, 3)
    with pytest.raises(GraphInterrupted):
        run_graph(training("broken_batches", LORA)[0])
    assert encoded == [3, 1]
    for path in list(user_folder("latents").rglob("*.safetensors"))[:2]:
        path.unlink()
    broken, again = training("broken_batches", LORA)
    continued = run_graph(broken)
    assert encoded[2:] in ([3], [1, 3], [3, 1])
    assert same(continued[again, 0], outputs[node, 0])
    assert continued[again, 4] == outputs[node, 4]
