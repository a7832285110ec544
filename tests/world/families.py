"""Tiny random models of the families beyond SD1.5 and SDXL, made and loaded by the host's code.

The host reads most sizes of a diffusion model from the shapes in its file. What it does not read
(the width of Chroma's, Lumina's and Qwen-Image's blocks is that of the release, whatever the file
says) is given to the host's own class of that family instead; released.py has the smallest files of
these that the loader finds by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from .checkpoints import Tensors, random_vae, random_weights
from .encoders import ENCODERS, load_clip

FLUX = {
    "axes_dim": [16, 56, 56],
    "context_in_dim": 4096,
    "depth": 1,
    "depth_single_blocks": 1,
    "hidden_size": 128,
    "in_channels": 16,
    "mlp_ratio": 4.0,
    "num_heads": 1,
    "out_channels": 16,
    "patch_size": 2,
    "qkv_bias": True,
    "theta": 10000,
    "txt_ids_dims": [],
}
FLUX2 = {
    **FLUX,
    "image_model": "flux2",
    "axes_dim": [32, 32, 32, 32],
    "context_in_dim": 7680,
    "in_channels": 128,
    "out_channels": 128,
    "patch_size": 1,
    "mlp_ratio": 3.0,
    "theta": 2000,
    "qkv_bias": False,
    "ops_bias": False,
    "global_modulation": True,
    "mlp_silu_act": True,
    "txt_ids_dims": [3],
    "default_ref_method": "index",
    "ref_index_scale": 10.0,
    "vec_in_dim": None,
    "guidance_embed": False,
    "yak_mlp": False,
    "txt_norm": False,
}
LUMINA = {
    "image_model": "lumina2",
    "patch_size": 2,
    "in_channels": 16,
    "n_layers": 1,
    "n_refiner_layers": 1,
    "qk_norm": True,
    "multiple_of": 32,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Tiny:
    """A tiny model of one family: the network's numbers, its text encoders, its latents."""

    config: str
    """The host's class of the family, which its loader has to find"""
    network: Mapping[str, Any]
    encoders: tuple[str, ...]
    clip_type: str
    latent: tuple[int, ...] = (16,)
    """Of a picture, before height and width"""
    fixed: bool = False
    """Whether the loader has sizes of its own, so that the class has to be asked by name"""
    taps: tuple[int, ...] = ()
    """Layers of a cut encoder that are read in place of the release's"""
    family: str = ""
    """Its name in bundles, where the entry has another"""
    whole: frozenset[str] = frozenset()
    """Numbers of its encoders that are not cut"""

    def cut(self, encoder: str) -> dict[str, Any]:
        """The entries of an encoder's config that differ from the release's."""
        cut = ENCODERS[encoder].cut
        return {number: value for number, value in cut.items() if number not in self.whole}


TINY = {
    "sd2": Tiny(
        config="SD20",
        encoders=("clip_h",),
        clip_type="STABLE_DIFFUSION",
        latent=(4,),
        network={
            "image_size": 32,
            "in_channels": 4,
            "out_channels": 4,
            "model_channels": 320,
            "num_res_blocks": [2, 2, 2, 2],
            "channel_mult": [1, 1, 1, 1],
            "transformer_depth": [1, 0, 0, 0, 0, 0, 0, 0],
            # The host tells v-prediction by a norm in the last of twelve output blocks.
            "transformer_depth_output": [1] + [0] * 11,
            "transformer_depth_middle": -2,
            "use_spatial_transformer": True,
            "use_linear_in_transformer": True,
            "use_temporal_attention": False,
            "adm_in_channels": None,
            "context_dim": 1024,
            "num_heads": -1,
            "num_head_channels": 64,
            "legacy": False,
        },
    ),
    "sd3": Tiny(
        config="SD3",
        encoders=("clip_l", "clip_g", "t5xxl"),
        clip_type="SD3",
        network={
            "in_channels": 16,
            "out_channels": 16,
            "patch_size": 2,
            "depth": 2,
            "input_size": None,
            "adm_in_channels": 2048,
            "context_embedder_config": {
                "target": "torch.nn.Linear",
                "params": {"in_features": 4096, "out_features": 128},
            },
            "num_patches": 1024,
            "pos_embed_max_size": 32,
            "pos_embed_scaling_factor": None,
            "qk_norm": "rms",
            "x_block_self_attn_layers": [],
        },
    ),
    "flux": Tiny(
        config="Flux",
        encoders=("clip_l", "t5xxl"),
        clip_type="FLUX",
        network={
            **FLUX,
            "image_model": "flux",
            "vec_in_dim": 768,
            "guidance_embed": True,
            "yak_mlp": False,
            "txt_norm": False,
        },
    ),
    "chroma": Tiny(
        config="Chroma",
        encoders=("t5xxl",),
        clip_type="CHROMA",
        fixed=True,
        network={
            **FLUX,
            "image_model": "chroma",
            "vec_in_dim": None,
            "in_channels": 64,
            "out_channels": 64,
            "in_dim": 64,
            "out_dim": 128,
            "hidden_dim": 64,
            "n_layers": 2,
        },
    ),
    "flux2": Tiny(
        config="Flux2",
        encoders=("qwen3_4b",),
        clip_type="FLUX2",
        latent=(128,),
        taps=(0, 1, 2),
        network=FLUX2,
    ),
    "flux2dev": Tiny(
        config="Flux2",
        family="flux2",
        encoders=("mistral3_24b",),
        clip_type="FLUX2",
        latent=(128,),
        taps=(0, 1, 2),
        network={**FLUX2, "context_in_dim": 15360, "guidance_embed": True},
    ),
    "lumina2": Tiny(
        config="Lumina2",
        encoders=("gemma2_2b",),
        clip_type="LUMINA2",
        fixed=True,
        network={
            **LUMINA,
            "dim": 96,
            "cap_feat_dim": 2304,
            "n_heads": 3,
            "n_kv_heads": 1,
            "axes_dims": [8, 12, 12],
            "axes_lens": [300, 512, 512],
            "rope_theta": 10000.0,
            "ffn_dim_multiplier": 4.0,
        },
    ),
    "zimage": Tiny(
        config="ZImage",
        encoders=("qwen3_4b",),
        clip_type="LUMINA2",
        fixed=True,
        network={
            **LUMINA,
            "dim": 256,
            "cap_feat_dim": 2560,
            "n_heads": 4,
            "n_kv_heads": 4,
            "axes_dims": [16, 24, 24],
            "axes_lens": [1536, 512, 512],
            "rope_theta": 256.0,
            "ffn_dim_multiplier": 8 / 3,
            "z_image_modulation": True,
            "time_scale": 1000.0,
            "pad_tokens_multiple": 32,
        },
    ),
    "qwenimage": Tiny(
        config="QwenImage",
        encoders=("qwen25_7b",),
        clip_type="QWEN_IMAGE",
        latent=(16, 1),
        fixed=True,
        network={
            "image_model": "qwen_image",
            "in_channels": 64,
            "num_layers": 2,
            "num_attention_heads": 1,
            "attention_head_dim": 128,
            "joint_attention_dim": 64,
        },
    ),
}


