"""Captioning in batches, one by one, and by ComfyUI's TextGenerate on a list."""

from __future__ import annotations

import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from common import ROOT
from PIL import Image

from dataset.page import store
from harness.host.graphs import Graph
from harness.host.runner import start_host
from harness.models.captioners import save_captioner
from harness.models.vlm import save_vlm, tiny_qwen
from pack.nodes.host.captioners.clip import ClipCaptioner
from pack.nodes.host.captioners.model import ComputePrecision, FolderCaptioner
from pack.nodes.host.images import as_image
from pack.training.dataset.captioning.ask import Asking

TOKENS = 8


def blip_base(folder: Path) -> Path:
    """A BLIP of BLIP-base's size with random weights, saved in half precision to save disk."""
    import transformers as tf

    from harness.models.captioner_parts import letters

    words = letters()
    config = tf.BlipConfig()
    text: Any = config.text_config
    text.bos_token_id, text.pad_token_id = words.cls_token_id, words.pad_token_id
    text.eos_token_id = text.sep_token_id = words.sep_token_id
    model = tf.BlipForConditionalGeneration(config)
    model.half().save_pretrained(folder)
    processor = tf.BlipProcessor(tf.BlipImageProcessor(size={"height": 384, "width": 384}), words)
    processor.save_pretrained(folder)
    return folder


def pictures(count: int) -> list[Image.Image]:
    return [Image.effect_noise((384, 320), 90).convert("RGB") for _ in range(count)]


def seconds(captioner: Any, images: list[Image.Image], size: int) -> float:
    """Seconds per picture in batches of this size, after a warm-up."""
    asking = Asking(prompt="What is it?", max_tokens=TOKENS)
    with torch.inference_mode():
        captioner.caption(images[:1], asking, [0])
        started = time.monotonic()
        for start in range(0, len(images), size):
            part = images[start : start + size]
            captioner.caption(part, asking, [0] * len(part))
    return round((time.monotonic() - started) / len(images), 4)


def folder_rows(work: Path) -> list[dict[str, Any]]:
    rows = []
    for name, folder, count in (
        ("tiny BLIP", save_captioner("blip", work / "blip"), 32),
        ("tiny Qwen2.5-VL", save_captioner("qwen2_5_vl", work / "qwen"), 32),
        ("BLIP-base, random", blip_base(work / "base"), 4),
    ):
        captioner = FolderCaptioner(folder, ComputePrecision.FP32)
        captioner._model.generation_config.min_new_tokens = TOKENS
        images = pictures(count)
        row = {"model": name, "pictures": count}
        rows.append(row | {f"batch_{size}": seconds(captioner, images, size) for size in (1, 4)})
    return rows


def host_row(work: Path) -> dict[str, Any]:
    """The same tiny Qwen3-VL used as Caption Dataset does, and by TextGenerate over a list."""
    host = start_host(ROOT)
    path = host.base / "models" / "text_encoders" / "tiny_qwen3vl.safetensors"
    images = pictures(8)
    with tiny_qwen():
        save_vlm(path)
        graph = Graph()
        clip = graph.add("CLIPLoader", clip_name=path.name, type="stable_diffusion")
        graph.keep(clip.out())
        loaded = host.run(graph)[clip, 0]
        ours = seconds(ClipCaptioner(loaded), images, 4)
        graph = Graph()
        text = [
            graph.add(
                "TextGenerate",
                clip=graph.give(loaded),
                prompt="What is it?",
                image=graph.give(as_image(image)),
                max_length=TOKENS,
                **{"sampling_mode": "off"},
            )
            for image in images
        ]
        for node in text:
            graph.keep(node.out())
        started = time.monotonic()
        host.run(graph)
    theirs = round((time.monotonic() - started) / len(images), 4)
    return {"model": "tiny Qwen3-VL in CLIPLoader", "pictures": 8, "caption_dataset": ours,
            "text_generate": theirs}  # fmt: skip


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="pivotal-captions-") as name:
        result = {
            "device": "cpu",
            "threads": torch.get_num_threads(),
            "machine": platform.machine(),
            "new_tokens": TOKENS,
            "folders": folder_rows(Path(name)),
            "host": host_row(Path(name)),
        }
    store("captions", result)
    return 0
