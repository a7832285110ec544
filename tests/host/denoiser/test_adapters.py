"""What is saved of every adapter acts in the host as it did in training, by every loader."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import comfy.sd
import pytest
import torch
from torch import Tensor

from factories import write_pictures
from harness.host.graphs import Graph
from harness.host.runner import Loaded
from pack.bundles.bundle import Bundle
from pack.bundles.load import load_bundle
from pack.bundles.save import Container, save_bundle
from pack.nodes.host.bundle.apply import apply_bundle
from pack.nodes.host.denoiser.port import HostDenoiser
from pack.nodes.host.denoiser.singular_values import cache_file
from pack.nodes.host.run.prepare import make_adapters
from pack.nodes.host.sampling import Sampling, sample
from pack.nodes.host.text.port import HostTextEncoder
from pack.training.adapters import MODEL, TEXT, AdapterConfig, export_adapters
from pack.training.adapters.dora import Axis, DoraConfig
from pack.training.adapters.loha import LoHaConfig
from pack.training.adapters.lokr import LoKrConfig
from pack.training.adapters.lora import LoraConfig
from pack.training.adapters.oft import OftConfig
from pack.training.adapters.targets import Targets
from pack.training.adapters.trilora import TriLoraConfig
from pack.training.ports import Crop, Noised
from world import checkpoints

CROP = Crop(width=64, height=64, left=0, top=0, original_width=64, original_height=64)
WIDE = {"targets": Targets.CONVOLUTIONS, "text_encoder": True}
KINDS: dict[str, AdapterConfig] = {
    "lora": LoraConfig(rank=4, alpha=3.0, **WIDE),
    "rslora": LoraConfig(rank=4, alpha=3.0, rank_stabilized=True, **WIDE),
    "trilora": TriLoraConfig(rank=3, rank_out=4, **WIDE),
    "dora": DoraConfig(rank=4, alpha=3.0, **WIDE),
    "dora rows": DoraConfig(rank=4, alpha=3.0, axis=Axis.OUTPUT, **WIDE),
    "loha": LoHaConfig(rank=2, alpha=2.0, **WIDE),
    "lokr": LoKrConfig(factor=4, **WIDE),
    "lokr factors": LoKrConfig(factor=4, rank=2, alpha=4.0, **WIDE),
    "oft": OftConfig(rank=8, **WIDE),
}
# The host's bypass ignores dora_scale, wants 4-D factors of LoKr and rotates the bias with OFT.
BYPASS = [kind for kind in KINDS if kind not in ("dora", "dora rows", "lokr factors", "oft")]
PROMPT = "a dog on grass"


@pytest.fixture(scope="module")
def base(sd15: Loaded) -> Loaded:
    """The tiny SD1.5 with its text encoder in fp32: into fp16 the host rounds what it patches."""
    options = {
        "clip_l_model_config": {"num_hidden_layers": checkpoints.SD15.short_layers},
        "dtype": torch.float32,
    }
    with torch.inference_mode():
        model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(
            str(sd15.path), te_model_options=options
        )
        clip.cond_stage_model.clip_l.transformer.text_projection.weight.zero_()
    return Loaded(model=model, clip=clip, vae=vae, path=sd15.path)


Seen = tuple[Tensor, Tensor, Tensor]
SAMPLING = Sampling(steps=4, cfg=3.0, sampler_name="euler", scheduler="normal", width=64, height=64)


class Prediction:
    """The network's output, the text's, and sampled latents for fixed noise and prompt."""

    def __init__(self, base: Loaded):
        self.base = base
        draw = torch.Generator().manual_seed(1)
        self.latents = torch.randn(1, 4, 8, 8, generator=draw)
        self.noise = torch.randn(1, 4, 8, 8, generator=draw)

    def trained(self, adapters: Mapping[str, Any]) -> Seen:
        """By the training clone."""
        model, clip = self.base.model, self.base.clip
        denoiser, text = HostDenoiser(model, checkpointing=False), HostTextEncoder(clip)
        with (
            torch.no_grad(),
            text.attach({}, adapters[TEXT]),
            denoiser.attach(adapters[MODEL]),
        ):
            encoded, empty = text.encode([(PROMPT,), ("",)])
            output = denoiser.predict(self.noised(denoiser), [encoded], [CROP])
            with denoiser.sampling() as clone:
                latents = sampled(clone, encoded.tensors["cond"], empty.tensors["cond"])
        return output, encoded.tensors["cond"], latents

    def of(self, model: Any, clip: Any) -> Seen:
        """By what a loader gives: in training without adapters, and in the host's sampler."""
        denoiser, text = HostDenoiser(model, checkpointing=False), HostTextEncoder(clip)
        with torch.no_grad(), text.attach({}, {}), denoiser.attach({}):
            (encoded,) = text.encode([(PROMPT,)])
            output = denoiser.predict(self.noised(denoiser), [encoded], [CROP])
        with torch.no_grad():
            words, empty = (clip.encode_from_tokens(clip.tokenize(t)) for t in (PROMPT, ""))
            latents = sampled(model, words, empty)
        return output, encoded.tensors["cond"], latents

    def noised(self, denoiser: HostDenoiser) -> Noised:
        return denoiser.noised(self.latents, self.noise, torch.tensor([0.5]))


