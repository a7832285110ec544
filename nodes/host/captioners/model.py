"""Caption models of transformers, read from a folder and run in the host's memory management."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import comfy.model_management as management
import torch
from comfy.model_patcher import ModelPatcher
from PIL import Image
from torch import nn

from ....training.dataset.captioning.ask import Asking, Captioner
from ..versions import is_oom
from .damage import (
    CONFIG,
    WEIGHTS,
    check_model,
    check_quantization,
    explained,
    read_object,
    reason,
)
from .florence import is_legacy, load_legacy

# Older versions take code from the internet if a folder's configuration asks for it
# (CVE-2026-4372).
LEAST_TRANSFORMERS = (5, 3, 0)
# What a configuration may not decide: which code computes, and where it comes from.
CODE_CHOICES = re.compile(
    r"\w*_implementation(_\w+)?|auto_map|trust_remote_code|use_pretrained_backbone"
    r"|(use_|allow_all_)kernels|kernel_config|configuration_files|checkpoint_path|pretrained_cfg\w*"
)
# Some models make a small part anew that captions do not need; more than this is a damaged file.
MOST_MISSING = 0.01
# The words of torch where the CPU's memory is short.
NO_ROOM = "can't allocate memory"

# Models that continue a fixed text or start without one, and do not follow instructions.
OWN_PROMPTS = {
    "blip": "",
    "blip-2": "",
    "git": "",
    "florence2": "<MORE_DETAILED_CAPTION>",
    "paligemma": "caption en",
    "vision-encoder-decoder": "",
    "pix2struct": "",
    # With "<grounding>" it would mix coordinates into the text.
    "kosmos-2": "An image of",
}


class ComputePrecision(str, Enum):
    """The number format in which a caption model computes."""

    AUTO = "auto"
    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"


class BadTemplate(ValueError):
    """A chat template that makes no question."""


class _Shell(nn.Module):
    """Wraps a model of transformers, which refuses the attributes that the host's patcher sets."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def get_dtype(self) -> torch.dtype:
        return self.model.dtype


