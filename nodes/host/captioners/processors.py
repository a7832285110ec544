"""What turns pictures and questions into a caption model's inputs, and its answer into text."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class PlainProcessor:
    """Of folders that hold an image processor and a tokenizer and no processor, such as ViT-GPT2.

    Such models take a picture alone.
    """

    def __init__(self, folder: Path, **options: Any):
        from transformers import AutoImageProcessor, AutoTokenizer

        self._images: Any = AutoImageProcessor.from_pretrained(folder, **options)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, **options)

    def __call__(self, images: Any, return_tensors: str, **text: Any) -> Any:
        return self._images(images, return_tensors=return_tensors)

    def batch_decode(self, tokens: Any, **options: Any) -> list[str]:
        """The answers as text."""
        return self.tokenizer.batch_decode(tokens, **options)


def load_processor(folder: Path, **options: Any) -> Any:
    """The processor of a model's folder, from what lies in it alone."""
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(folder, **options)
    # Without a processor's own file transformers gives one half of it.
    whole = hasattr(processor, "image_processor") and hasattr(processor, "tokenizer")
    return processor if whole else PlainProcessor(folder, **options)
