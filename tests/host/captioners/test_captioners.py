"""Every family of caption models under the host's memory manager; a host CLIP that sees."""

from __future__ import annotations

import gc
import json
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.model_management as management
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from harness.host.graphs import Graph
from harness.host.runner import GraphFailed, GraphInterrupted, Host
from harness.models.captioners import FAMILIES, save_captioner
from harness.models.tagger import make_tagger
from pack.nodes.host.captioners.find import captioner_folder, captioner_names
from pack.nodes.host.captioners.job import Question, run_captioner
from pack.nodes.host.captioners.model import ComputePrecision, FolderCaptioner
from pack.nodes.host.captioners.tagger import Tagger, Tagging, written
from pack.training.dataset.captioning.ask import Asking, Order
from pack.training.dataset.captioning.questions import Preset
from pack.training.dataset.folder.read import read_folder

ASKING = Asking(prompt="What is it?", max_tokens=12)
SIZES = [(48, 64), (80, 40), (64, 64)]
PICTURES = [Image.effect_noise(size, 90).convert("RGB") for size in SIZES]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("captioners")


def folder_of(family: str, models: Path) -> Path:
    return (
        models / family if (models / family).exists() else save_captioner(family, models / family)
    )


def ask(captioner: Any, pictures: list[Image.Image]) -> list[str]:
    with torch.inference_mode():
        return captioner.caption(pictures, ASKING, [0] * len(pictures))


def never_ending(captioner: FolderCaptioner) -> None:
    """Random weights may end at once."""
    captioner._model.generation_config.min_new_tokens = 6


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_captions_in_batches_is_interrupted_and_unloaded(
    family, models, host, monkeypatch
):
    with torch.inference_mode():
        captioner = FolderCaptioner(folder_of(family, models), ComputePrecision.AUTO)
    never_ending(captioner)
    together = ask(captioner, PICTURES)
    assert together == [text for one in PICTURES for text in ask(captioner, [one])]
    assert all(isinstance(text, str) for text in together)
    loaded = [entry.model for entry in management.current_loaded_models]
    assert captioner.patcher in loaded

    calls: list[int] = []
    monkeypatch.setattr(
        management,
        "throw_exception_if_processing_interrupted",
        lambda: calls.append(1) or (cancel() if len(calls) == 4 else None),
    )
    with pytest.raises(management.InterruptProcessingException):
        ask(captioner, PICTURES)
    # The first call comes before the tokens, so three tokens of the twelve were made.
    assert len(calls) == 4
    monkeypatch.undo()

    management.unload_all_models()
    assert management.current_loaded_models == []
    gone = weakref.ref(captioner._model)
    del captioner, loaded
    gc.collect()
    assert gone() is None


def cancel() -> None:
    raise management.InterruptProcessingException


def test_a_florence_folder_of_the_first_format_answers_as_the_new_one(models, tmp_path):
    new = folder_of("florence2", models)
    old = make_legacy(new, tmp_path / "legacy")
    answers = []
    for folder in (new, old):
        captioner = FolderCaptioner(folder, ComputePrecision.FP32)
        never_ending(captioner)
        answers.append(ask(captioner, PICTURES))
    assert answers[0] == answers[1]
    weights = load_file(old / "model.safetensors")
    weights.pop("image_proj_norm.weight")
    save_file(weights, old / "model.safetensors")
    with pytest.raises(ValueError, match=r"legacy cannot be loaded \(its weights do not fit"):
        FolderCaptioner(old, ComputePrecision.FP32)


