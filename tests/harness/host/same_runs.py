"""Changes to a graph that must begin a new run, and those that must not; the table of both."""

from __future__ import annotations

import gc
import json
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import comfy.model_management as management
import folder_paths
import torch
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete
from safetensors.torch import save_file

import nodes
from factories import CAPTIONS, random_vectors, write_pictures
from harness.host.checkpoints import cached_checkpoint, load_cut, used_memory
from harness.host.graphs import Graph, Link
from harness.host.runner import AnyType, GraphInterrupted, Host, Loaded
from pack.nodes.host.run.identity import Identity, identity_of
from pack.nodes.host.text.tokenizer import named, with_names
from pack.nodes.train import train_concepts
from world import checkpoints

FOLDERS = ("same", "same_but_a_caption")
LORA = "same_runs.safetensors"


@dataclass
class Build:
    """A graph that is made, with what leads to Train Concepts."""

    host: Host
    graph: Graph = field(default_factory=Graph)
    family: str = "sd15"
    folder: str = FOLDERS[0]
    model: Link = field(default_factory=list)
    clip: Link = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    concept: dict[str, Any] = field(default_factory=dict)
    adapter: dict[str, Any] = field(default_factory=lambda: {"rank": 2})

    def patch(self, kind: str, **inputs: Any) -> None:
        """A node of the host on the MODEL."""
        self.model = self.graph.add(kind, model=self.model, **inputs).out()


Apply = Callable[[Build], None]


@dataclass(frozen=True)
class Change:
    """A row of the table."""

    name: str
    new_run: bool
    apply: Apply
    before: bool = False
    """Whether it chooses the checkpoint or prepares the host, and so comes before all nodes"""


def patched(kind: str, **inputs: Any) -> Apply:
    return lambda build: build.patch(kind, **inputs)


def setting(**settings: Any) -> Apply:
    return lambda build: build.settings.update(settings)


def lora(model: float, clip: float, kind: str = "LoraLoader") -> Apply:
    def apply(build: Build) -> None:
        inputs = {"lora_name": LORA, "strength_model": model, "strength_clip": clip}
        node = build.graph.add(kind, model=build.model, clip=build.clip, **inputs)
        build.model, build.clip = node.out(0), node.out(1)

    return apply


def bypass(strength: float) -> Apply:
    return lora(strength, strength, "LoraLoaderBypass")


def last_layer(build: Build) -> None:
    build.clip = build.graph.add("CLIPSetLastLayer", clip=build.clip, stop_at_clip_layer=-2).out()


def names(seed: int, *, at: str = "word") -> Apply:
    """A name that another training bound to the CLIP, whose vectors that training's seed makes."""

    def apply(build: Build) -> None:
        clip = build.host.loaded[build.family].clip
        build.clip = build.graph.give(with_names(clip, [named(at, random_vectors("sd15", seed))]))

    return apply


def hooked(build: Build) -> None:
    hooks = build.graph.add("CreateHookLora", lora_name=LORA, strength_clip=0.5).out()
    build.clip = build.graph.add("SetClipHooks", clip=build.clip, hooks=hooks, apply_to_conds=True)
    build.clip = build.clip.out()


def previews(build: Build) -> None:
    small = {"steps": 1, "width": 64, "height": 64}
    node = build.graph.add("Pivotal_Previews", every=2, prompts="a TOK", **small)
    build.settings["previews"] = node.out()


def optimizer(build: Build) -> None:
    build.settings["optimizer"] = build.graph.add("Pivotal_Optimizer", learning_rate=3e-4).out()


def family(name: str) -> Apply:
    return lambda build: setattr(build, "family", name)


def loaded_anew(build: Build) -> None:
    build.host.loaded["sd15 again"] = load_cut("sd15")
    build.family = "sd15 again"


def memory_used(_: Build) -> None:
    management.unload_all_models()
    gc.collect()
    with used_memory():
        for size in range(18, 25):
            torch.empty(2**size)


def another_clone(build: Build) -> None:
    """Another node's clone is loaded, with its weights and noise schedule in the model of all."""
    model = build.host.loaded["sd15"].model
    (other,) = ModelSamplingDiscrete().patch(model, "eps", True)
    name = "diffusion_model.out.2.weight"
    shape = dict(model.model.named_parameters())[name].shape
    other.add_patches({name: (torch.full(shape, 0.5),)}, 1.0)
    management.load_models_gpu([other])


def sampled(build: Build) -> None:
    """An image was sampled with this MODEL, so that its patches have worked already."""
    build.settings["sampled"] = True


