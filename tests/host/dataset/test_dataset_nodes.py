"""The dataset nodes in the host's own graphs, beside the host's nodes where those go wrong."""

from __future__ import annotations

import copy
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.clip_vision
import pytest
import torch
from PIL import Image

import nodes
from factories import write_pictures
from harness.host.graphs import Graph
from harness.host.runner import AnyType, GraphFailed, Host, Outputs
from pack.nodes.host.run.drive import gradients
from pack.nodes.host.text.port import HostTextEncoder

Run = Callable[..., Outputs]


class Spread:
    """A list as a node gives it that ran once for each picture."""

    RETURN_TYPES = (AnyType("*"),)
    OUTPUT_IS_LIST = (True,)
    FUNCTION = "spread"
    CATEGORY = "harness"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"values": (AnyType("*"),)}}

    def spread(self, values: list[Any]) -> tuple[list[Any]]:
        return (values,)


nodes.NODE_CLASS_MAPPINGS["Harness_Spread"] = Spread


@pytest.fixture
def folder(host: Host, tmp_path: Path) -> Path:
    path = host.base / "input" / tmp_path.name
    path.mkdir(parents=True)
    return path


def noise(size: tuple[int, int]) -> Image.Image:
    return Image.effect_noise(size, 90).convert("RGB")


def both(run: Run, folder: Path) -> tuple[list, list[str], list, list[str]]:
    """Pictures and captions of the host's loader, and of ours through Dataset to Lists."""
    graph = Graph()
    theirs = graph.add("LoadImageTextDataSetFromFolder", folder=folder.name)
    for index in range(2):
        graph.keep(theirs.out(index))
    ours, lists = listed(graph, folder)
    found = run(graph)

    def every(node: str, index: int) -> list:
        return found.values[node][index]

    return every(theirs, 0), every(theirs, 1), every(lists, 0), every(lists, 2)


def listed(graph: Graph, folder: Path, **settings: object):
    ours = graph.add("Pivotal_LoadDataset", folder=folder.name, **settings)
    lists = graph.add("Pivotal_DatasetToLists", dataset=ours.out())
    for index in range(4):
        graph.keep(lists.out(index))
    return ours, lists


def test_an_edited_caption_is_seen_where_the_hosts_loader_gives_the_old_one(
    host, run_graph, folder
):
    write_pictures(folder, ["old"])
    executor = host.executor()
    graph = Graph()
    theirs = graph.add("LoadImageTextDataSetFromFolder", folder=folder.name)
    graph.keep(theirs.out(1))
    _, lists = listed(graph, folder)
    run_graph(copy.deepcopy(graph), executor)
    time.sleep(0.01)
    (folder / "0.txt").write_text("new")
    found = run_graph(graph, executor)
    assert (found.values[theirs][1], found.values[lists][2]) == (["old"], ["new"])


def test_pictures_stand_upright_where_the_hosts_lie(run_graph, folder):
    image = noise((40, 20))
    exif = image.getexif()
    exif[274] = 6
    image.save(folder / "a.jpg", exif=exif)
    (folder / "a.txt").write_text("x")
    theirs, _, ours, _ = both(run_graph, folder)
    assert (tuple(theirs[0].shape), tuple(ours[0].shape)) == ((1, 20, 40, 3), (1, 40, 20, 3))


def test_hidden_colors_of_transparent_places_are_not_seen_where_the_host_shows_them(
    run_graph, folder
):
    Image.new("RGBA", (8, 8), (0, 255, 0, 0)).save(folder / "a.png")
    (folder / "a.txt").write_text("x")
    theirs, _, ours, _ = both(run_graph, folder)
    assert theirs[0][0, 0, 0].tolist() == [0, 1, 0] and ours[0][0, 0, 0].tolist() == [1, 1, 1]


def test_captions_keep_their_pictures_where_the_host_loses_one_and_keeps_a_mark(run_graph, folder):
    for name in ("a.png", "x.png.v2.png"):
        noise((8, 8)).save(folder / name)
    (folder / "a.txt").write_text("\ufeffmarked", encoding="utf-8")
    (folder / "x.png.v2.txt").write_text("second version")
    _, theirs, _, ours = both(run_graph, folder)
    assert sorted(theirs) == ["", "\ufeffmarked"] and ours == ["marked", "second version"]


