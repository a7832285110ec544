"""Every kind of adapter is saved under the suffixes that it declares, and read back from a file."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from training.adapters.test_adapters import KINDS, cases
from training.layers import trained

from pack.bundles.bundle import Bundle
from pack.bundles.edit import NameClash, merge_bundles
from pack.bundles.inspection import as_text, inspect_bundle
from pack.bundles.load import load_bundle, peek
from pack.bundles.save import Container, save_bundle
from pack.bundles.trim import Trimming, spectrum_report, trim_lora
from pack.training.adapters import AdapterConfig, export_adapters
from pack.training.adapters.dora import Axis, DoraConfig
from pack.training.adapters.loha import LoHaConfig
from pack.training.adapters.lokr import LoKrConfig
from pack.training.adapters.lora import LoraConfig
from pack.training.adapters.oft import OftConfig
from pack.training.adapters.targets import Targets
from pack.training.adapters.trilora import Core, Sigma, TriLoraConfig

LAYER = "input_blocks.1.1.transformer_blocks.0.attn1.to_q"
WRITTEN = [container for container in Container if container is not Container.COG]


def lora_of(kind: str) -> dict[str, Tensor]:
    """What a run saves of one layer, in fp32."""
    saved = export_adapters({LAYER: trained(KINDS[kind], "linear").adapter}, "diffusion_model")
    return {key: tensor.float() for key, tensor in saved.items()}


def strange() -> dict[str, Tensor]:
    """The same of a kind that no program is known to have."""
    key = f"diffusion_model.{LAYER}"
    return {f"{key}.vera_lambda_b": torch.randn(8), f"{key}.ia3_scale": torch.randn(12)}


def bundle_of(lora: dict[str, Tensor], family: str = "sd15", **embeddings: Tensor) -> Bundle:
    vectors = {name: {"clip_l": rows} for name, rows in embeddings.items()}
    return Bundle(family=family, lora=lora, embeddings=vectors)


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Whether both hold the same numbers, whatever the layers are called in a file."""
    one, other = (
        {key.rpartition("to_q.")[2]: tensor for key, tensor in lora.items()}
        for lora in (first, second)
    )
    return one.keys() == other.keys() and all(torch.equal(t, other[end]) for end, t in one.items())


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_saves_the_suffixes_that_it_declares_and_no_other(kind: str):
    shapes = [shape for name, shape in cases() if name == kind]
    for shape in shapes:
        adapter = trained(KINDS[kind], shape).adapter
        assert set(adapter.tensors()) <= set(adapter.suffixes), shape


def test_every_declared_suffix_is_saved_by_some_setting():
    declared: dict[type, set[str]] = {}
    saved: dict[type, set[str]] = {}
    for kind, shape in cases():
        adapter = trained(KINDS[kind], shape).adapter
        assert len(set(adapter.suffixes)) == len(adapter.suffixes) > 0
        declared[type(adapter)] = set(adapter.suffixes)
        saved.setdefault(type(adapter), set()).update(adapter.tensors())
    assert saved == declared


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("container", WRITTEN)
def test_a_kind_alone_is_read_back(kind: str, container: Container, tmp_path: Path):
    lora = lora_of(kind)
    for family in ("sd15", "flux", ""):
        path = tmp_path / f"{family}_" / "one.safetensors"
        save_bundle(bundle_of(lora, family), path, container, None)
        found = load_bundle(path)
        assert same(dict(found.lora), lora) and found.family == family
        assert peek(path).lora == len(lora)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_known_by_its_tensors_alone(kind: str, tmp_path: Path):
    """Other programs copy a file's tensors and lose its header."""
    save_file(lora_of(kind), tmp_path / "bare.safetensors")
    assert same(dict(load_bundle(tmp_path / "bare.safetensors").lora), lora_of(kind))


@pytest.mark.parametrize("container", WRITTEN)
@pytest.mark.parametrize("names", [(), ("cat",)])
def test_a_bundle_of_ours_is_known_by_its_header_whatever_it_holds(
    container: Container, names: tuple[str, ...], tmp_path: Path
):
    lora, path = strange(), tmp_path / "one.safetensors"
    rows = {name: torch.randn(2, 768) for name in names}
    save_bundle(bundle_of(lora, **rows), path, container, None)
    found = load_bundle(path)
    assert same(dict(found.lora), lora) and set(found.lora) == set(lora)
    assert all(torch.equal(found.embeddings[name]["clip_l"], rows[name]) for name in names)


