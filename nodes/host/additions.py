"""What nodes put on a MODEL or CLIP beside its weights, described alike after every restart.

Callables are described by their qualified names, by what they close over and by their arguments:
never by addresses. Only what training runs counts: what a sampler alone would call does not.
"""

from __future__ import annotations

import dis
import functools
import hashlib
import math
import re
import types
import uuid
import weakref
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP
from torch import Tensor, nn

from .denoiser.user_patches import POSITIVE, SHORTCUTS
from .digests import SAMPLED_NUMBERS, model_digest
from .text.tokenizer import overlaid_names, takes_vectors

DEPTH = 16
FEW = 8
"""Numbers of a tensor that are described one by one"""
REPLACED = {*POSITIVE, "sigmas", "optimized_attention_override", "wrappers", "callbacks"}
"""Options that training replaces; wrappers and callbacks are described with the model's own."""
UNUSED = {*REPLACED, *SHORTCUTS}
OF_SAMPLERS = {
    "outer_sample",
    "prepare_sampling",
    "sampler_sample",
    "predict_noise",
    "calc_cond_batch",
}
"""Kinds of wrappers that no training step calls."""
NO_PATCHES = {"model_sampling", "manual_cast_dtype"}
"""Patched objects that a digest of the weights covers, or that only set the precision."""
_LEFT_OUT: Any = object()
_first: dict[int, tuple[weakref.ref[Any], Any]] = {}


def additions_to_model(model: ModelPatcher) -> str:
    """A digest of what nodes put on a MODEL that changes what training computes; "" for nothing."""
    return _digest(_of_patcher(model), model)


def additions_to_clip(clip: CLIP) -> str:
    """The same of a CLIP, its names apart."""
    own = {
        "tokenizer options": clip.tokenizer_options,
        "scheduled": getattr(clip, "use_clip_schedule", False) or {},
        "hooks": getattr(clip, "apply_hooks_to_conds", None) or {},
    }
    return _digest(_of_patcher(clip.patcher) | own, clip.patcher)


def names_of_clip(clip: CLIP) -> dict[str, str]:
    """A digest for each name that is bound to a CLIP, of its vectors and how prompts find it."""
    if not takes_vectors(clip):
        return {}
    return {
        name: _hash((_whole(entry.vectors), _whole(entry.outputs), entry.bare, entry.fallback))
        for name, entry in sorted(overlaid_names(clip).items())
    }


def _whole(vectors: Mapping[str, Tensor]) -> list[tuple[str, list[Any]]]:
    return [(key, v.detach().float().cpu().tolist()) for key, v in sorted(vectors.items())]


def _of_patcher(model: ModelPatcher) -> dict[str, Any]:
    """By kind, as a new model has nothing of it."""
    options = model.model_options.get("transformer_options", {})
    others = getattr(model, "additional_models", {})
    return {
        "options": {name: value for name, value in options.items() if name not in UNUSED},
        "wrappers": [_wrappers(options.get("wrappers", {})), _wrappers(model.wrappers)],
        "callbacks": [_filled(options.get("callbacks", {})), _filled(model.callbacks)],
        "objects": {
            name: patch
            for name, patch in model.object_patches.items()
            # Compiled blocks are replaced by what they were compiled from.
            if name not in NO_PATCHES and not hasattr(patch, "_orig_mod")
        },
        "weights": getattr(model, "weight_wrapper_patches", {}),
        "injections": model.injections,
        "hooks": [list(model.hook_patches.values()), model.forced_hooks],
        "models": {
            name: [(model_digest(other), additions_to_model(other)) for other in each]
            for name, each in others.items()
            if name != "multigpu"
        },
    }


def _wrappers(kinds: Mapping[str, Mapping[str, list[Any]]]) -> dict[str, Any]:
    """Those that a training step calls."""
    kept = {
        kind: {key: each for key, each in of_kind.items() if key not in SHORTCUTS}
        for kind, of_kind in kinds.items()
        if kind not in OF_SAMPLERS
    }
    return _filled(kept)


def _filled(kinds: Mapping[str, Mapping[str, list[Any]]]) -> dict[str, Any]:
    """Without the empty lists that the host leaves."""
    kept = {kind: {key: e for key, e in each.items() if e} for kind, each in kinds.items()}
    return {kind: each for kind, each in kept.items() if each}


def _digest(parts: Mapping[str, Any], model: ModelPatcher) -> str:
    parts = {name: part for name, part in parts.items() if _says_something(part)}
    return _hash(_Describer(parts, model).of(parts)) if parts else ""


def _says_something(part: Any) -> bool:
    if isinstance(part, list | tuple):
        return any(_says_something(one) for one in part)
    return part is not None and part != {}


def _hash(described: Any) -> str:
    return hashlib.sha256(repr(described).encode()).hexdigest()[:16]


