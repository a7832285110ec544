"""Tiny random caption models, built from configurations alone and saved as users' folders are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.models.captioner_parts import (
    SMALL,
    TURNS,
    VISION,
    bytes_with,
    chat_words,
    decoder_of,
    ends_of,
    letters,
    qwen_config,
    qwen_turns,
    qwen_words,
    symbols,
)
from harness.models.more_captioners import MORE


def blip() -> tuple[Any, Any]:
    import transformers as tf

    words = letters()
    ends = {"bos_token_id": words.cls_token_id, "eos_token_id": words.sep_token_id}
    text = {**SMALL, "vocab_size": len(words), "encoder_hidden_size": 32, "projection_dim": 16}
    text |= {**ends, "pad_token_id": words.pad_token_id, "sep_token_id": words.sep_token_id}
    text["max_position_embeddings"] = 64
    config = tf.BlipConfig(
        text_config=text, vision_config={**VISION, "projection_dim": 16}, projection_dim=16
    )
    images = tf.BlipImageProcessor(size={"height": 32, "width": 32})
    return tf.BlipForConditionalGeneration(config), tf.BlipProcessor(images, words)


def git() -> tuple[Any, Any]:
    import transformers as tf

    words = letters()
    config = tf.GitConfig(
        **SMALL,
        vocab_size=len(words),
        max_position_embeddings=64,
        bos_token_id=words.cls_token_id,
        eos_token_id=words.sep_token_id,
        pad_token_id=words.pad_token_id,
        vision_config=VISION,
    )
    images = tf.CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    return tf.GitForCausalLM(config), tf.GitProcessor(images, words)


def blip2() -> tuple[Any, Any]:
    import transformers as tf

    words = chat_words()
    query = {**SMALL, "vocab_size": 50, "encoder_hidden_size": 32}
    text = {"model_type": "opt", "vocab_size": len(words), "hidden_size": 32, "ffn_dim": 64}
    text |= {"word_embed_proj_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text |= {"max_position_embeddings": 128, **ends_of(words)}
    config = tf.Blip2Config(
        vision_config=VISION,
        qformer_config=query,
        text_config=text,
        num_query_tokens=8,
        image_token_index=words.convert_tokens_to_ids("<image>"),
    )
    images = tf.BlipImageProcessor(size={"height": 32, "width": 32})
    processor = tf.Blip2Processor(images, words, num_query_tokens=8)
    return tf.Blip2ForConditionalGeneration(config), processor


def florence2() -> tuple[Any, Any]:
    import transformers as tf

    special = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    words = tf.BartTokenizer(
        vocab=symbols(special), merges=[], extra_special_tokens={"image_token": "<image>"}
    )
    words.add_tokens([f"<loc_{n}>" for n in range(8)] + ["<od>", "</od>", "<sep>"])
    four = {"depths": (1,) * 4, "embed_dim": (16,) * 4, "num_heads": (2,) * 4}
    vision = {**four, "num_groups": (2,) * 4, "window_size": 2, "projection_dim": 32}
    text = {"model_type": "bart", "vocab_size": len(words), "d_model": 32}
    text |= {f"{part}_{kind}": size for part in ("encoder", "decoder") for kind, size in
             (("layers", 2), ("ffn_dim", 64), ("attention_heads", 2))}  # fmt: skip
    text |= {"max_position_embeddings": 256, "bos_token_id": 0, "pad_token_id": 1}
    text |= {"eos_token_id": 2, "decoder_start_token_id": 2, "forced_eos_token_id": 2}
    config = tf.Florence2Config(
        image_token_id=words.convert_tokens_to_ids("<image>"),
        vision_config={**vision, "drop_path_rate": 0.0},
        text_config=text,
    )
    images = tf.CLIPImageProcessor(
        size={"height": 64, "width": 64}, do_center_crop=False, image_seq_length=5
    )
    return tf.Florence2ForConditionalGeneration(config), tf.Florence2Processor(images, words)


def qwen2_5_vl() -> tuple[Any, Any]:
    import transformers as tf

    words = qwen_words()
    vision = {"patch_size": 14, "window_size": 56, "fullatt_block_indexes": [1]}
    config = tf.Qwen2_5_VLConfig(**qwen_config(words, {}, vision))
    sizes = {"shortest_edge": 28 * 28, "longest_edge": 4 * 28 * 28}
    images = tf.Qwen2VLImageProcessor(patch_size=14, merge_size=2, size=sizes)
    videos = tf.Qwen2VLVideoProcessor(patch_size=14, merge_size=2)
    processor = tf.Qwen2_5_VLProcessor(images, words, videos, chat_template=qwen_turns())
    return tf.Qwen2_5_VLForConditionalGeneration(config), processor


def qwen3_vl() -> tuple[Any, Any]:
    import transformers as tf

    words = qwen_words()
    text = {"num_hidden_layers": 3, "head_dim": 16, "rope": {"mrope_interleaved": True}}
    vision = {"depth": 3, "patch_size": 16, "num_position_embeddings": 16}
    vision["deepstack_visual_indexes"] = [0, 1]
    config = tf.Qwen3VLConfig(**qwen_config(words, text, vision))
    sizes = {"shortest_edge": 32 * 32, "longest_edge": 4 * 32 * 32}
    images = tf.Qwen2VLImageProcessor(patch_size=16, merge_size=2, size=sizes)
    videos = tf.Qwen3VLVideoProcessor(patch_size=16, merge_size=2)
    processor = tf.Qwen3VLProcessor(images, words, videos, chat_template=qwen_turns())
    return tf.Qwen3VLForConditionalGeneration(config), processor


def llava() -> tuple[Any, Any]:
    """SigLIP and Llama, the shape of JoyCaption."""
    import transformers as tf

    words = chat_words()
    config = tf.LlavaConfig(
        vision_config=tf.SiglipVisionConfig(**{**VISION, "num_hidden_layers": 3}),
        text_config=tf.LlamaConfig(
            **SMALL,
            vocab_size=len(words),
            num_key_value_heads=1,
            max_position_embeddings=512,
            **ends_of(words),
        ),
        image_token_id=words.convert_tokens_to_ids("<image>"),
        vision_feature_select_strategy="full",
        vision_feature_layer=-2,
        image_seq_length=4,
    )
    processor = tf.LlavaProcessor(
        tf.SiglipImageProcessor(size={"height": 32, "width": 32}),
        words,
        patch_size=16,
        vision_feature_select_strategy="full",
        image_token="<image>",
        num_additional_image_tokens=0,
        chat_template=TURNS.replace("IMAGE", "<image>"),
    )
    return tf.LlavaForConditionalGeneration(config), processor


def paligemma() -> tuple[Any, Any]:
    import transformers as tf

    words = chat_words()
    vision = {**VISION, "model_type": "siglip_vision_model", "projection_dim": 32}
    text = {**SMALL, "model_type": "gemma", "vocab_size": len(words) + 8, "head_dim": 16}
    text |= {"num_key_value_heads": 1, "max_position_embeddings": 256, **ends_of(words)}
    config = tf.PaliGemmaConfig(
        vision_config={**vision, "vision_use_head": False},
        text_config=text,
        projection_dim=32,
        image_token_index=words.convert_tokens_to_ids("<image>"),
    )
    images = tf.SiglipImageProcessor(size={"height": 32, "width": 32})
    images.image_seq_length = 4
    return tf.PaliGemmaForConditionalGeneration(config), tf.PaliGemmaProcessor(images, words)


def smolvlm() -> tuple[Any, Any]:
    """Pictures are cut into tiles, so that those of a batch differ in the number of tokens."""
    import transformers as tf
    from transformers.models.smolvlm import processing_smolvlm as module

    # The package names the numbers of a video's frames: nothing of it is used for a picture.
    module.num2words = module.num2words or str
    words = chat_words(
        fake_image_token="<fake_token_around_image>",
        global_image_token="<global-img>",
        end_of_utterance_token="<end_of_utterance>",
    )
    config = tf.SmolVLMConfig(
        vision_config={**VISION, "patch_size": 8},
        text_config=decoder_of(words, "llama"),
        scale_factor=2,
        image_token_id=words.convert_tokens_to_ids("<image>"),
    )
    images = tf.SmolVLMImageProcessor(
        size={"longest_edge": 64}, max_image_size={"longest_edge": 32}
    )
    processor = tf.SmolVLMProcessor(
        images,
        words,
        tf.SmolVLMVideoProcessor(),
        image_seq_len=4,
        chat_template=TURNS.replace("IMAGE", "<image>"),
    )
    return tf.SmolVLMForConditionalGeneration(config), processor


def internvl() -> tuple[Any, Any]:
    """InternViT and Qwen2; tiles as SmolVLM's."""
    import transformers as tf

    words = bytes_with(
        {
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
    )
    config = tf.InternVLConfig(
        vision_config={**VISION, "patch_size": 8},
        text_config=decoder_of(words, "qwen2"),
        image_seq_length=4,
        image_token_id=words.convert_tokens_to_ids("<IMG_CONTEXT>"),
    )
    processor = tf.InternVLProcessor(
        tf.GotOcr2ImageProcessor(size={"height": 32, "width": 32}, crop_to_patches=True),
        words,
        tf.InternVLVideoProcessor(size={"height": 32, "width": 32}),
        image_seq_length=4,
        chat_template=TURNS.replace("IMAGE", "<IMG_CONTEXT>"),
    )
    return tf.InternVLForConditionalGeneration(config), processor


FAMILIES: dict[str, Callable[[], tuple[Any, Any]]] = {
    build.__name__: build
    for build in (
        blip,
        git,
        blip2,
        florence2,
        qwen2_5_vl,
        qwen3_vl,
        llava,
        paligemma,
        smolvlm,
        internvl,
    )
} | MORE


def save_captioner(family: str, folder: Path) -> Path:
    """A folder as `hf download` would leave it: config, weights and processor."""
    import torch

    torch.manual_seed(0)
    model, processor = FAMILIES[family]()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
