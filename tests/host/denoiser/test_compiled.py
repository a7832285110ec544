"""A MODEL that is compiled by torch.compile trains like one that is not, and stays compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_torch_compile import TorchCompileModel
from host.denoiser.test_borrowing import Before, bundle_of, sample, training_only
from host.run.test_main_job import TOKS
from torch import Tensor

from factories import write_pictures
from harness.host.measure import SHORT, borrowed, make_batch
from harness.host.runner import Host, Loaded, Outputs
from pack.bundles.bundle import Bundle

BLOCK = "diffusion_model.input_blocks.1.1.transformer_blocks.0"


def whole(model: ModelPatcher) -> ModelPatcher:
    """The host's own node; nothing is compiled before the model is used."""
    return TorchCompileModel.execute(model, "inductor")[0]


def block(model: ModelPatcher) -> ModelPatcher:
    """One block, as other packs' nodes compile it."""
    compiled = model.clone()
    made = torch.compile(model.get_model_object(BLOCK), backend="aot_eager")
    compiled.add_object_patch(BLOCK, made)
    return compiled


@pytest.fixture(params=[whole, block])
def compiled(request: pytest.FixtureRequest, host: Host, sd15: Loaded) -> Iterator[Loaded]:
    """The tiny model with its model, or one block of it, compiled."""
    model = request.param(sd15.model)
    host.loaded["compiled"] = Loaded(model=model, clip=sd15.clip, vae=sd15.vae, path=sd15.path)
    yield host.loaded["compiled"]
    del host.loaded["compiled"]


def factors(bundle: Bundle) -> dict[str, Tensor]:
    """All that was learned, by name."""
    vectors = {f"{n} {e}": v for n, one in bundle.embeddings.items() for e, v in one.items()}
    return {**bundle.lora, **vectors}


def test_training_gives_what_it_gives_on_the_model_that_is_not_compiled(
    run_graph: Callable[..., Outputs], host: Host, sd15: Loaded, compiled: Loaded
):
    write_pictures(host.base / "input" / "toks", TOKS)
    learned = []
    for family in ("compiled", "sd15"):
        learned.append(factors(bundle_of(run_graph, training_only(family))))
    assert learned[0].keys() == learned[1].keys()
    assert all(torch.equal(learned[0][name], learned[1][name]) for name in learned[1])


def test_the_model_stays_compiled(sd15: Loaded, compiled: Loaded):
    before = Before(sd15)
    with borrowed(compiled, rank=4) as ports:
        ports.gradients(make_batch([SHORT]))
    wrappers = compiled.model.get_wrappers(WrappersMP.APPLY_MODEL, "torch.compile")
    assert wrappers or hasattr(compiled.model.object_patches[BLOCK], "_orig_mod")
    before.check()


def test_after_training_a_compiled_block_samples_as_before(sd15: Loaded):
    compiled = block(sd15.model)
    first = sample(compiled, sd15.clip)
    plain = sample(sd15.model, sd15.clip)
    loaded = Loaded(model=compiled, clip=sd15.clip, vae=sd15.vae, path=sd15.path)
    with borrowed(loaded, rank=4) as ports:
        ports.gradients(make_batch([SHORT]))
    assert torch.equal(sample(compiled, sd15.clip), first)
    assert (first - plain).abs().max() < 1e-4 * plain.std()
