"""What watching a run asks of its device: nothing that the run itself does not ask."""

from __future__ import annotations

import pytest

from factories import write_pictures
from harness.host.graphs import Graph
from harness.host.watching import Block, counted, in_turns

LENGTH = 4


@pytest.mark.parametrize("concepts", [True, False])
def test_monitor_reports_and_previews_add_no_sync_and_no_encoder_call_to_a_step(
    host, sd15, run_graph, concepts
):
    write_pictures(host.base / "input" / "overhead", ["a TOK", "TOK on grass"])
    graph = Graph()
    drawn = graph.add(
        "Pivotal_Previews", prompts="a TOK", every=4, time_share=1.0, steps=1, width=64, height=64
    )
    parts = {"concepts": graph.concept(pivot=1.0)} if concepts else {}
    run = graph.train(
        graph.base("sd15"), "overhead", adapter=graph.add("Pivotal_Lora", rank=2).out(),
        steps=6 * LENGTH, previews=drawn.out(), **parts,
    )  # fmt: skip
    graph.keep(run.out(5))
    blocks = [Block(watched) for watched in (True, False, True, False, False, True)]
    encoders = [m for m in sd15.clip.cond_stage_model.modules() if hasattr(m, "process_tokens")]
    with in_turns(blocks, LENGTH, lambda: [encoder.transformer for encoder in encoders]):
        run_graph(graph)
    steps = [
        (block.watched, counts)
        for block in blocks
        for counts, drew in zip(block.counts, block.drew, strict=True)
        if not drew
    ]
    watched = [counts for on, counts in steps if on]
    bare = [counts for on, counts in steps if not on]
    assert any(drew for block in blocks for drew in block.drew) and len(watched) > LENGTH
    # The first step of a run without concepts encodes every caption a last time.
    first, *rest = watched
    assert all(counts == bare[0] for counts in (*rest, *bare))
    assert first.keys() <= {*bare[0], "encoder"}
    assert ("encoder" in bare[0]) is concepts


def test_a_read_of_a_number_on_the_device_is_counted():
    """So that the test above can fail."""
    from collections import Counter

    import torch

    counts = Counter[str]()
    with counted(counts, []):
        assert torch.ones(2).sum().item() == 2 and torch.ones(1) > 0
        torch.ones(3).tolist()
    assert counts == {"item": 1, "tolist": 1}
