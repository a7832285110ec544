"""Which tensors of a model its files do not fill.

ComfyUI loads with strict=False: what a file does not hold is memory that nobody wrote, and other
numbers each time. Nothing that has to be the same tomorrow may read it.
"""

from __future__ import annotations

import logging
import os
import types
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import comfy.diffusers_convert
import comfy.model_detection
import comfy.sd
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from safetensors import safe_open
from torch import Tensor, nn

LOG = logging.getLogger(__name__)
READ_WHOLE = 2**16
"""Numbers of a tensor that the host's loader may look at; of larger ones it asks the shape."""
EXPECTED = (".logit_scale", "clip_l.transformer.text_projection.weight")
"""Ends of names that ComfyUI itself expects to be missing, and says nothing when they are."""
_known: WeakKeyDictionary[nn.Module, frozenset[str]] = WeakKeyDictionary()


def unfilled(model: ModelPatcher) -> frozenset[str]:
    """Names of the parameters that no file fills, as far as the model's loader tells its files."""
    root: nn.Module = model.model
    if root not in _known:
        _known[root] = _find(model)
    return _known[root]


def _find(model: ModelPatcher) -> frozenset[str]:
    root = model.model
    own = [name for name, _ in root.named_parameters(remove_duplicate=False)]
    expected = frozenset(
        name
        for name in own
        if name.endswith(".logit_scale")
        or name.endswith("clip_l.transformer.text_projection.weight")
    )
    made_by = getattr(model, "cached_patcher_init", None)
    load = _LOADERS.get(getattr(made_by[0], "__name__", "")) if made_by else None
    if made_by is None or load is None:
        return expected
    try:
        with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
            # torch warns that a copy into a tensor without memory does nothing.
            warnings.simplefilter("ignore")
            copy = _Copy(root)
            load(copy.root, made_by[1])
            missing = copy.untouched()
    except Exception as error:
        # Any loader of any pack may stand here, with any file.
        LOG.debug("The files of %s could not be read again: %s", type(root).__name__, error)
        return expected
    # A loader that renames in a way not known here fills nothing of the copy.
    return missing if len(missing) < len(own) else expected


class _Copy:
    """The modules of a model without memory, to be loaded by the host's own code."""

    def __init__(self, root: nn.Module):
        self._made: dict[int, Any] = {}
        self.root = self._module(root)
        self._blank = {
            name: (tensor, tensor._version)
            for name, tensor in self.root.named_parameters(remove_duplicate=False)
        }

    def untouched(self) -> frozenset[str]:
        """Names of the parameters that were neither written nor replaced."""
        now = dict(self.root.named_parameters(remove_duplicate=False))
        return frozenset(
            name
            for name, (tensor, version) in self._blank.items()
            if now.get(name) is tensor and tensor._version == version
        )

    def _module(self, module: nn.Module) -> Any:
        made = self._made.get(id(module))
        if made is None:
            self._made[id(module)] = made = object.__new__(type(module))
            parts = vars(module)
            vars(made).update(parts)
            for kind, copied in (
                ("_parameters", self._parameter),
                ("_buffers", self._buffer),
                ("_modules", self._module),
            ):
                each = parts[kind].items()
                vars(made)[kind] = {n: None if p is None else copied(p) for n, p in each}
        return made

    def _parameter(self, tensor: Tensor) -> nn.Parameter:
        return self._once(tensor, lambda: nn.Parameter(blank(tensor), requires_grad=False))

    def _buffer(self, tensor: Tensor) -> Tensor:
        return self._once(tensor, lambda: blank(tensor))

    def _once(self, tensor: Tensor, make: Callable[[], Any]) -> Any:
        if id(tensor) not in self._made:
            self._made[id(tensor)] = make()
        return self._made[id(tensor)]