def sampled(model: Any, words: Tensor, empty: Tensor) -> Tensor:
    """Latents of the host's sampler."""
    return sample(model, ([[words, {}]], [[empty, {}]]), SAMPLING, 5, lambda *_: None)


def moved(config: AdapterConfig, base: Loaded) -> dict[str, dict[str, Any]]:
    """Adapters whose numbers were moved, as by training."""
    denoiser, text = HostDenoiser(base.model, checkpointing=False), HostTextEncoder(base.clip)
    adapters = make_adapters(config, denoiser, text, seed=0)
    draw = torch.Generator().manual_seed(3)
    for members in adapters.values():
        for adapter in members.values():
            for parameter in adapter.parameters():
                size = 0.02 if parameter.ndim > 1 else 0.05 * parameter.abs().mean()
                parameter.data += size * torch.randn(parameter.shape, generator=draw)
    return adapters


def exported(adapters: Mapping[str, Any]) -> dict[str, Tensor]:
    return export_adapters(adapters[MODEL], MODEL) | export_adapters(adapters[TEXT], TEXT)


def check(before: Any, after: Any, base: Any) -> None:
    """Within 1e-4 of the deviation, where the adapter itself changes far more."""
    for trained, loaded, plain in zip(before, after, base, strict=True):
        spread = plain.std()
        assert (trained - plain).abs().max() > 0.02 * spread, "the adapter has to act"
        assert (trained - loaded).abs().max() <= 1e-4 * spread


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_acts_as_what_was_trained(base: Loaded, kind: str, tmp_path):
    """By Load Bundle from memory, and from the file by the host's loader, patched and bypassed."""
    config = KINDS[kind]
    with torch.inference_mode(False):
        adapters = moved(config, base)
        once = Prediction(base)
        plain, trained = once.of(base.model, base.clip), once.trained(adapters)
        bundle = Bundle(family="sd15", lora=exported(adapters), embeddings={})
        model, clip, _, notes = apply_bundle(base.model, base.clip, bundle)
        check(trained, once.of(model, clip), plain)
        assert notes == []
        path = tmp_path / "saved.safetensors"
        save_bundle(bundle, path, Container.A1111, torch.float32)
        saved = dict(load_bundle(path).lora)
        check(trained, once.of(*load_lora(base, saved)), plain)
        if kind in BYPASS:
            check(trained, once.of(*load_lora(base, saved, bypass=True)), plain)


def load_lora(base: Loaded, lora: dict[str, Tensor], bypass: bool = False) -> tuple[Any, Any]:
    """As the host's LoraLoader does, or its bypass loader."""
    if not bypass:
        return comfy.sd.load_lora_for_models(base.model, base.clip, lora, 1.0, 1.0)
    return comfy.sd.load_bypass_lora_for_models(base.model, base.clip, lora, 1.0, 1.0)


def test_the_hosts_loader_knows_every_saved_key(sd15: Loaded, caplog):
    for config in KINDS.values():
        with torch.inference_mode(False):
            lora = exported(moved(config, sd15))
        load_lora(sd15, lora)
    assert not [r for r in caplog.records if "lora key not loaded" in r.getMessage()]


