"""Tiny random models of the families beyond SD1.5 and SDXL, made and loaded by the host's code.

The host reads most sizes of a diffusion model from the shapes in its file. What it does not read
(the width of Chroma's, Lumina's and Qwen-Image's blocks is that of the release, whatever the file
says) is given to the host's own class of that family instead. Text encoders are cut by the options
that the host's loader has for that; a mark is a key that the loader looks for and no cut one has.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .checkpoints import Tensors, clip_module, random_vae, random_weights

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
        network={
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
        },
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoder:
    """A text encoder that is cut: by these entries of its config, recognised by these marks."""

    cut: Mapping[str, Any]
    marks: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


CLIP = {"num_hidden_layers": 3, "intermediate_size": 64}
LLM = {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 32}
ENCODERS = {
    "clip_l": Encoder(cut=CLIP),
    "clip_h": Encoder(
        cut=CLIP,
        marks={"text_model.encoder.layers.22.mlp.fc1.weight": (1, 1)},
    ),
    "clip_g": Encoder(
        cut=CLIP,
        marks={"text_model.encoder.layers.30.mlp.fc1.weight": (1, 1)},
    ),
    "t5xxl": Encoder(
        cut={"num_layers": 2, "num_heads": 2, "d_ff": 64},
        marks={"encoder.block.23.layer.1.DenseReluDense.wi_1.weight": (10240, 1)},
    ),
    "qwen3_4b": Encoder(cut={**LLM, "num_hidden_layers": 3}),
    # The width of the release's keys says which Qwen it is; the rest of it is free.
    "qwen25_7b": Encoder(
        cut={
            **LLM,
            "num_hidden_layers": 2,
            "hidden_size": 64,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
        }
    ),
    "gemma2_2b": Encoder(cut={**LLM, "num_hidden_layers": 3, "vocab_size": 512}),
}
WORDS = "a the dog cat photo of in garden red green with and many things on grass blue is it to at"


def load(name: str, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE of a tiny family with random weights, as the host's loaders make them."""
    tiny, draw = TINY[name], torch.Generator().manual_seed(seed)
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
        return comfy.sd.VAE(sd=weights, metadata={"tae_latent_channels": tiny.latent[0]})
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


def load_clip(tiny: Tiny, draw: torch.Generator) -> Any:
    """The CLIP, found by the host in its encoders' weights, which are cut."""
    import comfy.sd

    options = {f"{name}_model_config": dict(ENCODERS[name].cut) for name in tiny.encoders}
    # The host's look for a longer CLIP puts this in the place of both CLIPs' entries.
    options["model_config"] = dict(ENCODERS["clip_l"].cut)
    made = comfy.sd.load_text_encoder_state_dicts(
        [encoder_weights(name, draw) for name in tiny.encoders],
        clip_type=comfy.sd.CLIPType[tiny.clip_type],
        model_options=options,
    )
    for name in tiny.encoders:
        encoder = getattr(made.cond_stage_model, name)
        if tiny.taps:
            encoder.layer = list(tiny.taps)
            encoder.options_default = (encoder.layer, *encoder.options_default[1:])
        tokenizer = vars(made.tokenizer).get(name)
        if tokenizer is not None:
            tokenizer.embedding_size = ENCODERS[name].cut.get(
                "hidden_size", tokenizer.embedding_size
            )
    return made


def encoder_weights(name: str, draw: torch.Generator) -> Tensors:
    """A cut text encoder in fp16, in the keys of its published files."""
    made = random_weights(encoder_module(name), draw)
    for key, weight in made.items():
        if key.endswith("SelfAttention.q.weight"):
            # T5 does not scale its attention, but starts from smaller queries instead.
            weight *= 64**-0.5
        elif name.startswith("gemma") and weight.dim() == 1:
            # Gemma adds one to the scales of its norms.
            weight.zero_()
    made |= {key: torch.zeros(shape) for key, shape in ENCODERS[name].marks.items()}
    if name == "gemma2_2b":
        made["spiece_model"] = sentencepiece_model()
    return made


def encoder_module(name: str) -> nn.Module:
    """A cut text encoder without weights."""
    import comfy.ops
    import comfy.text_encoders.llama as llama
    import comfy.text_encoders.t5

    cut, rest = dict(ENCODERS[name].cut), (torch.float32, "meta", comfy.ops.manual_cast)
    if name.startswith("clip"):
        return clip_module(name, **cut)
    if name == "t5xxl":
        return comfy.text_encoders.t5.T5({**t5_config(), **cut}, *rest)
    kinds = {
        "qwen3_4b": llama.Qwen3_4B,
        "qwen25_7b": llama.Qwen25_7BVLI,
        "gemma2_2b": llama.Gemma2_2B,
    }
    return nn.ModuleDict({"model": kinds[name](cut, *rest).model})


def t5_config() -> dict[str, Any]:
    import json
    from pathlib import Path

    import comfy.text_encoders.t5

    folder = Path(comfy.text_encoders.t5.__file__).parent
    return json.loads((folder / "t5_config_xxl.json").read_text(encoding="utf-8"))


def sentencepiece_model() -> Tensor:
    """A tokenizer of a few words, for the encoders whose files carry their own."""
    import sentencepiece

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([WORDS, "abcdefghijklmnopqrstuvwxyz,.:"] * 20),
        model_writer=written,
        vocab_size=64,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        minloglevel=2,
    )
    return torch.frombuffer(bytearray(written.getvalue()), dtype=torch.uint8)