# Names of the first release, from its published weights.
OLD_NAMES = [
    ("model.vision_tower.", "vision_tower."),
    (".conv.", ".proj."),
    (".conv1.", ".conv1.fn.dw."),
    (".conv2.", ".conv2.fn.dw."),
    (".window_attn.", ".window_attn.fn."),
    (".channel_attn.", ".channel_attn.fn."),
    (".ffn.", ".ffn.fn.net."),
    ("spatial_block.norm1.", "spatial_block.window_attn.norm."),
    ("channel_block.norm1.", "channel_block.channel_attn.norm."),
    (".norm2.", ".ffn.norm."),
    ("model.multi_modal_projector.image_position_embed.", "image_pos_embed."),
    ("model.multi_modal_projector.", ""),
    ("model.language_model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
]


def make_legacy(new: Path, old: Path) -> Path:
    """Rewrite a folder of today in the first release's names and configuration."""
    import shutil

    shutil.copytree(new, old)
    weights = {}
    for name, tensor in load_file(new / "model.safetensors").items():
        for now, then in OLD_NAMES:
            if now == ".conv." and ".convs." not in name:
                continue
            name = name.replace(now, then)
        if name == "image_projection.weight":
            name, tensor = "image_projection", tensor.T.contiguous()
        weights[name] = tensor
    weights["language_model.final_logits_bias"] = torch.zeros(1, 8)
    save_file(weights, old / "model.safetensors")
    config = json.loads((new / "config.json").read_text())
    vision = config["vision_config"]
    vision["dim_embed"] = vision.pop("embed_dim")
    vision["model_type"] = "davit"
    vision["image_pos_embed"] = {"max_pos_embeddings": vision.pop("max_position_embeddings")}
    temporal = {"max_temporal_embeddings": vision.pop("max_temporal_embeddings")}
    vision["visual_temporal_embedding"] = temporal
    config["projection_dim"] = vision["projection_dim"]
    config["text_config"]["model_type"] = "florence2_language"
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_florence2.Florence2"}
    config.pop("image_token_id")
    (old / "config.json").write_text(json.dumps(config))
    return old


@pytest.fixture
def captioner(host: Host, models: Path) -> str:
    """A BLIP in models/LLM of the host."""
    target = host.base / "models" / "LLM" / "tiny-blip"
    if not target.exists():
        save_captioner("blip", target)
    assert "tiny-blip" in captioner_names()
    return "tiny-blip"


def caption_graph(folder: str, captioner: str, **settings: Any) -> tuple[Graph, Any]:
    graph = Graph()
    data = graph.add("Pivotal_LoadDataset", folder=folder)
    model = graph.add("Pivotal_LoadCaptioner", model=captioner)
    settings = {"dataset": data.out(), "captioner": model.out(), "max_tokens": 8, **settings}
    node = graph.add("Pivotal_CaptionDataset", **settings)
    graph.keep(node.out())
    graph.keep(node.out(2))
    return graph, node


def shared(host: Host, tmp_path: Path, captions: list[str]) -> Path:
    folder = host.base / "input" / tmp_path.name
    folder.mkdir(parents=True)
    for number, caption in enumerate(captions):
        Image.effect_noise((40, 40), 90).convert("RGB").save(folder / f"{number}.png")
        if caption:
            (folder / f"{number}.txt").write_text(caption)
    return folder


def test_a_dataset_is_captioned_kept_and_written_as_asked(host, run_graph, captioner, tmp_path):
    folder = shared(host, tmp_path, ["by hand", "", ""])
    graph, node = caption_graph(folder.name, captioner, limit=1)
    found = run_graph(graph)
    first = [record.caption for record in found[node, 0].records]
    assert first[0] == "by hand" and first[1] and not first[2]
    assert not (folder / "1.txt").exists()
    draft = folder / ".0123456789abcdef.pivotal-part"
    draft.write_text("of a run that was killed")
    graph, node = caption_graph(folder.name, captioner, write="beside the pictures")
    found = run_graph(graph)
    assert not draft.exists()
    captions = [record.caption for record in found[node, 0].records]
    assert captions[:2] == first[:2] and captions[2]
    assert "1 captioned now" in found[node, 2] and "1 kept from before, 1 skipped" in found[node, 2]
    assert [(folder / f"{n}.txt").read_text().strip() for n in range(3)] == captions
    # The report ends with what was described, to be looked at on the node.
    assert found[node, 2].endswith(f"1.png: {captions[1]}\n2.png: {captions[2]}")


def test_a_limit_is_of_all_pictures_and_not_of_each_concept(host, captioner, tmp_path):
    dataset = read_folder(shared(host, tmp_path, [""] * 3))
    labelled = dataset.with_records(lambda record: replace(record, concept=record.path.stem))
    model = FolderCaptioner(captioner_folder(captioner), ComputePrecision.FP32)
    question = Question(preset=Preset.ANYTHING, prompt="", asking=Asking(max_tokens=8))
    order = Order(limit=2)
    done = run_captioner(labelled, model, None, question, order, write=False)
    assert [bool(record.caption) for record in done.dataset.records] == [True, True, False]


def test_a_model_that_does_not_fit_is_named_once_with_its_own_cure(
    host, run_graph, captioner, tmp_path, monkeypatch
):
    folder, tried = shared(host, tmp_path, [""] * 4), []

    def full(*_: Any, **__: Any) -> None:
        tried.append(1)
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    monkeypatch.setattr(management, "load_models_gpu", full)
    with pytest.raises(GraphFailed, match="not enough memory for tiny-blip: choose a smaller"):
        run_graph(caption_graph(folder.name, captioner)[0])
    assert len(tried) == 1


def test_cancel_keeps_what_is_done_and_the_graph_goes_on(
    host, run_graph, captioner, tmp_path, monkeypatch
):
    folder = shared(host, tmp_path, [""] * 4)
    asked: list[int] = []
    caption = FolderCaptioner.caption

    def third_is_cancelled(self: Any, pictures: Any, *rest: Any) -> list[str]:
        asked.append(len(pictures))
        if len(asked) == 3:
            management.interrupt_current_processing()
        return caption(self, pictures, *rest)

    monkeypatch.setattr(FolderCaptioner, "caption", third_is_cancelled)
    settings = {"batch_size": 1, "write": "beside the pictures"}
    with pytest.raises(GraphInterrupted):
        run_graph(caption_graph(folder.name, captioner, **settings)[0])
    assert len(list(folder.glob("*.txt"))) == 2
    for file in folder.glob("*.txt"):
        file.unlink()
    graph, node = caption_graph(folder.name, captioner, **settings)
    found = run_graph(graph)
    assert "2 captioned now" in found[node, 2] and "2 kept from before" in found[node, 2]
    assert len(asked) == 5 and len(list(folder.glob("*.txt"))) == 4


def test_bad_choices_are_sentences(host, run_graph, captioner, sd15, tmp_path):
    folder = shared(host, tmp_path, [""])
    graph, _ = caption_graph(folder.name, captioner, clip=graph_clip())
    with pytest.raises(GraphFailed, match="either a captioner or a clip"):
        run_graph(with_base(graph))
    graph, _ = caption_graph(folder.name, captioner, clip=graph_clip())
    graph["CaptionDataset3"]["inputs"].pop("captioner")
    with pytest.raises(GraphFailed, match="cannot describe images: use Qwen3-VL"):
        run_graph(with_base(graph))
    graph, _ = caption_graph(folder.name, captioner, preset="own prompt")
    with pytest.raises(GraphFailed, match="the prompt is empty: write one"):
        run_graph(graph)
    with pytest.raises(FileNotFoundError, match=r"hf download .* --local-dir .*LLM"):
        captioner_folder("nothing")


def graph_clip() -> list[Any]:
    return ["Base", 1]


def with_base(graph: Graph) -> Graph:
    graph["Base"] = {"class_type": "Harness_Checkpoint", "inputs": {"family": "sd15"}}
    return graph


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"model_type": "moondream1"}, "does not load as a caption model without code"),
        ({"model_type": "blip"}, "model.safetensors of .* is missing"),
    ],
)
def test_a_folder_that_cannot_be_loaded_is_a_sentence(tmp_path: Path, config, sentence):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=sentence):
        FolderCaptioner(tmp_path, ComputePrecision.AUTO)


