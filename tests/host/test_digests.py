"""A digest of a model reads what its files hold: never memory that no file fills."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import comfy.sd
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from safetensors.torch import save_file

from harness.host.checkpoints import load_cut, used_memory
from pack.nodes.host.codec import HostLatentCodec
from pack.nodes.host.digests import model_digest
from pack.nodes.host.unfilled import unfilled
from world import checkpoints
from world.encoders import encoder_weights, readable
from world.families import TINY, host_config, network_weights

SMALL = {"num_hidden_layers": 3, "intermediate_size": 64}
# The host's look for a longer CLIP puts the second in the place of both CLIPs' entries.
CUT = {"clip_l_model_config": SMALL, "model_config": SMALL}
PROJECTION = "clip_l.transformer.text_projection.weight"


@pytest.fixture(autouse=True)
def normal_mode() -> Iterator[None]:
    with torch.inference_mode(False):
        yield


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_a_checkpoint_has_the_same_digests_whatever_lay_in_memory(name: str):
    one, other = load_cut(name), load_cut(name)
    first, second = (x.clip.cond_stage_model.clip_l.transformer for x in (one, other))
    assert not torch.equal(first.text_projection.weight, second.text_projection.weight)
    assert PROJECTION in unfilled(one.clip.patcher)
    assert not unfilled(one.model) and not unfilled(one.vae.patcher)
    for part in ("model", "vae"):
        assert digest(getattr(one, part)) == digest(getattr(other, part))
    assert digest(one.clip) == digest(other.clip)
    assert HostLatentCodec(one.vae).digest() == HostLatentCodec(other.vae).digest()


def test_another_checkpoint_has_other_digests(tmp_path: Path, sd15):
    path = tmp_path / "other.safetensors"
    checkpoints.build_sd15_short(path, seed=1)
    model, clip, vae = checkpoints.load_short(path)
    assert digest(model) != digest(sd15.model)
    assert digest(clip) != digest(sd15.clip)
    assert digest(vae) != digest(sd15.vae)


def test_what_a_file_of_the_same_kind_holds_counts(tmp_path: Path):
    """A CLIP-L with a projection, as Flux and SD3 have it, and one without."""
    weights = {n: t for n, t in clip_l().items() if not n.startswith("text_projection")}
    digests: list[str] = []
    for number, more in enumerate((None, 0.0, 0.5)):
        own = {} if more is None else {"text_projection.weight": torch.full((768, 768), more)}
        clip = load_clips(
            saved(tmp_path, str(number), weights | own), kind="STABLE_DIFFUSION", cut=CUT
        )
        assert (PROJECTION in unfilled(clip.patcher)) == (more is None)
        digests.append(digest(clip))
    assert len(set(digests)) == 3


def clip_l() -> dict[str, torch.Tensor]:
    return encoder_weights("clip_l", SMALL, torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def encoder_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Files of text encoders; several families have the same ones."""
    folder, draw = tmp_path_factory.mktemp("encoders"), torch.Generator().manual_seed(0)
    made: dict[str, str] = {}

    def file(name: str, cut: dict[str, Any]) -> str:
        key = f"{name} {sorted(cut.items())}"
        if key not in made:
            made[key] = saved(folder, str(len(made)), encoder_weights(name, cut, draw))
        return made[key]

    return file


@pytest.mark.parametrize("name", TINY)
def test_every_family_has_the_same_digests_whatever_lay_in_memory(
    name: str, tmp_path: Path, encoder_file: Callable[..., str]
):
    tiny, draw = TINY[name], torch.Generator().manual_seed(0)
    loads: list[Callable[[], ModelPatcher]] = []
    if not tiny.fixed:
        network = saved(tmp_path, "network", network_weights(host_config(tiny), draw))
        loads.append(lambda: comfy.sd.load_diffusion_model(network))
    files = [encoder_file(each, tiny.cut(each)) for each in tiny.encoders]
    cuts = {f"{each}_model_config": tiny.cut(each) for each in tiny.encoders}
    cuts["model_config"] = dict(SMALL)
    loads.append(lambda: load_clips(*files, kind=tiny.clip_type, cut=cuts).patcher)
    for load in loads:
        with readable(), used_memory():
            one, other = load(), load()
        assert model_digest(one) == model_digest(other)
        filled = dict(one.model.named_parameters()).keys() - unfilled(one)
        state, again = one.model.state_dict(), other.model.state_dict()
        # The other way round: what is left out is indeed memory that nobody wrote, or a constant.
        for key in filled:
            assert torch.equal(state[key], again[key])
        for key in unfilled(one):
            assert not torch.equal(state[key], again[key]) or state[key].numel() == 1


def digest(model: Any) -> str:
    return model_digest(getattr(model, "patcher", model))


def saved(folder: Path, name: str, tensors: dict[str, torch.Tensor]) -> str:
    path = folder / f"{name}.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)
    return str(path)


def load_clips(*files: str, kind: str, cut: dict[str, Any]) -> Any:
    with used_memory():
        return comfy.sd.load_clip(
            list(files), clip_type=comfy.sd.CLIPType[kind], model_options=dict(cut)
        )
