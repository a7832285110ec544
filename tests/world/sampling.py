"""Many prompts through the host's sampler at once; each picture has a seed of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Models = tuple[Any, Any, Any]
STEPS, CFG, SAMPLER, SCHEDULER = 10, 3.0, "dpmpp_2m", "karras"
AT_ONCE = 16
FLOW_SCHEDULER = "simple"
SETTINGS = f"{SAMPLER}, {SCHEDULER}, {STEPS} steps, cfg {CFG:g}"


def sample(
    models: Models, prompts: Sequence[str], *, first_seed: int = 0, unwanted: str = ""
) -> Tensor:
    """Pictures (n, 64, 64, 3) in 0..1; prompt i is sampled with the seed `first_seed` + i.

    The negative prompt is `unwanted`.
    """
    model, clip, vae = models
    with torch.inference_mode():
        words = encode(clip, prompts)
        empty = encode(clip, [unwanted])
        parts = [
            _sample(model, words[i : i + AT_ONCE], empty, first_seed + i)
            for i in range(0, len(prompts), AT_ONCE)
        ]
        return vae.decode(torch.cat(parts))


def encode(clip: Any, prompts: Sequence[str]) -> Tensor:
    """Conditioning (n, 77, 768), by the nodes that a graph would use, prompt by prompt."""
    import nodes
    from pack.nodes.host.text.output_embeddings import encode_with_outputs
    from pack.nodes.host.text.tokenizer import overlaid_names

    if any(name.outputs for name in overlaid_names(clip).values()):
        return torch.cat([encode_with_outputs(clip, prompt)[0][0][0] for prompt in prompts])
    return torch.cat([nodes.CLIPTextEncode().encode(clip, prompt)[0][0][0] for prompt in prompts])


def _sample(model: Any, words: Tensor, empty: Tensor, seed: int) -> Tensor:
    import comfy.sample
    from comfy.model_sampling import CONST

    flows = isinstance(model.get_model_object("model_sampling"), CONST)
    scheduler = FLOW_SCHEDULER if flows else SCHEDULER
    seeds = range(seed, seed + len(words))
    noise = torch.cat([comfy.sample.prepare_noise(torch.zeros(1, 4, 8, 8), s) for s in seeds])
    return comfy.sample.sample(
        model, noise, STEPS, CFG, SAMPLER, scheduler, [[words, {}]], [[empty, {}]],
        torch.zeros_like(noise), seed=seed, disable_pbar=True,
    )  # fmt: skip
