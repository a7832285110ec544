"""Cancel at any moment of a run with captioning and previews, through a server's own HTTP."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from harness.host.checkpoints import cached_checkpoint, place
from harness.host.server import Prompt, Server, ServerFailed, failure
from harness.tools.environment import PACK, link

ROOT = Path(__file__).resolve().parents[3]
NODES = Path(__file__).with_name("server_nodes.py")
PICTURES, FOLDER, CAPTIONER = 8, "cancelling", "tiny"
BUSY_STEPS = 8
"""A moment lies before so many steps of a run are done"""


@dataclass(frozen=True, slots=True)
class Moment:
    """When Cancel is pressed: a share of the time to `BUSY_STEPS` steps."""

    number: int
    share: float


def furnish(base: Path) -> None:
    """The folders of a server: the pack, a checkpoint, a caption model, the tests' own node."""
    from harness.models.captioners import save_captioner
    from world import checkpoints

    made = cached_checkpoint("sd15", checkpoints.build_sd15)
    place(made, base / "models" / "checkpoints" / "sd15.safetensors")
    link(ROOT, base / "custom_nodes" / PACK)
    shutil.copyfile(NODES, base / "custom_nodes" / "harness_server_nodes.py")
    save_captioner("blip", base / "models" / "LLM" / CAPTIONER)