class FolderCaptioner:
    """A model from a folder that transformers knows as one from pictures and text to text.

    The host loads and unloads it like its own models. Nothing is downloaded, and no code from the
    folder is run.
    """

    def __init__(self, folder: Path, precision: ComputePrecision):
        check_transformers()
        self.kind = checked_kind(folder)
        check_model(folder)
        check_quantization(
            folder,
            on_cpu=management.is_device_cpu(management.text_encoder_device()),
            installed=find_spec("bitsandbytes") is not None,
        )
        self.name = folder.name
        dtype = chosen_dtype(precision, self.kind)
        self._processor, model = load_model(folder, dtype)
        self._model = model.eval().requires_grad_(False)
        self._patcher = ModelPatcher(
            _Shell(self._model),
            load_device=management.text_encoder_device(),
            offload_device=management.text_encoder_offload_device(),
        )
        self.identity = f"{folder.name} {self.kind} {_weights_digest(folder)} {dtype}"

    @property
    def follows_instructions(self) -> bool:
        """Whether the prompt changes the answer."""
        return self.kind not in OWN_PROMPTS

    @property
    def patcher(self) -> ModelPatcher:
        return self._patcher

    def caption(
        self, pictures: Sequence[Image.Image], asking: Asking, seeds: Sequence[int]
    ) -> list[str]:
        """An answer for each picture, in one batch if the memory allows it.

        Raises RuntimeError if there is not enough memory for the model itself.
        """
        self._load()
        try:
            with explained(self.name):
                return self._generate(pictures, asking, seeds)
        except Exception as error:
            if not is_oom(error):
                raise
        management.soft_empty_cache()
        if len(pictures) == 1:
            raise ValueError(
                f"{self.name} runs out of memory on one image: lower max_side or max_tokens."
            )
        half = len(pictures) // 2
        return [
            *self.caption(pictures[:half], asking, seeds[:half]),
            *self.caption(pictures[half:], asking, seeds[half:]),
        ]

    def _generate(
        self, pictures: Sequence[Image.Image], asking: Asking, seeds: Sequence[int]
    ) -> list[str]:
        management.throw_exception_if_processing_interrupted()
        if asking.temperature > 0 and len(pictures) > 1:
            # Sampling draws for the whole batch; alone, each picture depends on its own seed.
            pairs = zip(pictures, seeds, strict=True)
            return [self._generate([picture], asking, [seed])[0] for picture, seed in pairs]
        inputs = self._inputs(pictures, asking.prompt)
        self._load(self._memory(inputs, asking.max_tokens))
        inputs = self._placed(inputs)
        return self._decoded(inputs, asking, seeds[0])

    def _load(self, memory: int = 0) -> None:
        """Let the host load the weights, with so many bytes free in addition."""
        try:
            management.load_models_gpu(
                [self._patcher], memory_required=memory, force_full_load=True
            )
        except Exception as error:
            if not is_oom(error) or memory:
                raise
            management.soft_empty_cache()
            raise RuntimeError(
                f"There is not enough memory for {self.name}: choose a smaller model, or a "
                "precision of 16 bits."
            ) from error

    def _inputs(self, pictures: Sequence[Image.Image], prompt: str) -> Any:
        processor = self._processor
        tokenizer = getattr(processor, "tokenizer", processor)
        is_encoder_decoder = bool(getattr(self._model.config, "is_encoder_decoder", False))
        tokenizer.padding_side = "right" if is_encoder_decoder else "left"
        images = [picture.convert("RGB") for picture in pictures]
        if self.follows_instructions and getattr(processor, "chat_template", None):
            text = chat(self._processor, prompt or "Describe this picture.", self.name)
            nested = [[image] for image in images]
            options = {"text": [text] * len(images), "padding": True, "return_tensors": "pt"}
            try:
                return processor(images=nested, **options)
            except (TypeError, ValueError, AttributeError):
                return processor(images=images, **options)
        text = OWN_PROMPTS.get(self.kind, prompt)
        if prompt.startswith("<") and self.kind == "florence2":
            text = prompt
        if not text:
            return processor(images=images, return_tensors="pt")
        options = {"text": [text] * len(images), "padding": True, "return_tensors": "pt"}
        return processor(images=images, **options)

    def _placed(self, inputs: Any) -> dict[str, Any]:
        device, dtype = self._patcher.load_device, self._model.dtype
        return {
            name: value.to(device, dtype if value.is_floating_point() else None)
            if torch.is_tensor(value)
            else value
            for name, value in inputs.items()
        }

    def _decoded(self, inputs: dict[str, Any], asking: Asking, seed: int) -> list[str]:
        from transformers import StoppingCriteriaList

        settings: dict[str, Any] = {"do_sample": False, "num_beams": 1}
        if asking.temperature > 0:
            settings = {"do_sample": True, "temperature": asking.temperature, "num_beams": 1}
        with _Seeded(seed, self._patcher.load_device), torch.inference_mode():
            answer = self._model.generate(
                **inputs,
                max_new_tokens=asking.max_tokens,
                stopping_criteria=StoppingCriteriaList([_Interrupt()]),
                **settings,
            )
        prompt, start = inputs.get("input_ids"), 0
        # Decoders repeat the prompt before the answer; BLIP's caption includes its own opening.
        if prompt is not None and not getattr(self._model.config, "is_encoder_decoder", False):
            start = prompt.shape[1] if answer.shape[1] > prompt.shape[1] else 0
        return list(self._processor.batch_decode(answer[:, start:], skip_special_tokens=True))

    def _memory(self, inputs: Any, max_tokens: int) -> int:
        """An upper bound of the bytes that a batch needs in addition to the weights."""
        text = getattr(self._model.config, "text_config", self._model.config)
        layers = getattr(text, "num_hidden_layers", None) or getattr(text, "decoder_layers", 12)
        width = getattr(text, "hidden_size", None) or getattr(text, "d_model", 1024)
        prompt = inputs.get("input_ids")
        rows = len(prompt if prompt is not None else next(iter(inputs.values())))
        length = (prompt.shape[1] if prompt is not None else 64) + max_tokens
        size = torch.finfo(self._model.dtype).bits // 8
        pixels = inputs["pixel_values"].numel() if "pixel_values" in inputs else 0
        return int(rows * length * layers * 2 * width * size + 64 * pixels * size)


