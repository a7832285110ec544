"""The page of the ways that were weighed."""

from __future__ import annotations

from typing import Any

INTRODUCTION = """# Ways to compute a step that were weighed

`python3 dev.py bench kernels` writes this page. Each row times another way and ours in turns in
one process on the CPU: the ratio is CPU seconds of the other way over ours, the median of the
pairs with its interval of at least 95 % from order statistics. Below 1 the other way is faster.
"""

NOTES = {
    "projections": """## One down-projection for q, k and v

q, k and v of self-attention read one input, so one product could take it through the three
down-projections, forward and backward, and one gradient of the input could take up all three.
Both ways give the same gradients, which the command checks, and keep the same bytes. Timed are
the three projections with their LoRA, forward and backward, without the rest of the step.
""",
    "layouts": """## Channels last

Convolutions of SD1.5's UNet with the channels as the last axis of their input, or of input and
weight. The second would need the weights of the MODEL in another layout, or a copy of them.
""",
    "pictures": """## Pictures through the VAE in batches

SD1.5's autoencoder at its size with random weights. The pack encodes in batches on a GPU and one
by one on a CPU.
""",
    "compiled": """## torch.compile

One block of SD1.5's UNet with LoRA on all its layers, forward and backward, through
torch.compile with its default compiler, which needs a C++ compiler on a CPU and Triton on a GPU.
Kept for backward: ours, then compiled. Over fp16 weights the compiled block keeps the fp32 copies
of its weights that the forward pass has cast, where ours fetches each weight again.
""",
}


MOMENTS = """## An optimizer kept off the device

What AdamW's two moments take, beside the model in bf16: what would be spared on a GPU at the
price of a way to the CPU and back in each step. 8-bit AdamW spares three quarters of it without.
Counted, not measured.
"""


SHARES = """## Where the work of a step is

Multiplications of one forward pass of the UNet with batch 1: what a faster way of these parts can
change at most. Counted, not measured.
"""


def page(kept: dict[str, Any]) -> str:
    """All that was measured so far."""
    parts = [INTRODUCTION]
    for name, note in NOTES.items():
        if name in kept:
            parts += [note, table(kept[name])]
    if "shares" in kept:
        parts += [SHARES, shares(kept["shares"]["rows"])]
    if "moments" in kept:
        parts += [MOMENTS, moments(kept["moments"]["rows"])]
    return "\n".join(parts)


def shares(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| family | latents | multiplications, G | q, k, v of self-attention | convolutions |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        side = row["latent"]
        lines.append(
            f"| {row['family']} | {side}x{side} | {row['multiplications']:.0f} | "
            f"{row['projections']:.3f} | {row['convolutions']:.3f} |"
        )
    return "\n".join([*lines, ""])


def moments(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| family | LoRA on | rank | factors, M | model, MB | moments, MB | in 8 bits, MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        sizes = (row[name] / 1e6 for name in ("factors", "model", "moments", "moments_8bit"))
        shown = " | ".join(f"{size:.1f}" for size in sizes)
        lines.append(f"| {row['family']} | {row['targets']} | {row['rank']} | {shown} |")
    return "\n".join([*lines, ""])


def table(part: dict[str, Any]) -> str:
    lines = [
        f"torch {part['torch']}, {part['threads']} of {part['cores']} cores, {part['machine']}.",
        "",
        "| way | case | ours, CPU s | ratio | 95 % | pairs |",
        "|---|---|---|---|---|---|",
    ]
    for row in part["rows"]:
        case = f"{row['case']} ({row['note']})" if row["note"] else row["case"]
        lines.append(
            f"| {row['idea']} | {case} | {row['ours']:.4f} | {row['ratio']:.3f} | "
            f"{row['low']:.3f} to {row['high']:.3f} | {row['pairs']} |"
        )
    return "\n".join([*lines, ""])
