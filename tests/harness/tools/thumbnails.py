"""The thumbnails of the example workflows: each from a real run of its own in the sprite world."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from harness.editor.editor import Editor, chromium
from harness.host.server import Prompt, Server, ServerFailed, failure
from harness.tools.examples import FOLDER, LEARNED, Changes, opened
from world.concepts import character_pictures, write_folder

LIMIT_SECONDS = 3600.0
SIDE, GAP, GROUND = 384, 8, (30, 31, 36)
TRAINER, OPTIMIZER = "Pivotal_TrainConcepts", "Pivotal_Optimizer"
CREW = {"ghost": "ANNA", "bird": "BEN"}
CREW_FOLDER, BARE_FOLDER, CAPTIONER = "thumbnail_crew", "thumbnail_bare", "sprite-blip"
CYAN, PINK = "on a cyan background", "at the left on a pink background"
PLAIN: dict[str, Any] = {"algorithm": "AdamW", "weight_decay": 0.0, "d_coef": 1.0}
PLAIN |= {"growth_rate": 0.0, "precision": "fp32"}
SMALL_GRID = {"width": 64, "height": 64, "cell_size": 64, "cfg": 3.0}
# What the sprite world needs beside LEARNED, by workflow and by the nodes' titles or types.
RUNS: dict[str, dict[str, dict[str, Any]]] = {
    "1 Train a concept": {},
    "2 Several characters in one bundle": {
        "Pictures of all characters": {"folder": CREW_FOLDER},
        TRAINER: {**LEARNED[TRAINER], "steps": 600},
        "Every character": {**LEARNED["Every character"], "prompt": f"a {{name}} {CYAN}"},
    },
    "3 LoRA against TriLoRA": {
        "One grid": {
            **SMALL_GRID,
            "prompts": f"a {{name}} {CYAN}\na {{name}} {PINK}",
            "without": "red square",
        },
    },
    "5 Use and edit bundles": {},
}


def write_folders(inputs: Path) -> None:
    """A crew with captions, and pictures without any."""
    crew = [p for c, w in CREW.items() for p in character_pictures(w, character=c, count=8)]
    write_folder(crew, inputs / CREW_FOLDER)
    write_folder(character_pictures("TOK", character="robot", count=8), inputs / BARE_FOLDER)
    for captions in (inputs / BARE_FOLDER).glob("*.txt"):
        captions.unlink()


def prepared(server: Server, name: str, changes: Changes) -> tuple[dict[str, Any], Prompt]:
    """A workflow with the sprite world's values, and its prompt with the single pictures saved."""
    workflow, prompt = opened(server, FOLDER / f"{name}.json", {**LEARNED, **changes})
    give_rates(prompt)
    for number, node in list(prompt.items()):
        if node["class_type"] in ("Pivotal_CompareGrid", "Pivotal_ConceptReport"):
            saved = {"images": [number, 1], "filename_prefix": f"single {name}"}
            prompt["910"] = {"class_type": "SaveImage", "inputs": saved}
    return workflow, prompt


def give_rates(prompt: Prompt) -> None:
    """Connect the optimizers of the first workflow where a trainer has none: the base is small."""
    for number, socket, title in (
        ("901", "optimizer", "Optimizer of the adapter"),
        ("902", "embedding_optimizer", "Optimizer of the concept"),
    ):
        trainers = [node for node in prompt.values() if node["class_type"] == TRAINER]
        wanting = [node for node in trainers if socket not in node["inputs"]]
        if wanting:
            prompt[number] = {"class_type": OPTIMIZER, "inputs": {**PLAIN, **LEARNED[title]}}
        for node in wanting:
            node["inputs"][socket] = [number, 0]


def run(server: Server, name: str, changes: Changes) -> list[Image.Image]:
    """Run a workflow; the pictures that it saved, one by one where it drew a grid of them."""
    workflow, prompt = prepared(server, name, changes)
    history = server.wait(server.queue(prompt, workflow), LIMIT_SECONDS)
    sentence = failure(history)
    if sentence:
        raise ServerFailed(f"{name}: {sentence}")
    outputs = history["outputs"]
    shown = [outputs["910"]] if "910" in outputs else list(outputs.values())
    files = [one for output in shown for one in output.get("images", [])]
    saved = [one for one in files if one["type"] == "output"]
    paths = [server.base / "output" / one["subfolder"] / one["filename"] for one in saved]
    return [Image.open(path).convert("RGB") for path in paths]


