"""More families of tiny random caption models: what users have beside those that are advised."""

from __future__ import annotations

from collections.abc import Callable
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
)

SQUARE = {"height": 32, "width": 32}


def instructblip() -> tuple[Any, Any]:
    """A Q-Former with words of its own before an OPT."""
    import transformers as tf

    words = bytes_with({}, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    asked = letters()
    # The processor names the picture's token itself.
    images = tf.BlipImageProcessor(size=SQUARE)
    processor = tf.InstructBlipProcessor(images, words, asked, num_query_tokens=8)
    query = {**SMALL, "vocab_size": len(asked), "encoder_hidden_size": 32}
    text = {"model_type": "opt", "vocab_size": len(words), "hidden_size": 32, "ffn_dim": 64}
    text |= {"word_embed_proj_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text |= {"max_position_embeddings": 128, **ends_of(words)}
    config = tf.InstructBlipConfig(
        vision_config=VISION,
        qformer_config=query,
        text_config=text,
        num_query_tokens=8,
        image_token_index=words.convert_tokens_to_ids("<image>"),
    )
    return tf.InstructBlipForConditionalGeneration(config), processor


def qwen2_vl() -> tuple[Any, Any]:
    import transformers as tf

    words = qwen_words()
    settings = qwen_config(words, {}, {"patch_size": 14})
    settings["vision_config"] |= {"embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2}
    for name in ("intermediate_size", "out_hidden_size"):
        settings["vision_config"].pop(name)
    sizes = {"shortest_edge": 28 * 28, "longest_edge": 4 * 28 * 28}
    images = tf.Qwen2VLImageProcessor(patch_size=14, merge_size=2, size=sizes)
    videos = tf.Qwen2VLVideoProcessor(patch_size=14, merge_size=2)
    processor = tf.Qwen2VLProcessor(images, words, videos, chat_template=qwen_turns())
    return tf.Qwen2VLForConditionalGeneration(tf.Qwen2VLConfig(**settings)), processor


def idefics3() -> tuple[Any, Any]:
    """SmolVLM's elder, which needs no package for numbers."""
    import transformers as tf

    words = chat_words(
        fake_image_token="<fake_token_around_image>",
        global_image_token="<global-img>",
        end_of_utterance_token="<end_of_utterance>",
    )
    images = tf.Idefics3ImageProcessor(
        size={"longest_edge": 64}, max_image_size={"longest_edge": 32}
    )
    turns = TURNS.replace("IMAGE", "<image>")
    processor = tf.Idefics3Processor(images, words, image_seq_len=4, chat_template=turns)
    config = tf.Idefics3Config(
        vision_config={**VISION, "patch_size": 8},
        text_config=decoder_of(words, "llama"),
        scale_factor=2,
        image_token_id=words.convert_tokens_to_ids("<image>"),
    )
    return tf.Idefics3ForConditionalGeneration(config), processor


def llava_next() -> tuple[Any, Any]:
    """Tiles of a grid that fits the picture's shape."""
    import transformers as tf

    words = chat_words()
    config = tf.LlavaNextConfig(
        vision_config=tf.CLIPVisionConfig(**{**VISION, "num_hidden_layers": 3}),
        text_config=decoder_of(words, "mistral"),
        image_token_id=words.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=[[32, 64], [64, 32], [64, 64]],
        vision_feature_select_strategy="default",
        vision_feature_layer=-2,
    )
    processor = tf.LlavaNextProcessor(
        tf.LlavaNextImageProcessor(
            size={"shortest_edge": 32},
            crop_size=SQUARE,
            image_grid_pinpoints=config.image_grid_pinpoints,
        ),
        words,
        patch_size=16,
        vision_feature_select_strategy="default",
        image_token="<image>",
        num_additional_image_tokens=1,
        chat_template=TURNS.replace("IMAGE", "<image>"),
    )
    return tf.LlavaNextForConditionalGeneration(config), processor


def llava_onevision() -> tuple[Any, Any]:
    import transformers as tf

    words = chat_words(video_token="<video>")
    config = tf.LlavaOnevisionConfig(
        vision_config=tf.SiglipVisionConfig(**{**VISION, "num_hidden_layers": 3}),
        text_config=decoder_of(words, "qwen2"),
        image_token_id=words.convert_tokens_to_ids("<image>"),
        video_token_id=words.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=[[32, 64], [64, 32], [64, 64]],
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
    )
    processor = tf.LlavaOnevisionProcessor(
        tf.LlavaOnevisionImageProcessor(
            size=SQUARE, image_grid_pinpoints=config.image_grid_pinpoints
        ),
        words,
        tf.LlavaOnevisionVideoProcessor(size=SQUARE),
        num_image_tokens=4,
        vision_feature_select_strategy="full",
        chat_template=TURNS.replace("IMAGE", "<image>"),
    )
    return tf.LlavaOnevisionForConditionalGeneration(config), processor


def gemma3() -> tuple[Any, Any]:
    import transformers as tf

    named = {
        "image_token": "<image_soft_token>",
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
    }
    words = bytes_with(named, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    number = words.convert_tokens_to_ids
    text = {**decoder_of(words, "gemma3_text"), "head_dim": 16, "sliding_window": 64}
    config = tf.Gemma3Config(
        vision_config={**VISION, "model_type": "siglip_vision_model", "vision_use_head": False},
        text_config=text,
        mm_tokens_per_image=4,
        image_token_index=number("<image_soft_token>"),
        boi_token_index=number("<start_of_image>"),
        eoi_token_index=number("<end_of_image>"),
    )
    processor = tf.Gemma3Processor(
        tf.Gemma3ImageProcessor(size=SQUARE),
        words,
        chat_template=TURNS.replace("IMAGE", "<start_of_image>"),
        image_seq_length=4,
    )
    return tf.Gemma3ForConditionalGeneration(config), processor


def mistral3() -> tuple[Any, Any]:
    """Pixtral's eyes, which see any shape without cutting it."""
    import transformers as tf

    named = {"image_token": "[IMG]", "image_break_token": "[IMG_BREAK]"}
    named["image_end_token"] = "[IMG_END]"
    words = bytes_with(named, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    config = tf.Mistral3Config(
        vision_config={**VISION, "model_type": "pixtral", "patch_size": 8, "head_dim": 16},
        text_config={**decoder_of(words, "mistral"), "head_dim": 16},
        image_token_index=words.convert_tokens_to_ids("[IMG]"),
        spatial_merge_size=2,
        vision_feature_layer=-1,
    )
    processor = tf.PixtralProcessor(
        tf.PixtralImageProcessor(size={"longest_edge": 32}, patch_size=16),
        words,
        patch_size=8,
        spatial_merge_size=2,
        chat_template=TURNS.replace("IMAGE", "[IMG]"),
    )
    return tf.Mistral3ForConditionalGeneration(config), processor


def kosmos2() -> tuple[Any, Any]:
    """Reads pictures as words that stand behind the unknown one."""
    import transformers as tf

    ends = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    words = bytes_with({}, **ends)
    images = tf.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=SQUARE)
    processor = tf.Kosmos2Processor(images, words, num_patch_index_tokens=4)
    text = {"vocab_size": 512, "embed_dim": 32, "ffn_dim": 64, "layers": 2, "attention_heads": 2}
    text |= {"max_position_embeddings": 512, "dropout": 0.0, **ends_of(words)}
    config = tf.Kosmos2Config(vision_config=VISION, text_config=text, latent_query_num=64)
    return tf.Kosmos2ForConditionalGeneration(config), processor


class Halves:
    """An image processor and a tokenizer, saved beside each other without a processor."""

    def __init__(self, *parts: Any):
        self.parts = parts

    def save_pretrained(self, folder: Any) -> None:
        for part in self.parts:
            part.save_pretrained(folder)


def vit_gpt2() -> tuple[Any, Any]:
    import transformers as tf

    words = chat_words()
    eyes = tf.ViTConfig(**VISION)
    tongue = tf.GPT2Config(
        n_embd=32, n_layer=2, n_head=2, n_positions=64, vocab_size=len(words), **ends_of(words)
    )
    config = tf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(eyes, tongue)
    config.decoder_start_token_id = words.bos_token_id
    config.pad_token_id, config.eos_token_id = words.pad_token_id, words.eos_token_id
    model = tf.VisionEncoderDecoderModel(config)
    return model, Halves(tf.ViTImageProcessor(size=SQUARE), words)


MORE: dict[str, Callable[[], tuple[Any, Any]]] = {
    build.__name__: build
    for build in (
        instructblip,
        qwen2_vl,
        idefics3,
        llava_next,
        llava_onevision,
        gemma3,
        mistral3,
        kosmos2,
        vit_gpt2,
    )
}