def test_without_our_header_an_unknown_kind_is_refused(tmp_path: Path):
    save_file(strange(), tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="this kind of file is not known"):
        load_bundle(tmp_path / "x.safetensors")


def test_a_file_of_ours_that_holds_an_embedding_is_no_adapter(tmp_path: Path):
    files = save_bundle(
        bundle_of({}, cat=torch.randn(2, 768)), tmp_path / "a.safetensors", Container.LOOSE, None
    )
    assert load_file(files[0]).keys() == {"emb_params"}
    assert load_bundle(files[0]).lora == {}


def test_what_cannot_be_merged_or_trimmed_is_one_sentence():
    made = bundle_of(strange())
    with pytest.raises(ValueError, match="pair of low-rank factors, .* cannot be merged"):
        merge_bundles([made, made], [1.0, 1.0], NameClash.ERROR)
    with pytest.raises(ValueError, match="This file has no low-rank layer"):
        trim_lora(made.lora, Trimming())


def test_trimming_leaves_an_unknown_kind_beside_a_lora_as_it_is():
    trimmed = trim_lora(lora_of("lora") | strange(), Trimming())
    assert all(torch.equal(trimmed.lora[key], tensor) for key, tensor in strange_of(trimmed.lora))
    assert "2 tensors are not low-rank factors and stay as they are" in spectrum_report(trimmed)


def strange_of(lora: dict[str, Tensor]) -> list[tuple[str, Tensor]]:
    found = [(key, tensor) for key, tensor in lora.items() if key.endswith(("_b", "_scale"))]
    assert len(found) == 2
    return found


def test_inspect_counts_what_is_no_pair_of_factors():
    text = as_text(inspect_bundle(bundle_of(lora_of("lora") | strange())))
    assert "LoRA: 1 layers in two factors, 2 other tensors, rank 3, alpha 2, float32" in text
    assert "LoRA: 2 tensors, float32" in as_text(inspect_bundle(bundle_of(strange())))


# As run folders and bundles hold them: another key or value starts another run.
RECIPES: list[tuple[AdapterConfig, dict[str, object]]] = [
    (
        LoraConfig(),
        {"kind": "LoraConfig", "rank": 16, "alpha": 16.0, "targets": "attention", "patterns": "",
         "text_encoder": False, "text_rate": 0.5, "rank_stabilized": False, "dropout": 0.0},
    ),
    (
        LoraConfig(rank=8, alpha=4, targets=Targets.CROSS_KV, patterns="attn2 = 32 : 16",
                   text_encoder=True, text_rate=0.1, rank_stabilized=True, dropout=0.1),
        {"kind": "LoraConfig", "rank": 8, "alpha": 4, "targets": "cross-attention keys and values",
         "patterns": "attn2 = 32 : 16", "text_encoder": True, "text_rate": 0.1,
         "rank_stabilized": True, "dropout": 0.1},
    ),
    (
        DoraConfig(axis=Axis.OUTPUT),
        {"kind": "DoraConfig", "rank": 16, "alpha": 16.0, "targets": "attention", "patterns": "",
         "text_encoder": False, "text_rate": 0.5, "axis": "output"},
    ),
    (
        LoHaConfig(),
        {"kind": "LoHaConfig", "rank": 8, "alpha": 8.0, "targets": "attention", "patterns": "",
         "text_encoder": False, "text_rate": 0.5},
    ),
    (
        LoKrConfig(),
        {"kind": "LoKrConfig", "rank": 0, "alpha": 1.0, "targets": "attention", "patterns": "",
         "text_encoder": False, "text_rate": 0.5, "factor": 8},
    ),
    (
        OftConfig(),
        {"kind": "OftConfig", "rank": 16, "alpha": 0.0, "targets": "attention", "patterns": "",
         "text_encoder": False, "text_rate": 0.5},
    ),
    (
        TriLoraConfig(core=Core.FULL, sigma=Sigma.PAPER, rank_out=4, orthogonality=0.5),
        {"kind": "TriLoraConfig", "rank": 16, "alpha": 0.0, "targets": "attention", "patterns": "",
         "text_encoder": False, "text_rate": 0.5, "rank_out": 4, "core": "full",
         "sigma": "singular values", "orthogonality": 0.5},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("config", "recipe"), RECIPES)
def test_settings_are_described_as_they_were_when_runs_were_kept(
    config: AdapterConfig, recipe: dict[str, object]
):
    assert {"kind": type(config).__name__, **asdict(config)} == recipe
