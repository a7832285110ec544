"""The results as JSON and as a page."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from common import publish, read_json

from .statistics import median_interval, ratio_interval

Row = Mapping[str, Any]
PACKAGES = ("torch", "diffusers", "peft", "transformers")
HEAD = """# Speed and memory of a training step

{machine}. Random weights; latents of 32x32 (16x16 for the tiny sizes) unless a row says otherwise.

`python3 dev.py bench speed` writes this page, one part at a time. Every contender is a process of
its own, and those of one part make their steps in turns. Ratios are medians over interleaved pairs,
with an interval of at least 95 % from order statistics. CPU time is the time that a contender's
threads worked; other programs on the machine disturb it less. Memory is the peak above the process
with its models loaded, including the first step. "Kept" is what autograd keeps for the backward
pass besides the resident weights. "First" is the time from loaded models to the end of the first
step. On a CPU the peak includes freed blocks that the C library keeps for later. Rows with
`freed returned` return blocks of 256 KB and more at once, which is slower but shows what is really
in use.

{contenders}

`tiny_sdxl` is a small UNet with SDXL's conditioning, used with text encoders of full size.
"""
CONTENDERS = {
    "ours": "this pack's loop with LoRA on the attention layers",
    "ours_all": "the same with LoRA on all layers",
    "floor": "ComfyUI's bare frozen UNet, forward and backward to its inputs, "
    "with torch's attention",
    "floor_host": "the same with the attention that ComfyUI uses by default",
    "native": "ComfyUI's Train LoRA node with its defaults (bf16, checkpointing)",
    "native_fp32": "the same in fp32, because CPUs that do not compute in bf16 are slow in it",
    "native_bypass": "the same node in bypass mode with the settings that are fastest here "
    "(fp32, no checkpointing; adapters on all layers, norms and biases)",
    "diffusers_peft": "the LoRA step of the diffusers scripts",
    "whole_table": "the pivotal step of the diffusers advanced script, which trains the whole "
    "token tables",
}
NO_GPU = """
## On a GPU

Not measured: there was no GPU. On a machine that has one, the same command measures SDXL at 1024 in
bf16 (batch 1 and 4, with and without checkpointing), fp16 and fp8 weights, and the pivotal steps.
"""


def machine() -> dict[str, Any]:
    """The machine and the packages that the numbers depend on."""
    import torch

    from harness.tools.environment import HOST_VERSION

    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return versions | {
        "ComfyUI": HOST_VERSION,
        "python": platform.python_version(),
        "system": platform.system(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "gpu": gpu,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def add(name: str, rows: Sequence[Row], order: Sequence[str], folder: Path) -> None:
    """Add a part's rows to speed.json and speed.md, next to those of earlier calls.

    Each part keeps the machine that measured it, because parts may come from different ones.
    """
    path = folder / "speed.json"
    earlier = read_json(path, {"machines": {}, "rows": []})
    machines = {**earlier["machines"], name: machine()}
    every = [row for row in earlier["rows"] if row["part"] != name]
    every += [{"part": name, **row} for row in rows]
    every.sort(key=lambda row: order.index(row["part"]) if row["part"] in order else len(order))
    publish(path, {"machines": machines, "rows": every}, page)


def page(content: Mapping[str, Any]) -> str:
    """The page of what speed.json holds."""
    machines, rows = content["machines"], content["rows"]
    names = list(dict.fromkeys(row["part"] for row in rows))
    usual = _words(machines[names[0]])
    contenders = ["| contender | what it is |", "|---|---|"]
    contenders += [f"| `{name}` | {text} |" for name, text in CONTENDERS.items()]
    lines = [HEAD.format(machine=usual, contenders="\n".join(contenders))]
    for name in names:
        where = _words(machines[name])
        own = [row for row in rows if row["part"] == name]
        other = [] if where == usual else [f"{where}.", ""]
        lines += [f"## {name}", "", *other, *_table(own), *_ratios(own), ""]
    on_gpu = any(machines[name]["gpu"] for name in names)
    return "\n".join(lines) + ("" if on_gpu else NO_GPU)


def _words(machine: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {machine[name]}" for name in ("ComfyUI", *PACKAGES))
    processor = f"{machine['processor']}, {machine['cores']} cores"
    return f"{versions}; {processor}, {machine['gpu'] or 'no GPU'}, {machine['system']}"


def _table(rows: Sequence[Row]) -> Iterator[str]:
    yield "| row | s/step | 95 % | first, s | peak, MB | kept, MB | encoder calls | syncs |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in rows:
        if "failed" in row:
            yield f"| {row['name']} | {row['failed']} | | | | | | |"
            continue
        spread = median_interval(row["seconds"])
        yield (
            f"| {row['name']} | {spread.median:.3f} | {spread.low:.3f} to {spread.high:.3f} | "
            f"{row['first_step_seconds']:.2f} | {row['peak_bytes_above_model'] / 1e6:.0f} | "
            f"{row['saved_bytes'] / 1e6:.0f} | {row['encoder_calls']} | "
            f"{row['syncs'] if row['device'] == 'cuda' else '-'} |"
        )


def _ratios(rows: Sequence[Row]) -> Iterator[str]:
    """Tables of the first row against all others, and of `ours_all` against those after it."""
    for number, row in enumerate(rows):
        if number == 0 or row["contender"] == "ours_all":
            yield from _ratios_of(row, rows[number + 1 :])


def _ratios_of(first: Row, others: Sequence[Row]) -> Iterator[str]:
    measured = [row for row in others if "failed" not in row]
    if "failed" in first or not measured:
        return
    yield ""
    yield f"| {first['name']} to | time | 95 % | CPU time | 95 % | pairs | memory | kept |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in measured:
        ratio = ratio_interval(first["seconds"], row["seconds"])
        cpu = ratio_interval(first["cpu_seconds"], row["cpu_seconds"])
        memory = first["peak_bytes_above_model"] / max(row["peak_bytes_above_model"], 1)
        kept = first["saved_bytes"] / max(row["saved_bytes"], 1)
        yield (
            f"| {row['name']} | {ratio.median:.3f} | {ratio.low:.3f} to {ratio.high:.3f} | "
            f"{cpu.median:.3f} | {cpu.low:.3f} to {cpu.high:.3f} | "
            f"{ratio.count} | {memory:.2f} | {kept:.2f} |"
        )
