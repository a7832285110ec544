"""ComfyUI's MODEL as the engine's Denoiser: a clone with adapters, given back untouched."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import comfy.model_management as management
import comfy.model_sampling
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ....training.adapters.base import Adapter
from ....training.memory import Plan
from ....training.ports import Conditioning, Crop, Denoiser, Layer, Noised
from ..versions import is_oom
from .injection import TrainingInjection
from .layers import adaptable_layers
from .recompute import IN_PLACE_BLOCKS, large_blocks
from .user_patches import remove_shortcuts, transformer_options

BYTES_PER_PARAMETER = 16
"""Of a trained adapter: weight, gradient and two moments, each in fp32."""


class HostDenoiser:
    def __init__(
        self,
        model: ModelPatcher,
        *,
        checkpointing: bool,
        guidance: float = 0.0,
        companions: Callable[[], list[ModelPatcher]] = list,
    ):
        self._patcher = model.clone()
        remove_shortcuts(self._patcher)
        self._kept, self._required = frozenset[str]() if checkpointing else None, 0
        self._large = large_blocks(self._patcher.model.diffusion_model)
        self._companions = companions
        # Without it the host uses the default of the family.
        self._guidance = {"guidance": guidance} if guidance else {}
        self._injection: TrainingInjection | None = None
        self._counts: dict[str, int] | None = None
        self._loaded = False
        # On the CPU, so that targets are exact in fp64 and no sigma waits for the GPU.
        self._sampling: Any = copy.deepcopy(model.get_model_object("model_sampling")).cpu()

    @property
    def patcher(self) -> ModelPatcher:
        """The clone that is trained, with everything that is attached."""
        return self._patcher

    @property
    def is_flow(self) -> bool:
        return isinstance(self._sampling, comfy.model_sampling.CONST)

    def layers(self) -> list[Layer]:
        """Every Linear and convolution of the diffusion model, with its dotted name."""
        return adaptable_layers(self._patcher.model.diffusion_model, self._have_weights)

    def _have_weights(self) -> None:
        """Load this MODEL's weights, which another clone may have patched; `attach` does so too."""
        if not self._loaded and self._injection is None:
            management.load_models_gpu([self._patcher])
            self._loaded = True

    def follow(self, plan: Plan, required: int) -> None:
        """Recompute the blocks of a plan, and ask the host for the memory that was measured."""
        self._kept, self._required = plan.kept, required

    @contextmanager
    def counting(self) -> Iterator[dict[str, int]]:
        """Make `attach` recompute all large blocks and count the bytes that each would keep."""
        before, self._kept, self._counts = self._kept, frozenset(), {}
        try:
            yield self._counts
        finally:
            self._kept, self._counts = before, None

    @contextmanager
    def attach(self, adapters: Mapping[str, Adapter]) -> Iterator[None]:
        """Borrow the model: load the clone with adapters injected and its raw output exposed."""
        model, device = self._patcher.model, self._patcher.load_device
        # Hosts since 0.30 do this when they load; older ones leave it to us.
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
        # Without this, some of the host's operators have no gradient.
        management.in_training = True
        try:
            yield
        finally:
            management.in_training = before
            self._injection.uninstall(self._patcher)
            self._injection = None

    def save_memory(self) -> bool:
        """Recompute every block from now on; False if that is done already."""
        management.soft_empty_cache()
        if self._injection is None or self._injection.kept == frozenset():
            return False
        # The next pass loads the clone, which injects everything again.
        self._patcher.eject_model()
        self._injection.kept = frozenset()
        return True

    def is_out_of_memory(self, error: Exception) -> bool:
        return is_oom(error)

    @contextmanager
    def sampling(self) -> Iterator[ModelPatcher]:
        """The training clone in the form that the host's samplers take, within the context."""
        assert self._injection is not None, "sampling outside attach"
        raw, training = self._patcher.object_patches["model_sampling"], management.in_training
        self._injection.adapted, raw.raw, management.in_training = True, False, False
        try:
            yield self._patcher
        finally:
            raw.raw, management.in_training = True, training

    def noised(self, latents: Tensor, noise: Tensor, positions: Tensor) -> Noised:
        """Noise raw latents by the host's formula; the target is the output that denoises them.

        `calculate_denoised` is affine in the network's output. With d0 and d1 its values at outputs
        of 0 and 1, the output that returns the picture is (x0 - d0) / (d1 - d0).
        """
        sampling, device = self._sampling, self._patcher.load_device
        x0 = self._patcher.model.process_latent_in(latents.double())
        noise, sigma = noise.double(), self._sigma(positions.double())
        noisy = sampling.noise_scaling(sigma, noise.clone(), x0)
        zero, one = torch.zeros_like(x0), torch.ones_like(x0)
        d0 = sampling.calculate_denoised(sigma, zero, noisy)
        gain = sampling.calculate_denoised(sigma, one, noisy) - d0
        signal = first_number(sampling.noise_scaling(sigma, zero.clone(), one))
        spread = first_number(sampling.noise_scaling(sigma, one.clone(), zero))
        parts = {
            "noisy": noisy,
            "sigma": sigma,
            "target": (x0 - d0) / gain,
            "snr": (signal / spread).square(),
            "gain": first_number(gain),
        }
        return Noised(**{name: moved(part.float(), device) for name, part in parts.items()})

    def _sigma(self, positions: Tensor) -> Tensor:
        """Schedule positions in [0, 1) as the host's noise levels, (batch,).

        Positions are spread evenly over the host's table of levels, which includes the shift of
        flow models. A schedule of whole steps gives its entries, others are interpolated.
        """
        table = self._sampling.sigmas.double()
        if not torch.is_floating_point(self._sampling.timestep(self._sampling.sigma_max)):
            return table[(positions * len(table)).long()]
        entry = positions * (len(table) - 1)
        low = entry.long()
        return torch.lerp(table[low], table[low + 1], entry - low)

    def predict(
        self,
        noised: Noised,
        conditions: Sequence[Conditioning],
        crops: Sequence[Crop],
        *,
        adapted: bool = True,
    ) -> Tensor:
        """The raw output in fp32; sample i has `conditions[i]` and `crops[i]`."""
        assert self._injection is not None, "predict outside attach"
        self._load(noised.noisy)
        self._injection.adapted = adapted
        self._patcher.pre_run()
        inputs = self._inputs(noised.noisy, conditions, crops)
        try:
            parts = [self._output(noised, places, given) for places, given in inputs]
        finally:
            # The host's cleanup waits until the end, since it would undo the injection each step.
            self._injection.adapted = True
        order = [place for places, _ in inputs for place in places]
        output = torch.cat(parts) if len(parts) > 1 else parts[0]
        return output if order == sorted(order) else output[torch.tensor(order).argsort()]

    def _output(self, noised: Noised, places: Sequence[int], given: dict[str, Any]) -> Tensor:
        """The raw output for the samples of a batch at `places`."""
        noisy, sigma = noised.noisy, noised.sigma
        if len(places) < len(sigma):
            noisy, sigma = (torch.stack([x[place] for place in places]) for x in (noisy, sigma))
        return self._patcher.model.apply_model(
            noisy, sigma, transformer_options=transformer_options(self._patcher, sigma), **given
        ).float()

    def _load(self, noisy: Tensor) -> None:
        """Load the model and its companions, with room for the step."""
        # A clone that is still injected is still loaded; asking for free memory takes time.
        if self._patcher.is_injected:
            return
        assert self._injection is not None
        parameters = sum(
            p.numel() for a in self._injection.adapters.values() for p in a.parameters()
        )
        estimate = BYTES_PER_PARAMETER * parameters + step_memory(self._patcher, noisy)
        required = self._required or int(estimate)
        management.load_models_gpu([*self._companions(), self._patcher], memory_required=required)

    def _inputs(
        self, noisy: Tensor, conditions: Sequence[Conditioning], crops: Sequence[Crop]
    ) -> list[tuple[list[int], dict[str, Any]]]:
        """The model's keyword inputs, and the samples that they are for.

        The host makes them for each sample, and they are batched where the host would do so: some
        families cannot take texts of different lengths in one batch.
        """
        each = [
            self._sample_inputs(noisy[i : i + 1], conditioning, crop)
            for i, (conditioning, crop) in enumerate(zip(conditions, crops, strict=True))
        ]
        dtype = self._patcher.model.get_dtype_inference()
        return [
            (places, self._joined([each[place] for place in places], noisy.device, dtype))
            for places in concatenable(each)
        ]

    def _joined(
        self, each: Sequence[dict[str, Any]], device: torch.device, dtype: torch.dtype
    ) -> dict[str, Any]:
        joined = {n: value.concat([row[n] for row in each[1:]]) for n, value in each[0].items()}
        return {
            name: moved(value, device).to(dtype if value.is_floating_point() else value.dtype)
            if isinstance(value, Tensor)
            else value
            for name, value in joined.items()
        }

    def _sample_inputs(
        self, noisy: Tensor, conditioning: Conditioning, crop: Crop
    ) -> dict[str, Any]:
        tensors = dict(conditioning.tensors)
        inputs = self._patcher.model.extra_conds(
            cross_attn=tensors.pop("cond"),
            **tensors,
            noise=noisy,
            # Models for inpainting look for it; without a mask they draw everything.
            latent_image=torch.zeros_like(noisy),
            device=noisy.device,
            width=crop.original_width,
            height=crop.original_height,
            crop_w=crop.left,
            crop_h=crop.top,
            target_width=crop.width,
            target_height=crop.height,
            **self._guidance,
        )
        return {name: value.process_cond(batch_size=1, area=None) for name, value in inputs.items()}


