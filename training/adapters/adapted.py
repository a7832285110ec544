"""All adapters of a run as one thing that is trained."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from ..config import TrainConfig
from ..data import MicroStep
from ..optimizers.choices import Algorithm, make_optimizer
from ..trained import Learned, Places, Trained
from . import MODEL, TEXT, Adapter, AdapterConfig, census, export_adapters

ADAPTER_RATE = 1e-4


class Adapters(Trained):
    """The adapters of the diffusion model's and of the text encoders' layers.

    One module may serve several layers: it is listed, updated and penalized once.
    """

    optimizer_names = ("adapters", "text")

    def __init__(
        self,
        config: AdapterConfig,
        layers: Mapping[str, Adapter],
        text_layers: Mapping[str, Adapter],
    ):
        self.config, self.layers, self.text_layers = config, layers, text_layers

    def parameters(self) -> dict[str, nn.Parameter]:
        parts = {"adapters": self.layers, "text_adapters": self.text_layers}
        named = {
            f"{part}.{layer}.{name}": factor
            for part, adapters in parts.items()
            for layer, adapter in adapters.items()
            for name, factor in adapter.named_parameters()
        }
        seen = set[nn.Parameter]()
        return {n: p for n, p in named.items() if p not in seen and not seen.add(p)}

    def optimizers(self, config: TrainConfig, live: Collection[str]) -> dict[str, Optimizer]:
        """One for both parts, with the text encoders' rate as a share of the other.

        Prodigy refuses groups of different rates, since it has one estimate for all of them; with
        such rates it is one optimizer each.
        """
        groups = {"adapters": _factors(self.layers), "text": _factors(self.text_layers)}
        groups = {name: factors for name, factors in groups.items() if factors}
        prodigy = config.optimizer.algorithm is Algorithm.PRODIGY
        apart = prodigy and len(groups) > 1 and self.config.text_rate != 1
        together = (
            {name: {name: groups[name]} for name in groups} if apart else {"adapters": groups}
        )
        optimizers = {
            name: make_optimizer(config.optimizer, parts, ADAPTER_RATE)
            for name, parts in together.items()
            if parts
        }
        for group in (group for one in optimizers.values() for group in one.param_groups):
            group["rate"] *= self.config.text_rate if group["name"] == "text" else 1.0
        return optimizers

    def places(self) -> Places:
        return Places(layers=self.layers, text_layers=self.text_layers)

    def before_encoding(self, first: MicroStep | None) -> None:
        # One pass encodes the captions of all micro steps, so the first stands for them.
        for adapter in _distinct(self.text_layers):
            adapter.begin(first)

    def begin(self, micro_step: MicroStep | None) -> None:
        for adapter in _distinct(self.layers):
            adapter.begin(micro_step)

    def penalty(self) -> Tensor | None:
        adapters = [*_distinct(self.layers), *_distinct(self.text_layers)]
        terms = [adapter.penalty() for adapter in adapters]
        present = [term for term in terms if term is not None]
        return sum(present[1:], present[0]) if present else None

    def learned(self) -> Learned:
        model, text = export_adapters(self.layers, MODEL), export_adapters(self.text_layers, TEXT)
        peft = {
            layer: {suffix: one.detach().to("cpu", copy=True) for suffix, one in tensors.items()}
            for layer, adapter in self.layers.items()
            if (tensors := adapter.peft_tensors())
        }
        return Learned(lora=model | text, peft=peft)

    def summary(self) -> list[str]:
        return census({MODEL: self.layers, TEXT: self.text_layers}, self.config.patterns)


def _distinct(adapters: Mapping[str, Adapter]) -> Iterable[Adapter]:
    return dict.fromkeys(adapters.values())


def _factors(adapters: Mapping[str, Adapter]) -> list[nn.Parameter]:
    factors = (p for adapter in _distinct(adapters) for p in adapter.parameters())
    return list(dict.fromkeys(p for p in factors if p.requires_grad))
