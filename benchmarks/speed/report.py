"""The results as JSON and as a page."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from atomic import replace_text

from .statistics import median_interval, ratio_interval

Row = Mapping[str, Any]
PACKAGES = ("torch", "diffusers", "peft", "transformers")
HEAD = """# Speed and memory of a training step

{machine}. Random weights; latents of 32x32 (16x16 for the tiny sizes) unless a row says otherwise.
`python3 dev.py bench speed` writes this page, part by part. Each contender is a process of its
own; those of one part make their steps in turns. Ratios are medians over interleaved pairs with an
interval of at least 95 % from order statistics. Memory is the peak above the process with its
models loaded, the first step included; "kept" is what autograd keeps for backward beside resident
weights; "first" is the time from loaded models to the end of the first step. CPU time is what a
contender's threads worked, which other programs on the machine disturb less. On a CPU the peak
holds what the C library keeps of freed blocks for later; with `freed returned` it gives blocks of
256 KB and more back at once, which is slower and shows what is really in use.

Contenders: `ours`, LoRA on the attention layers by this pack's loop; `ours_all`, on all its
layers; `floor`, the bare frozen UNet of ComfyUI forward and backward to its inputs with torch's
attention, `floor_host` with the host's default attention; `native`, ComfyUI's Train LoRA node with
its defaults (bf16, checkpointing); `native_fp32`, the same in fp32, since a CPU that does not
compute in bf16 is slow in it; `native_bypass`, the same node in bypass mode with its fastest
settings here (fp32, no checkpointing; adapters on all layers, norms and biases); `diffusers_peft`,
the LoRA step of the diffusers scripts; `whole_table`, the pivotal step of the diffusers advanced
script, which trains the whole token tables. `tiny_sdxl` is a small UNet with SDXL's conditioning,
used with text encoders of full size.
"""
NO_GPU = """
## On a GPU

Not run: there was no GPU. The same command measures SDXL at 1024 in bf16 (batch 1 and 4, with and
without checkpointing), fp16 and fp8 weights and the pivotal steps where there is one.
"""


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    import torch

    from harness.tools.environment import HOST_VERSION

    made = {name: importlib.metadata.version(name) for name in PACKAGES}
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return made | {
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
    """Put a part's rows into speed.json and speed.md, beside those of earlier calls.

    Each part keeps the machine that measured it, since parts may be of different ones.
    """
    path = folder / "speed.json"
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    machines = {**kept.get("machines", {}), name: machine()}
    others = [row for row in kept.get("rows", []) if row["part"] != name]
    found = [*others, *({"part": name, **row} for row in rows)]
    found.sort(key=lambda row: order.index(row["part"]) if row["part"] in order else len(order))
    content = {"machines": machines, "rows": found}
    replace_text(path, json.dumps(content, indent=1) + "\n")
    replace_text(folder / "speed.md", page(machines, found))


def page(machines: Mapping[str, Mapping[str, Any]], rows: Sequence[Row]) -> str:
    """The page."""
    names = list(dict.fromkeys(row["part"] for row in rows))
    common = _words(machines[names[0]])
    lines = [HEAD.format(machine=common)]
    for name in names:
        where = _words(machines[name])
        own = [row for row in rows if row["part"] == name]
        other = [] if where == common else [f"{where}.", ""]
        lines += [f"## {name}", "", *other, *_table(own), *_ratios(own), ""]
    on_gpu = any(machines[name]["gpu"] for name in names)
    return "\n".join(lines) + ("" if on_gpu else NO_GPU)


def _words(found: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {found[name]}" for name in ("ComfyUI", *PACKAGES))
    where = found["gpu"] or "no GPU"
    return f"{versions}; {found['processor']}, {found['cores']} cores, {where}, {found['system']}"


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
    """Of the first row to all others, and of ours with all its layers to those after it."""
    for number, row in enumerate(rows):
        if number == 0 or row["contender"] == "ours_all":
            yield from _ratios_of(row, rows[number + 1 :])


def _ratios_of(first: Row, others: Sequence[Row]) -> Iterator[str]:
    good = [row for row in others if "failed" not in row]
    if "failed" in first or not good:
        return
    yield ""
    yield f"| {first['name']} to | time | 95 % | CPU time | 95 % | pairs | memory | kept |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in good:
        ratio = ratio_interval(first["seconds"], row["seconds"])
        worked = ratio_interval(first["cpu_seconds"], row["cpu_seconds"])
        memory = first["peak_bytes_above_model"] / max(row["peak_bytes_above_model"], 1)
        kept = first["saved_bytes"] / max(row["saved_bytes"], 1)
        yield (
            f"| {row['name']} | {ratio.median:.3f} | {ratio.low:.3f} to {ratio.high:.3f} | "
            f"{worked.median:.3f} | {worked.low:.3f} to {worked.high:.3f} | "
            f"{ratio.count} | {memory:.2f} | {kept:.2f} |"
        )