MODEL_PATCHES: dict[str, Apply] = {
    "ToMe 0.3": patched("TomePatchModel", ratio=0.3),
    "ToMe 0.5": patched("TomePatchModel", ratio=0.5),
    "FreeU": patched("FreeU", b1=1.1),
    "FreeU stronger": patched("FreeU", b1=1.3),
    "FreeU V2": patched("FreeU_V2"),
    "HyperTile": patched("HyperTile"),
    "Deep Shrink": patched("PatchModelAddDownscale", block_number=1),
    "attention scaled": patched("UNetSelfAttentionMultiply", q=1.2),
    "attention scaled otherwise": patched("UNetSelfAttentionMultiply", q=1.5),
    "v-prediction": patched("ModelSamplingDiscrete", sampling="v_prediction"),
    "zero terminal SNR": patched("ModelSamplingDiscrete", sampling="eps", zsnr=True),
}
TABLE = (
    *(Change(name, True, apply) for name, apply in MODEL_PATCHES.items()),
    Change("another checkpoint", True, family("sd15 other"), before=True),
    Change("LoRA on both", True, lora(0.5, 0.5)),
    Change("LoRA on the MODEL", True, lora(0.5, 0.0)),
    Change("LoRA on the CLIP", True, lora(0.0, 0.5)),
    Change("LoRA on the MODEL, stronger", True, lora(0.8, 0.0)),
    Change("LoRA in bypass", True, bypass(0.5)),
    Change("LoRA in bypass, stronger", True, bypass(0.8)),
    Change("LoRA by a hook of the CLIP", True, hooked),
    Change("CLIP's last layer", True, last_layer),
    Change("a name of the CLIP", True, names(1), before=True),
    Change("a name of the CLIP, other vectors", True, names(2), before=True),
    Change("another name of the CLIP", True, names(1, at="other"), before=True),
    Change("seed", True, setting(seed=7)),
    Change("resolution", True, setting(resolution=128)),
    Change("batch size", True, setting(batch_size=2)),
    Change("learning rate", True, optimizer),
    Change("rank", True, lambda build: build.adapter.update(rank=3)),
    Change("initial words", True, lambda build: build.concept.update(initial="cat")),
    Change("a caption", True, lambda build: setattr(build, "folder", FOLDERS[1])),
    Change("steps", False, setting(steps=9)),
    Change("interval of checkpoints", False, setting(checkpoint_every=2)),
    Change("kept checkpoints", False, setting(keep_checkpoints=1)),
    Change("checkpointing", False, setting(checkpointing="on")),
    Change("previews", False, previews),
    Change("RescaleCFG", False, patched("RescaleCFG", multiplier=0.6)),
    Change("EasyCache", False, patched("EasyCache")),
    Change("LazyCache", False, patched("LazyCache")),
    Change("compiled", False, patched("TorchCompileModel")),
    Change("loaded anew", False, loaded_anew, before=True),
    Change("memory used by others", False, memory_used, before=True),
    Change("patches of another clone", False, another_clone, before=True),
    Change("sampled before", False, sampled),
)
BY_NAME = {change.name: change for change in TABLE}
EXCLUSIVE = (
    {"ToMe 0.3", "ToMe 0.5"},
    {"FreeU", "FreeU stronger", "FreeU V2"},
    {"attention scaled", "attention scaled otherwise"},
    {"v-prediction", "zero terminal SNR"},
    {name for name in BY_NAME if name.startswith("LoRA")},
    {name for name in BY_NAME if "name of the CLIP" in name},
    {"another checkpoint", "loaded anew"},
    {"compiled", "sampled before"},
)
"""Groups of which a graph has one at most; both would be another change, or compile for minutes."""


@contextmanager
def identities() -> Iterator[list[Identity]]:
    """What makes each queued run the same run, in place of training it."""
    found: list[Identity] = []
    train = train_concepts.run_training

    def identify(model: Any, clip: Any, vae: Any, request: Any) -> None:
        checked = request.checked().request
        with torch.inference_mode(False):
            found.append(identity_of(checked, model, clip, vae))
        raise management.InterruptProcessingException

    train_concepts.run_training = identify
    try:
        yield found
    finally:
        train_concepts.run_training = train


def prepare(host: Host) -> None:
    """The checkpoints, images and LoRA that the table's graphs use."""
    if "sd15" not in host.loaded:
        host.loaded["sd15"] = load_cut("sd15")
    if "sd15 other" not in host.loaded:
        build = partial(checkpoints.build_sd15_short, seed=1)
        path = cached_checkpoint("sd15_short_other", build)
        with torch.inference_mode(), used_memory():
            model, clip, vae = checkpoints.load_short(path)
        host.loaded["sd15 other"] = Loaded(model=model, clip=clip, vae=vae, path=path)
    nodes.NODE_CLASS_MAPPINGS.setdefault("Harness_After", After)
    for folder, captions in zip(FOLDERS, (CAPTIONS, ["a TOK", *CAPTIONS[1:]]), strict=True):
        write_pictures(host.base / "input" / folder, captions)
    loras = Path(folder_paths.get_output_directory(), "same_runs")
    loras.mkdir(parents=True, exist_ok=True)
    save_file(lora_tensors(host), loras / LORA)
    folder_paths.add_model_folder_path("loras", str(loras))