def test_convolutions_and_encoders_are_adapted(sd15: Loaded):
    with torch.inference_mode(False):
        adapters = moved(KINDS["lora"], sd15)
    names = set(adapters[MODEL])
    assert any(name.endswith("in_layers.2") for name in names)
    assert "input_blocks.0.0" not in names and "out.2" not in names
    assert any("self_attn.q_proj" in name for name in adapters[TEXT])
    assert any("mlp.fc1" in name for name in adapters[TEXT])
    assert not any("text_projection" in name for name in adapters[TEXT])


def test_singular_values_are_kept_in_the_users_folder(sd15: Loaded):
    cache_file().unlink(missing_ok=True)
    with torch.inference_mode(False):
        first = moved(TriLoraConfig(rank=4), sd15)
        stamp = cache_file().stat().st_mtime_ns
        second = moved(TriLoraConfig(rank=4), sd15)
    assert cache_file().stat().st_mtime_ns == stamp, "nothing new to keep"
    for name, adapter in first[MODEL].items():
        assert torch.equal(adapter.c, second[MODEL][name].c)
    cache_file().write_bytes(b"damaged")
    with torch.inference_mode(False):
        third = moved(TriLoraConfig(rank=4), sd15)
    assert torch.equal(third[MODEL][name].c, adapter.c)


def train(host, run_graph, folder: str, run_name: str, kind: str, **settings: Any):
    steps = settings.pop("steps", 4)
    graph = Graph()
    adapter = graph.add(kind, **settings).out()
    run = graph.train(
        graph.base("sd15"),
        folder,
        concepts=graph.concept(),
        adapter=adapter,
        optimizer=graph.add("Pivotal_Optimizer", learning_rate=0.01).out(),
        steps=steps,
        run_name=run_name,
    )
    graph.keep(run.out(5))
    outputs = run_graph(graph)
    return outputs[run, 0], outputs[run, 5]


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("Pivotal_Lora", {"targets": "attention and mlp", "dropout": 0.2}),
        ("Pivotal_TriLora", {"rank": 4, "core": "full"}),
        ("Pivotal_Dora", {"rank": 4}),
        ("Pivotal_LoHa", {"rank": 2}),
        ("Pivotal_LoKr", {}),
        ("Pivotal_Oft", {"rank": 8}),
    ],
)
def test_a_graph_swaps_one_node(host, run_graph, sd15: Loaded, kind: str, settings: dict):
    write_pictures(host.base / "input" / "toks", ["a picture of TOK", "TOK on grass"])
    bundle, report = train(host, run_graph, "toks", f"swap {kind}", kind, **settings)
    assert bundle.lora and all(torch.isfinite(tensor).all() for tensor in bundle.lora.values())
    assert "diffusion model: " in report and " layers adapted with " in report


def test_the_text_encoders_learn_where_it_is_asked(host, run_graph, sd15: Loaded):
    write_pictures(host.base / "input" / "toks", ["a picture of TOK", "TOK on grass"])
    bundle, report = train(
        host, run_graph, "toks", "with text", "Pivotal_Lora", rank=4, text_encoder=True
    )
    ups = {
        key: tensor
        for key, tensor in bundle.lora.items()
        if key.startswith("text_encoders.clip_l.") and key.endswith("lora_up.weight")
    }
    assert ups and all(up.abs().max() > 0 for up in ups.values())
    assert "text encoders: " in report


def test_patterns_are_counted_in_the_report(host, run_graph, sd15: Loaded):
    write_pictures(host.base / "input" / "toks", ["a picture of TOK", "TOK on grass"])
    bundle, report = train(
        host,
        run_graph,
        "toks",
        "with patterns",
        "Pivotal_Lora",
        rank=2,
        patterns=r"attn2\.to_k = 5 : 10" + "\n-to_out",
        steps=1,
    )
    assert r"attn2\.to_k = 5 : 10: 1 layer adapted with 5,440 parameters" in report
    downs = {k: t for k, t in bundle.lora.items() if k.endswith("lora_down.weight")}
    assert not any("to_out" in key for key in downs)
    ranks = {key.split(".")[-3]: len(tensor) for key, tensor in downs.items() if "attn2" in key}
    assert ranks["to_k"] == 5 and ranks["to_q"] == 2
