"""The denoiser port: a MODEL is borrowed as a clone with adapters and given back untouched."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import comfy.model_management as management
import comfy.model_sampling
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ....training.memory import Plan
from ....training.ports import Conditioning, Crop, Layer, Noised
from ..versions import is_oom
from .injection import TrainingInjection
from .layers import adaptable_layers
from .recompute import IN_PLACE_BLOCKS, large_blocks
from .user_patches import transformer_options, without_shortcuts

BYTES_PER_PARAMETER = 16
"""Of an adapter in training: weight, gradient and two moments, each in fp32."""


class HostDenoiser:
    """The host's MODEL as the engine's Denoiser."""

    def __init__(
        self,
        model: ModelPatcher,
        *,
        checkpointing: bool,
        guidance: float = 0.0,
        companions: Callable[[], list[ModelPatcher]] = list,
    ):
        self._patcher = model.clone()
        without_shortcuts(self._patcher)
        self._kept, self._required = frozenset[str]() if checkpointing else None, 0
        self._large = large_blocks(self._patcher.model.diffusion_model)
        self._companions = companions
        # Without one the host says what its family is usually told.
        self._told = {"guidance": guidance} if guidance else {}
        self._injection: TrainingInjection | None = None
        self._counts: dict[str, int] | None = None
        self._loaded = False
        # A copy on the CPU: targets are exact in fp64 and no sigma waits for the GPU.
        self._sampling: Any = copy.deepcopy(model.get_model_object("model_sampling")).cpu()

    @property
    def patcher(self) -> ModelPatcher:
        """The clone that trains, with whatever the engine has attached."""
        return self._patcher

    @property
    def is_flow(self) -> bool:
        """Whether the host mixes noise and picture as in flow matching."""
        return isinstance(self._sampling, comfy.model_sampling.CONST)

    def layers(self) -> list[Layer]:
        """Every Linear and convolution of the diffusion model, by its dotted name."""
        return adaptable_layers(self._patcher.model.diffusion_model, self._have_weights)

    def _have_weights(self) -> None:
        """See that the weights are those of this MODEL; while it is borrowed they are."""
        if not self._loaded and self._injection is None:
            management.load_models_gpu([self._patcher])
            self._loaded = True

    def follow(self, plan: Plan, required: int) -> None:
        """Recompute what a plan says, and ask the host for the room that a step was measured at."""
        self._kept, self._required = plan.kept, required

    @contextmanager
    def counting(self) -> Iterator[dict[str, int]]:
        """Recompute every large block and count what each would keep; for `attach` inside."""
        before, self._kept, self._counts = self._kept, frozenset(), {}
        try:
            yield self._counts
        finally:
            self._kept, self._counts = before, None

    @contextmanager
    def attach(self, adapters: Mapping[str, nn.Module]) -> Iterator[None]:
        """Borrow: load the clone with the adapters injected and its raw output exposed."""
        model, device = self._patcher.model, self._patcher.load_device
        # Hosts before 0.30 leave this to whoever trains; newer ones do it when they load.
        model.diffusion_model.requires_grad_(False)
        for adapter in adapters.values():
            adapter.to(device)
        self._injection = TrainingInjection(
            root=model.diffusion_model,
            adapters=adapters,
            blocks=IN_PLACE_BLOCKS,
            large=self._large,
            kept=self._kept,
            counts=self._counts,
        )
        self._injection.install(self._patcher)
        self._patcher.add_object_patch("model_sampling", raw_output(self._patcher))
        before = management.in_training
        # Some of the host's operators have no gradient unless this says that one is wanted.
        management.in_training = True
        try:
            yield
        finally:
            management.in_training = before
            self._injection.uninstall(self._patcher)
            self._injection = None

    def save_memory(self) -> bool:
        """Recompute every block in backward from now on; False when that is done already."""
        management.soft_empty_cache()
        if self._injection is None or self._injection.kept == frozenset():
            return False
        # The next pass loads the clone again, which injects it anew.
        self._patcher.eject_model()
        self._injection.kept = frozenset()
        return True

    def is_out_of_memory(self, error: Exception) -> bool:
        """Whether the host takes an error for memory that ran out."""
        return is_oom(error)

    @contextmanager
    def sampling(self) -> Iterator[ModelPatcher]:
        """The training clone as the host's samplers take it, until the context ends."""
        assert self._injection is not None, "sampling outside attach"
        raw, training = self._patcher.object_patches["model_sampling"], management.in_training
        self._injection.adapted, raw.raw, management.in_training = True, False, False
        try:
            yield self._patcher
        finally:
            raw.raw, management.in_training = True, training

    def noised(self, latents: Tensor, noise: Tensor, positions: Tensor) -> Noised:
        """Noise raw latents by the host's formula; the target solves its denoising for the output.

        `calculate_denoised` is affine in the network's output, so with d0 and d1 its values at
        0 and 1 the output that gives back the picture is (x0 - d0) / (d1 - d0).
        """
        sampling, device = self._sampling, self._patcher.load_device
        x0 = self._patcher.model.process_latent_in(latents.double())
        noise, sigma = noise.double(), self._sigma(positions.double())
        noisy = sampling.noise_scaling(sigma, noise.clone(), x0)
        zero, one = torch.zeros_like(x0), torch.ones_like(x0)
        d0 = sampling.calculate_denoised(sigma, zero, noisy)
        gain = sampling.calculate_denoised(sigma, one, noisy) - d0
        signal = first(sampling.noise_scaling(sigma, zero.clone(), one))
        spread = first(sampling.noise_scaling(sigma, one.clone(), zero))
        parts = {
            "noisy": noisy,
            "sigma": sigma,
            "target": (x0 - d0) / gain,
            "snr": (signal / spread).square(),
            "gain": first(gain),
        }
        return Noised(**{name: sent(part.float(), device) for name, part in parts.items()})

    def _sigma(self, positions: Tensor) -> Tensor:
        """Schedule positions in [0, 1) as the host's noise levels, (batch,).

        They lie evenly in the host's table of levels, which holds the shift of flow models:
        schedules of whole steps are met at their steps, others also between the entries.
        """
        table = self._sampling.sigmas.double()
        if not torch.is_floating_point(self._sampling.timestep(self._sampling.sigma_max)):
            return table[(positions * len(table)).long()]
        place = positions * (len(table) - 1)
        low = place.long()
        return torch.lerp(table[low], table[low + 1], place - low)

    def predict(
        self,
        noised: Noised,
        conditions: Sequence[Conditioning],
        crops: Sequence[Crop],
        *,
        adapted: bool = True,
    ) -> Tensor:
        """The raw output in fp32; sample i goes with `conditions[i]` and `crops[i]`."""
        assert self._injection is not None, "predict outside attach"
        self._load(noised.noisy)
        self._injection.adapted = adapted
        self._patcher.pre_run()
        inputs = self._inputs(noised.noisy, conditions, crops)
        try:
            parts = [self._output(noised, places, given) for places, given in inputs]
        finally:
            # The host's cleanup waits for the end: it would inject everything anew each step.
            self._injection.adapted = True
        order = [place for places, _ in inputs for place in places]
        output = torch.cat(parts) if len(parts) > 1 else parts[0]
        return output if order == sorted(order) else output[torch.tensor(order).argsort()]

    def _output(self, noised: Noised, places: Sequence[int], given: dict[str, Any]) -> Tensor:
        """The raw output for some samples of a batch."""
        noisy, sigma = noised.noisy, noised.sigma
        if len(places) < len(sigma):
            noisy, sigma = (torch.stack([one[place] for place in places]) for one in (noisy, sigma))
        return self._patcher.model.apply_model(
            noisy, sigma, transformer_options=transformer_options(self._patcher, sigma), **given
        ).float()

    def _load(self, noisy: Tensor) -> None:
        """Have the model and its companions on their devices, with room for the step.

        A clone that is still injected is still loaded, and needs no look at the free memory.
        """
        if self._patcher.is_injected:
            return
        assert self._injection is not None
        parameters = sum(
            p.numel() for a in self._injection.adapters.values() for p in a.parameters()
        )
        estimate = BYTES_PER_PARAMETER * parameters + step_memory(self._patcher, noisy)
        required = self._required or estimate
        management.load_models_gpu([*self._companions(), self._patcher], memory_required=required)

    def _inputs(
        self, noisy: Tensor, conditions: Sequence[Conditioning], crops: Sequence[Crop]
    ) -> list[tuple[list[int], dict[str, Any]]]:
        """The model's keyword inputs, and the samples that they are for.

        They are made for each sample by the host and put side by side where the host itself
        would do so: some families take no texts of different lengths in one batch.
        """
        each = [
            self._sample_inputs(noisy[i : i + 1], conditioning, crop)
            for i, (conditioning, crop) in enumerate(zip(conditions, crops, strict=True))
        ]
        dtype = self._patcher.model.get_dtype_inference()
        return [
            (places, self._joined([each[place] for place in places], noisy.device, dtype))
            for places in groups(each)
        ]

    def _joined(
        self, each: Sequence[dict[str, Any]], device: torch.device, dtype: torch.dtype
    ) -> dict[str, Any]:
        joined = {n: value.concat([one[n] for one in each[1:]]) for n, value in each[0].items()}
        return {
            name: sent(value, device).to(dtype if value.is_floating_point() else value.dtype)
            if isinstance(value, Tensor)
            else value
            for name, value in joined.items()
        }

    def _sample_inputs(
        self, noisy: Tensor, conditioning: Conditioning, crop: Crop
    ) -> dict[str, Any]:
        tensors = dict(conditioning.tensors)
        made = self._patcher.model.extra_conds(
            cross_attn=tensors.pop("cond"),
            **tensors,
            noise=noisy,
            device=noisy.device,
            width=crop.original_width,
            height=crop.original_height,
            crop_w=crop.left,
            crop_h=crop.top,
            target_width=crop.width,
            target_height=crop.height,
            **self._told,
        )
        return {name: one.process_cond(batch_size=1, area=None) for name, one in made.items()}


