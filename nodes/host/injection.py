"""Adapters, frozen layers and checkpointed blocks put into a host model and taken out again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import PatcherInjection
from torch import Tensor, nn

from .checkpoint import checkpointed_forward
from .frozen import frozen_forward

KEY = "pivotal_training"


@dataclass(kw_only=True)
class TrainingInjection:
    """What is put into one borrowed model; `root` is the module that `adapters` are named from."""

    root: nn.Module
    adapters: Mapping[str, nn.Module] = field(default_factory=dict)
    blocks: frozenset[str] = frozenset()
    """Class names of the blocks to recompute in backward."""
    adapted: bool = True
    """Whether the adapters act at present."""
    _undo: list[Callable[[], None]] = field(default_factory=list)

    def install(self, patcher: ModelPatcher) -> None:
        """Let the host inject this into the clone `patcher` whenever it loads it.

        The host ejects in the order of injection, which would leave the forward of a user's
        own injection behind; so all of them become one that ejects in reverse.
        """
        earlier = [one for group in patcher.injections.values() for one in group]

        def inject(owner: ModelPatcher) -> None:
            for one in earlier:
                one.inject(owner)
            self._inject()

        def eject(owner: ModelPatcher) -> None:
            self._eject()
            for one in reversed(earlier):
                one.eject(owner)

        patcher.injections = {}
        patcher.set_injections(KEY, [PatcherInjection(inject=inject, eject=eject)])

    def _inject(self) -> None:
        names = {module: name for name, module in self.root.named_modules()}
        for module, name in names.items():
            frozen = frozen_forward(module, module.forward)
            if frozen is not None:
                self._replace(module, self._with_adapter(frozen, self.adapters.get(name)))
        for module, name in names.items():
            if type(module).__name__ in self.blocks:
                inside = any(key.startswith(f"{name}.") for key in self.adapters)
                self._replace(module, checkpointed_forward(module.forward, adapted=inside))

    def _with_adapter(
        self, forward: Callable[..., Tensor], adapter: nn.Module | None
    ) -> Callable[..., Tensor]:
        if adapter is None:
            return forward

        def adapted(x: Tensor, *rest: Any) -> Tensor:
            y = forward(x, *rest)
            return y + adapter(x) if self.adapted else y

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

    def _eject(self) -> None:
        while self._undo:
            self._undo.pop()()


def give_back(patcher: ModelPatcher) -> None:
    """Eject what a training clone injected and restore what it swapped; weights stay put."""
    patcher.cleanup()
    patcher.eject_model()
    patcher.unpatch_model(unpatch_weights=False)