class _Describer:
    """Describes values by what they are made of."""

    def __init__(self, value: Any, model: ModelPatcher):
        self._own = {id(module): name for name, module in model.model.named_modules()}
        self._assigned = {
            id(cell) for function in _functions(value, set()) for cell in _assigned(function)
        }
        self._open: list[int] = []

    def of(self, value: Any) -> Any:
        """A value as nested tuples of texts and numbers; no address, device or running number."""
        if value is None or isinstance(value, bool | int | float | complex | str | bytes):
            return value
        if isinstance(value, torch.device | torch.Generator | uuid.UUID):
            return _LEFT_OUT
        if isinstance(value, Tensor):
            return _tensor(value)
        if isinstance(value, Enum | torch.dtype):
            return str(value)
        if id(value) in self._own:
            return ("module of the model", self._own[id(value)])
        if isinstance(value, ModelPatcher):
            return ("model", type(value.model).__name__)
        if id(value) in self._open or len(self._open) > DEPTH:
            return "..."
        self._open.append(id(value))
        try:
            return self._parts(value)
        finally:
            self._open.pop()

    def _parts(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            pairs = [(self.of(key), self.of(one)) for key, one in value.items()]
            return ("dict", *sorted((pair for pair in pairs if _LEFT_OUT not in pair), key=repr))
        if isinstance(value, list | tuple):
            return ("list", *self._each(value))
        if isinstance(value, set | frozenset):
            return ("set", *sorted(self._each(value), key=repr))
        if isinstance(value, type):
            return _qualified(value)
        if isinstance(value, functools.partial):
            return ("partial", *self._each([value.func, value.args, value.keywords]))
        if isinstance(value, types.MethodType):
            return ("method", value.__func__.__qualname__, self.of(value.__self__))
        if isinstance(value, types.BuiltinFunctionType):
            return _qualified(value)
        function = isinstance(value, types.FunctionType)
        return _at_first(value, self._function if function else self._object)

    def _each(self, values: Any) -> list[Any]:
        described = [self.of(value) for value in values]
        return [one for one in described if one is not _LEFT_OUT]

    def _function(self, function: types.FunctionType) -> Any:
        cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
        held = {
            name: cell.cell_contents
            for name, cell in cells.items()
            # What a function assigns is its state; what it was made with stays.
            if id(cell) not in self._assigned and not _is_empty(cell)
        }
        given = [function.__defaults__, function.__kwdefaults__]
        # Several lambdas of a scope share their name.
        code = function.__code__.co_names if function.__name__ == "<lambda>" else ()
        return ("function", _qualified(function), code, self.of(held), *self._each(given))

    def _object(self, value: Any) -> Any:
        module = isinstance(value, nn.Module)
        own = [_tensor(tensor) for tensor in value.state_dict().values()] if module else []
        held = {
            name: one
            for name, one in getattr(value, "__dict__", {}).items()
            # What is empty at first and later a method of the model is there while it is loaded.
            if one is not None and not self._is_of_model(one)
        }
        for name in ("_parameters", "_buffers", "_modules") if module else ():
            held.pop(name, None)
        return ("object", _qualified(type(value)), own, self.of(held))

    def _is_of_model(self, value: Any) -> bool:
        return isinstance(value, types.MethodType) and id(value.__self__) in self._own


def _tensor(tensor: Tensor) -> Any:
    """What stays of a tensor when it is cast to the precision of the layer that it works on.

    The host casts the weights of LoRAs in bypass in place, once they have been sampled with.
    """
    flat = tensor.detach().flatten()
    taken = flat[:: max(1, len(flat) // SAMPLED_NUMBERS)].float().cpu()
    if len(taken) <= FEW:
        return ("tensor", tuple(tensor.shape), [f"{number:.2g}" for number in taken.tolist()])
    size = math.frexp(taken.abs().max().item())[1]
    return ("tensor", tuple(tensor.shape), size, taken.sign().tolist())


def _at_first(value: Any, describe: Callable[[Any], Any]) -> Any:
    """The description as it was when this object was first seen; objects gather state."""
    known = _first.get(id(value))
    if known is not None and known[0]() is value:
        return known[1]
    described, key = describe(value), id(value)
    try:
        gone = weakref.ref(value, lambda _: _first.pop(key, None))
    except TypeError:
        return described
    _first[id(value)] = gone, described
    return described


def _qualified(value: Any) -> str:
    """The name of a class or function; of a pack's module that of its folder, wherever it lies."""
    module = re.split(r"[\\/]", getattr(value, "__module__", None) or "")[-1]
    return f"{module}.{getattr(value, '__qualname__', '')}"


def _is_empty(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is cell
    except ValueError:
        return True


def _functions(value: Any, seen: set[int]) -> Iterator[types.FunctionType]:
    """Every function in nested containers, closures and methods."""
    if id(value) in seen or isinstance(value, str | bytes | Tensor | nn.Module | ModelPatcher):
        return
    seen.add(id(value))
    if isinstance(value, Mapping):
        inside = list(value.values())
    elif isinstance(value, list | tuple | set):
        inside = list(value)
    elif isinstance(value, types.FunctionType):
        yield value
        inside = [cell.cell_contents for cell in value.__closure__ or () if not _is_empty(cell)]
    elif isinstance(value, types.MethodType):
        inside = [value.__func__, *vars(value).values()]
    elif isinstance(value, functools.partial):
        inside = [value.func, *value.args, *value.keywords.values()]
    else:
        inside = list(getattr(value, "__dict__", {}).values()) if len(seen) < 2000 else []
    for one in inside:
        yield from _functions(one, seen)


def _assigned(function: types.FunctionType) -> list[types.CellType]:
    """The cells of an outer scope that a function, or one inside it, assigns."""
    names = set(_stored(function.__code__))
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    return [cell for name, cell in cells if name in names]


def _stored(code: types.CodeType) -> Iterator[str]:
    for step in dis.get_instructions(code):
        if step.opname == "STORE_DEREF" and step.argval in code.co_freevars:
            yield step.argval
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from (name for name in _stored(inner) if name in code.co_freevars)
