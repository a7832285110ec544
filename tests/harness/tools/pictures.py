"""The pictures of the help pages and the thumbnails of the templates, from real runs.

`python -m harness.tools.pictures HOST BASE [node ids]`; with ids only those nodes are
drawn. Runs that were stopped go on, since the pack keeps them.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from harness.editor.editor import Editor, chromium
from harness.host.server import Server
from harness.models.sprite_captioner import train as train_captioner
from harness.tools import node_pictures, thumbnails
from harness.tools.environment import PACK, ROOT, link, say
from harness.tools.examples import PICTURES, write_world

BUNDLE = "loras/my_concept_00001.safetensors"
# What the nodes' widgets hold in their pictures, beside their defaults.
VALUES: dict[str, dict[str, object]] = {
    "Pivotal_Concept": {"name": "tok", "initial": "dog"},
    "Pivotal_ConvertBundle": {"file": BUNDLE},
    "Pivotal_LoadBundle": {"file": BUNDLE},
    "Pivotal_LoadDataset": {"folder": PICTURES},
    "Pivotal_OpenBundle": {"file": BUNDLE},
    "Pivotal_TrainConcepts": {"run_name": "my_concept"},
}


def prepare(python: Path, host: Path, base: Path) -> None:
    """The sprite world with a crew of its own and a captioner that knows it."""
    link(ROOT, base / "custom_nodes" / PACK)
    write_world(python, host, base)
    thumbnails.write_folders(base / "input")
    captioner = base / "models" / "LLM" / thumbnails.CAPTIONER
    if not captioner.exists():
        say(f"a captioner learned the sprites: loss {train_captioner(captioner):.3f}")


def thumbnail_all(server: Server) -> None:
    """Run every template and keep its thumbnail."""
    for name, make in thumbnails.MAKERS.items():
        picture = make(server)
        path = thumbnails.FOLDER / f"{name}.jpg"
        picture.save(path, quality=88, optimize=True)
        say(f"{path.name}: {path.stat().st_size} bytes")


def draw_monitor(server: Server, run: str = "my_concept") -> None:
    """The Training panel with a run that has ended, for the guide."""
    with chromium() as browser:
        context = browser.new_context(viewport={"width": 1500, "height": 1250})
        editor = Editor(context.new_page(), server, "classic").open()
        editor.open_panel("pivotal.runs")
        editor.page.locator(f".pivotal-run[data-run={run}]").click()
        editor.page.wait_for_timeout(3000)
        shown = editor.page.locator(".pivotal-monitor").bounding_box() or {}
        shot = editor.page.screenshot(clip=shown)
        context.close()
    with Image.open(io.BytesIO(shot)) as picture:
        picture.convert("RGB").save(ROOT / "docs" / "monitor.jpg", quality=82, optimize=True)


def main(host: Path, base: Path, kinds: Sequence[str]) -> None:
    prepare(Path(sys.executable), host, base)
    with Server(Path(sys.executable), host, base, ["--cpu"]) as server:
        if not kinds:
            thumbnail_all(server)
            draw_monitor(server)
        every = [name for name in server.object_info() if name.startswith("Pivotal_")]
        size = node_pictures.draw_all(server, VALUES, kinds or every)
        say(f"pictures of {len(kinds or every)} nodes: {size} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