def blank(tensor: Tensor) -> Tensor:
    """A tensor of the same shape and type without memory."""
    return torch.empty(tuple(tensor.shape), dtype=tensor.dtype, device="meta")


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str] | None]:
    """The tensors of a file, the large ones without memory, and its metadata."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    # The file is mapped, so that only what is looked at is read.
    return {
        name: tensor if tensor.numel() <= READ_WHOLE else blank(tensor)
        for name, tensor in tensors.items()
    }, metadata


def _model_of_checkpoint(root: Any, arguments: Sequence[Any]) -> None:
    tensors, metadata = _read(arguments[0])
    prefix = comfy.model_detection.unet_prefix_from_state_dict(tensors)
    tensors, _ = _converted(tensors, prefix, metadata)
    root.load_model_weights(tensors, prefix)


def _model_alone(root: Any, arguments: Sequence[Any]) -> None:
    tensors, metadata = _read(arguments[0])
    tensors, metadata = _converted(tensors, "", metadata)
    detection = comfy.model_detection
    prefix = detection.unet_prefix_from_state_dict(tensors)
    inside = comfy.utils.state_dict_prefix_replace(tensors, {prefix: ""}, filter_keys=True)
    if inside:
        tensors, metadata = _converted(inside, "", metadata)
    if detection.model_config_from_unet(tensors, "", metadata=metadata) is None:
        tensors = detection.convert_diffusers_mmdit(tensors, "") or _from_diffusers(root, tensors)
    root.load_model_weights(tensors, "")


def _from_diffusers(root: Any, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    names = comfy.utils.unet_to_diffusers(root.model_config.unet_config)
    return {own: tensors[name] for name, own in names.items() if name in tensors}


def _converted(
    tensors: dict[str, Tensor], prefix: str, metadata: Any
) -> tuple[dict[str, Tensor], Any]:
    """Quantized weights in the names of today, on hosts that rename them."""
    convert = getattr(comfy.utils, "convert_old_quants", None)
    return convert(tensors, prefix, metadata=metadata) if convert else (tensors, metadata)


def _clip_of_checkpoint(root: Any, arguments: Sequence[Any]) -> None:
    tensors, metadata = _read(arguments[0])
    load = _with_clip_for(comfy.sd.load_state_dict_guess_config, root)
    load(tensors, output_vae=False, output_model=False, metadata=metadata)


def _clip_alone(root: Any, arguments: Sequence[Any]) -> None:
    paths, _, kind, options = arguments[:4]
    each = [_converted(*_read_for(path))[0] for path in paths]
    load = _with_clip_for(comfy.sd.load_text_encoder_state_dicts, root)
    load(each, clip_type=kind, model_options=dict(options))


def _read_for(path: str) -> tuple[dict[str, Tensor], str, Any]:
    tensors, metadata = _read(path)
    return tensors, "", metadata


def _with_clip_for(loader: Any, root: Any) -> Any:
    """The host's loader with another end: it makes no CLIP but loads what it found into `root`."""

    def fill(*_: Any, state_dict: Any, **__: Any) -> None:
        # As the host's CLIP does: one dictionary of a checkpoint, or a list of files.
        if not isinstance(state_dict, list):
            root.load_state_dict(state_dict, strict=False)
        for tensors in state_dict if isinstance(state_dict, list) else ():
            root.load_sd(tensors)

    names = {**loader.__globals__, "CLIP": fill}
    alike = types.FunctionType(loader.__code__, names, None, loader.__defaults__)
    alike.__kwdefaults__ = loader.__kwdefaults__
    return alike


def _vae_of_checkpoint(root: Any, arguments: Sequence[Any]) -> None:
    tensors, metadata = _read(arguments[0])
    prefix = comfy.model_detection.unet_prefix_from_state_dict(tensors)
    tensors, metadata = _converted(tensors, prefix, metadata)
    config = comfy.model_detection.model_config_from_unet(tensors, prefix, metadata=metadata)
    if config is None:
        raise ValueError(f"ComfyUI does not know the family of {arguments[0]}.")
    prefixes = {name: "" for name in config.vae_key_prefix}
    inside = comfy.utils.state_dict_prefix_replace(tensors, prefixes, filter_keys=True)
    _load_vae(root, config.process_vae_state_dict(inside))


def _vae_alone(root: Any, arguments: Sequence[Any]) -> None:
    _load_vae(root, _read(arguments[0])[0])


def _load_vae(root: Any, tensors: dict[str, Tensor]) -> None:
    own = root.state_dict().keys()
    if not own & tensors.keys() and "decoder.up_blocks.0.resnets.0.norm1.weight" in tensors:
        tensors = comfy.diffusers_convert.convert_vae_state_dict(tensors)
    root.load_state_dict(tensors, strict=False)


_LOADERS: Mapping[str, Callable[[Any, Sequence[Any]], None]] = {
    "load_checkpoint_guess_config": _model_of_checkpoint,
    "load_checkpoint_clip_patcher": _clip_of_checkpoint,
    "load_checkpoint_vae_patcher": _vae_of_checkpoint,
    "load_diffusion_model": _model_alone,
    "load_clip_model_patcher": _clip_alone,
    "load_vae_patcher": _vae_alone,
}
"""By the name of the function that the host would call to load the model again."""
