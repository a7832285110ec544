"""Times a training step with each adapter against LoRA, and TriLoRA's singular values.

`dev.py bench adapters` runs it. Steps are made in turns and timed in CPU seconds of this process,
which other work on the machine disturbs little, and in wall-clock seconds.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from common import RESULTS, prepare, publish, read_json

RANK, PAIRS, BATCH, SIDE = 16, 30, 2, 32
SDXL_RANK = 64
# Outputs and inputs, and how many of SDXL's attention projections have that shape.
SDXL_SHAPES = (
    ((640, 640), 60),
    ((640, 2048), 20),
    ((1280, 1280), 360),
    ((1280, 2048), 120),
)
SAMPLED = 3
"""How many layers of each SDXL shape are timed, to stand for all of them."""


def contenders() -> dict[str, Any]:
    """Every adapter with the defaults of its node, and LoRA's rank where it has a rank."""
    from pack.training.adapters.dora import Axis, DoraConfig
    from pack.training.adapters.loha import LoHaConfig
    from pack.training.adapters.lokr import LoKrConfig
    from pack.training.adapters.lora import LoraConfig
    from pack.training.adapters.oft import OftConfig
    from pack.training.adapters.trilora import Core, TriLoraConfig

    return {
        "LoRA": LoraConfig(rank=RANK),
        "TriLoRA": TriLoraConfig(rank=RANK),
        "TriLoRA, full core": TriLoraConfig(rank=RANK, core=Core.FULL),
        "DoRA": DoraConfig(rank=RANK),
        "DoRA, rows": DoraConfig(rank=RANK, axis=Axis.OUTPUT),
        "LoHa": LoHaConfig(),
        "LoKr": LoKrConfig(),
        "OFT": OftConfig(),
    }


def steps_of(config: Any, model: Any) -> Generator[None, None, None]:
    """A training run that makes one step each time it is advanced."""
    from speed.ours import Precomputed, data_of
    from speed.setup import Setup

    from pack.nodes.host.denoiser.port import HostDenoiser
    from pack.training.adapters import build_adapters
    from pack.training.adapters.adapted import Adapters
    from pack.training.config import TrainConfig
    from pack.training.loop import train
    from pack.training.parts import Parts

    setup = Setup(contender="ours", latent=SIDE, batch=BATCH)
    denoiser = HostDenoiser(model, checkpointing=False)
    parts = Parts(
        denoiser=denoiser,
        text=Precomputed(768, 0),
        concepts=(),
        trained=[Adapters(config, build_adapters(config, denoiser.layers(), 0), {})],
        data=data_of(setup, ()),
    )
    with closing(train(parts, TrainConfig(steps=10**6, batch_size=BATCH))) as steps:
        for _ in steps:
            yield


def against_lora(name: str, config: Any, lora: Any, pairs: int) -> dict[str, Any]:
    """Time steps of LoRA and of another adapter, in turns, on two copies of a model."""
    import torch
    from speed.models import load_model
    from speed.statistics import ratio_interval

    from pack.nodes.host.run.drive import gradients

    seconds: dict[str, list[tuple[float, float]]] = {"lora": [], "other": []}
    with gradients():
        runs = {
            "lora": steps_of(lora, load_model("tiny", torch.float32)),
            "other": steps_of(config, load_model("tiny", torch.float32)),
        }
        for pair in range(-2, pairs):
            # The order changes from pair to pair.
            for who in ("lora", "other") if pair % 2 else ("other", "lora"):
                clock, cpu = time.perf_counter(), time.process_time()
                next(runs[who])
                spent = (time.process_time() - cpu, time.perf_counter() - clock)
                if pair >= 0:
                    seconds[who].append(spent)
        for run in runs.values():
            run.close()
    row: dict[str, Any] = {"adapter": name, "pairs": pairs}
    for place, kind in enumerate(("cpu", "clock")):
        ours, theirs = ([spent[place] for spent in seconds[who]] for who in ("other", "lora"))
        ratio = ratio_interval(ours, theirs)
        row[kind] = {"ratio": ratio.median, "low": ratio.low, "high": ratio.high}
    return row


def singular_values() -> dict[str, Any]:
    """Seconds for all attention projections of SDXL, estimated from a few of each shape."""
    import torch

    from pack.training.adapters.trilora import cache_key, singular_values
    from pack.training.ports import Layer

    clock = cpu = digest = 0.0
    for shape, count in SDXL_SHAPES:
        weights = [torch.randn(shape) for _ in range(SAMPLED)]
        began, used = time.perf_counter(), time.process_time()
        for weight in weights:
            singular_values(Layer(name="x", shape=shape, weight=lambda w=weight: w), SDXL_RANK)
        clock += (time.perf_counter() - began) * count / SAMPLED
        cpu += (time.process_time() - used) * count / SAMPLED
        began = time.perf_counter()
        cache_key(weights[0], SDXL_RANK)
        digest += (time.perf_counter() - began) * count
    return {
        "layers": sum(count for _, count in SDXL_SHAPES),
        "timed": SAMPLED * len(SDXL_SHAPES),
        "rank": SDXL_RANK,
        "threads": torch.get_num_threads(),
        "clock": clock,
        "cpu": cpu,
        "digest": digest,
    }


def page(content: Mapping[str, Any]) -> str:
    """The page of what adapters.json holds."""
    rows, spectra = content["rows"], content["spectra"]
    lines = [
        "# Adapters",
        "",
        f"The time of a training step with each adapter, relative to a LoRA step of rank {RANK}: "
        f"attention layers of a tiny SD1.5 (13.6 M parameters), batch {BATCH}, latents of "
        f"{SIDE}x{SIDE}, fp32 on the CPU, steps in turns. Ratios are medians over the pairs with "
        "their 95 % interval. CPU seconds are those of the process. "
        "`python3 dev.py bench adapters` writes this page.",
        "",
        "| adapter | pairs | CPU seconds | clock |",
        "|---|---|---|---|",
    ]
    for row in rows:
        cpu, clock = (
            f"{row[k]['ratio']:.3f} ({row[k]['low']:.3f} to {row[k]['high']:.3f})"
            for k in ("cpu", "clock")
        )
        lines.append(f"| {row['adapter']} | {row['pairs']} | {cpu} | {clock} |")
    if spectra:
        lines += [
            "",
            f"TriLoRA's singular values for SDXL's {spectra['layers']} attention projections, at "
            f"rank {spectra['rank']}, take {spectra['clock']:.0f} s ({spectra['cpu']:.0f} CPU "
            f"seconds), and the digests of their cache {spectra['digest']:.0f} s: an estimate from "
            f"{spectra['timed']} random matrices of these shapes on {spectra['threads']} threads.",
        ]
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench adapters", description=__doc__)
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--only", nargs="*", default=[], help="only these adapters")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    path = arguments.results / "adapters.json"
    rows = {row["adapter"]: row for row in read_json(path, {"rows": []})["rows"]}
    with tempfile.TemporaryDirectory() as base:
        prepare(base)
        every = contenders()
        lora = every.pop("LoRA")
        spectra = singular_values()
        for name in arguments.only or list(every):
            rows[name] = against_lora(name, every[name], replace(lora), arguments.pairs)
            # After each, so that a call that is cut short leaves what it has.
            done = [rows[key] for key in every if key in rows]
            publish(path, {"rows": done, "spectra": spectra}, page)
            sys.stdout.write(f"{rows[name]}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