def lora_tensors(host: Host) -> dict[str, torch.Tensor]:
    rng, loaded = torch.Generator().manual_seed(0), host.loaded["sd15"]
    layers = {
        "lora_unet_": (loaded.model.model.diffusion_model, "attn2.to_k"),
        "lora_te_": (loaded.clip.cond_stage_model.clip_l.transformer, "self_attn.q_proj"),
    }
    tensors: dict[str, torch.Tensor] = {}
    for prefix, (root, ending) in layers.items():
        for name, layer in root.named_modules():
            if name.endswith(ending):
                key = prefix + name.replace(".", "_")
                if prefix == "lora_unet_":
                    key = f"diffusion_model.{name}"
                out, width = layer.weight.shape
                tensors[f"{key}.lora_up.weight"] = torch.randn(out, 1, generator=rng)
                tensors[f"{key}.lora_down.weight"] = torch.randn(1, width, generator=rng)
    return tensors


def build_graph(host: Host, changes: Sequence[Change], name: str = "same run") -> Graph:
    """The plain graph with these changes, and Train Concepts at its end."""
    build = Build(host)
    before = [change for change in changes if change.before]
    # A name is bound to the CLIP of the checkpoint that was chosen.
    for change in sorted(before, key=lambda change: "name" in change.name):
        change.apply(build)
    model, clip, vae = build.graph.base(build.family)
    build.model, build.clip = model, build.clip or clip
    for change in changes:
        if not change.before:
            change.apply(build)
    settings = {**build.settings}
    if settings.pop("sampled", False):
        graph = build.graph
        drawn = graph.sample(build.model, build.clip, "a photo", steps=1)
        build.model = graph.add("Harness_After", value=build.model, first=drawn.out()).out()
    settings.setdefault("seed", 0)
    run = build.graph.train(
        (build.model, build.clip, vae),
        build.folder,
        concepts=build.graph.concept(**build.concept),
        adapter=build.graph.add("Pivotal_Lora", **build.adapter).out(),
        run_name=name,
        **settings,
    )
    build.graph.keep(run.out(5))
    return build.graph


class After:
    """A node that hands a value on when another node has run."""

    RETURN_TYPES = (AnyType("*"),)
    FUNCTION = "give"
    CATEGORY = "harness"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {name: (AnyType("*"), {}) for name in ("value", "first")}}

    def give(self, value: Any, first: Any) -> tuple[Any]:
        return (value,)


def identity_with(host: Host, changes: Sequence[Change]) -> Identity:
    """What makes the run of this graph the same run, by its nodes in the host."""
    with identities() as found:
        try:
            host.run(build_graph(host, changes))
        except GraphInterrupted:
            management.interrupt_current_processing(False)
    (identity,) = found
    return identity


def is_found_when_queued(host: Host, name: str, pair: Sequence[Sequence[Change]]) -> bool:
    """Whether the second graph finds the run of the first; both train."""
    for changes in pair:
        host.run(build_graph(host, changes, name))
    return not (host.base / "output" / "pivotal" / f"{name}_2").exists()


def is_same(one: Identity, other: Identity) -> bool:
    """Whether the second is found by what the first has written into its folder."""
    return other.matches(json.loads(one.saved())) is not None


def fits(changes: Sequence[Change]) -> bool:
    return all(sum(c.name in group for c in changes) <= 1 for group in EXCLUSIVE)


def random_pair(seed: int) -> tuple[list[Change], list[Change]]:
    """What two graphs have changed; half of the pairs are to be the same run."""
    rng = random.Random(seed)
    while True:
        shared = rng.sample(TABLE, rng.randint(0, 2))
        kind = [change for change in TABLE if change.new_run == bool(seed % 2)]
        more = rng.sample(kind, rng.randint(1, 2))
        more += rng.sample([c for c in TABLE if not c.new_run], rng.randint(0, 1))
        other = list(dict.fromkeys([*shared, *more]))
        if len(other) > len(shared) and fits(other):
            return shared, other


def expected_same(one: Sequence[Change], other: Sequence[Change]) -> bool:
    """As the table says."""
    return not any(change.new_run for change in set(one) ^ set(other))