def sheet(pictures: Sequence[Image.Image], across: int) -> Image.Image:
    """A square with the pictures in rows, their pixels enlarged as they are."""
    down = -(-len(pictures) // across)
    side = (SIDE - GAP) // max(across, down) - GAP
    left = (SIDE - across * (side + GAP) + GAP) // 2
    top = (SIDE - down * (side + GAP) + GAP) // 2
    whole = Image.new("RGB", (SIDE, SIDE), GROUND)
    for place, picture in enumerate(pictures):
        row, column = divmod(place, across)
        enlarged = picture.resize((side, side), Image.Resampling.NEAREST)
        whole.paste(enlarged, (left + column * (side + GAP), top + row * (side + GAP)))
    return whole


def one_concept(server: Server) -> Image.Image:
    """The same seed without and with the concept."""
    (stitched,) = run(server, "1 Train a concept", RUNS["1 Train a concept"])
    size = stitched.height
    ends = (0, 0, size, size), (stitched.width - size, 0, stitched.width, size)
    return sheet([stitched.crop(end) for end in ends], 2)


def characters(server: Server) -> Image.Image:
    """Each character on what none of its pictures had."""
    name = "2 Several characters in one bundle"
    return sheet(run(server, name, RUNS[name])[:4], 2)


def adapters(server: Server) -> Image.Image:
    """Without, with LoRA and with TriLoRA, from column by column to row by row."""
    name = "3 LoRA against TriLoRA"
    single = run(server, name, RUNS[name])
    rows = len(single) // 3
    return sheet([single[column * rows + row] for row in range(rows) for column in range(3)], 3)


def captions(server: Server) -> Image.Image:
    """The gallery of Review Dataset after the captioner has described the pictures."""
    path = FOLDER / "4 Caption a folder.json"
    changes = {
        "Pivotal_LoadDataset": {"folder": BARE_FOLDER},
        "Pivotal_LoadCaptioner": {"model": CAPTIONER},
        "Pivotal_EditCaptions": {"operations": "prefix: TOK, "},
    }
    with chromium() as browser:
        context = browser.new_context(viewport={"width": 1300, "height": 1100})
        editor = Editor(context.new_page(), server, "classic").open()
        editor.load(opened(server, path, changes)[0])
        editor.queue()
        server.wait_until_idle(LIMIT_SECONDS)
        shot = gallery_shot(editor)
        context.close()
    return shot


def gallery_shot(editor: Editor) -> Image.Image:
    """The first four cards, cut out of the page."""
    cards = editor.page.locator(".pivotal-card")
    # Where a node is small on the screen the editor hides what lies on it.
    editor.page.evaluate(
        "() => { const node = app.graph.nodes.find(n => n.type === 'Pivotal_ReviewDataset');"
        " node.pos = [0, 0]; node.setSize([420, 720]); app.canvas.ds.scale = 1.4;"
        " app.canvas.ds.offset = [60, 60]; app.canvas.setDirty(true, true) }"
    )
    cards.nth(3).wait_for()
    editor.page.wait_for_timeout(2500)
    boxes = [cards.nth(number).bounding_box() for number in range(4)]
    left, top = min(b["x"] for b in boxes), min(b["y"] for b in boxes)
    width = max(b["x"] + b["width"] for b in boxes) - left
    height = max(b["y"] + b["height"] for b in boxes) - top
    clip = {"x": left, "y": top, "width": width, "height": height}
    with Image.open(io.BytesIO(editor.page.screenshot(clip=clip))) as shot:
        return fitted(shot.convert("RGB"))


def fitted(picture: Image.Image) -> Image.Image:
    """A square with the whole picture in its middle."""
    scale = SIDE / max(picture.size)
    size = round(picture.width * scale), round(picture.height * scale)
    whole = Image.new("RGB", (SIDE, SIDE), GROUND)
    place = ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2)
    whole.paste(picture.resize(size, Image.Resampling.LANCZOS), place)
    return whole


def bundles(server: Server) -> Image.Image:
    """The names of two bundles in one graph, one of them renamed, each beside its own weights."""
    name, found = "5 Use and edit bundles", []
    for prompt, first, second in (
        ("red square", 0.0, 0.0),
        ("embedding:tok", 1.0, 0.0),
        ("embedding:heroine", 0.0, 1.0),
        ("embedding:ben", 0.0, 1.0),
    ):
        changes = {
            **RUNS[name],
            "First bundle": {"strength_model": first},
            "Second bundle": {"strength_model": second},
            "Prompt": {"text": f"a {prompt} {CYAN}"},
        }
        found += run(server, name, changes)
    return sheet(found, 2)


MAKERS: dict[str, Callable[[Server], Image.Image]] = {
    "1 Train a concept": one_concept,
    "2 Several characters in one bundle": characters,
    "3 LoRA against TriLoRA": adapters,
    "4 Caption a folder": captions,
    "5 Use and edit bundles": bundles,
}
