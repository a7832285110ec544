"""A node for a server that tests start: what the models of a graph are at this moment."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import comfy.model_management as management
import torch


class Digest:
    """Every weight's bytes, and whatever a run might leave on its models."""

    RETURN_TYPES = ()
    FUNCTION = "look"
    OUTPUT_NODE = True
    CATEGORY = "harness"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        models = {"model": ("MODEL",), "clip": ("CLIP",), "vae": ("VAE",)}
        return {"required": {**models, "serial": ("INT", {"default": 0})}}

    def look(self, model: Any, clip: Any, vae: Any, serial: int) -> dict[str, Any]:
        management.unload_all_models()
        roots = [model.model, clip.cond_stage_model, vae.first_stage_model]
        whole = hashlib.sha256()
        for root in roots:
            for name, tensor in root.state_dict().items():
                flat = tensor.detach().cpu().contiguous().reshape(-1)
                whole.update(name.encode() + flat.view(torch.uint8).numpy().tobytes())
        found = {
            "weights": whole.hexdigest(),
            "forwards": [name for root in roots for name in replaced(root)],
            "patches": [len(one.patches) for one in (model, clip.patcher, vae.patcher)],
            "injections": [len(one.injections) for one in (model, clip.patcher, vae.patcher)],
            "training": bool(getattr(management, "in_training", False)),
        }
        return {"ui": {"text": (json.dumps(found),)}}


def replaced(root: torch.nn.Module) -> list[str]:
    """Modules whose forward is not that of their class."""
    return [
        name
        for name, module in root.named_modules()
        if getattr(module.forward, "__func__", None) is not type(module).forward
    ]


NODE_CLASS_MAPPINGS = {"Harness_Digest": Digest}
