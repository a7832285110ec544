"""Adapters, frozen layers and checkpointed blocks put into a host model and taken out again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import comfy.ops
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import PatcherInjection
from torch import Tensor, nn

from ...training.adapters.base import Adapter
from .checkpoint import checkpointed_forward
from .foreign import recordable
from .frozen import frozen_forward

KEY = "pivotal_training"


@dataclass(kw_only=True)
class TrainingInjection:
    """What is put into one borrowed model; `root` is the module that `adapters` are named from."""

    root: nn.Module
    adapters: Mapping[str, Adapter] = field(default_factory=dict)
    blocks: frozenset[str] = frozenset()
    """Class names of the blocks to recompute in backward."""
    adapted: bool = True
    """Whether the adapters act at present."""
    _undo: list[Callable[[], None]] = field(default_factory=list)
    _frozen: int = 0
    """How many of the replacements are frozen layers."""

    def install(self, patcher: ModelPatcher) -> None:
        """Let the host inject this into the clone `patcher` whenever it loads it.

        The host ejects in the order of injection, which would leave the forward of a user's
        own injection behind; so all of them become one that ejects in reverse. Frozen layers
        lie below the user's injections, which then get their gradient, and all else above.
        """
        earlier = [one for group in patcher.injections.values() for one in group]

        def inject(owner: ModelPatcher) -> None:
            self._freeze()
            below = self._forwards()
            for one in earlier:
                one.inject(owner)
            self._adapt(below)

        def eject(owner: ModelPatcher) -> None:
            self._undo_until(self._frozen)
            for one in reversed(earlier):
                one.eject(owner)
            self._undo_until(0)

        # A clone of a model in use is marked as injected, though it has put nothing in itself.
        patcher.is_injected = False
        patcher.injections = {}
        patcher.set_injections(KEY, [PatcherInjection(inject=inject, eject=eject)])

    def _forwards(self) -> dict[nn.Module, Any]:
        """What stands in the place of each module's own forward."""
        return {module: module.__dict__.get("forward") for module in self.root.modules()}

    def _freeze(self) -> None:
        for module in self.root.modules():
            frozen = frozen_forward(module, module.forward)
            if frozen is not None:
                self._replace(module, frozen)
            if not isinstance(module, comfy.ops.CastWeightBiasOp):
                self._make_recordable(module)
        self._frozen = len(self._undo)

    def _make_recordable(self, module: nn.Module) -> None:
        """Put plain copies in the place of a norm's own small weights from inference mode.

        A backward pass keeps them, which torch refuses for tensors of inference mode. Layers
        of the host's operators are no part of this: theirs are fetched again.
        """
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is None or not tensor.is_inference() or not tensor.is_floating_point():
                    continue
                with torch.inference_mode(False):
                    copy = tensor.detach().clone()
                plain = tensors is module._parameters
                tensors[name] = nn.Parameter(copy, requires_grad=False) if plain else copy
                self._undo.append(partial(tensors.__setitem__, name, tensor))

    def _adapt(self, below: Mapping[nn.Module, Any]) -> None:
        for module, forward in self._forwards().items():
            if forward is not below[module]:
                self._replace(module, recordable(module.forward))
        names = {module: name for name, module in self.root.named_modules()}
        for module, name in names.items():
            if name in self.adapters:
                self._replace(module, self._with_adapter(module.forward, self.adapters[name]))
        for module, name in names.items():
            if type(module).__name__ in self.blocks:
                inside = any(key.startswith(f"{name}.") for key in self.adapters)
                self._replace(module, checkpointed_forward(module.forward, adapted=inside))

    def _with_adapter(
        self, forward: Callable[..., Tensor], adapter: Adapter
    ) -> Callable[..., Tensor]:
        def adapted(x: Tensor, *rest: Any) -> Tensor:
            if not self.adapted:
                return forward(x, *rest)
            return adapter.around(lambda y: forward(y, *rest), x)

        return adapted

    def _replace(self, module: nn.Module, forward: Callable[..., Tensor]) -> None:
        before = module.__dict__.get("forward")

        def undo() -> None:
            if before is None:
                del module.forward
            else:
                module.forward = before

        module.forward = forward
        self._undo.append(undo)

    def _undo_until(self, count: int) -> None:
        while len(self._undo) > count:
            self._undo.pop()()


def give_back(patcher: ModelPatcher) -> None:
    """Eject what a training clone injected and restore what it swapped; weights stay put."""
    patcher.cleanup()
    patcher.eject_model()
    patcher.unpatch_model(unpatch_weights=False)