@pytest.mark.parametrize("trouble", ["text", "picture"])
def test_one_bad_file_is_a_sentence_where_it_ends_the_hosts_load(run_graph, folder, trouble):
    noise((8, 8)).save(folder / "a.png")
    noise((8, 8)).save(folder / "b.png")
    (folder / "a.txt").write_bytes("café".encode("latin-1") if trouble == "text" else b"x")
    if trouble == "picture":
        (folder / "b.png").write_bytes(b"no picture")
    graph = Graph()
    graph.keep(graph.add("LoadImageTextDataSetFromFolder", folder=folder.name).out())
    with pytest.raises(GraphFailed):
        run_graph(graph)
    graph = Graph()
    ours, lists = listed(graph, folder)
    graph.keep(ours.out(1))
    found = run_graph(graph)
    assert found.values[lists][2] == (["café", ""] if trouble == "text" else ["x"])
    assert ("a.txt is not UTF-8" if trouble == "text" else "b.png cannot be") in found[ours, 1]


def test_pictures_come_in_an_order_that_the_hosts_loader_does_not_promise(
    run_graph, folder, monkeypatch
):
    import os

    write_pictures(folder, [f"caption {n}" for n in range(12)])
    listing = os.listdir
    monkeypatch.setattr(os, "listdir", lambda *path: sorted(listing(*path))[::-1])
    _, theirs, _, ours = both(run_graph, folder)
    assert ours == [f"caption {n}" for n in range(12)] and theirs != ours


def test_three_flat_colors_are_three_pictures_where_the_host_keeps_one(run_graph, folder):
    for name in ("red", "green", "blue"):
        Image.new("RGB", (64, 64), name).save(folder / f"{name}.png")
    graph = Graph()
    ours, lists = listed(graph, folder)
    theirs = graph.add("ImageDeduplication", images=lists.out(0), similarity_threshold=0.95)
    graph.keep(theirs.out())
    checked = graph.add("Pivotal_CheckDataset", dataset=ours.out())
    kept = graph.add(
        "Pivotal_FilterDataset", dataset=checked.out(), query='not flag == "near_copy"'
    )
    graph.keep(kept.out())
    found = run_graph(graph)
    assert len(found.values[theirs][0]) == 1 and len(found[kept, 0].records) == 3


def test_masks_and_caption_tables_are_read_which_the_host_does_not(run_graph, folder):
    noise((16, 16)).save(folder / "a.png")
    Image.new("L", (16, 16), 255).save(folder / "a_mask.png")
    (folder / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "from a table"}')
    _, theirs, ours, captions = both(run_graph, folder)
    assert theirs == ["", ""] and len(ours) == 1 and captions == ["from a table"]


def test_repeats_decode_a_picture_once_where_the_host_decodes_it_n_times(
    run_graph, host, folder, monkeypatch
):
    concept = folder / "3_dog"
    concept.mkdir()
    noise((16, 16)).save(concept / "a.png")
    opened: list[str] = []
    opening = Image.open
    monkeypatch.setattr(
        Image, "open", lambda path, **rest: (opened.append(str(path)), opening(path, **rest))[1]
    )
    graph = Graph()
    graph.keep(graph.add("LoadImageTextDataSetFromFolder", folder=folder.name).out())
    run_graph(graph)
    assert len(opened) == 3
    opened.clear()
    graph = Graph()
    _, lists = listed(graph, folder)
    found = run_graph(graph)
    # Once for its header and once for its pixels, whatever the repeats.
    assert len(opened) == 2 and len(found.values[lists][0]) == 1