class _Interrupt:
    """Stops a generation within one token when the user cancels."""

    def __call__(self, input_ids: Any, scores: Any, **rest: Any) -> Any:
        management.throw_exception_if_processing_interrupted()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


class _Seeded:
    """Seeds the global generators, which transformers samples from, and restores them later."""

    def __init__(self, seed: int, device: torch.device):
        devices = [device] if device.type == "cuda" else []
        self._fork = torch.random.fork_rng(devices=devices)
        self._seed = seed

    def __enter__(self) -> None:
        self._fork.__enter__()
        torch.manual_seed(self._seed)

    def __exit__(self, *error: Any) -> None:
        self._fork.__exit__(*error)


def chosen_dtype(precision: ComputePrecision, kind: str) -> torch.dtype:
    """fp32 on the CPU; on a GPU bf16 if it is fast, or fp16 for small models, which allow it."""
    named = {
        ComputePrecision.FP32: torch.float32,
        ComputePrecision.FP16: torch.float16,
        ComputePrecision.BF16: torch.bfloat16,
    }
    if precision is not ComputePrecision.AUTO:
        return named[precision]
    device = management.text_encoder_device()
    if management.is_device_cpu(device):
        return torch.float32
    if kind in OWN_PROMPTS and kind != "paligemma":
        return torch.float16 if management.should_use_fp16(device) else torch.float32
    return torch.bfloat16 if management.should_use_bf16(device) else torch.float32


def _weights_digest(folder: Path) -> str:
    """A digest of the names, sizes and dates of a model's files."""
    rows = sorted(
        (path.name, path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.iterdir()
        if path.is_file()
    )
    return hashlib.sha256(repr(rows).encode()).hexdigest()[:12]


class PlainProcessor:
    """For folders with an image processor and a tokenizer but no processor, such as ViT-GPT2.

    Such models take a picture and no text.
    """

    def __init__(self, folder: Path, **options: Any):
        from transformers import AutoImageProcessor, AutoTokenizer

        self._images: Any = AutoImageProcessor.from_pretrained(folder, **options)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, **options)

    def __call__(self, images: Any, return_tensors: str, **text: Any) -> Any:
        return self._images(images, return_tensors=return_tensors)

    def batch_decode(self, tokens: Any, **options: Any) -> list[str]:
        return self.tokenizer.batch_decode(tokens, **options)


def chat(processor: Any, prompt: str, name: str) -> str:
    """A question about a picture in the words of the model's chat template, which is bounded."""
    from .chat_template import rendered

    template = processor.chat_template
    template = template.get("default") if isinstance(template, dict) else template
    content = [{"type": "image"}, {"type": "text", "text": prompt}]
    tokens = getattr(getattr(processor, "tokenizer", processor), "special_tokens_map", {})
    values = {
        "messages": [{"role": "user", "content": content}],
        "tools": None,
        "documents": None,
        "add_generation_prompt": True,
        **tokens,
    }
    try:
        if not isinstance(template, str):
            raise ValueError("it is not a text")
        return rendered(template, values)
    except ValueError as error:
        raise BadTemplate(
            f"The chat template of {name} cannot be used, because {error}: get the folder again "
            "from those who made the model, or choose another one."
        ) from error


def load_processor(folder: Path, **options: Any) -> Any:
    """The processor of a model's folder, made from local files only."""
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(folder, **options)
    # If the processor has no file of its own, transformers returns only one half of it.
    whole = hasattr(processor, "image_processor") and hasattr(processor, "tokenizer")
    return processor if whole else PlainProcessor(folder, **options)


def check_transformers() -> None:
    """Raise ValueError if the installed transformers is not safe against a made-up folder."""
    from transformers import __version__ as version

    numbers = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?(\.?(?:dev|rc|a|b))?", version)
    if numbers is None:
        return
    found = tuple(int(number or 0) for number in numbers.groups()[:3])
    # A first draft of a version may lack what the version has.
    if found < LEAST_TRANSFORMERS or (found == LEAST_TRANSFORMERS and numbers[4]):
        least = ".".join(map(str, LEAST_TRANSFORMERS))
        raise ValueError(
            f"Caption models need transformers {least} or newer, because a folder can make older "
            f"versions run code from the internet, and this is {version}: run python -m pip "
            "install -U transformers with ComfyUI's own Python, then start ComfyUI again."
        )