class Cancelling:
    """Queues runs on a server and stops them."""

    def __init__(self, server: Server) -> None:
        self._server, self._info = server, server.object_info()
        self._serial = 0
        folder = server.base / "input" / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(PICTURES):
            Image.effect_noise((64, 64), 40 + 10 * number).convert("RGB").save(
                folder / f"{number}.png"
            )
            (folder / f"{number}.txt").write_text("a TOK", encoding="utf-8")
        self.bare = self._models(server.run(self._look(), timeout=300))

    def calibrate(self) -> float:
        """Seconds from the start of a run to its first `BUSY_STEPS` steps, captions included."""
        running = self._start("calibrated", seed=10**6)
        began, end = time.monotonic(), time.monotonic() + 300
        while self._steps("calibrated") < BUSY_STEPS:
            self._server.check_alive()
            if time.monotonic() > end:
                raise ServerFailed(f"No run came up.\n{self._server.tail()}")
            time.sleep(0.05)
        seconds = time.monotonic() - began
        self._stop(running)
        return seconds

    def press(self, moment: Moment, seconds: float) -> dict[str, Any]:
        """Cancel one run and see that all is well; AssertionError when something is not."""
        name = f"cancelled {moment.number}"
        running, waiting = self._start(name, moment.number), self._server.queue(self._look())
        time.sleep(moment.share * seconds)
        stopped, took = self._stop(running)
        said = failure(stopped) or ""
        assert "Interrupted in node" in said, f"Cancel did not stop it: {said or 'it ended'}"
        after = self._server.wait(waiting, timeout=300)
        assert failure(after) is None, f"the next item failed: {failure(after)}"
        assert self._models(after) == self.bare, "the models are not what they were"
        done, kept = self._steps(name), self._kept(name)
        # A step that is done has a checkpoint; one that was under way has none.
        assert kept[-1:] == ([done] if done else []), f"{done} steps done, kept {kept}"
        previews = list((self._folder(name) / "previews").glob("*.jpg"))
        return {
            "number": moment.number,
            "share": moment.share,
            "where": said.partition("(")[2].partition(")")[0],
            "steps": done,
            "previews": len(previews),
            "seconds_to_stop": round(took, 2),
        }

    def _start(self, name: str, seed: int) -> str:
        identity = self._server.queue(self._training(name, seed))
        end = time.monotonic() + 300
        while not self._server.get("/queue")["queue_running"]:
            assert time.monotonic() < end and self._server.history(identity) is None
            time.sleep(0.02)
        return identity

    def _stop(self, running: str) -> tuple[dict[str, Any], float]:
        began = time.monotonic()
        self._server.interrupt()
        return self._server.wait(running, timeout=120), time.monotonic() - began

    def _folder(self, name: str) -> Path:
        return self._server.base / "output" / "pivotal" / name

    def _steps(self, name: str) -> int:
        """Steps that a run has reported."""
        journal = self._folder(name) / "report.jsonl"
        lines = journal.read_text(encoding="utf-8").split("\n")[:-1] if journal.exists() else []
        return max((json.loads(line)["step"] for line in lines), default=0)

    def _kept(self, name: str) -> list[int]:
        """The checkpoints of a run in order, each whole."""
        from safetensors import safe_open

        files = sorted((self._folder(name) / "checkpoints").glob("step_*.safetensors"))
        for file in files:
            with safe_open(str(file), "pt") as kept:
                assert json.loads(kept.metadata()["state"])["step"] == int(file.stem[5:])
        return [int(file.stem[5:]) for file in files]

    def _training(self, name: str, seed: int) -> Prompt:
        base = {"model": ["1", 0], "clip": ["1", 1], "vae": ["1", 2]}
        drawn = {"prompts": "a photo of TOK", "every": 2, "time_share": 1.0, "seeds": "1"}
        own = {"steps": 100_000, "resolution": 64, "checkpointing": "off", "run_name": name}
        parts = {"dataset": ["4", 0], "concepts": ["5", 0], "adapter": ["6", 0]}
        asked = {"dataset": ["3", 0], "captioner": ["2", 0], "on_existing": "append"}
        asked |= {"seed": seed, "max_tokens": 16, "batch_size": 1}
        return self._filled(
            {
                "1": node("CheckpointLoaderSimple", ckpt_name="sd15.safetensors"),
                "2": node("Pivotal_LoadCaptioner", model=CAPTIONER),
                "3": node("Pivotal_LoadDataset", folder=FOLDER),
                "4": node("Pivotal_CaptionDataset", **asked),
                "5": node("Pivotal_Concept", placeholder="TOK", name="tok", initial="dog"),
                "6": node("Pivotal_Lora", rank=2),
                "7": node("Pivotal_Previews", **drawn, steps=2, width=64, height=64),
                "8": node("Pivotal_TrainConcepts", **base, **own, **parts, previews=["7", 0]),
                "9": node("PreviewAny", source=["8", 5]),
            }
        )

    def _look(self) -> Prompt:
        """A picture with the models, and their digest."""
        self._serial += 1
        base = {"model": ["1", 0], "clip": ["1", 1], "vae": ["1", 2]}
        given = {"positive": ["2", 0], "negative": ["2", 0], "latent_image": ["3", 0]}
        return self._filled(
            {
                "1": node("CheckpointLoaderSimple", ckpt_name="sd15.safetensors"),
                "2": node("CLIPTextEncode", clip=["1", 1], text="a dog" + " " * self._serial),
                "3": node("EmptyLatentImage", width=64, height=64),
                "4": node("KSampler", model=["1", 0], steps=2, cfg=1.0, seed=3, **given),
                "5": node("VAEDecode", samples=["4", 0], vae=["1", 2]),
                "6": node("SaveImage", images=["5", 0], filename_prefix="looked"),
                "7": node("Harness_Digest", **base, serial=self._serial),
            }
        )

    def _models(self, history: dict[str, Any]) -> dict[str, Any]:
        """What the models are: their digest, and the picture's pixels."""
        found = json.loads(history["outputs"]["7"]["text"][0])
        file = history["outputs"]["6"]["images"][0]["filename"]
        with Image.open(self._server.base / "output" / file) as picture:
            pixels = hashlib.sha256(picture.tobytes()).hexdigest()
        return {**found, "pixels": pixels}

    def _filled(self, prompt: Prompt) -> Prompt:
        """The prompt with the default of every required widget that is not given."""
        for one in prompt.values():
            required = self._info[one["class_type"]]["input"].get("required", {})
            for name, (kind, *more) in required.items():
                options = more[0] if more else {}
                choices = kind if isinstance(kind, list) else options.get("options", [])
                value = options.get("default", choices[0] if choices else None)
                if name not in one["inputs"] and value is not None:
                    one["inputs"][name] = value
        return prompt


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}
