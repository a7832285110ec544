"""The three measurements of datasets as one page, from the result files that exist."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import RESULTS, read_json, replace_text, write_json

PARTS = ("load", "measure", "judge", "fingerprint_folder", "fingerprint_dataset")


def store(name: str, result: dict[str, Any], folder: Path = RESULTS) -> None:
    """Write `<name>.json`, and the page of all measurements."""
    write_json(folder / f"{name}.json", result)
    replace_text(folder / "datasets.md", page(folder))


def page(folder: Path) -> str:
    """The page of the result files in a folder."""
    lines = ["# Datasets and captions", ""]
    lines += ["`python3 dev.py bench dataset kills|many|captions` writes this page.", ""]
    for name, section in {"kills": kills, "many_pictures": many, "captions": captions}.items():
        result = read_json(folder / f"{name}.json", None)
        if result is not None:
            lines += [*section(result), ""]
    return "\n".join(lines).rstrip() + "\n"


def kills(result: dict[str, Any]) -> Iterator[str]:
    moments = ", ".join(f"{count} {when}" for when, count in result["moments"].items())
    yield "## Captioning runs that are killed"
    yield ""
    yield (
        f"{result['kills']} kills at random moments of a run over {result['pictures']} pictures "
        "that appends each caption to its file; "
        f"{result['killed_before_the_end']} of them came before the run ended ({moments}). "
        "Broken promises (a caption lost, half-written or made twice, or a different result than "
        f"without a kill): {len(result['broken'])}. Drafts left next to pictures: "
        f"{result['drafts_after_the_kills']} after the kills, {result['drafts_after_going_on']} "
        "after the next run over each folder."
    )


def many(result: dict[str, Any]) -> Iterator[str]:
    yield "## Many pictures"
    yield ""
    yield (
        f"CPU seconds. The process held at most {result['peak_mb_above_the_start']} MB more than "
        f"the {result['peak_mb_at_the_start']} MB that ComfyUI takes at its start."
    )
    yield ""
    yield "| pictures | run | " + " | ".join(PARTS).replace("_", " ") + " | decoded |"
    yield "|" + "---|" * (len(PARTS) + 3)
    for row in result["rows"]:
        for run in ("first", "again"):
            cells = [f"{row[run][part]:.2f}" for part in PARTS]
            yield f"| {row['pictures']:,} | {run} | {' | '.join(cells)} | {row[run]['decoded']} |"


def captions(result: dict[str, Any]) -> Iterator[str]:
    yield "## Captioning"
    yield ""
    yield (
        f"Seconds per picture on the {result['device'].upper()} with {result['threads']} threads "
        f"and {result['new_tokens']} new tokens each. BLIP-base has its real size and random "
        "weights."
    )
    yield ""
    yield "| model | pictures | one by one | batches of 4 |"
    yield "|---|---|---|---|"
    for row in result["folders"]:
        yield f"| {row['model']} | {row['pictures']} | {row['batch_1']} | {row['batch_4']} |"
    host = result["host"]
    yield ""
    yield (
        f"{host['model']}, {host['pictures']} pictures: Caption Dataset takes "
        f"{host['caption_dataset']} s per picture, ComfyUI's TextGenerate on a list "
        f"{host['text_generate']} s."
    )
