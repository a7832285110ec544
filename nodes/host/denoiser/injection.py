"""Adapters, frozen layers and recomputed blocks, put into a host model and taken out again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import comfy.ops
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import PatcherInjection
from torch import Tensor, nn

from ....training.adapters.base import Adapter
from .frozen_layers import frozen_forward, low_rank_forward, tamed
from .recompute import ADDING_BLOCKS, counted_forward, gathered_forward, recomputed_forward
from .user_patches import recordable

KEY = "pivotal_training"


@dataclass(kw_only=True)
class TrainingInjection:
    """Everything put into one borrowed model; `adapters` are named relative to `root`."""

    root: nn.Module
    adapters: Mapping[str, Adapter] = field(default_factory=dict)
    blocks: frozenset[str] = frozenset()
    """Class names of the blocks that must be recomputed in backward."""
    large: frozenset[str] = frozenset()
    """Class names of the blocks that are recomputed unless `kept` names them."""
    kept: frozenset[str] | None = None
    """Names of the large blocks that keep their activations; None for all of them."""
    counts: dict[str, int] | None = None
    """If given, collects the bytes that each large block keeps."""
    adapted: bool = True
    """Whether the adapters act."""
    _undo: list[Callable[[], None]] = field(default_factory=list)
    _bare: dict[nn.Module, Callable[..., Tensor]] = field(default_factory=dict)
    """The host's forward of each frozen layer."""
    _theirs: dict[str, list[PatcherInjection]] = field(default_factory=dict)
    _frozen: int = 0
    """How many entries of `_undo` belong to frozen layers."""

    def install(self, patcher: ModelPatcher) -> None:
        """Make the host inject this into the clone `patcher` whenever it loads the clone."""
        earlier = [injection for group in patcher.injections.values() for injection in group]

        def inject(owner: ModelPatcher) -> None:
            # Frozen layers go below the user's injections, which so get a gradient; adapters and
            # recomputation go above them.
            self._freeze()
            below = self._forwards()
            for injection in earlier:
                injection.inject(owner)
            self._adapt(below)

        def eject(owner: ModelPatcher) -> None:
            self._undo_until(self._frozen)
            for injection in reversed(earlier):
                injection.eject(owner)
            self._undo_until(0)

        # The host ejects in the order of injection, which would put the forward of a user's
        # injection back last. So all of them become a single one, which ejects in reverse order.
        # The clone of a model in use is marked as injected, although nothing is in it yet.
        patcher.is_injected = False
        self._theirs, patcher.injections = patcher.injections, {}
        patcher.set_injections(KEY, [PatcherInjection(inject=inject, eject=eject)])

    def uninstall(self, patcher: ModelPatcher) -> None:
        """Eject this and give the clone its user's injections back."""
        give_back(patcher)
        patcher.injections = self._theirs

    def _forwards(self) -> dict[nn.Module, Any]:
        """What replaces the forward of each module, None if nothing does."""
        return {module: module.__dict__.get("forward") for module in self.root.modules()}

    def _freeze(self) -> None:
        blocks = [m for m in self.root.modules() if type(m).__name__ in ADDING_BLOCKS]
        adding = {module for block in blocks for module in block.modules()}
        self._bare = {}
        for module in self.root.modules():
            changes = module in adding
            bare = tamed(module, module.forward)
            frozen = frozen_forward(module, bare, input_changes=changes)
            if frozen is not None:
                self._bare[module] = bare
                self._replace(module, frozen)
            if not isinstance(module, comfy.ops.CastWeightBiasOp):
                self._make_recordable(module)
        self._frozen = len(self._undo)

    def _make_recordable(self, module: nn.Module) -> None:
        """Replace weights that were made in inference mode by ordinary copies."""
        # Autograd saves the small weights of a norm and refuses tensors of inference mode.
        # Layers with the host's cast are not concerned: their weights are fetched again.
        groups = (module._parameters, module._buffers)
        for tensors in cast("tuple[dict[str, Any], ...]", groups):
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
                bare = self._bare.get(module) if module.forward is below[module] else None
                self._replace(module, self._with_adapter(module, self.adapters[name], bare))
        for module, name in names.items():
            self._wrap_block(module, name)

    def _wrap_block(self, module: nn.Module, name: str) -> None:
        kind = type(module).__name__
        if kind not in self.large | self.blocks:
            return
        if self.counts is not None:
            self._replace(module, counted_forward(module.forward, self._counter(name)))
        if kind not in self.blocks and (self.kept is None or name in self.kept):
            self._replace(module, gathered_forward(module.forward))
            return
        inside = any(key.startswith(f"{name}.") for key in self.adapters)
        self._replace(module, recomputed_forward(module.forward, adapted=inside))

    def _counter(self, name: str) -> Callable[[int], None]:
        counts = self.counts
        assert counts is not None
        counts.setdefault(name, 0)

        def note(size: int) -> None:
            counts[name] += size

        return note

    def _with_adapter(
        self, module: nn.Module, adapter: Adapter, bare: Callable[..., Tensor] | None
    ) -> Callable[..., Tensor]:
        """The module's forward with an adapter; `bare` is the host's, if nothing is in between."""
        forward = module.forward
        if isinstance(module, nn.Linear) and bare is not None and adapter.factors() is not None:
            fused = low_rank_forward(module, bare, adapter.factors)
            return lambda x: fused(x) if self.adapted else forward(x)

        def adapted(x: Tensor, *args: Any) -> Tensor:
            if not self.adapted:
                return forward(x, *args)
            return adapter.around(lambda y: forward(y, *args), x)

        return adapted

    def _replace(self, module: nn.Module, forward: Callable[..., Any]) -> None:
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
    """Eject what a training clone injected and restore what it replaced; weights stay loaded."""
    patcher.cleanup()
    patcher.eject_model()
    patcher.unpatch_model(unpatch_weights=False)
