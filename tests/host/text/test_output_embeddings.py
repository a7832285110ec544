"""OneTrainer's output embeddings: the rows of the conditioning are the trained ones, no others."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import comfy.model_management as management
import pytest
import torch

from factories import random_vectors
from harness.host.graphs import Graph
from harness.models.embeddings import clip_with_names
from pack.bundles.bundle import Bundle
from pack.nodes.host.text.output_embeddings import encode_with_outputs
from pack.nodes.host.text.resolve import NameRules, bind_names
from pack.nodes.host.text.tokenizer import encoder_tokenizers
from world import families
from world.encoders import load_clip


@pytest.fixture(params=["sd15", "sdxl"])
def family(request) -> str:
    request.getfixturevalue(request.param)
    return request.param


def bound(host: Any, family: str) -> tuple[Any, Bundle]:
    """A CLIP that knows an output embedding of two rows and an ordinary name."""
    made = Bundle(
        family=family,
        lora={},
        embeddings={"cat": random_vectors(family, 1)},
        outputs={"late": random_vectors(family, 2)},
    )
    return bind_names(host.loaded[family].clip, made, NameRules(), "x")[0], made


def joined(vectors: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([vectors[key] for key in ("clip_l", "clip_g") if key in vectors], dim=-1)


def reference(host: Any, family: str, text: str) -> torch.Tensor:
    """The conditioning while zeros stand at the name, as the encoder sees them in training."""
    zeros = {key: torch.zeros_like(rows) for key, rows in random_vectors(family, 2).items()}
    named = {"late": zeros, "cat": random_vectors(family, 1)}
    clip = clip_with_names(host.loaded[family].clip, named)
    return clip.encode_from_tokens(clip.tokenize(text))


def test_the_rows_of_the_name_are_replaced_and_no_others(host, family):
    clip, made = bound(host, family)
    text = "a embedding:late and embedding:cat b"
    conditioning, replaced = encode_with_outputs(clip, text)
    plain, cond = reference(host, family, text), conditioning[0][0]
    # Start token and "a" come first.
    assert torch.equal(cond[0, 2:4], joined(dict(made.outputs["late"])).to(cond))
    assert torch.equal(cond[0, :2], plain[0, :2]) and torch.equal(cond[0, 4:], plain[0, 4:])
    assert replaced == 2 * len(made.outputs["late"])


def test_each_mention_is_replaced_also_behind_the_first_window(host, family):
    clip, made = bound(host, family)
    text = (
        "embedding:late " + ", ".join(["many words that fill the window"] * 12) + " embedding:late"
    )
    conditioning, replaced = encode_with_outputs(clip, text)
    cond, row = conditioning[0][0], joined(dict(made.outputs["late"]))[0]
    assert cond.shape[1] > 77 and replaced == 4 * len(made.outputs["late"])
    assert sum(torch.equal(one, row.to(one)) for one in cond[0]) == 2


def test_a_weight_goes_between_the_row_and_that_of_no_text(host, family):
    clip, made = bound(host, family)
    conditioning, _ = encode_with_outputs(clip, "a (embedding:late:1.5) b")
    base = host.loaded[family].clip
    empty = base.encode_from_tokens(base.tokenize(""))[0, 2:4]
    rows = joined(dict(made.outputs["late"])).to(empty)
    wanted = empty + 1.5 * (rows - empty)
    torch.testing.assert_close(conditioning[0][0][0, 2:4], wanted, rtol=1e-3, atol=1e-3)


def test_without_such_a_name_it_is_clip_text_encode(host, family):
    clip, _ = bound(host, family)
    conditioning, replaced = encode_with_outputs(clip, "a embedding:cat b")
    assert replaced == 0
    assert torch.equal(
        conditioning[0][0], clip.encode_from_tokens(clip.tokenize("a embedding:cat b"))
    )


def test_the_node_encodes_what_load_bundle_bound(host, family, run_graph):
    _, made = bound(host, family)
    graph = Graph()
    model, clip, _ = graph.base(family)
    loaded = graph.add("Pivotal_LoadBundle", model=model, clip=clip, bundle=graph.give(made))
    node = graph.add(
        "Pivotal_EncodeWithOutputEmbeddings", text="a embedding:late b", clip=loaded.out(1)
    )
    kept = graph.keep(node.out(0)), graph.keep(node.out(1))
    outputs = run_graph(graph)
    assert outputs[kept[1], 0] == 2 * len(made.outputs["late"])
    cond = outputs[kept[0], 0]
    cond = cond[0][0] if isinstance(cond[0], list | tuple) else cond
    assert torch.equal(
        cond[0, 2:4] if cond.ndim == 3 else cond[2:4], joined(dict(made.outputs["late"]))
    )


# Where each encoder's rows lie in the conditioning of a family: first row, first and last column.
AREAS = {
    "sd2": {"clip_h": (0, 0, 1024)},
    "sd3": {"clip_l": (0, 0, 768), "clip_g": (0, 768, 2048), "t5xxl": (77, 0, 4096)},
    "flux": {"t5xxl": (0, 0, 4096)},
    "chroma": {"t5xxl": (0, 0, 4096)},
}
# A start token and "a", which T5 without a start token reads as two.
BEFORE = 2


@pytest.fixture(scope="module", params=list(families.TINY))
def beyond(request, host) -> Iterator[tuple[str, Any]]:
    """The name and the CLIP of each tiny family beyond SD1.5 and SDXL."""
    with torch.inference_mode():
        clip = load_clip(families.TINY[request.param], torch.Generator().manual_seed(0))
    yield request.param, clip
    management.unload_all_models()
    gc.collect()


def late(clip: Any, keys: Any) -> dict[str, torch.Tensor]:
    """Rows of a name for some encoders of a CLIP."""
    widths = {
        key: leaf.embedding_size for key, leaf in encoder_tokenizers(clip).items() if key in keys
    }
    return {key: 0.02 * torch.randn(2, width) for key, width in widths.items()}


def test_each_encoder_of_a_family_gets_its_rows_or_a_sentence(beyond):
    family, base = beyond
    areas = AREAS.get(family, {})
    rows = late(base, encoder_tokenizers(base))
    seen = {key: value for key, value in rows.items() if key in areas}
    rest = {key: torch.zeros_like(value) for key, value in rows.items()}
    plain = clip_with_names(base, {"late": rest})
    text = "a embedding:late b"
    wanted = plain.encode_from_tokens(plain.tokenize(text)).clone()
    for key, value in seen.items():
        first, start, end = areas[key]
        at = first + BEFORE
        wanted[0, at : at + 2, start:end] = value
    made = Bundle(family="", lora={}, embeddings={}, outputs={"late": seen or rows})
    missing = {key: value for key, value in rest.items() if key not in seen}
    if missing and seen:
        made = Bundle(family="", lora={}, embeddings={"late": missing}, outputs={"late": seen})
    clip = bind_names(base, made, NameRules(), "x")[0]
    if not seen:
        with pytest.raises(ValueError, match="cannot be placed: where its rows are"):
            encode_with_outputs(clip, text)
        return
    conditioning, replaced = encode_with_outputs(clip, text)
    assert replaced == 2 * len(seen)
    assert torch.equal(conditioning[0][0], wanted)
    assert not torch.equal(wanted, plain.encode_from_tokens(plain.tokenize("a b")))


def test_what_only_the_pooled_output_holds_is_a_sentence(beyond):
    """Flux reads CLIP-L for its pooled vector alone, which no row of a token is."""
    family, base = beyond
    if family != "flux":
        return
    made = Bundle(family="", lora={}, embeddings={}, outputs={"late": late(base, {"clip_l"})})
    clip = bind_names(base, made, NameRules(), "x")[0]
    with pytest.raises(ValueError, match="Output embeddings for l cannot be placed"):
        encode_with_outputs(clip, "a embedding:late b")


def test_a_weight_of_each_encoder_goes_against_its_own_empty_rows(beyond):
    family, base = beyond
    seen = late(base, AREAS.get(family, {}))
    if not seen:
        return
    made = Bundle(family="", lora={}, embeddings={}, outputs={"late": seen})
    clip = bind_names(base, made, NameRules(), "x")[0]
    conditioning, _ = encode_with_outputs(clip, "a (embedding:late:1.5) b")
    zeros = {
        key: torch.zeros_like(rows) for key, rows in late(base, encoder_tokenizers(base)).items()
    }
    plain = clip_with_names(base, {"late": zeros})
    said, stressed = (
        plain.encode_from_tokens(plain.tokenize(f"a (embedding:late:{weight}) b"))
        for weight in (1.0, 1.5)
    )
    # The host's own: stressed = empty + 1.5 * (said - empty).
    empty = 3 * said - 2 * stressed
    for key, rows in seen.items():
        first, start, end = AREAS[family][key]
        at = slice(first + BEFORE, first + BEFORE + 2)
        bases = empty[0, at, start:end]
        wanted = bases + 1.5 * (rows.to(bases) - bases)
        found = conditioning[0][0][0, at, start:end]
        torch.testing.assert_close(found, wanted, atol=1e-3, rtol=1e-3)
