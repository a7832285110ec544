"""Loads, checks and fingerprints 10,000 pictures: time, memory, and how often one is decoded."""

from __future__ import annotations

import random
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image, ImageFile

from dataset.page import store
from pack.training.dataset.checks.verdict import examine, measured
from pack.training.dataset.facts import Store
from pack.training.dataset.folder.read import folder_fingerprint, read_folder
from pack.training.dataset.records import Framing

COUNTS = (1000, 3000, 10000)
SIZES = ((320, 320), (400, 280), (280, 440))


def make(folder: Path, first: int, last: int) -> None:
    """Write JPEG files of colored noise, each with a caption."""
    folder.mkdir(exist_ok=True)
    rng = random.Random(first)
    tiles = [Image.effect_noise(size, 80) for size in SIZES]
    for number in range(first, last):
        tile = tiles[number % len(tiles)]
        moved = tile.transform(
            tile.size, Image.Transform.AFFINE, (0.3, 0, rng.random() * 300, 0, 0.3, 0)
        )
        shares = [rng.random() for _ in range(3)]
        bands = [moved.point([int(value * share) for value in range(256)]) for share in shares]
        picture = Image.merge("RGB", bands)
        picture.save(folder / f"{number:05}.jpg", quality=80)
        (folder / f"{number:05}.txt").write_text(f"a TOK number {number}", encoding="utf-8")


def memory() -> float:
    """The peak memory of this process, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def count_decodes() -> list[int]:
    """A list of one number, which counts the pictures that Pillow decodes from now on."""
    counts = [0]
    load = ImageFile.ImageFile.load

    def counted(self: ImageFile.ImageFile) -> Any:
        counts[0] += bool(getattr(self, "tile", None))
        return load(self)

    ImageFile.ImageFile.load = counted
    return counts


def measure(folder: Path, facts: Path, decodes: list[int]) -> dict[str, float]:
    """CPU seconds of each part, and how many pictures were decoded."""
    before = decodes[0]
    times = [time.process_time()]
    dataset = read_folder(folder)
    times.append(time.process_time())
    known = Store(facts)
    measures = list(measured(dataset, known))
    known.close()
    times.append(time.process_time())
    examine(dataset, measures, Framing(), ["TOK"])
    times.append(time.process_time())
    folder_fingerprint(folder, ".txt")
    times.append(time.process_time())
    dataset.fingerprint()
    times.append(time.process_time())
    names = ("load", "measure", "judge", "fingerprint_folder", "fingerprint_dataset")
    row = {n: round(b - a, 2) for n, a, b in zip(names, times, times[1:], strict=False)}
    return row | {"decoded": decodes[0] - before, "peak_mb": round(memory())}


def main() -> int:
    decodes, start = count_decodes(), memory()
    rows = []
    with tempfile.TemporaryDirectory(prefix="pivotal-many-") as name:
        folder, done = Path(name) / "set", 0
        for count in COUNTS:
            make(folder, done, count)
            done = count
            facts = Path(name) / f"facts {count}.sqlite"
            row = {"pictures": count, "first": measure(folder, facts, decodes)}
            row["again"] = measure(folder, facts, decodes)
            rows.append(row)
    result = {
        "peak_mb_at_the_start": round(start),
        "peak_mb_above_the_start": round(memory() - start),
        "rows": rows,
    }
    store("many_pictures", result)
    return 0
