"""Number formats of a saved LoRA."""

from __future__ import annotations

from enum import Enum

import torch

KEEP = "as in the file"


class Precision(str, Enum):
    """Number format of the saved LoRA."""

    FP16 = "fp16"
    BF16 = "bf16"
    FP32 = "fp32"

    @property
    def dtype(self) -> torch.dtype:
        """As torch names it."""
        return {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}[self.value]
