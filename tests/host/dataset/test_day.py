"""A day with 300 files in which everything that people report occurs at once: nothing is lost.

Load, label, caption, tag, edit, review, save, and load again.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from harness.host.graphs import Graph
from harness.host.runner import GraphFailed, Host
from harness.models.captioners import save_captioner
from harness.models.tagger import make_tagger
from pack.nodes.host.captioners.find import captioner_names, tagger_names
from pack.nodes.host.dataset.gallery import identity_of, review_of

SCREEN = 60
"""Lines that fit a screen."""
PLAIN, EMPTY = 120, 40


@dataclass
class Day:
    """The folder, and the caption that each image has on the first load."""

    folder: Path
    captions: dict[str, str]

    def image(self, name: str, caption: str = "", **options: Any) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        seed = len(self.captions)
        image = Image.effect_noise((40, 40), 90).convert("RGB")
        image.putpixel((0, 0), (seed % 256, seed // 256, 0))
        image.save(path, **options)
        self.captions[name] = caption
        return path

    def text(self, name: str, data: str | bytes) -> None:
        (self.folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())


def filled(folder: Path) -> Day:
    day = Day(folder, {})
    for n in range(PLAIN):
        day.image(f"plain{n}.png", f"a photo of number {n}")
        day.text(f"plain{n}.txt", f"a photo of number {n}")
    for n in range(EMPTY):
        day.image(f"empty{n}.png")
    # D1: one table beside folders with the same names.
    rows: list[dict[str, str]] = []
    for kind in ("cat", "dog"):
        for n in range(12):
            day.image(f"{kind}/{n}.png", f"a {kind} with number {n}")
            rows.append({"file_name": f"{kind}/{n}.png", "text": f"a {kind} with number {n}"})
    rows += [{"file_name": f"gone{n}.png", "text": "gone"} for n in range(5)]
    day.text("metadata.jsonl", "\n".join(map(json.dumps, rows)) + "\n")
    # D3, D18: encodings, also of a name.
    for n in range(12):
        day.image(f"win{n}.png", f"it\u2019s window {n}")
        day.text(f"win{n}.txt", f"it\u2019s window {n}".encode("cp1252"))
        day.image(f"wide{n}.png", f"wide {n}")
        day.text(f"wide{n}.txt", f"wide {n}".encode("utf-16-le"))
    bytes_name = os.fsdecode(b"caf\xe9.png")
    day.image(bytes_name, "a café")
    day.text(os.fsdecode(b"caf\xe9.txt"), "a café")
    # D4, D5: other files, and other spellings of the same name.
    for n in range(10):
        day.image(f"cap{n}.png", f"a caption {n}")
        day.text(f"cap{n}.caption", f"a caption {n}")
        day.image(f"Up{n}.JPG", f"an upper {n}")
        day.text(f"Up{n}.TXT", f"an upper {n}")
        day.image(f"\u00e9t\u00e9{n}.png", f"a summer {n}")
        day.text(f"e\u0301te\u0301{n}.txt", f"a summer {n}")
    # D8, S9: a table of a spreadsheet, a foreign one, and brackets without an end.
    for n in range(10):
        day.image(f"sheet/{n}.png", f"sheet {n}, with a comma")
    cells = [f"{n}.png;sheet {n}, with a comma" for n in range(10)]
    day.text("sheet/metadata.csv", "\r\n".join(["File Name;Text", *cells, ""]))
    day.text("sales.csv", "id,data\n1," + "x" * 131_073 + "\n")
    day.text("deep.json", "[" * 100_000)
    # kohya's table with tags, and his mark (D9).
    kohya = {str(n): {"caption": f"kohya {n}", "tags": "1girl, solo"} for n in range(6)}
    for n in range(6):
        day.image(f"kohya/{n}.png", f"kohya {n}, 1girl, solo")
        day.image(f"mark{n}.png", f"TOK, cat ||| red hat, sitting {n}")
        day.text(f"mark{n}.txt", f"TOK, cat ||| red hat, sitting {n}")
    day.text("kohya/meta.json", json.dumps(kohya))
    # D10 to D13, D22: scripts without blanks, characters, faces, rests of models.
    odd = {
        "chinese": "一只TOK猫坐着",
        "character": "1girl, w_(arknights), red_hat",
        "face": "1girl, ;d, red hat, ...",
        "rest": "assistant\na cat on a mat</s>",
        "blue": "1girl, Blue_Sky",
    }
    for name, caption in odd.items():
        day.image(f"{name}.png", caption)
        day.text(f"{name}.txt", caption)
    # D16, D17: other extensions, thumbnails of network storage, masks and a photo of a mask.
    day.image("old.jfif", "a jfif", format="JPEG")
    day.text("old.txt", "a jfif")
    day.image("@eaDir/plain0.png/thumb.jpg")
    del day.captions["@eaDir/plain0.png/thumb.jpg"]
    mask = Image.new("LA", (40, 40), (255, 0))
    mask.paste((255, 255), (0, 0, 20, 40))
    mask.save(folder / "plain0_mask.png")
    day.image("plain1_mask.png", "a carnival mask")
    day.text("plain1_mask.txt", "a carnival mask")
    # D19: an orientation that is none.
    exif = Image.Exif()
    exif[274] = 0
    day.image("upright.jpg", "", exif=exif)
    return day


@pytest.fixture
def day(host: Host, tmp_path: Path) -> Day:
    folder = host.base / "input" / tmp_path.name
    folder.mkdir(parents=True)
    return filled(folder)


@pytest.fixture
def models(host: Host) -> tuple[str, str]:
    """A captioner and a tagger in the host's folder."""
    for name, make in (("day-blip", lambda p: save_captioner("blip", p)), ("day-wd", make_tagger)):
        if not (host.base / "models" / "LLM" / name).exists():
            make(host.base / "models" / "LLM" / name)
    assert "day-blip" in captioner_names() and "day-wd" in tagger_names()
    return "day-blip", "day-wd"


