"""One family on trial: a method is trained, saved, loaded again and sampled, all by graphs."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import comfy.model_management as management
import folder_paths
import torch
from torch import Tensor

from factories import write_pictures
from harness.host.checkpoints import load_cut
from harness.host.graphs import Graph, Link, Node
from harness.host.measure import digest
from harness.host.runner import GraphFailed, Host, Loaded
from world import families, released

TI, LORA, TRILORA, TEXT, BUNDLE = "TI", "LoRA", "TriLoRA", "TE LoRA", "bundle"
METHODS = (TI, LORA, TRILORA, TEXT, BUNDLE)
NAMED = frozenset({TI, BUNDLE})
"""Methods with a concept, whose vectors the host's LoraLoader does not read."""
WORDS = "a photo of {} on grass"


Models = tuple[Any, Any, Any]
"""MODEL, CLIP and VAE"""


def load_small(name: str) -> Models:
    """A family's smallest models."""
    if name in families.TINY:
        return families.load(name)
    cut = load_cut(name)
    return cut.model, cut.clip, cut.vae


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """What a trial is about: models, and the methods that are tried on them."""

    load: Callable[[], Models]
    methods: tuple[str, ...] = METHODS


SMALL = ("sd15", "sdxl", *families.TINY)
FAMILIES = {name: Candidate(load=partial(load_small, name)) for name in SMALL}
# A step of these takes half a minute, so one method that has all parts is enough.
FAMILIES |= {
    f"{name}_released": Candidate(load=partial(released.load, name), methods=(BUNDLE,))
    for name in released.WIDTHS
}


class Trial:
    """A family's tiny models in the host, for as long as the context lasts."""

    def __init__(self, host: Host, name: str):
        self._host, self._name = host, name

    def __enter__(self) -> Trial:
        folder = self._host.base / "input" / "trial"
        if not folder.exists():
            write_pictures(folder, ["a photo of TOK", "TOK on grass"])
        with torch.inference_mode():
            model, clip, vae = FAMILIES[self._name].load()
        loaded = Loaded(model=model, clip=clip, vae=vae, path=self._host.base)
        # The tests of a family have one of that name as well.
        self._before = self._host.loaded.get(self._name)
        self._host.loaded[self._name] = loaded
        self._modules = (model.model, clip.cond_stage_model, vae.first_stage_model)
        loras = Path(folder_paths.get_output_directory(), "loras")
        folder_paths.add_model_folder_path("loras", str(loras))
        return self

    def __exit__(self, *_: object) -> None:
        del self._host.loaded[self._name], self._modules
        if self._before is not None:
            self._host.loaded[self._name] = self._before
        management.unload_all_models()
        gc.collect()

    def facts(self) -> dict[str, Any]:
        """The host's class of the family, and millions of numbers in its network and encoders."""
        model, clip, _ = self._modules
        parts = (model.diffusion_model, clip)
        sizes = [sum(one.numel() for one in part.parameters()) / 1e6 for part in parts]
        return {"class": type(model.model_config).__name__, "millions": [round(n) for n in sizes]}

    def outcome(self, method: str) -> str:
        """The word pass, or the sentence that a user is told, or what is not as it should be."""
        # The host patches weights in place and takes the patches off when it unloads.
        management.unload_all_models()
        before = digest(*self._modules)
        try:
            samples = self.trained_samples(method)
        except GraphFailed as failed:
            return str(failed).splitlines()[0]
        management.unload_all_models()
        kept = digest(*self._modules) == before
        return self.judged(samples, method) or ("pass" if kept else "The base's weights changed.")

    def judged(self, samples: dict[str, Tensor], method: str) -> str:
        """A sentence about samples that are not as they should be; "" when they are."""
        same = ["file"] if method in NAMED else ["file", "LoraLoader"]
        for way in same:
            if not torch.equal(samples[way], samples["train"]):
                worst = (samples[way] - samples["train"]).abs().max().item()
                return f"{way} samples otherwise than Train Concepts gives, by up to {worst:g}."
        if torch.equal(samples["base"], samples["train"]):
            return "The training does not show in the sample."
        return "" if all(torch.isfinite(one).all() for one in samples.values()) else "It is NaN."

    def trained_samples(self, method: str) -> dict[str, Tensor]:
        """Latents of one prompt from the base, the trained models, and both ways of loading."""
        graph, prefix = Graph(), f"loras/{self._name}_{method.replace(' ', '_')}"
        base = graph.base(self._name)
        run = graph.train(base, "trial", steps=2, **self.parts(graph, method))
        saved = graph.add(
            "Pivotal_SaveBundle",
            bundle=run.out(),
            filename_prefix=prefix,
            container="a1111",
            precision="fp32",
        )
        graph.keep(saved.out())
        prompt = WORDS.format("embedding:tok" if method in NAMED else "a dog")
        sampled = {
            "base": graph.sample(base[0], base[1], WORDS.format("a dog"), cfg=2.0),
            "train": graph.sample(run.out(1), run.out(2), prompt, cfg=2.0),
        }
        found = self.latents(graph, sampled)
        return found | self.loaded_samples(method, Path(prefix).name, prompt)

    def loaded_samples(self, method: str, stem: str, prompt: str) -> dict[str, Tensor]:
        graph = Graph()
        model, clip, _ = graph.base(self._name)
        file = f"{stem}_00001.safetensors"
        ours = graph.add("Pivotal_LoadBundle", model=model, clip=clip, file=f"loras/{file}")
        sampled = {"file": self.sampled(graph, ours, prompt)}
        if method not in NAMED:
            host = graph.add("LoraLoader", model=model, clip=clip, lora_name=file)
            sampled["LoraLoader"] = self.sampled(graph, host, prompt)
        return self.latents(graph, sampled)

    def sampled(self, graph: Graph, loader: Node, prompt: str) -> Node:
        return graph.sample(loader.out(0), loader.out(1), prompt, cfg=2.0)

    def latents(self, graph: Graph, sampled: dict[str, Node]) -> dict[str, Tensor]:
        outputs = self._host.run(graph)
        return {way: outputs[node, 0]["samples"] for way, node in sampled.items()}

    def parts(self, graph: Graph, method: str) -> dict[str, Link]:
        """What is connected to Train Concepts, with rates that show after two steps."""
        fast = graph.add("Pivotal_Optimizer", learning_rate=0.02).out()
        parts = {"optimizer": fast, "embedding_optimizer": fast}
        if method in NAMED:
            parts["concepts"] = graph.concept(name="tok", pivot=0.5)
        if method != TI:
            kind = "Pivotal_TriLora" if method == TRILORA else "Pivotal_Lora"
            also = {"text_encoder": True} if method == TEXT else {}
            parts["adapter"] = graph.add(kind, rank=2, **also).out()
        return parts