@pytest.mark.parametrize("ending", ["bmp", "tif", "gif", "jp2"])
def test_a_picture_of_another_format_is_read_where_the_host_passes_over_it(
    run_graph, folder, ending
):
    for name in ("a.png", f"b.{ending}"):
        noise((16, 16)).save(folder / name)
        (folder / f"{name[0]}.txt").write_text(name)
    _, theirs, _, ours = both(run_graph, folder)
    assert theirs == ["a.png"] and ours == ["a.png", f"b.{ending}"]


def test_a_dataset_holds_no_pixels_where_the_hosts_holds_them_all_as_floats(run_graph, folder):
    for number in range(4):
        noise((640, 480)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("x")
    graph = Graph()
    theirs = graph.add("LoadImageTextDataSetFromFolder", folder=folder.name)
    ours = graph.add("Pivotal_LoadDataset", folder=folder.name)
    for node in (theirs, ours):
        graph.keep(node.out())
    found = run_graph(graph)
    held = sum(image.nbytes for image in found.values[theirs][0])
    assert held == 4 * 640 * 480 * 3 * 4
    assert len(pickle.dumps(found[ours, 0].records)) < 10_000


def test_odd_sizes_share_a_bucket_where_the_host_trains_each_alone(run_graph, sd15, folder):
    """Six photographs of nearly one shape: theirs make six batches, ours one."""
    for number in range(6):
        noise((128 + 8 * number, 128)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("x")
    graph = Graph()
    _, clip, vae = graph.base("sd15")
    loaded = graph.add("LoadImageTextDataSetFromFolder", folder=folder.name)
    made = graph.add(
        "MakeTrainingDataset", images=loaded.out(), texts=loaded.out(1), vae=vae, clip=clip
    )
    theirs = graph.add("ResolutionBucket", latents=made.out(), conditioning=made.out(1))
    graph.keep(theirs.out())
    data = graph.add("Pivotal_LoadDataset", folder=folder.name)
    ready = graph.add("Pivotal_PrepareImages", dataset=data.out(), resolution=128)
    lists = graph.add("Pivotal_DatasetToLists", dataset=ready.out(), size="trained")
    graph.keep(lists.out())
    found = run_graph(graph)
    assert [len(one["samples"]) for one in found.values[theirs][0]] == [1] * 6
    assert len({tuple(image.shape) for image in found.values[lists][0]}) <= 2


def test_a_caption_is_text_where_the_host_reads_weights(run_graph, sd15, folder):
    caption = "hatsune miku (cosplay) a (red:1.5) hat"
    noise((64, 64)).save(folder / "a.png")
    (folder / "a.txt").write_text(caption)
    graph = Graph()
    _, clip, vae = graph.base("sd15")
    loaded = graph.add("LoadImageTextDataSetFromFolder", folder=folder.name)
    made = graph.add(
        "MakeTrainingDataset", images=loaded.out(), texts=loaded.out(1), vae=vae, clip=clip
    )
    graph.keep(made.out(1))
    theirs = run_graph(graph).values[made][1][0][0][0]
    plain, weighted = (
        sd15.clip.encode_from_tokens(sd15.clip.tokenize(caption, disable_weights=disabled))
        for disabled in (True, False)
    )
    text = HostTextEncoder(sd15.clip)
    with gradients(), torch.no_grad(), text.attach({}):
        ours = text.encode([(caption,)])[0].tensors["cond"]
    assert torch.equal(theirs, weighted) and not torch.equal(theirs, plain)
    torch.testing.assert_close(ours, plain, atol=1e-4, rtol=1e-4)


def test_a_dataset_goes_through_lists_and_comes_back(run_graph, folder):
    for number, size in enumerate([(16, 8), (24, 24)]):
        noise(size).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"(red:1.5) caption {number}")
    graph = Graph()
    _, lists = listed(graph, folder)
    back = graph.add(
        "Pivotal_DatasetFromLists",
        images=lists.out(0),
        captions=lists.out(2),
        masks=lists.out(1),
        name="back",
    )
    again = graph.add("Pivotal_DatasetToLists", dataset=back.out())
    for index in range(3):
        graph.keep(again.out(index))
    found = run_graph(graph)
    for index in (0, 1):
        pairs = zip(found.values[lists][index], found.values[again][index], strict=True)
        assert all(torch.equal(left, right) for left, right in pairs)
    assert found.values[lists][2] == found.values[again][2]
    graph.add("Pivotal_DatasetFromLists", images=lists.out(0), captions=graph.give(["x"] * 3))
    graph.keep([list(graph)[-1], 0])


def test_masks_of_the_host_reach_the_loss(run_graph, sd15, folder):
    """The same run with another color outside of the mask gives the same loss, given floor 0."""
    losses = []
    for color in ("black", "white"):
        image = Image.new("RGB", (64, 64), color)
        image.paste(Image.linear_gradient("L").resize((16, 64)).convert("RGB"), (0, 0))
        image.save(folder / "a.png")
        mask = torch.zeros(1, 64, 64)
        mask[:, :, :8] = 1
        graph = Graph()
        data = graph.add("Pivotal_LoadDataset", folder=folder.name, default_caption="a TOK")
        ready = graph.add(
            "Pivotal_PrepareImages",
            dataset=data.out(),
            resolution=64,
            mask_floor=0.0,
            masks=graph.give(mask),
        )
        run = graph.train(
            graph.base("sd15"),
            folder.name,
            dataset=ready.out(),
            concepts=graph.concept(),
            steps=2,
        )
        graph.keep(run.out(4))
        losses.append(run_graph(graph)[run, 4]["loss"])
    plain = abs(losses[0][0] - losses[1][0]) / losses[0][0]
    # The network sees the whole picture, so only its answer outside no longer counts.
    assert plain < 1.0
    assert all(loss > 0 for row in losses for loss in row)


def test_captions_are_saved_beside_pictures_inside_the_hosts_folders_alone(
    run_graph, host, folder, tmp_path
):
    write_pictures(folder, ["old", ""])

    def save(**settings: object) -> str:
        graph = Graph()
        data = graph.add("Pivotal_LoadDataset", **settings.pop("load", {"folder": folder.name}))
        edited = graph.add(
            "Pivotal_EditCaptions", dataset=data.out(), operations="clear\nsuffix: new"
        )
        node = graph.add("Pivotal_SaveCaptions", dataset=edited.out(), **settings)
        graph.keep(node.out())
        return run_graph(graph)[node, 0]

    draft = folder / ".0123456789abcdef.pivotal-part"
    draft.write_text("of a run that was killed")
    assert "2 files would be written" in save(on_existing="replace")
    assert (folder / "0.txt").read_text() == "old" and draft.exists()
    report = save(on_existing="replace", dry_run=False)
    assert (folder / "0.txt").read_text() == "new\n" == (folder / "1.txt").read_text()
    assert not draft.exists()
    revision = int(report.splitlines()[0].split()[-1])
    save(undo_revision=revision)
    assert (folder / "0.txt").read_text() == "old" and not (folder / "1.txt").exists()
    outside = tmp_path / "outside"
    write_pictures(outside, ["x"])
    load = {"folder": folder.name, "path": str(outside)}
    with pytest.raises(GraphFailed, match="0.png is outside the folders"):
        save(load=load, dry_run=False)
    (folder / "link").symlink_to(outside, target_is_directory=True)
    with pytest.raises(GraphFailed, match="0.png is outside the folders"):
        save(load={"folder": folder.name, "path": str(folder / "link")}, dry_run=False)


@pytest.fixture(scope="module")
def vision(host: Host) -> Any:
    """A small random CLIP vision model in the host's own class."""
    sizes = {"hidden_size": 32, "image_size": 32, "intermediate_size": 64, "patch_size": 8}
    sizes |= {"num_attention_heads": 2, "num_channels": 3, "num_hidden_layers": 3}
    sizes |= {"projection_dim": 16, "hidden_act": "quick_gelu", "model_type": "clip_vision_model"}
    torch.manual_seed(1)
    with torch.inference_mode():
        model = comfy.clip_vision.ClipVisionModel(sizes)
        state = {k: 0.1 * torch.randn(v.shape) for k, v in model.model.state_dict().items()}
        model.model.load_state_dict(state)
    return model


def test_a_vision_model_says_how_alike_pictures_are_and_sees_each_once(
    run_graph, folder, vision, monkeypatch
):
    for number in range(5):
        noise((64, 48 + number)).save(folder / f"{number}.png")
    (folder / "cut.bmp").write_bytes(b"BM")
    seen: list[int] = []
    encode = type(vision).encode_image

    def counted(self: Any, image: torch.Tensor, *rest: Any, **named: Any) -> Any:
        seen.append(len(image))
        return encode(self, image, *rest, **named)

    monkeypatch.setattr(type(vision), "encode_image", counted)

    def report() -> str:
        graph = Graph()
        data = graph.add("Pivotal_LoadDataset", folder=folder.name)
        checked = graph.add(
            "Pivotal_CheckDataset", dataset=data.out(), clip_vision=graph.give(vision)
        )
        graph.keep(checked.out(1))
        return run_graph(graph)[checked, 1]

    first = report()
    assert "likeness of two images by the vision model, 1 for the same: " in first
    assert sum(seen) == 5 and report() == first and sum(seen) == 5


def test_a_second_run_encodes_no_picture_again(run_graph, sd15, folder, monkeypatch):
    write_pictures(folder, ["a TOK", "the TOK"])
    encoded: list[int] = []
    encode = type(sd15.vae).encode
    monkeypatch.setattr(
        type(sd15.vae), "encode", lambda self, x: (encoded.append(len(x)), encode(self, x))[1]
    )
    for expected in (2, 0):
        encoded.clear()
        graph = Graph()
        run = graph.train(graph.base("sd15"), folder.name, concepts=graph.concept(), steps=1)
        graph.keep(run.out())
        run_graph(graph)
        assert sum(encoded) == expected


def test_a_vae_that_overflows_names_the_images_and_a_good_one_then_trains(run_graph, sd15, folder):
    write_pictures(folder, ["a TOK", "the TOK"])

    def train() -> Any:
        graph = Graph()
        run = graph.train(graph.base("sd15"), folder.name, concepts=graph.concept(), steps=1)
        for index in range(6):
            graph.keep(run.out(index))
        return str(run_graph(graph).values[run])

    # As in fp16: finite weights whose products are not.
    weights = list(sd15.vae.first_stage_model.taesd_encoder.parameters())
    good = [weight.detach().clone() for weight in weights]
    with torch.inference_mode():
        for weight in weights:
            weight.mul_(1e20)
    try:
        with pytest.raises(GraphFailed, match=r"TAESD, .*NaN or infinite values for 0\.png"):
            train()
    finally:
        with torch.inference_mode():
            for weight, values in zip(weights, good, strict=True):
                weight.copy_(values)
    assert "1 steps" in train(), train()


def test_boxes_of_a_detector_that_ran_once_a_picture_reach_their_pictures(run_graph, folder):
    for number in range(2):
        noise((64, 128)).save(folder / f"{number}.png")
    boxes = [[[{"x": 0, "y": 100, "width": 20, "height": 20}]], [[]]]
    give = Graph()
    data = give.add("Pivotal_LoadDataset", folder=folder.name)
    spread = give.add("Harness_Spread", values=give.give(boxes))
    ready = give.add(
        "Pivotal_PrepareImages",
        dataset=data.out(),
        resolution=64,
        anchor="face box",
        bboxes=spread.out(),
    )
    lists = give.add("Pivotal_DatasetToLists", dataset=ready.out(), size="trained")
    checked = give.add("Pivotal_CheckDataset", dataset=data.out(), bboxes=spread.out())
    for link in (lists.out(0), checked.out(), checked.out(2)):
        give.keep(link)
    found = run_graph(give)
    assert [tuple(image.shape) for image in found.values[lists][0]] == [(1, 64, 64, 3)] * 2
    flags = [set(record.flags) & {"far", "no_face"} for record in found[checked, 0].records]
    assert flags == [{"far"}, {"no_face"}]
    # One answer for the set, not one a box.
    assert len(found.values[checked][2]) == 1
