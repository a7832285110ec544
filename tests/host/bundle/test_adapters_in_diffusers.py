"""diffusers' own UNet, with the host's weights, predicts the same noise under what was saved."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.host.runner import Loaded
from pack.bundles.bundle import Bundle
from pack.bundles.files.safetensors import replace_safetensors
from pack.bundles.layers.generic import diffusers_module
from pack.bundles.save import Container, save_bundle
from pack.nodes.host.denoiser.port import HostDenoiser
from pack.nodes.host.run.prepare import make_adapters
from pack.nodes.host.run.result import make_peft
from pack.nodes.host.text.port import HostTextEncoder
from pack.training.adapters import MODEL, AdapterConfig, export_adapters
from pack.training.adapters.adapted import Adapters
from pack.training.adapters.dora import Axis, DoraConfig
from pack.training.adapters.lora import LoraConfig
from pack.training.adapters.targets import Targets
from pack.training.adapters.trilora import Core, TriLoraConfig
from pack.training.parts import Parts
from pack.training.ports import Conditioning, Crop
from pack.training.trained import all_learned

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("peft") is None, reason="needs peft: pip install peft"
)
CROP = Crop(width=64, height=64, left=0, top=0, original_width=64, original_height=64)
WIDE = {"targets": Targets.CONVOLUTIONS}
KINDS: dict[str, AdapterConfig] = {
    "lora": LoraConfig(rank=4, alpha=3.0, **WIDE),
    "trilora": TriLoraConfig(rank=3, rank_out=4, core=Core.FULL, **WIDE),
    "dora": DoraConfig(rank=4, alpha=3.0, axis=Axis.OUTPUT),
}


def diffusers_unet(weights: Mapping[str, Tensor]) -> Any:
    """UNet2DConditionModel from a local configuration, with the host's weights renamed."""
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel(
        block_out_channels=(320,),
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("UpBlock2D",),
        mid_block_type=None,
        layers_per_block=1,
        cross_attention_dim=768,
        attention_head_dim=8,
    )
    renamed = {renamed_key(key): tensor.float().clone() for key, tensor in weights.items()}
    unet.load_state_dict(renamed, strict=True)
    return unet.eval()


def renamed_key(key: str) -> str:
    name, _, kind = key.rpartition(".")
    return f"{'conv_norm_out' if name == 'out.0' else diffusers_module(name)}.{kind}"


class Both:
    """Fixed latents, timestep and conditioning for the host's model and for diffusers'."""

    def __init__(self, base: Loaded):
        self.base = base
        draw = torch.Generator().manual_seed(1)
        self.cond = torch.randn(1, 77, 768, generator=draw)
        self.denoiser = HostDenoiser(base.model, checkpointing=False)
        latents = torch.randn(1, 4, 8, 8, generator=draw)
        noise = torch.randn(1, 4, 8, 8, generator=draw)
        self.noised = self.denoiser.noised(latents, noise, torch.tensor([0.5]))

    def in_host(self, adapters: Mapping[str, Any]) -> Tensor:
        with torch.no_grad(), self.denoiser.attach(adapters):
            return self.denoiser.predict(self.noised, [Conditioning({"cond": self.cond})], [CROP])

    def in_diffusers(self, unet: Any) -> Tensor:
        sampling = self.base.model.get_model_object("model_sampling")
        scaled = sampling.calculate_input(self.noised.sigma, self.noised.noisy)
        with torch.no_grad():
            return unet(scaled, sampling.timestep(self.noised.sigma), self.cond).sample


def loaded(unet: Any, path: Path) -> None:
    """Load a LoRA file as a pipeline does."""
    from diffusers.loaders import StableDiffusionLoraLoaderMixin as Loader

    tensors, alphas = Loader.lora_state_dict(str(path), unet_config=unet.config)
    Loader.load_lora_into_unet(tensors, network_alphas=alphas, unet=unet)


@pytest.mark.parametrize("kind", KINDS)
def test_diffusers_predicts_the_same_noise(sd15: Loaded, kind: str, tmp_path: Path):
    config = KINDS[kind]
    with torch.inference_mode(False):
        both = Both(sd15)
        text = HostTextEncoder(sd15.clip)
        adapters = make_adapters(config, both.denoiser, text, seed=0)
        draw = torch.Generator().manual_seed(3)
        for adapter in adapters[MODEL].values():
            for parameter in adapter.parameters():
                size = 0.02 if parameter.ndim > 1 else 0.05 * parameter.abs().mean()
                parameter.data += size * torch.randn(parameter.shape, generator=draw)
        unet = diffusers_unet(sd15.model.model.diffusion_model.state_dict())
        base = both.in_host({})
        assert (both.in_diffusers(unet) - base).abs().max() <= 1e-4 * base.std()
        trained = both.in_host(adapters[MODEL])
        path = tmp_path / "saved.safetensors"
        save(config, both, text, adapters, path)
        loaded(unet, path)
        assert (trained - base).abs().max() > 0.02 * base.std(), "the adapter has to act"
        assert (both.in_diffusers(unet) - trained).abs().max() <= 1e-4 * base.std()


def save(
    config: AdapterConfig, both: Both, text: HostTextEncoder, adapters: Any, path: Path
) -> None:
    """The LoRA as Save Bundle writes it; a DoRA as a run leaves it for diffusers."""
    if isinstance(config, DoraConfig):
        parts = Parts(
            denoiser=both.denoiser,
            text=text,
            data=None,
            concepts=(),
            trained=[Adapters(config, adapters[MODEL], {})],
        )
        replace_safetensors(path, make_peft(all_learned(parts.trained), "sd15"), {})
        return
    lora = export_adapters(adapters[MODEL], MODEL)
    bundle = Bundle(family="sd15", lora=lora, embeddings={})
    save_bundle(bundle, path, Container.LOOSE, torch.float32)
