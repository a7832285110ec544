"""Cancel stops a run within a step, whatever it is doing, and leaves nothing of it behind."""

from __future__ import annotations

import gc
import json
import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import comfy.model_management as management
import numpy
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from factories import write_pictures
from harness.faults.cancelling import Cancelling, Moment
from harness.host.graphs import Graph, Node, concept_run
from harness.host.measure import left_behind
from harness.host.runner import GraphInterrupted, Loaded
from harness.host.server import Server, failure

STEPS = 4


@pytest.fixture(scope="module", autouse=True)
def pictures(host) -> None:
    write_pictures(host.base / "input" / "cancel", ["a TOK", "TOK on grass"])


def training(checkpointing: str = "off") -> Graph:
    return concept_run("cancel", steps=STEPS, batch_size=1, checkpointing=checkpointing)[0]


def base_sample(run_graph: Any) -> Tensor:
    graph = Graph()
    model, clip, _ = graph.base("sd15")
    sampled = graph.sample(model, clip, "a dog")
    return run_graph(graph)[sampled, 0]["samples"]


def roots(loaded: Loaded) -> list[nn.Module]:
    return [loaded.model.model, loaded.clip.cond_stage_model]


def weights(loaded: Loaded) -> dict[str, Tensor]:
    return {
        f"{place}.{key}": tensor.clone()
        for place, root in enumerate(roots(loaded))
        for key, tensor in root.state_dict().items()
    }


