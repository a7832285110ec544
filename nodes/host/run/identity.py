"""What makes a run the same run, and what differs between two.

Queueing a graph resumes a run or gives its result again if these are the same:

- its name;
- the recipe: all settings of Train Concepts and of what is connected to it except those below, and
  the dataset, class and validation images with their captions;
- the checkpoint that it continues, if it does;
- the MODEL, CLIP and VAE: what their files hold, the patches on them (LoRA, merges), the noise
  schedule that a node has set, and the layer at which the CLIP stops. What a file does not hold is
  memory that nobody wrote and counts for nothing;
- what else nodes put on the MODEL or CLIP that a training step runs: options and patches of blocks,
  wrappers, callbacks, replaced objects, injections, hooks and the options of the tokenizer;
- the names that are bound to the CLIP, with their vectors.

These do not matter, so that they can change from one queue to the next: the number of steps;
previews, intervals of checkpoints, how many are kept, and checkpointing; whatever only a sampler
runs (CFG functions, compilers, caches of steps); the device, and the precision in which it computes
(weights that are loaded in another precision are other weights); the order in which models were
loaded or nodes ran, and what else was in memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP, VAE

from ..additions import additions_to_clip, additions_to_model, names_of_clip
from ..digests import earlier_digests, model_digest

if TYPE_CHECKING:
    from .request import Request

RULE = 2
"""How the models are compared. The first rule knew weights alone, and read all memory as such."""
KINDS = {"model": "MODEL", "clip": "CLIP", "vae": "VAE"}


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What makes a run the same run."""

    recipe: Mapping[str, Any]
    usual: Mapping[str, Any]
    """Settings of the recipe as they are when nobody sets them"""
    models: Mapping[str, str]
    """Digests of the weights"""
    additions: Mapping[str, Any]
    """Digests of what else nodes put on them, where they did"""
    earlier: Callable[[], Mapping[str, tuple[set[str], bool]]]
    """For each model what the first rule made of it, and whether it is sure to have"""

    def saved(self) -> str:
        """As it is written into the run's folder."""
        parts = {"recipe": self.recipe, "models": self.models, "rule": RULE}
        if self.additions:
            parts["additions"] = self.additions
        return json.dumps(parts, indent=1, sort_keys=True)

    def matches(self, saved: Mapping[str, Any]) -> list[str] | None:
        """None for another run; else what could not be compared, as lines for the report."""
        if saved.get("rule") == RULE:
            now = json.loads(self.saved())
            return None if changes(saved, now, {"recipe": self.usual}) else []
        recipe = saved.get("recipe")
        if recipe is None or changes(recipe, self.recipe, self.usual):
            return None
        models = saved.get("models")
        return self._matches_first_rule(models if isinstance(models, dict) else {})

    def _matches_first_rule(self, saved: Mapping[str, Any]) -> list[str] | None:
        models, notes = {name: str(digest) for name, digest in saved.items()}, list[str]()
        for name, (possible, sure) in self.earlier().items():
            if models.get(name) in possible:
                continue
            if sure or not _same_layer(models.get(name, ""), self.models[name]):
                return None
            notes.append(
                f"The run was begun by an earlier version, whose digest of the {KINDS[name]} also "
                f"read memory that no file fills: whether this is the same {KINDS[name]} was not "
                "checked. Choose another run_name if it is not."
            )
        if self.additions:
            notes.append(
                "The run was begun by an earlier version, which did not record what other nodes "
                "put on the MODEL and CLIP: whether that is the same was not checked. Choose "
                "another run_name if it is not."
            )
        return notes


def identity_of(request: Request, model: ModelPatcher, clip: CLIP, vae: VAE) -> Identity:
    """What makes this request the same run as another one, from the models as they are now."""
    patchers = {"model": model, "clip": clip.patcher, "vae": vae.patcher}
    layer = "" if clip.layer_idx is None else f"{LAYER}{clip.layer_idx}"
    ends = {"model": "", "clip": layer, "vae": ""}

    def earlier() -> Mapping[str, tuple[set[str], bool]]:
        each = {name: earlier_digests(patcher) for name, patcher in patchers.items()}
        return {n: ({d + ends[n] for d in possible}, sure) for n, (possible, sure) in each.items()}

    additions = {
        "model": additions_to_model(model),
        "clip": additions_to_clip(clip),
        "names": names_of_clip(clip),
    }
    return Identity(
        recipe=identity_recipe(request),
        usual=request.usual(),
        models={name: model_digest(patcher) + ends[name] for name, patcher in patchers.items()},
        additions={name: part for name, part in additions.items() if part},
        earlier=earlier,
    )


LAYER = " up to layer "


def _same_layer(one: str, other: str) -> bool:
    """Whether two digests of a CLIP stop at the same layer."""
    return one.partition(LAYER)[2] == other.partition(LAYER)[2]


def identity_recipe(request: Request) -> dict[str, Any]:
    """The recipe as it is saved in a run's folder: after JSON, and without the steps."""
    recipe = json.loads(json.dumps(request.recipe()))
    del recipe["train"]["steps"]
    return recipe


def changes(saved: Any, requested: Any, usual: Any) -> dict[str, list[Any]]:
    """The settings that differ from a saved recipe: {setting: [before, now]}.

    A recipe may be saved by an earlier version of the pack. A setting which that version did not
    know had its default, the value in `usual`.
    """
    now, defaults = dict(_flat(requested)), dict(_flat(usual))
    before = {name: defaults[name] for name in now.keys() & defaults.keys()} | dict(_flat(saved))
    names = sorted(now.keys() | before.keys())
    return {n: [before.get(n), now.get(n)] for n in names if before.get(n) != now.get(n)}


def _flat(nested: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """The leaves of nested objects and lists, with their dotted names."""
    if isinstance(nested, Mapping):
        pairs = [(str(key), value) for key, value in nested.items()]
    elif isinstance(nested, list | tuple):
        pairs = [(str(place), value) for place, value in enumerate(nested)]
    else:
        return [(prefix, nested)]
    return [leaf for key, value in pairs for leaf in _flat(value, f"{prefix}.{key}".strip("."))]