def raw_output(model: ModelPatcher) -> Any:
    """The model's sampling object, except that denoising gives the network's output while `raw`."""
    sampling = copy.copy(model.get_model_object("model_sampling"))
    kind = type(sampling)

    def denoised(self: Any, sigma: Tensor, output: Tensor, noisy: Tensor) -> Tensor:
        return output if self.raw else kind.calculate_denoised(self, sigma, output, noisy)

    sampling.__class__ = type("RawOutput", (kind,), {"raw": True, "calculate_denoised": denoised})
    return sampling


def step_memory(model: ModelPatcher, noisy: Tensor) -> float:
    """Bytes that a training step needs beside weights and optimizer.

    The host's estimate is for a forward pass under classifier-free guidance, which is two of
    these batches; a recorded pass and its backward keep about three times one pass.
    """
    return 1.5 * model.memory_required([2 * noisy.shape[0], *noisy.shape[1:]])


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device; constants go to a GPU from pinned memory, so that no CPU waits."""
    if device.type != "cuda" or tensor.device.type != "cpu" or tensor.requires_grad:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def groups(each: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """Samples whose inputs the host can put side by side, in the order of their first ones."""
    found: list[list[int]] = []
    for place, inputs in enumerate(each):
        for group in found:
            first_one = each[group[0]]
            if first_one.keys() == inputs.keys() and all(
                first_one[name].can_concat(value) for name, value in inputs.items()
            ):
                group.append(place)
                break
        else:
            found.append([place])
    return found


def first(tensor: Tensor) -> Tensor:
    """The first number of each sample, (batch,)."""
    return tensor.flatten(1)[:, 0]
