"""What monitor, reports and previews add to a step: one run, watched and bare in turns."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from factories import write_pictures
from harness.faults.warm import WarmHost
from harness.host.graphs import Graph

SECONDS = 2.5
"""How long a block lasts, so that every watched one has its reports."""
WARM_STEPS = 6
"""Steps of the probe that are not counted."""
SHARE = 0.1
"""How much of the time the previews may take."""


def weigh(warm: WarmHost, folder: Path, pairs: int) -> dict[str, Any]:
    """Seconds per step of every block, watched and bare, and the share that previews took."""
    captions = [f"a picture of TOK number {number}" for number in range(8)]
    write_pictures(warm.host.base / "input" / "overhead", captions)
    probe = warm.child(folder / "probe", lambda: _weighed(warm, 1, 2 * WARM_STEPS)).whole()
    pace = min(probe["bare"][-1], probe["watched"][-1])
    length = max(2, round(SECONDS / pace))
    return warm.child(folder / "run", lambda: _weighed(warm, pairs, length)).whole()


def _weighed(warm: WarmHost, pairs: int, length: int) -> dict[str, Any]:
    import torch

    from harness.host.watching import Block, in_turns

    torch.set_num_threads(os.cpu_count() or 1)
    warm_up = Block(True)
    # Every other pair backwards, so that neither always comes first.
    order = [(n + first) % 2 == 0 for n in range(pairs) for first in (0, 1)]
    blocks = [Block(watched) for watched in order]
    steps = (len(blocks) + 1) * length
    graph = Graph()
    drawn = graph.add(
        "Pivotal_Previews", prompts="a photo of TOK", every=10, time_share=SHARE, seeds="5",
        steps=4, width=64, height=64,
    )  # fmt: skip
    run = graph.train(
        graph.base("sd15"), "overhead", concepts=graph.concept(pivot=1.0),
        adapter=graph.add("Pivotal_Lora", rank=8).out(), steps=steps, batch_size=1, resolution=128,
        run_name="overhead", checkpoint_every=0, previews=drawn.out(),
    )  # fmt: skip
    graph.keep(run.out(5))
    with in_turns([warm_up, *blocks], length):
        warm.host.run(graph)
    by_kind = {kind: [b for b in blocks if b.watched is kind] for kind in (True, False)}
    times = [s for b in blocks for s in b.seconds]
    drawing = [
        s - b.mean() for b in blocks for s, drew in zip(b.seconds, b.drew, strict=True) if drew
    ]
    return {
        "watched": [block.mean() for block in by_kind[True]],
        "bare": [block.mean() for block in by_kind[False]],
        "watched_work": [block.mean("worked") for block in by_kind[True]],
        "bare_work": [block.mean("worked") for block in by_kind[False]],
        "steps_a_block": length,
        "previews": sum(block.drew.count(2) for block in blocks),
        "share_of_previews": round(sum(drawing) / sum(times), 4),
        "allowed_share": SHARE,
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
    }
