"""Times a training step with each adapter beside LoRA, in turns, and TriLoRA's singular values.

`dev.py bench adapters` calls it. Steps are timed in CPU seconds of this process, which other work
on the machine disturbs little, and in seconds of the clock.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from atomic import replace_text
from learning.__main__ import prepare

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
RANK, PAIRS, BATCH, SIDE = 16, 30, 2, 32
SDXL_RANK = 64
# Outputs, inputs and how many of SDXL's attention projections have them.
SDXL_SHAPES = (
    ((640, 640), 60),
    ((640, 2048), 20),
    ((1280, 1280), 360),
    ((1280, 2048), 120),
)
SAMPLED = 3
"""Layers of each SDXL shape that are timed; the others are taken to be like them."""


def contenders() -> dict[str, Any]:
    """Every adapter at the settings that its node has, with LoRA's rank where it has one."""
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


def steps_of(config: Any, model: Any) -> Iterator[None]:
    """A training run that makes one step whenever it is asked."""
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


def in_turns(name: str, config: Any, lora: Any, pairs: int) -> dict[str, Any]:
    """Steps of LoRA and of another adapter on two copies of a model, one after the other."""
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
            # Whoever goes first changes from pair to pair.
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
        ours, theirs = ([one[place] for one in seconds[who]] for who in ("other", "lora"))
        ratio = ratio_interval(ours, theirs)
        row[kind] = {"ratio": ratio.median, "low": ratio.low, "high": ratio.high}
    return row


def singular_values() -> dict[str, Any]:
    """Seconds for all attention projections of SDXL, from a few of each shape."""
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


def page(rows: list[dict[str, Any]], spectra: dict[str, Any]) -> str:
    """The results as a page."""
    lines = [
        "# Adapters",
        "",
        f"A training step with each adapter over a LoRA step of rank {RANK}: attention layers of a "
        f"tiny SD1.5 (13.6 M parameters), batch {BATCH}, latents of {SIDE} x {SIDE}, fp32 on the "
        "CPU, steps in turns. The ratio of each pair: median, and the 95 % interval of the median. "
        "CPU seconds are those of the process.",
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
            f"Singular values of SDXL's {spectra['layers']} attention projections, rank "
            f"{spectra['rank']}, from {spectra['timed']} random matrices of their shapes with "
            f"{spectra['threads']} threads: {spectra['clock']:.0f} s ({spectra['cpu']:.0f} CPU "
            f"seconds), and {spectra['digest']:.0f} s for the digests by which they are kept.",
        ]
    return "\n".join([*lines, ""])


def store(path: Path, result: dict[str, Any]) -> None:
    """Write the results and their page."""
    replace_text(path, json.dumps(result, indent=1) + "\n")
    replace_text(path.with_suffix(".md"), page(result["rows"], result["spectra"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--only", nargs="*", default=[], help="these adapters alone")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    path = arguments.results / "adapters.json"
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"rows": []}
    rows = {row["adapter"]: row for row in kept["rows"]}
    with tempfile.TemporaryDirectory() as base:
        prepare(Path(base))
        every = contenders()
        lora = every.pop("LoRA")
        spectra = singular_values()
        for name in arguments.only or list(every):
            rows[name] = in_turns(name, every[name], replace(lora), arguments.pairs)
            # After each, so that a call that is cut short leaves what it has.
            store(path, {"rows": [rows[key] for key in every if key in rows], "spectra": spectra})
            sys.stdout.write(f"{rows[name]}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
