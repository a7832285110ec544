"""The three measurements of datasets as one page, from the result files that are there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "results"
PARTS = ("load", "measure", "judge", "fingerprint_folder", "fingerprint_dataset")


def keep(name: str, result: dict[str, Any]) -> str:
    """Write `<name>.json` and the page anew; the text of the file."""
    text = json.dumps(result, indent=1) + "\n"
    (RESULTS / f"{name}.json").write_text(text, encoding="utf-8")
    write_page()
    return text


def write_page() -> None:
    """Write the page from the result files that are there."""
    lines = ["# Datasets and captions", "", "`dev.py bench dataset kills|many|captions`.", ""]
    for part, write in {"kills": kills, "many_pictures": many, "captions": captions}.items():
        path = RESULTS / f"{part}.json"
        if path.exists():
            lines += [*write(json.loads(path.read_text(encoding="utf-8"))), ""]
    (RESULTS / "datasets.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


def kills(result: dict[str, Any]) -> Iterator[str]:
    moments = ", ".join(f"{count} {when}" for when, count in result["moments"].items())
    yield "## A captioning that is killed"
    yield ""
    yield (
        f"{result['kills']} kills at random moments of a run over {result['pictures']} pictures "
        "that appends each caption to its file, "
        f"{result['killed_before_the_end']} of which came before its end; they fell: {moments}. "
        "Broken promises (a caption lost, half-written or made twice, "
        f"another end than without a kill): {len(result['broken'])}. Drafts beside pictures: "
        f"{result['drafts_after_the_kills']} after the kills, {result['drafts_after_going_on']} "
        "after the next run over each folder."
    )


def many(result: dict[str, Any]) -> Iterator[str]:
    yield "## Many pictures"
    yield ""
    yield (
        f"CPU seconds; the process held at most {result['peak_mb_above_the_start']} MB more than "
        f"the {result['peak_mb_at_the_start']} MB of the host at its start."
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
        f"Seconds a picture on the {result['device'].upper()} with {result['threads']} threads, "
        f"{result['new_tokens']} new tokens each; BLIP-base has its sizes and random weights."
    )
    yield ""
    yield "| model | pictures | one by one | batches of 4 |"
    yield "|---|---|---|---|"
    for row in result["folders"]:
        yield f"| {row['model']} | {row['pictures']} | {row['batch_1']} | {row['batch_4']} |"
    host = result["host"]
    yield ""
    yield (
        f"{host['model']}, {host['pictures']} pictures: Caption Dataset {host['caption_dataset']}, "
        f"the host's TextGenerate on a list {host['text_generate']}."
    )