def test_a_package_that_a_family_wants_is_named(models, monkeypatch):
    folder = folder_of("smolvlm", models)
    from transformers.models.smolvlm import processing_smolvlm

    monkeypatch.setattr(processing_smolvlm, "num2words", None)
    with pytest.raises(
        ValueError, match="smolvlm needs the package num2words, .*install num2words"
    ):
        FolderCaptioner(folder, ComputePrecision.FP32)


def test_a_tagger_pads_with_white_reads_blue_first_and_keeps_faces(tmp_path: Path):
    pytest.importorskip("onnxruntime")
    folder = make_tagger(tmp_path / "wd")
    tagger = Tagger(folder, Tagging(general=0.6, first="TOK", exclude="nothing"))
    blue, red = (Image.new("RGB", (16, 16), color) for color in ("blue", "red"))
    assert tagger.caption([blue, red], Asking(), [0, 0]) == [
        "TOK, ^_^, blue sky",
        "TOK, hatsune miku",
    ]
    wide = Image.new("RGB", (16, 4), "black")
    (tags,) = tagger.caption([wide], Asking(), [0])
    # Padded with white to a square, three quarters of it are blue, green and red alike.
    assert tags.startswith("TOK, ") and set(tags.split(", ")) == {"TOK", "^_^", "blue sky"}
    bare = Tagger(folder, Tagging(general=0.6, character=1.0, exclude="Blue Sky", spaces=False))
    assert bare.caption([blue, red], Asking(), [0, 0]) == ["^_^", ""]
    assert written("o_o", spaces=True) == "o_o" and written("long_hair", spaces=True) == "long hair"


def halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


def one_line_less(path: Path) -> None:
    path.write_text("\n".join(path.read_text().splitlines()[:-1]))


def other_columns(path: Path) -> None:
    path.write_text("a;b\n1;2\n")


@pytest.mark.parametrize(
    ("name", "spoil", "said"),
    [
        ("model.onnx", pointer, "is only a Git LFS pointer"),
        ("model.onnx", halved, "cannot be loaded"),
        ("selected_tags.csv", pointer, "is only a Git LFS pointer"),
        ("selected_tags.csv", halved, "is cut short"),
        ("selected_tags.csv", one_line_less, "has 4 tags and model.onnx gives 5"),
        ("selected_tags.csv", other_columns, "is not a table of tags"),
    ],
)
def test_a_tagger_that_is_not_whole_is_a_sentence(tmp_path: Path, name: str, spoil, said: str):
    pytest.importorskip("onnxruntime")
    folder = make_tagger(tmp_path / "wd")
    spoil(folder / name)
    with pytest.raises(ValueError, match=f"^{name} of wd .*{said}.*hf download REPOSITORY {name}"):
        Tagger(folder, Tagging())
