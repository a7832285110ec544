"""A small BLIP that learns in a minute to describe the sprite world, for captions that are true.

`python -m harness.models.sprite_captioner FOLDER` saves it as users' folders of caption models are.
"""

from __future__ import annotations

import random
import re
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from world.concepts import CREW, character_pictures
from world.sprites import all_scenes, draw

SIDE, CELL = 64, 8
SIZE = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
SIZE |= {"num_attention_heads": 4}
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
STEPS, BATCH, RATE = 450, 48, 2e-3


def examples(seed: int = 0) -> list[tuple[Tensor, str]]:
    """Pictures (64, 64, 3) of every scene and of the crew, with what they show, without where."""
    shake = torch.Generator().manual_seed(seed)
    found = [(draw(scene, shake), scene.caption) for scene in all_scenes()]
    for name in CREW:
        for one in range(4):
            crew = character_pictures(name, character=name, count=48, seed=seed + one)
            found += [(picture.pixels, picture.caption) for picture in crew]
    return [(pixels, re.sub(r" at the \w+", "", caption)) for pixels, caption in found]


def words(captions: list[str]) -> Any:
    """A tokenizer of the whole words of some captions."""
    import transformers

    known = sorted({word for caption in captions for word in caption.split()})
    return transformers.BertTokenizer(vocab={w: n for n, w in enumerate(SPECIAL + known)})


def model_of(tokenizer: Any) -> Any:
    """A BLIP whose patches are the cells of a sprite."""
    import transformers as tf

    ends = {"bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id}
    text = {**SIZE, **ends, "vocab_size": len(tokenizer), "encoder_hidden_size": 64}
    text |= {"projection_dim": 32, "pad_token_id": tokenizer.pad_token_id}
    text |= {"sep_token_id": tokenizer.sep_token_id, "max_position_embeddings": 32}
    vision = {**SIZE, "image_size": SIDE, "patch_size": CELL, "projection_dim": 32}
    config = tf.BlipConfig(text_config=text, vision_config=vision, projection_dim=32)
    return tf.BlipForConditionalGeneration(config)


def train(folder: Path, steps: int = STEPS) -> float:
    """Save a captioner that was trained for some steps; the mean loss of the last 50."""
    import transformers as tf

    torch.manual_seed(0)
    chance, known = random.Random(0), examples()
    tokenizer = words([caption for _, caption in known])
    model = model_of(tokenizer)
    images = tf.BlipImageProcessor(size={"height": SIDE, "width": SIDE})
    processor = tf.BlipProcessor(images, tokenizer)
    pixels = torch.stack([picture for picture, _ in known]).permute(0, 3, 1, 2)
    mean, spread = (torch.tensor(x).view(3, 1, 1) for x in (images.image_mean, images.image_std))
    pixels = (pixels - mean) / spread
    encoded = tokenizer([caption for _, caption in known], padding=True, return_tensors="pt")
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    decline = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    losses = []
    for _ in range(steps):
        rows = torch.tensor(chance.sample(range(len(known)), BATCH))
        ids, mask = encoded["input_ids"][rows], encoded["attention_mask"][rows]
        labels = ids.masked_fill(mask == 0, -100)
        made = model(pixel_values=pixels[rows], input_ids=ids, attention_mask=mask, labels=labels)
        optimizer.zero_grad()
        made.loss.backward()
        optimizer.step()
        decline.step()
        losses.append(made.loss.item())
    model.eval()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return sum(losses[-50:]) / 50


if __name__ == "__main__":
    print(f"loss {train(Path(sys.argv[1])):.3f}")
