"""Models are borrowed for training and given back as they were, however a run ends."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import comfy.model_management as management
import comfy.sd
import comfy.utils
import psutil
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from host.run.test_main_job import TOKS, training_prompt
from torch import Tensor, nn

import nodes
from factories import write_pictures
from harness.host.measure import (
    SHORT,
    address,
    borrowed,
    digest,
    disagreement,
    draw,
    left_behind,
    live_tensors,
    make_batch,
    probe,
    size_of,
    weights_among,
    weights_of,
)
from harness.host.runner import GraphFailed, GraphInterrupted, Host, Loaded, Outputs
from harness.host.writes import Writes, tree
from pack.bundles.bundle import Bundle
from pack.nodes.host.denoiser.port import HostDenoiser

Run = Callable[..., Outputs]
serial = itertools.count()
PROMPT = "a dog in a garden"


@pytest.fixture(autouse=True)
def pictures(host: Host) -> None:
    """The dataset that the graphs of this file train on."""
    write_pictures(host.base / "input" / "toks", TOKS)


def training_only(family: str = "sd15", **settings: object) -> dict:
    """A graph that trains; under a name of its own, since a finished run is not trained again."""
    made = training_prompt("toks", run_name=f"borrowing {next(serial)}", **settings)
    made["base"]["inputs"]["family"] = family
    wanted = ("base", "data", "concept", "lora", "train", "keep_report")
    return {name: made[name] for name in wanted}


def report_of(outputs: Outputs) -> str:
    """The report of a run that has really trained."""
    report = outputs["train", 5]
    assert "finished before" not in report
    return report


def bundle_of(run_graph: Run, graph: dict) -> Bundle:
    """What a graph that trains has learned."""
    keep = {"class_type": "Harness_Keep", "inputs": {"value": ["train", 0]}}
    return run_graph({**graph, "keep": keep})["train", 0]


@torch.inference_mode()
def sample(model: Any, clip: Any) -> Tensor:
    """Latents of two steps of the host's sampler."""
    condition = nodes.CLIPTextEncode().encode(clip, PROMPT)[0]
    empty = {"samples": torch.zeros(1, 4, 8, 8)}
    settings = (0, 2, 1.0, "euler", "normal")
    return nodes.common_ksampler(model, *settings, condition, condition, empty)[0]["samples"]


class Before:
    """What models are and do before a run, to compare with later."""

    def __init__(self, loaded: Loaded):
        self.loaded = loaded
        self.roots = (loaded.model.model, loaded.clip.cond_stage_model)
        self.latents, self.text = self._results()
        self.weights, self.digest = weights_of(*self.roots), digest(*self.roots)
        self.sampling = loaded.model.model.model_sampling

    def _results(self) -> tuple[Tensor, Tensor]:
        model, clip = self.loaded.model, self.loaded.clip
        with torch.inference_mode():
            return sample(model, clip).clone(), clip.encode(PROMPT).clone()

    def check(self) -> None:
        """Nothing is left of a run: no forward, no patch, no other weight, no other result."""
        assert left_behind(*self.roots) == []
        assert self.loaded.model.model.model_sampling is self.sampling
        assert self.loaded.model.model.current_patcher is None
        assert not self.loaded.model.object_patches_backup
        assert not self.loaded.model.injections
        assert management.in_training is False
        now = weights_of(*self.roots)
        assert now.keys() == self.weights.keys()
        assert all(now[name] is weight for name, weight in self.weights.items())
        assert digest(*self.roots) == self.digest
        for before, after in zip((self.latents, self.text), self._results(), strict=True):
            assert torch.equal(before, after)


def test_after_training_the_models_are_what_they_were(run_graph: Run, sd15: Loaded):
    before = Before(sd15)
    assert "4 steps" in report_of(run_graph(training_only()))
    before.check()


@contextmanager
def progress(hook: Callable[[int], None]) -> Iterator[None]:
    """Call `hook` with the number of steps that are done whenever the host shows progress."""
    before = comfy.utils.PROGRESS_BAR_HOOK
    comfy.utils.set_progress_bar_global_hook(lambda value, *_, **__: hook(value))
    try:
        yield
    finally:
        comfy.utils.set_progress_bar_global_hook(before)


def test_cancel_gives_the_models_back(run_graph: Run, sd15: Loaded):
    before, steps = Before(sd15), []

    def cancel(value: int) -> None:
        steps.append(value)
        management.interrupt_current_processing(True)

    with progress(cancel), pytest.raises(GraphInterrupted) as stopped:
        run_graph(training_only())
    assert (stopped.value.node, steps) == ("train", [1])
    before.check()
    assert "4 steps" in report_of(run_graph(training_only()))


def failing() -> Callable[..., Tensor]:
    """A wrapper that a user's node may have put on a MODEL; it raises in its third use."""
    uses = itertools.count(1)

    def wrapper(run: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        if next(uses) == 3:
            raise RuntimeError("the wrapper broke")
        return run(*args, **kwargs)

    return wrapper


def test_an_error_in_the_middle_of_a_step_gives_the_models_back(
    run_graph: Run, host: Host, sd15: Loaded
):
    before, model = Before(sd15), sd15.model.clone()
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "failing", failing())
    host.loaded["failing"] = Loaded(model=model, clip=sd15.clip, vae=sd15.vae, path=sd15.path)
    with pytest.raises(GraphFailed, match="the wrapper broke"):
        run_graph(training_only("failing"))
    before.check()