class Graphs:
    """The graph of the day, step by step longer."""

    def __init__(self, run: Any, folder: Path):
        self.run, self.graph = run, Graph()
        load = self.graph.add("Pivotal_LoadDataset", folder=folder.name, subfolders="all")
        self.last, self.report = load, (load, 1)

    def then(self, node: str, report: int, **settings: Any) -> None:
        self.last = self.graph.add(f"Pivotal_{node}", dataset=self.last.out(), **settings)
        self.report = (self.last, report)

    def captions(self) -> tuple[dict[str, str], str]:
        """The captions now, and the report of the last node."""
        self.graph.keep(self.last.out())
        self.graph.keep(self.report[0].out(self.report[1]))
        found = self.run(self.graph)
        records = found[self.last, 0].records
        return {r.name: r.caption for r in records}, found[self.report]


def test_a_day_with_300_files_loses_and_doubles_nothing(run_graph, host, day: Day, models):
    blip, wd = models
    wanted = dict(day.captions)
    files = len([name for name in wanted])
    assert len(list(day.folder.rglob("*"))) >= 300

    # Morning: what is there is read, and every oddity is a line.
    graphs = Graphs(run_graph, day.folder)
    loaded, report = graphs.captions()
    assert loaded == wanted
    assert len(report.splitlines()) < SCREEN
    for word in ("gone0.png", "win0.txt", "sales.csv", "deep.json", "plain1_mask.png"):
        assert word in report, word
    report.encode()

    # A placeholder is put where it lacks, once.
    graphs.then("LabelDataset", 1, placeholder="TOK", class_word="cat")
    labelled, _ = graphs.captions()
    assert all(text.count("TOK") == 1 for text in labelled.values())
    assert labelled["chinese.png"] == wanted["chinese.png"]
    assert labelled["mark0.png"] == wanted["mark0.png"]

    # Captions for those that have none, written beside their images.
    model = graphs.graph.add("Pivotal_LoadCaptioner", model=blip)
    before = {p: p.read_bytes() for p in day.folder.rglob("*") if p.is_file()}
    graphs.then(
        "CaptionDataset", 2, captioner=model.out(), max_tokens=8, batch_size=8,
        write="beside the pictures",
    )  # fmt: skip
    captioned, report = graphs.captions()
    assert f"{EMPTY + 1} of {EMPTY + 1} images" in report and len(report.splitlines()) < SCREEN
    stand_ins = {name for name, text in wanted.items() if not text}
    new = {p.name for p in day.folder.rglob("*") if p.is_file() and p not in before}
    fresh = {name for name in stand_ins if captioned[name] != labelled[name]}
    assert new == {Path(name).stem + ".txt" for name in fresh}
    assert all(p.read_bytes() == data for p, data in before.items())
    assert {n: t for n, t in captioned.items() if n not in stand_ins} == {
        n: t for n, t in labelled.items() if n not in stand_ins
    }

    # Tags are added where the captions were read, in every kind of file.
    graphs.then("TagDataset", 2, model=wd, on_existing="append", write="beside the pictures",
                general_threshold=0.4, batch_size=16)  # fmt: skip
    tagged, report = graphs.captions()
    assert len(report.splitlines()) < SCREEN
    again, report = Graphs(run_graph, day.folder).captions()
    assert again == tagged and set(again) == set(wanted)
    assert len(report.splitlines()) < SCREEN
    assert not (day.folder / "cap0.txt").exists() and not (day.folder / "Up0.txt").exists()
    assert tagged["blue.png"].casefold().replace("_", " ").count("blue sky") == 1

    # Evening, from the files: edits, a review by hand, and a save.
    graphs = Graphs(run_graph, day.folder)
    graphs.then("EditCaptions", 1, operations="remove: red hat\nno boilerplate\nsuffix: , sharp")
    edited, report = graphs.captions()
    assert all(text.endswith(", sharp") for text in edited.values())
    assert not [n for n, text in edited.items() if "red hat" in text and not n.startswith("rest")]
    assert ";d" in edited["face.png"] and "..." in edited["face.png"]
    assert "</s>" not in edited["rest.png"] and "assistant" not in edited["rest.png"]
    graphs.then("ReviewDataset", 1)
    graphs.graph.keep(graphs.last.out())
    dataset = run_graph(graphs.graph)[graphs.last, 0]
    review = review_of(identity_of(dataset))
    record = next(r for r in dataset.records if r.name == "cat/3.png")
    review.change(record, review.tag(record), {"caption": "by hand"})
    graphs.then(
        "SaveCaptions", 0, format="the files they were read from", on_existing="replace",
        dry_run=False,
    )  # fmt: skip
    graphs.graph.keep(graphs.last.out())
    report = run_graph(graphs.graph)[graphs.last, 0]
    assert "files written as revision" in report and len(report.splitlines()) < 3 * SCREEN
    saved, _ = Graphs(run_graph, day.folder).captions()
    assert saved == edited | {"cat/3.png": "by hand"} and len(saved) == files

    # Twins want one file: one sentence, and nothing is written.
    Image.new("RGB", (40, 40)).save(day.folder / "plain5.jpg")
    kept = {p: p.read_bytes() for p in day.folder.rglob("*.txt")}
    graphs = Graphs(run_graph, day.folder)
    graphs.then("TagDataset", 2, model=wd, on_existing="append", write="beside the pictures")
    with pytest.raises(GraphFailed, match="plain5.jpg and plain5.png would both write"):
        graphs.captions()
    assert {p: p.read_bytes() for p in day.folder.rglob("*.txt")} == kept
