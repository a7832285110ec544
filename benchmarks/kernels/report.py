"""The page about other ways to compute a step."""

from __future__ import annotations

from typing import Any

INTRODUCTION = """# Other ways to compute a step

`python3 dev.py bench kernels` writes this page. Each row times another way against the one that the
pack uses, in turns, in one process on the CPU. The ratio is the other way's CPU seconds over ours:
the median of the pairs, with an interval of at least 95 % from order statistics. Below 1 the other
way is faster.
"""
NOTES = {
    "projections": """## One down-projection for q, k and v

q, k and v of self-attention read the same input, so a single product could take it through all
three down-projections, forward and backward, with a single gradient of the input. Both ways give
the same gradients, which the command checks, and keep the same bytes. Only the three projections
with their LoRA are timed, forward and backward, not the rest of the step.
""",
    "layouts": """## Channels last

Convolutions of SD1.5's UNet with the channels as the last axis of their input, or of both input and
weight. The second would need the weights of the MODEL in another layout, or a copy of them.
""",
    "pictures": """## Pictures through the VAE in batches

SD1.5's autoencoder at its real size with random weights. The pack encodes in batches on a GPU and
one by one on a CPU.
""",
    "compiled": """## torch.compile

One block of SD1.5's UNet with LoRA on all its layers, forward and backward, through torch.compile
with its default compiler, which needs a C++ compiler on a CPU and Triton on a GPU. "Kept for
backward" gives our bytes first, then those of the compiled block. Over fp16 weights the compiled
block keeps the fp32 copies that the forward pass has cast; ours fetches each weight again.
""",
}
MOMENTS = """## An optimizer kept off the device

The size of AdamW's two moments, compared with the model in bf16. Keeping them off the GPU would
save that much, at the cost of moving them to the CPU and back in every step. 8-bit AdamW saves
three quarters of it without moving anything. These numbers are counted, not measured.
"""
SHARES = """## Where the work of a step is

Multiplications of one forward pass of the UNet with batch 1, which limit what a faster way to
compute these parts can save. These numbers are counted, not measured.
"""


def page(parts: dict[str, Any]) -> str:
    """The page of what kernels.json holds."""
    texts = [INTRODUCTION]
    for name, note in NOTES.items():
        if name in parts:
            texts += [note, table(parts[name])]
    if "shares" in parts:
        texts += [SHARES, shares(parts["shares"]["rows"])]
    if "moments" in parts:
        texts += [MOMENTS, moments(parts["moments"]["rows"])]
    return "\n".join(texts)


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