def load(name: str, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE of a tiny family with random weights, as the host's loaders make them."""
    return load_tiny(TINY[name], seed, dtype)


def load_tiny(tiny: Tiny, seed: int, dtype: torch.dtype) -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE by their numbers."""
    draw = torch.Generator().manual_seed(seed)
    return load_model(tiny, draw, dtype), load_clip(tiny, draw), load_vae(tiny, draw)


def load_model(tiny: Tiny, draw: torch.Generator, dtype: torch.dtype) -> Any:
    """The MODEL, found by the host in the shapes of its weights unless its sizes are fixed."""
    import comfy.model_patcher
    import comfy.sd

    config = host_config(tiny)
    weights = network_weights(config, draw)
    if not tiny.fixed:
        return comfy.sd.load_diffusion_model_state_dict(weights, model_options={"dtype": dtype})
    config.set_inference_dtype(dtype, None)
    model = config.get_model(weights, "")
    model.load_model_weights(weights, "")
    cpu = torch.device("cpu")
    return comfy.model_patcher.CoreModelPatcher(model, load_device=cpu, offload_device=cpu)


def host_config(tiny: Tiny) -> Any:
    """The host's description of the family with the tiny network's numbers."""
    import comfy.supported_models

    config = getattr(comfy.supported_models, tiny.config)(dict(tiny.network))
    config.set_inference_dtype(torch.float32, None)
    return config


def network_weights(config: Any, draw: torch.Generator) -> Tensors:
    """Random weights; none is zero, though trainings of such models start some blocks there."""
    made = random_weights(config.get_model({}, "", device="meta").diffusion_model, draw)
    mark = made.get("output_blocks.11.1.transformer_blocks.0.norm1.bias")
    if mark is not None:
        mark.normal_(std=0.2, generator=draw)
    return made


def load_vae(tiny: Tiny, draw: torch.Generator) -> Any:
    """A VAE with the family's latents: of videos for families that share one with video models."""
    import comfy.sd

    if len(tiny.latent) == 1:
        weights = {
            key.removeprefix("first_stage_model."): value
            for key, value in random_vae(1.0, draw, channels=tiny.latent[0]).items()
        }
        made = comfy.sd.VAE(sd=weights, metadata={"tae_latent_channels": tiny.latent[0]})
        if tiny.latent[0] == 128:
            # The host knows that it is 16 of the release's VAE, not of this small one.
            made.downscale_ratio = made.upscale_ratio = 16
        return made
    import comfy.ldm.wan.vae

    shape = {"dim": 8, "z_dim": 16, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2}
    rest = {"attn_scales": [], "temperal_downsample": [False, True, True], "dropout": 0.0}
    with torch.device("meta"):
        made = comfy.ldm.wan.vae.WanVAE(**shape, **rest)
    weights = random_weights(made, draw)
    for key, value in weights.items():
        if key.endswith("gamma"):
            value.fill_(1.0)
    return comfy.sd.VAE(sd=weights)