def a_lora(loaded: Loaded) -> dict[str, Tensor]:
    """A LoRA file's tensors for the attention of the UNet and a layer of the text encoder."""
    seeds, found = draw(8), {}
    stems = {
        "diffusion_model.": (loaded.model.model.diffusion_model, "attn"),
        "text_encoders.": (loaded.clip.cond_stage_model, "layers.0.mlp"),
    }
    for prefix, (root, part) in stems.items():
        for name, module in root.named_modules():
            if isinstance(module, nn.Linear) and part in name:
                out, width = module.weight.shape
                found[f"{prefix}{name}.lora_down.weight"] = torch.randn(4, width, generator=seeds)
                found[f"{prefix}{name}.lora_up.weight"] = torch.randn(out, 4, generator=seeds) / 40
    return found


LOADERS = {
    "bypass": comfy.sd.load_bypass_lora_for_models,
    "patches": comfy.sd.load_lora_for_models,
}


@pytest.fixture(params=LOADERS)
def altered(request: pytest.FixtureRequest, host: Host, sd15: Loaded) -> Iterator[Loaded]:
    """The models with a LoRA of the user on both, loaded as a node does it."""
    with torch.inference_mode():
        lora = {name: tensor.clone() for name, tensor in a_lora(sd15).items()}
        model, clip = LOADERS[request.param](sd15.model, sd15.clip, lora, 1.0, 1.0)
    host.loaded["altered"] = Loaded(model=model, clip=clip, vae=sd15.vae, path=sd15.path)
    yield host.loaded["altered"]
    del host.loaded["altered"]


@pytest.mark.parametrize("last", ["altered", "base"])
def test_a_users_lora_acts_as_before(run_graph: Run, sd15: Loaded, altered: Loaded, last: str):
    """Whichever of the two was sampled last, and so is loaded when the run begins."""
    base, changed = sample(sd15.model, sd15.clip), sample(altered.model, altered.clip)
    if last == "base":
        sample(sd15.model, sd15.clip)
    run_graph(training_only("altered"))
    assert (base - changed).std() > 0.01 * base.std()
    for _ in range(2):
        assert torch.equal(sample(altered.model, altered.clip), changed)
        assert torch.equal(sample(sd15.model, sd15.clip), base)
    Before(sd15).check()


@pytest.mark.parametrize("last", ["altered", "base"])
def test_a_users_lora_acts_while_training(sd15: Loaded, altered: Loaded, last: str):
    batch = make_batch([("a dog",)])
    with torch.inference_mode():
        condition = altered.clip.encode("a dog")
        noised = batch.noised(HostDenoiser(altered.model, checkpointing=False))
        management.load_models_gpu([altered.model])
        denoised = altered.model.model.apply_model(
            noised.noisy, noised.sigma, c_crossattn=condition
        )
        wanted = (noised.noisy - denoised) / noised.sigma
    if last == "base":
        sample(sd15.model, sd15.clip)
    with borrowed(altered) as ports, torch.no_grad():
        found = ports.predict(batch)
    assert (found - wanted).abs().max() < 1e-5 * wanted.std()


def test_gradients_pass_through_a_users_lora(sd15: Loaded, altered: Loaded):
    batch = make_batch([SHORT])
    with borrowed(altered, rank=4) as ports:
        rows = ports.vectors["TOK"]["clip_l"]
        ports.gradients(batch)
        error = disagreement(lambda: probe(ports.predict(batch)), [rows], [rows.grad], step=1e-2)
    assert error < 5e-3


def test_no_weight_is_in_memory_twice_while_training(run_graph: Run, sd15: Loaded):
    unet = weights_of(sd15.model.model)
    weights = unet | weights_of(sd15.clip.cond_stage_model, sd15.vae.first_stage_model)
    matrices = {name: weight for name, weight in weights.items() if weight.ndim > 1}
    before = {address(one) for one in live_tensors()}
    copies, sizes = [], []

    def look(_: int) -> None:
        new = [one for one in live_tensors() if address(one) not in before]
        copies.append(weights_among(new, matrices))
        sizes.append(size_of(new))

    with progress(look):
        run_graph(training_only())
    assert copies and not any(copies)
    # Four fp32 numbers for each parameter that trains, and the pictures.
    assert 0 < max(sizes) < 0.05 * size_of(unet.values())


def test_memory_returns_to_what_it_was(run_graph: Run, sd15: Loaded):
    """Every tensor is gone at once; three more runs leave the process no UNet larger."""
    for _ in range(2):
        run_graph(training_only())
    process, before = psutil.Process(), size_of(live_tensors())
    resident = process.memory_info().rss
    for _ in range(3):
        run_graph(training_only())
    assert size_of(live_tensors()) == before
    growth = process.memory_info().rss - resident
    assert growth < size_of(weights_of(sd15.model.model).values())


def test_a_run_writes_its_folder_and_nothing_else(run_graph: Run, host: Host, sd15: Loaded):
    run_graph(training_only())
    files = tree(host.base)
    checkpoint = sd15.path.stat().st_mtime_ns
    writes = Writes()
    report = report_of(run_graph(training_only()))
    writes.on = False
    name = report.rpartition("run folder: ")[2].partition(" in ComfyUI's output folder")[0]
    folder = host.base / "output" / name
    new = tree(host.base) - files
    assert folder in new
    assert all(path.is_relative_to(folder) for path in new)
    assert all(Path(path).is_relative_to(folder) for path in writes.paths)
    assert sd15.path.stat().st_mtime_ns == checkpoint


def test_after_training_with_checkpointing_sdxl_is_what_it_was(run_graph: Run, sdxl: Loaded):
    before = Before(sdxl)
    graph = training_only("sdxl", checkpointing="on", steps=2, batch_size=1)
    assert "2 steps" in report_of(run_graph(graph))
    before.check()
