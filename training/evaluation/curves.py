"""The numbers of a run over its steps, as pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw

from ..series import LOSS

SIZE = (960, 480)
MARGIN = 56
SMOOTHING = 0.95
COLORS = ("#1f5fd0", "#d9822b", "#2e9e5b", "#b04ab0", "#c23b3b", "#2f9ea5", "#857a3a")
RAW = "#b8b8b8"

Points = Sequence[tuple[float, float]]


def loss_plot(losses: Sequence[float]) -> Image.Image:
    """The loss of every step."""
    return mean_plot(LOSS.title, list(enumerate(losses, start=1)))


def mean_plot(title: str, points: Points) -> Image.Image:
    """Raw values in gray and their exponential mean in blue over the steps, 960 x 480."""
    finite = [(step, value) for step, value in points if math.isfinite(value)] or [(1.0, 0.0)]
    means = exponential_mean([value for _, value in finite], SMOOTHING)
    smooth = [(step, mean) for (step, _), mean in zip(finite, means, strict=True)]
    return line_plot(f"{title}, and its exponential mean", {"": smooth}, finite)


def line_plot(title: str, series: Mapping[str, Points], raw: Points = ()) -> Image.Image:
    """Each series as a colored line with its name, over thin gray raw values, 960 x 480."""
    picture = Image.new("RGB", SIZE, "white")
    draw = ImageDraw.Draw(picture)
    points = [point for line in (*series.values(), raw) for point in line]
    if not points:
        draw.text((SIZE[0] // 2 - 60, SIZE[1] // 2), f"{title}: no numbers", fill="black")
        return picture
    frame = _frame(points)
    _draw_axes(draw, frame, title)
    if raw:
        _draw_line(draw, raw, frame, RAW, 1)
    for place, (name, line) in enumerate(series.items()):
        color = COLORS[place % len(COLORS)]
        _draw_line(draw, line, frame, color, 3)
        draw.text((MARGIN + 8, 26 + 14 * place), name, fill=color)
    return picture


def stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    """Stack pictures of one width."""
    whole = Image.new("RGB", (SIZE[0], sum(one.height for one in pictures)), "white")
    top = 0
    for one in pictures:
        whole.paste(one, (0, top))
        top += one.height
    return whole


def exponential_mean(values: Sequence[float], keep: float) -> list[float]:
    """Exponential moving average with Adam's bias correction."""
    mean, weight, out = 0.0, 0.0, list[float]()
    for value in values:
        mean = keep * mean + (1 - keep) * value
        weight = keep * weight + (1 - keep)
        out.append(mean / weight)
    return out


Frame = tuple[float, float, float, float]
"""Smallest and largest x, then y"""


def _frame(points: Points) -> Frame:
    xs, ys = [x for x, _ in points], [y for _, y in points]
    low, high = min(0.0, *ys) if len(ys) > 1 else min(0.0, ys[0]), max(ys)
    return min(xs), max(xs), low, max(high, low + 1e-12)


def _draw_axes(draw: ImageDraw.ImageDraw, frame: Frame, title: str) -> None:
    first, last, low, high = frame
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        value = low + share * (high - low)
        _, y = _place((first, value), frame)
        draw.line([(MARGIN, y), (SIZE[0] - MARGIN // 2, y)], fill="#dddddd")
        draw.text((6, y - 6), f"{value:.4g}", fill="black")
    draw.text((MARGIN, SIZE[1] - 20), f"step {first:g}", fill="black")
    draw.text((SIZE[0] - 2 * MARGIN, SIZE[1] - 20), f"step {last:g}", fill="black")
    draw.text((SIZE[0] // 2 - 80, 8), title, fill="black")


def _draw_line(
    draw: ImageDraw.ImageDraw, line: Points, frame: Frame, color: str, width: int
) -> None:
    places = [_place(point, frame) for point in line]
    draw.line(places if len(places) > 1 else places * 2, fill=color, width=width)


def _place(point: tuple[float, float], frame: Frame) -> tuple[float, float]:
    first, last, low, high = frame
    across = (point[0] - first) / max(last - first, 1)
    up = (point[1] - low) / (high - low)
    x = MARGIN + across * (SIZE[0] - 1.5 * MARGIN)
    return x, SIZE[1] - MARGIN + up * (1.6 * MARGIN - SIZE[1])
