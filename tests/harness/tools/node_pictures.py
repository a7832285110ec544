"""Pictures of every node in use, for its help page: drawn by a real browser on a real host."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from harness.editor.editor import Editor, chromium
from harness.host.server import Server

Values = Mapping[str, Mapping[str, Any]]
FOLDER = Path(__file__).resolve().parents[3] / "web" / "docs" / "pictures"
WIDEST, QUALITY = 760, 78
# What is connected to a socket of a type: a node and the number of its output.
GIVES: dict[str, tuple[str, int]] = {
    "MODEL": ("CheckpointLoaderSimple", 0),
    "CLIP": ("CheckpointLoaderSimple", 1),
    "VAE": ("CheckpointLoaderSimple", 2),
    "IMAGE": ("LoadImage", 0),
    "CLIP_VISION": ("CLIPVisionLoader", 0),
    "PIVOTAL_DATASET": ("Pivotal_LoadDataset", 0),
    "PIVOTAL_CONCEPTS": ("Pivotal_Concept", 0),
    "PIVOTAL_CAPTIONER": ("Pivotal_LoadCaptioner", 0),
    "PIVOTAL_ADAPTER": ("Pivotal_Lora", 0),
    "PIVOTAL_BUNDLE": ("Pivotal_OpenBundle", 0),
}
# What an output of a type goes to: a node and its input.
TAKES: dict[str, tuple[str, str]] = {
    "MODEL": ("KSampler", "model"),
    "CLIP": ("CLIPTextEncode", "clip"),
    "CONDITIONING": ("KSampler", "positive"),
    "IMAGE": ("PreviewImage", "images"),
    "LOSS_MAP": ("LossGraphNode", "loss"),
    "STRING": ("PreviewAny", "source"),
    "FLOAT": ("PreviewAny", "source"),
    "PIVOTAL_BUNDLE": ("Pivotal_SaveBundle", "bundle"),
    "PIVOTAL_CAPTIONER": ("Pivotal_CaptionDataset", "captioner"),
    "PIVOTAL_DATASET": ("Pivotal_TrainConcepts", "dataset"),
    "PIVOTAL_CONCEPTS": ("Pivotal_TrainConcepts", "concepts"),
    "PIVOTAL_ADAPTER": ("Pivotal_TrainConcepts", "adapter"),
    "PIVOTAL_OPTIMIZER": ("Pivotal_TrainConcepts", "optimizer"),
    "PIVOTAL_OBJECTIVE": ("Pivotal_TrainConcepts", "objective"),
    "PIVOTAL_PREVIEWS": ("Pivotal_TrainConcepts", "previews"),
    "PIVOTAL_VALIDATION": ("Pivotal_TrainConcepts", "validation"),
    "PIVOTAL_RUN": ("Pivotal_TrainConcepts", "continue_from"),
}
# Optional sockets that are connected in the picture, by node.
OPTIONAL: dict[str, tuple[str, ...]] = {
    "Pivotal_CaptionDataset": ("captioner",),
    "Pivotal_CheckDataset": ("concepts",),
    "Pivotal_ClipScore": ("clip",),
    "Pivotal_CompareGrid": ("bundle_1", "bundle_2"),
    "Pivotal_Concept": ("concepts",),
    "Pivotal_InspectBundle": ("clip",),
    "Pivotal_MergeDatasets": ("dataset_2",),
    "Pivotal_TrainConcepts": ("concepts", "adapter"),
}
REVIEW = "Pivotal_ReviewDataset"
SHARED = ("CheckpointLoaderSimple",)
# Puts a node between what feeds it and what takes from it, and says where all of it is.
DRAW = """
async ({kind, gives, takes, optional, shared, values, wide, reload}) => {
  const LEFT = 140, TOP = 120
  const graph = app.graph
  graph.clear()
  // The editor remembers values by a node's number, also those of nodes that are gone.
  window.pictured = (window.pictured ?? 0) + 100
  graph.state.lastNodeId = window.pictured
  const add = (type) => {
    const made = LiteGraph.createNode(type)
    graph.add(made)
    for (const [name, value] of Object.entries(values[type] ?? {})) {
      const widget = made.widgets.find(w => w.name === name)
      widget.value = value
      widget.callback?.(value)
    }
    return made
  }
  const node = add(kind)
  await new Promise(done => setTimeout(done, 300))
  const computed = node.computeSize()
  node.setSize([Math.max(wide, computed[0]), Math.max(node.size[1], computed[1])])
  const made = new Map()
  const feed = []
  for (const [slot, input] of node.inputs.entries()) {
    if (input.widget || !gives[input.type]) continue
    if (input.shape === LiteGraph.GRID_SHAPE) continue
    if (optional.skip.includes(input.name)) continue
    const [type, output] = gives[input.type]
    let source = shared.includes(type) ? made.get(type) : null
    if (!source) { source = add(type); made.set(type, source); feed.push(source) }
    source.connect(output, node, slot)
  }
  const taken = new Map()
  for (const [slot, output] of node.outputs.entries()) {
    const found = takes[output.type]
    if (!found || found[0] === kind || taken.has(found[0]) || taken.size > 2) continue
    const target = add(found[0])
    taken.set(found[0], target)
    node.connect(slot, target, target.inputs.findIndex(i => i.name === found[1]))
  }
  for (const one of [...feed, ...taken.values()]) one.collapse?.()
  await new Promise(done => setTimeout(done, 400))
  const width = one => one._collapsed_width || 190
  const left = feed.length ? Math.max(...feed.map(width)) + 50 : 0
  node.pos = [left, 0]
  const spread = (list, x) => list.forEach((one, i) => {
    one.pos = [x(one), i * 44]
  })
  spread(feed, one => left - 50 - width(one))
  spread([...taken.values()], () => left + node.size[0] + 50)
  const right = taken.size ? Math.max(...[...taken.values()].map(width)) + 50 : 0
  const box = [-14, -44, left + node.size[0] + right + 14, Math.max(node.size[1], 30) + 14]
  if (reload) await app.loadGraphData(graph.serialize())
  const ds = app.canvas.ds
  ds.scale = 1
  ds.offset = [LEFT - box[0], TOP - box[1]]
  app.canvas.setDirty(true, true)
  await new Promise(done => setTimeout(done, reload ? 3000 : 700))
  const at = app.canvas.canvas.getBoundingClientRect()
  return {x: at.left + LEFT, y: at.top + TOP, width: box[2] - box[0], height: box[3] - box[1]}
}
"""
BADGES = "name => app.extensionManager.setting.set(name, 'None')"
CLEAN = """
() => {
  for (const one of document.querySelectorAll('.p-toast, .p-message, .comfyui-body-top')) {
    one.style.display = 'none'
  }
}
"""


def sockets(info: Mapping[str, Any], kind: str) -> list[str]:
    """The optional sockets that stay open in the picture."""
    optional = info["input"].get("optional") or {}
    return [name for name in optional if name not in OPTIONAL.get(kind, ())]


def draw(editor: Editor, kind: str, info: Mapping[str, Any], values: Values) -> bytes:
    """A node in use as a picture in the format of the pages, cropped to its graph."""
    wide = 620 if kind == REVIEW else 340
    asked = {"kind": kind, "gives": GIVES, "takes": TAKES, "shared": SHARED, "wide": wide}
    asked |= {"reload": kind == "Pivotal_TrainConcepts"}
    asked |= {"optional": {"skip": sockets(info, kind)}, "values": dict(values)}
    box = editor.page.evaluate(DRAW, asked)
    if kind == REVIEW:
        editor.queue()
        editor.page.locator(".pivotal-card img").nth(2).wait_for()
        editor.page.wait_for_timeout(2000)
    editor.page.evaluate(CLEAN)
    with Image.open(io.BytesIO(editor.page.screenshot(clip=box))) as shot:
        picture = shot.convert("RGB")
    if picture.width > WIDEST:
        size = (WIDEST, round(picture.height * WIDEST / picture.width))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    kept = io.BytesIO()
    picture.save(kept, "webp", quality=QUALITY, method=6)
    return kept.getvalue()


def draw_all(server: Server, values: Values, kinds: Iterable[str]) -> int:
    """Write the picture of each node; return how many bytes they have in all."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    described, total = server.object_info(), 0
    with chromium() as browser:
        context = browser.new_context(viewport={"width": 1700, "height": 1500})
        editor = Editor(context.new_page(), server, "classic").open()
        for setting in ("NodeSourceBadgeMode", "NodeIdBadgeMode", "NodeLifeCycleBadgeMode"):
            editor.page.evaluate(BADGES, f"Comfy.NodeBadge.{setting}")
        for kind in kinds:
            picture = draw(editor, kind, described[kind], values)
            (FOLDER / f"{kind}.webp").write_bytes(picture)
            total += len(picture)
        context.close()
    return total