def raw_output(model: ModelPatcher) -> Any:
    """The model's sampling object; while `raw`, denoising returns the network's output."""
    sampling = copy.copy(model.get_model_object("model_sampling"))
    kind: Any = type(sampling)

    def denoised(self: Any, sigma: Tensor, output: Tensor, noisy: Tensor) -> Tensor:
        return output if self.raw else kind.calculate_denoised(self, sigma, output, noisy)

    sampling.__class__ = type("RawOutput", (kind,), {"raw": True, "calculate_denoised": denoised})
    return sampling


def step_memory(model: ModelPatcher, noisy: Tensor) -> float:
    """Estimated bytes of a training step, without weights and optimizer.

    The host estimates a forward pass with classifier-free guidance, which is two of these batches;
    a recorded pass with its backward needs about three times one pass.
    """
    return 1.5 * model.memory_required([2 * noisy.shape[0], *noisy.shape[1:]])


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device."""
    # Constants go to a GPU from pinned memory, so that the CPU does not wait for the copy.
    if device.type != "cuda" or tensor.device.type != "cpu" or tensor.requires_grad:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def concatenable(each: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """Groups of samples whose inputs the host can concatenate, ordered by their first sample."""
    groups: list[list[int]] = []
    for place, inputs in enumerate(each):
        for group in groups:
            other = each[group[0]]
            if other.keys() == inputs.keys() and all(
                other[name].can_concat(value) for name, value in inputs.items()
            ):
                group.append(place)
                break
        else:
            groups.append([place])
    return groups


def first_number(tensor: Tensor) -> Tensor:
    """The first number of each sample, (batch,)."""
    return tensor.flatten(1)[:, 0]


_: type[Denoiser] = HostDenoiser