class Press:
    """Presses Cancel once, and counts the passes of the denoiser that begin after that."""

    def __init__(self, at: int) -> None:
        self.at, self.seen, self.pressed, self.later = at, 0, False, 0

    def now(self, *_: Any) -> None:
        self.seen += 1
        if self.seen == self.at:
            self.pressed = True
            management.interrupt_current_processing()

    def in_backward(self, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(self.now)

    def count(self, *_: Any) -> None:
        self.later += self.pressed


Install = Callable[[Loaded, Press], Any]


def on_latents(loaded: Loaded, press: Press) -> Any:
    encoder = loaded.vae.first_stage_model
    first = next(module for module in encoder.modules() if isinstance(module, nn.Conv2d))
    return first.register_forward_pre_hook(press.now)


def on_text(loaded: Loaded, press: Press) -> Any:
    return loaded.clip.cond_stage_model.clip_l.transformer.register_forward_pre_hook(press.now)


def on_denoiser(loaded: Loaded, press: Press) -> Any:
    return loaded.model.model.diffusion_model.register_forward_pre_hook(press.now)


def on_backward(loaded: Loaded, press: Press) -> Any:
    return loaded.model.model.diffusion_model.register_forward_hook(press.in_backward)


MOMENTS = {
    "the first latent": (on_latents, 1),
    "the second latent": (on_latents, 2),
    "the check of the CLIP": (on_text, 1),
    "the first caption": (on_text, 2),
    "the first step": (on_denoiser, 1),
    "a step after the pivot": (on_denoiser, 3),
    "backward": (on_backward, 2),
    "the last backward": (on_backward, STEPS),
}


@contextmanager
def installed(loaded: Loaded, install: Install, press: Press) -> Iterator[None]:
    denoiser = loaded.model.model.diffusion_model
    handles = [denoiser.register_forward_pre_hook(press.count), install(loaded, press)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        # What a moment that never came would leave to the next test.
        management.interrupt_current_processing(False)


@pytest.mark.parametrize(
    ("moment", "checkpointing"), [*((moment, "off") for moment in MOMENTS), ("backward", "on")]
)
def test_cancel_gives_the_models_back_at_once(sd15, run_graph, moment, checkpointing):
    install, at = MOMENTS[moment]
    press, before, sample = Press(at), weights(sd15), base_sample(run_graph)
    with installed(sd15, install, press), pytest.raises(GraphInterrupted) as stopped:
        run_graph(training(checkpointing))
    assert press.pressed and press.later == 0
    assert stopped.value.node.startswith("TrainConcepts")
    assert left_behind(*roots(sd15)) == [] and management.in_training is False
    after = weights(sd15)
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())
    assert torch.equal(base_sample(run_graph), sample)
    gc.collect()
    assert not any(loaded.is_dead() for loaded in management.current_loaded_models)


def test_without_cancel_every_one_of_these_moments_passes(sd15, run_graph):
    """The moments above are real, and a run after all those that were stopped ends well."""
    presses = {install: Press(1000) for install, _ in MOMENTS.values()}
    with ExitStack() as stack:
        for install, press in presses.items():
            stack.enter_context(installed(sd15, install, press))
        run_graph(training())
    for install, at in MOMENTS.values():
        assert presses[install].seen >= at


def server_graph() -> tuple[Graph, tuple[list, list, list]]:
    graph = Graph()
    node = graph.add("CheckpointLoaderSimple", ckpt_name="sd15.safetensors")
    return graph, (node.out(0), node.out(1), node.out(2))


def picture_graph() -> tuple[Graph, Node]:
    """Sample and save a picture; core nodes alone, as the server has no node of the tests."""
    graph, (model, clip, vae) = server_graph()
    text = graph.add("CLIPTextEncode", clip=clip, text="a dog").out()
    empty = graph.add("EmptyLatentImage", width=64, height=64).out()
    conditions = {"positive": text, "negative": text, "latent_image": empty}
    latents = graph.add("KSampler", model=model, steps=2, cfg=1.0, **conditions).out()
    images = graph.add("VAEDecode", samples=latents, vae=vae).out()
    return graph, graph.add("SaveImage", images=images, filename_prefix="cancel")


def pixels(server: Server, history: dict[str, Any], node: Node) -> numpy.ndarray:
    file = history["outputs"][node]["images"][0]["filename"]
    return numpy.asarray(Image.open(server.base / "output" / file))


def endless_run() -> Graph:
    """A run that does not end by itself, with steps so slow that each is written down."""
    graph, base = server_graph()
    run = graph.train(
        base,
        "cancel",
        concepts=graph.concept(),
        adapter=graph.add("Pivotal_Lora", rank=2, alpha=2.0).out(),
        steps=100_000,
        accumulation=2,
        run_name="cancel",
    )
    graph.add("PreviewAny", source=run.out(5))
    return graph


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for_lines(server: Server, path: Path, count: int, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while len(lines_of(path)) < count:
        server.check_alive()
        assert time.monotonic() < end, server.tail()
        time.sleep(0.05)


def test_the_server_stops_a_run_and_goes_on_with_the_queue(host, server):
    write_pictures(server.base / "input" / "cancel", ["a TOK", "TOK on grass"])
    graph, saved = picture_graph()
    before = pixels(server, server.run(graph, timeout=120), saved)
    journal = server.base / "output" / "pivotal" / "cancel" / "report.jsonl"
    running, waiting = server.queue(endless_run()), server.queue(graph)
    wait_for_lines(server, journal, 2)
    done = len(lines_of(journal))
    server.interrupt()
    stopped = server.wait(running, timeout=60)
    assert "Interrupted in node" in (failure(stopped) or "")
    assert "Pivotal_TrainConcepts" in (failure(stopped) or "")
    assert len(lines_of(journal)) <= done + 1
    after = server.wait(waiting, timeout=120)
    assert failure(after) is None
    assert numpy.array_equal(pixels(server, after, saved), before)


def test_cancel_at_random_moments_of_captioning_and_training_loses_nothing(server):
    """`dev.py bench runs` presses it twenty times."""
    cancelling, draw = Cancelling(server), random.Random(4)
    seconds = cancelling.calibrate()
    rows = [cancelling.press(Moment(n, draw.uniform(0.2, 1.0)), seconds) for n in range(3)]
    assert any(row["steps"] for row in rows), "no run was stopped in its training"


def test_the_server_trains_and_its_lora_loader_lists_the_file(host, server):
    """After a run that was stopped, one that ends."""
    graph, base = server_graph()
    run = graph.train(
        base, "cancel", concepts=graph.concept(), adapter=graph.add("Pivotal_Lora", rank=2).out(),
        steps=1, run_name="listed",
    )  # fmt: skip
    graph.add("Pivotal_SaveBundle", bundle=run.out(), filename_prefix="loras/listed")
    server.run(graph, timeout=120)
    known = server.get("/object_info/LoraLoader")["LoraLoader"]["input"]["required"]["lora_name"]
    assert "listed_00001.safetensors" in json.dumps(known)
    assert (server.base / "output" / "pivotal" / "listed" / "report.txt").exists()