def checked_kind(folder: Path) -> str:
    """The model type of a folder; ValueError if this version of transformers cannot load it."""
    import transformers
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as KNOWN,
    )

    kind = str(read_object(folder / CONFIG).get("model_type", ""))
    if kind in KNOWN:
        return kind
    raise ValueError(
        f'{folder.name} is a model of type "{kind}", which transformers {transformers.__version__} '
        "does not load as a caption model without code from elsewhere: choose another, such as "
        "Florence-2, Qwen2.5-VL or JoyCaption, or, if the model is newer than that version, run "
        "python -m pip install -U transformers."
    )


def without_code_choices(value: Any) -> Any:
    """A configuration, with all its parts, without what would choose the code that runs it."""
    if isinstance(value, dict):
        return {
            key: without_code_choices(part)
            for key, part in value.items()
            if not CODE_CHOICES.fullmatch(key)
        }
    return [without_code_choices(part) for part in value] if isinstance(value, list) else value


def load_model(folder: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """Processor and model of a folder, on the CPU; ValueError if the folder is incomplete."""
    content = without_code_choices(read_object(folder / CONFIG))
    try:
        if is_legacy(content):
            return load_legacy(folder, content, dtype)
        return _load(folder, content, dtype)
    except BadTemplate:
        raise
    except ImportError as error:
        raise ValueError(missing_package(folder, error)) from error
    # A damaged file can fail anywhere inside the library, in many ways.
    except Exception as error:
        if is_oom(error) or isinstance(error, MemoryError) or NO_ROOM in str(error):
            raise ValueError(
                f"There is not enough memory to load {folder.name}: choose a smaller model, or a "
                "precision of 16 bits."
            ) from error
        raise ValueError(
            f"{folder.name} cannot be loaded ({reason(error)}): get the whole folder again with hf "
            f"download REPOSITORY --local-dir {folder}"
        ) from error


def _load(folder: Path, content: dict[str, Any], dtype: torch.dtype) -> tuple[Any, Any]:
    from transformers import CONFIG_MAPPING, AutoModelForImageTextToText

    options = {"local_files_only": True, "trust_remote_code": False}
    processor = load_processor(folder, **options)
    if content["model_type"] not in OWN_PROMPTS and getattr(processor, "chat_template", None):
        # Once before the weights are read, so that a bad template costs no time.
        chat(processor, "Describe this picture.", folder.name)
    both: Any = AutoModelForImageTextToText.from_pretrained(
        folder,
        config=CONFIG_MAPPING[content["model_type"]].from_dict(content),
        dtype=dtype,
        # None, for all parts: each takes torch's own attention if it can, or else the plain one.
        # A name could stand for code from the internet.
        attn_implementation=None,
        use_safetensors=True,
        output_loading_info=True,
        **options,
    )
    model, loaded = both
    sizes = {name: tensor.numel() for name, tensor in model.named_parameters()}
    missing = sorted(name for name in loaded["missing_keys"] if name in sizes)
    if sum(sizes[name] for name in missing) > MOST_MISSING * sum(sizes.values()):
        raise ValueError(f"{WEIGHTS} lacks {len(missing)} of its weights, such as {missing[0]}")
    return processor, model


def missing_package(folder: Path, error: ImportError) -> str:
    """The package that a model needs and how to install it, or else the text of the error."""
    advised = re.search(r"pip install ([\w.\[\]-]+)", str(error))
    name = advised[1] if advised else error.name
    if not name:
        return f"{folder.name} needs another package: {error}"
    return (
        f"{folder.name} needs the package {name}, which ComfyUI does not bring: run python -m pip "
        f"install {name} with ComfyUI's own Python, then start ComfyUI again."
    )


_: type[Captioner] = FolderCaptioner
