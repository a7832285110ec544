"""The loss of a run as a picture."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

SIZE = (960, 480)
MARGIN = 56
SMOOTHING = 0.95


def loss_plot(losses: Sequence[float]) -> Image.Image:
    """Raw losses in gray and their exponential mean in blue over the steps, 960 x 480."""
    picture = Image.new("RGB", SIZE, "white")
    draw = ImageDraw.Draw(picture)
    smooth = exponential_mean(losses, SMOOTHING)
    low, high = 0.0, max(max(losses), 1e-12)
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = _y(low + share * (high - low), low, high)
        draw.line([(MARGIN, y), (SIZE[0] - MARGIN // 2, y)], fill="#dddddd")
        draw.text((6, y - 6), f"{low + share * (high - low):.4f}", fill="black")
    for values, color, width in ((losses, "#b8b8b8", 1), (smooth, "#1f5fd0", 3)):
        points = [(_x(i, len(values)), _y(v, low, high)) for i, v in enumerate(values)]
        draw.line(points if len(points) > 1 else points * 2, fill=color, width=width)
    draw.text((MARGIN, SIZE[1] - 20), "step 1", fill="black")
    draw.text((SIZE[0] - 2 * MARGIN, SIZE[1] - 20), f"step {len(losses)}", fill="black")
    draw.text((SIZE[0] // 2 - 80, 8), "loss, and its exponential mean", fill="black")
    return picture


def exponential_mean(values: Sequence[float], keep: float) -> list[float]:
    """Exponential moving average without the pull of its start (Adam's bias correction)."""
    mean, weight, out = 0.0, 0.0, list[float]()
    for value in values:
        mean = keep * mean + (1 - keep) * value
        weight = keep * weight + (1 - keep)
        out.append(mean / weight)
    return out


def _x(index: int, count: int) -> float:
    return MARGIN + index / max(count - 1, 1) * (SIZE[0] - 1.5 * MARGIN)


def _y(value: float, low: float, high: float) -> float:
    share = (value - low) / (high - low)
    return SIZE[1] - MARGIN + share * (1.6 * MARGIN - SIZE[1])
