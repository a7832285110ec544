"""A node for a server that tests start: from its run on, new memory holds random numbers."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

DRAWN = 4096


class UsedMemory(TorchFunctionMode):
    """Fills what torch.empty gives, in the thread that runs prompts."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        made = function(*args, **(kwargs or {}))
        if function is torch.empty and made.dtype.is_floating_point and made.device.type == "cpu":
            flat, drawn = made.view(-1), torch.rand(DRAWN, generator=self.rng).to(made.dtype)
            whole = len(flat) - len(flat) % DRAWN
            flat[:whole].view(-1, DRAWN).copy_(drawn)
            flat[whole:].copy_(drawn[: len(flat) - whole])
        return made

    rng = torch.Generator().manual_seed(int.from_bytes(os.urandom(7), "little"))


class UseMemory:
    RETURN_TYPES = ()
    FUNCTION = "begin"
    OUTPUT_NODE = True
    CATEGORY = "harness"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"serial": ("INT", {"default": 0})}}

    def begin(self, serial: int) -> dict[str, Any]:
        # It stays for the life of the thread.
        UsedMemory().__enter__()
        return {}


NODE_CLASS_MAPPINGS = {"Harness_UseMemory": UseMemory}
