"""diffusers itself reads the plain LoRA and the loose embeddings, and refuses the whole bundle."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pack.bundles.bundle import Bundle
from pack.bundles.files.safetensors import read_safetensors
from pack.bundles.layers.generic import generic_key
from pack.bundles.load import load_bundle
from pack.bundles.save import Container, save_bundle

UP, DOWN = ".lora_up.weight", ".lora_down.weight"
RANK, ALPHA = 2, 3.0
Deltas = dict[str, Tensor]


def make_tokenizer(folder: Path) -> object:
    """A CLIP tokenizer that knows the letters."""
    from transformers import CLIPTokenizer

    letters = [chr(code) for code in range(33, 127)]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))


def make_encoder(kind: type, width: int, tokens: int, layers: int = 2) -> torch.nn.Module:
    from transformers import CLIPTextConfig

    return kind(
        CLIPTextConfig(
            vocab_size=tokens,
            hidden_size=width,
            intermediate_size=16,
            projection_dim=8,
            num_hidden_layers=layers,
            num_attention_heads=2,
            max_position_embeddings=16,
        )
    )


def make_unet(
    attention: tuple[bool, ...], transformers: int | tuple[int, ...], context: int, **extra: object
) -> torch.nn.Module:
    """A narrow UNet with one entry of `attention` a level, from the finest to the coarsest."""
    from diffusers import UNet2DConditionModel

    kinds = ["CrossAttn{}Block2D" if attended else "{}Block2D" for attended in attention]
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8,) * len(kinds),
        norm_num_groups=4,
        down_block_types=tuple(kind.format("Down") for kind in kinds),
        up_block_types=tuple(kind.format("Up") for kind in reversed(kinds)),
        attention_head_dim=4,
        cross_attention_dim=context,
        transformer_layers_per_block=transformers,
        **extra,
    )


@pytest.fixture(scope="module")
def sd15(tmp_path_factory: pytest.TempPathFactory):
    """StableDiffusionPipeline with SD1.5's block layout and random weights."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline
    from transformers import CLIPTextModel

    torch.manual_seed(0)
    tokenizer = make_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    return StableDiffusionPipeline(
        vae=None,
        text_encoder=make_encoder(CLIPTextModel, 768, len(tokenizer)),
        tokenizer=tokenizer,
        unet=make_unet((True, True, True, False), 1, 768),
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory):
    """StableDiffusionXLPipeline with SDXL's block layout and random weights."""
    from diffusers import DDIMScheduler, StableDiffusionXLPipeline
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(0)
    tokenizers = [make_tokenizer(tmp_path_factory.mktemp("tokenizer")) for _ in range(2)]
    count = len(tokenizers[0])
    extra = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 56,
        "use_linear_projection": True,
    }
    return StableDiffusionXLPipeline(
        vae=None,
        text_encoder=make_encoder(CLIPTextModel, 768, count),
        text_encoder_2=make_encoder(CLIPTextModelWithProjection, 1280, count),
        tokenizer=tokenizers[0],
        tokenizer_2=tokenizers[1],
        unet=make_unet((False, True, True), (1, 2, 3), 2048, **extra),
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        add_watermarker=False,
    )


def adaptable(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, kinds)}


def pair(layer: torch.nn.Module, noise: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random up and down of a Linear or convolution."""
    rows, columns, *kernel = layer.weight.shape
    up = torch.randn(rows, RANK, *([1] * len(kernel)), generator=noise)
    return up, torch.randn(RANK, columns, *kernel, generator=noise)


def delta(up: Tensor, down: Tensor) -> Tensor:
    """What a LoRA adds to a weight: up @ down * alpha / rank (arXiv 2106.09685)."""
    return (up.flatten(1) @ down.flatten(1)).view(up.shape[0], *down.shape[1:]) * ALPHA / RANK


def make_lora(layers: dict[str, tuple[str, torch.nn.Module]]) -> tuple[dict[str, Tensor], Deltas]:
    """Generic LoRA tensors for layers {diffusers name: (generic name, layer)}, and each delta."""
    noise = torch.Generator().manual_seed(1)
    lora: dict[str, Tensor] = {}
    deltas: Deltas = {}
    for name, (generic, layer) in layers.items():
        up, down = pair(layer, noise)
        lora |= {generic + UP: up, generic + DOWN: down, generic + ".alpha": torch.tensor(ALPHA)}
        deltas[name] = delta(up, down)
    return lora, deltas


def text_layers(model: torch.nn.Module, part: str, encoder: str):
    """The layers that kohya's names cover, by the name within the pipeline."""
    found: dict[str, tuple[str, torch.nn.Module]] = {}
    for name, layer in adaptable(model).items():
        if "encoder.layers." in name:
            inner = name[name.index("encoder.layers.") :]
            found[f"{part}.{name}"] = (
                f"text_encoders.{encoder}.transformer.text_model.{inner}",
                layer,
            )
    return found


def applied(pipeline, before: dict[str, Tensor]) -> Deltas:
    """What fusing the loaded LoRA has changed, by the name within the pipeline."""
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    return {key: weight - before[key] for key, weight in weights(pipeline).items()}


def weights(pipeline) -> dict[str, Tensor]:
    return {
        f"{part}.{name}": layer.weight.detach().clone()
        for part, model in pipeline.components.items()
        if isinstance(model, torch.nn.Module)
        for name, layer in adaptable(model).items()
    }


def assert_applied(pipeline, path: Path, deltas: Deltas) -> None:
    """Load a file and compare the change of every layer; the others must stay as they were."""
    before = weights(pipeline)
    pipeline.load_lora_weights(str(path.parent), weight_name=path.name)
    changes = applied(pipeline, before)
    assert set(deltas) <= set(changes)
    for name, change in changes.items():
        expected = deltas.get(name, torch.zeros_like(change))
        assert torch.allclose(change, expected, atol=1e-4), name


def test_diffusers_applies_the_plain_lora_of_sd15(sd15, tmp_path: Path) -> None:
    pipeline = copy.deepcopy(sd15)
    layers = {}
    for name, layer in adaptable(pipeline.unet).items():
        kohya = f"lora_unet_{name.replace('.', '_')}.alpha"
        layers[f"unet.{name}"] = (generic_key(kohya, "sd15").removesuffix(".alpha"), layer)
    layers |= text_layers(pipeline.text_encoder, "text_encoder", "clip_l")
    lora, deltas = make_lora(layers)
    assert len(deltas) > 250
    bundle = Bundle(family="sd15", lora=lora, embeddings={})
    (path,) = save_bundle(bundle, tmp_path / "b.safetensors", Container.LOOSE, torch.float32)
    assert_applied(pipeline, path, deltas)


# One layer of every kind, in sgm's words and in those of diffusers.
SDXL_LAYERS = {
    "input_blocks.4.1.transformer_blocks.0.attn2.to_k": (
        "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
    ),
    "input_blocks.8.1.transformer_blocks.2.attn1.to_out.0": (
        "down_blocks.2.attentions.1.transformer_blocks.2.attn1.to_out.0"
    ),
    "input_blocks.5.1.proj_in": "down_blocks.1.attentions.1.proj_in",
    "input_blocks.2.0.in_layers.2": "down_blocks.0.resnets.1.conv1",
    "input_blocks.3.0.op": "down_blocks.0.downsamplers.0.conv",
    "middle_block.1.transformer_blocks.0.ff.net.0.proj": (
        "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj"
    ),
    "middle_block.2.out_layers.3": "mid_block.resnets.1.conv2",
    "output_blocks.0.1.transformer_blocks.1.attn2.to_v": (
        "up_blocks.0.attentions.0.transformer_blocks.1.attn2.to_v"
    ),
    "output_blocks.4.0.skip_connection": "up_blocks.1.resnets.1.conv_shortcut",
    "output_blocks.5.2.conv": "up_blocks.1.upsamplers.0.conv",
    "output_blocks.8.0.emb_layers.1": "up_blocks.2.resnets.2.time_emb_proj",
}


def test_diffusers_applies_the_plain_lora_of_sdxl(sdxl, tmp_path: Path) -> None:
    pipeline = copy.deepcopy(sdxl)
    unet = adaptable(pipeline.unet)
    layers = {
        f"unet.{name}": (f"diffusion_model.{sgm}", unet[name]) for sgm, name in SDXL_LAYERS.items()
    }
    layers |= text_layers(pipeline.text_encoder, "text_encoder", "clip_l")
    layers |= text_layers(pipeline.text_encoder_2, "text_encoder_2", "clip_g")
    lora, deltas = make_lora(layers)
    bundle = Bundle(family="sdxl", lora=lora, embeddings={})
    (path,) = save_bundle(bundle, tmp_path / "b.safetensors", Container.LOOSE, torch.float32)
    assert_applied(pipeline, path, deltas)


def small_bundle(pipeline, vectors: dict[str, Tensor]) -> Bundle:
    layer = pipeline.unet.down_blocks[1].attentions[0].transformer_blocks[0].attn2.to_k
    name = "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k"
    lora, _ = make_lora({name: (name, layer)})
    family = "sdxl" if "clip_g" in vectors else "sd15"
    return Bundle(family=family, lora=lora, embeddings={"surtr": vectors})


def test_diffusers_refuses_the_whole_bundle(sd15, tmp_path: Path) -> None:
    bundle = small_bundle(sd15, {"clip_l": torch.randn(3, 768)})
    path = tmp_path / "b.safetensors"
    save_bundle(bundle, path, Container.A1111, torch.float32)
    with pytest.raises(ValueError, match="Invalid LoRA checkpoint"):
        copy.deepcopy(sd15).load_lora_weights(str(tmp_path), weight_name=path.name)


def test_diffusers_reads_the_loose_embedding_of_sd15(sd15, tmp_path: Path) -> None:
    vectors = torch.randn(3, 768)
    bundle = small_bundle(sd15, {"clip_l": vectors})
    _, path = save_bundle(bundle, tmp_path / "b.safetensors", Container.LOOSE, torch.float16)
    pipeline = copy.deepcopy(sd15)
    pipeline.load_textual_inversion(str(path), token="<surtr>")
    assert torch.equal(rows_of(pipeline.tokenizer, pipeline.text_encoder), vectors)


def test_diffusers_reads_the_loose_embedding_of_sdxl(sdxl, tmp_path: Path) -> None:
    vectors = {"clip_l": torch.randn(3, 768), "clip_g": torch.randn(3, 1280)}
    bundle = small_bundle(sdxl, vectors)
    _, path = save_bundle(bundle, tmp_path / "b.safetensors", Container.LOOSE, torch.float16)
    found, _ = read_safetensors(path)
    pipeline = copy.deepcopy(sdxl)
    encoders = {
        "clip_l": (pipeline.tokenizer, pipeline.text_encoder),
        "clip_g": (pipeline.tokenizer_2, pipeline.text_encoder_2),
    }
    for key, (tokenizer, encoder) in encoders.items():
        pipeline.load_textual_inversion(
            found[key], token="<surtr>", tokenizer=tokenizer, text_encoder=encoder
        )
        assert torch.equal(rows_of(tokenizer, encoder), vectors[key])


def rows_of(tokenizer, encoder) -> Tensor:
    """The table's rows of the three tokens that a loaded embedding has."""
    ids = tokenizer.convert_tokens_to_ids(["<surtr>", "<surtr>_1", "<surtr>_2"])
    return encoder.get_input_embeddings().weight[ids].detach()


def own_lora(pipeline, target: str, alpha: float, **more: object) -> None:
    """A LoRA of diffusers' own making on all layers called `target`, with random weights."""
    from peft import LoraConfig

    config = LoraConfig(r=RANK, lora_alpha=alpha, target_modules=[target], **more)
    pipeline.unet.add_adapter(config)
    noise = torch.Generator().manual_seed(2)
    for name, parameter in pipeline.unet.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(generator=noise)


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
@pytest.mark.parametrize("target", ["to_k", "to_out.0"])
@pytest.mark.parametrize(("alpha", "told"), [(RANK, False), (ALPHA, True)])
def test_a_lora_that_diffusers_wrote_is_read_whole(
    request, tmp_path: Path, family: str, target: str, alpha: float, told: bool
) -> None:
    """Its keys are not known to the host's loader, and its alpha stands in the header alone."""
    from peft.utils import get_peft_model_state_dict

    pipeline = copy.deepcopy(request.getfixturevalue(family))
    own_lora(pipeline, target, alpha)
    state = get_peft_model_state_dict(pipeline.unet)
    extra = {}
    if told:
        from diffusers.training_utils import _collate_lora_metadata

        extra = _collate_lora_metadata({"unet": pipeline.unet})
    pipeline.save_lora_weights(str(tmp_path), unet_lora_layers=state, **extra)
    found = load_bundle(tmp_path / "pytorch_lora_weights.safetensors")
    # Only the width of the text tells the family, and only some layers have it.
    assert found.family == (family if target == "to_k" else "")
    written = {key.removesuffix(".lora_A.weight") for key in state if "lora_A" in key}
    assert len(written) > 10
    for name in written:
        generic = generic_name(name, family)
        assert torch.equal(found.lora[f"{generic}{DOWN}"], state[f"{name}.lora_A.weight"])
        assert torch.equal(found.lora[f"{generic}{UP}"], state[f"{name}.lora_B.weight"])
        assert (f"{generic}.alpha" in found.lora) == told
        assert not told or found.lora[f"{generic}.alpha"].item() == alpha
    assert len(found.lora) == len(written) * (3 if told else 2)


# The end of a name, a whole one, and one that fits only a part of a name; ranks of some layers.
UPPER = "up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
PATTERNS = {"attn1.to_k": 7.0, f"^{UPPER}": 5.0, "tn2.to_k": 9.0, "^attn2.to_k": 8.0}
RANKS = {UPPER: 3}


@pytest.mark.parametrize("stable", [False, True])
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_layers_with_an_alpha_and_a_rank_of_their_own_act_as_in_peft(
    request, tmp_path: Path, family: str, stable: bool
) -> None:
    """The change of each weight is what diffusers makes of the file."""
    from diffusers.training_utils import _collate_lora_metadata
    from peft.utils import get_peft_model_state_dict

    pipeline = copy.deepcopy(request.getfixturevalue(family))
    before = weights(pipeline)
    more = {"alpha_pattern": PATTERNS, "rank_pattern": RANKS, "use_rslora": stable}
    own_lora(pipeline, "to_k", ALPHA, **more)
    pipeline.save_lora_weights(
        str(tmp_path),
        unet_lora_layers=get_peft_model_state_dict(pipeline.unet),
        **_collate_lora_metadata({"unet": pipeline.unet}),
    )
    path = tmp_path / "pytorch_lora_weights.safetensors"
    deltas = read_by_diffusers(request.getfixturevalue(family), path, before)
    found = load_bundle(path)
    alphas = {value.item() for key, value in found.lora.items() if key.endswith(".alpha")}
    ranks = {tensor.shape[0] for key, tensor in found.lora.items() if key.endswith(DOWN)}
    assert len(alphas) == 3 and ranks == {RANK, 3}
    for name, change in deltas.items():
        generic = generic_name(name.removeprefix("unet."), family)
        up, down = (found.lora.get(f"{generic}{end}") for end in (UP, DOWN))
        if up is None:
            assert not change.any(), name
        else:
            scale = found.lora[f"{generic}.alpha"] / len(down)
            torch.testing.assert_close(change, up @ down * scale, atol=1e-4, rtol=1e-4)


def test_diffusers_takes_its_own_lora_back_after_it_was_saved_again(sd15, tmp_path: Path) -> None:
    """The alpha is in the tensors then, and not in the header as well, which diffusers refuses."""
    from diffusers.training_utils import _collate_lora_metadata
    from peft.utils import get_peft_model_state_dict

    pipeline = copy.deepcopy(sd15)
    before = weights(pipeline)
    own_lora(pipeline, "to_k", ALPHA)
    layers = get_peft_model_state_dict(pipeline.unet)
    told = _collate_lora_metadata({"unet": pipeline.unet})
    pipeline.save_lora_weights(str(tmp_path), unet_lora_layers=layers, **told)
    path = tmp_path / "pytorch_lora_weights.safetensors"
    (again,) = save_bundle(load_bundle(path), tmp_path / "b.safetensors", Container.LOOSE, None)
    deltas = read_by_diffusers(sd15, path, before)
    assert any(change.any() for change in deltas.values())
    for name, change in read_by_diffusers(sd15, again, before).items():
        torch.testing.assert_close(change, deltas[name], atol=1e-4, rtol=1e-4)


def read_by_diffusers(pipeline, path: Path, before: dict[str, Tensor]) -> Deltas:
    pipeline = copy.deepcopy(pipeline)
    pipeline.load_lora_weights(str(path.parent), weight_name=path.name)
    return {name: change for name, change in applied(pipeline, before).items() if "unet" in name}


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({"alpha_pattern": {"(a+)+$": 4}}, "names layers by the expression"),
        ({"alpha_pattern": {"to_k": "four"}}, "alpha of its layer mid.to_k is not a number"),
        ({"lora_alpha": 10**400}, "alpha of its layer mid.to_k is not a number"),
        ({"lora_alpha": float("nan")}, "alpha of its layer mid.to_k is not a number"),
    ],
)
def test_an_alpha_that_cannot_be_understood_is_a_sentence(tmp_path: Path, told, sentence) -> None:
    header = {f"unet.{key}": value for key, value in told.items()}
    path = tmp_path / "x.safetensors"
    made = {f"unet.mid.to_k.lora_{end}.weight": torch.ones(1, 1) for end in "AB"}
    save_file(made, path, {"lora_adapter_metadata": json.dumps(header)})
    with pytest.raises(ValueError, match=sentence):
        load_bundle(path)


def test_the_alpha_of_other_families_is_read_too(tmp_path: Path) -> None:
    """Their keys stay as they are, and the host finds the alpha beside them."""
    config = {"transformer.lora_alpha": 2, "transformer.alpha_pattern": {"b.to_q": 6}}
    made = {f"transformer.{name}.to_q.lora_A.weight": torch.ones(4, 8) for name in "ab"}
    made |= {f"transformer.{name}.to_q.lora_B.weight": torch.ones(8, 4) for name in "ab"}
    save_file(made, tmp_path / "x.safetensors", {"lora_adapter_metadata": json.dumps(config)})
    found = load_bundle(tmp_path / "x.safetensors").lora
    assert [found[f"transformer.{name}.to_q.alpha"].item() for name in "ab"] == [2, 6]


def generic_name(module: str, family: str) -> str:
    key = generic_key(f"lora_unet_{module.replace('.', '_')}.alpha", family)
    return key.removesuffix(".alpha")


@pytest.mark.parametrize("order", ["old", "new"])
def test_a_safelora_finds_its_layers_by_their_number(sd15, tmp_path: Path, order: str) -> None:
    """Its writer counts the Linear layers of attentions and GEGLU; older diffusers in `old`."""
    pairs, wanted = [], {}
    noise = torch.Generator().manual_seed(4)
    for name, layer in counted_layers(sd15.unet, order):
        up, down = pair(layer, noise)
        pairs.append((up, down))
        wanted[f"lora_unet_{name.replace('.', '_')}"] = (up, down)
    tensors = {f"unet:{n}:up": up for n, (up, _) in enumerate(pairs)}
    tensors |= {f"unet:{n}:down": down for n, (_, down) in enumerate(pairs)}
    vector = torch.randn(768)
    tensors["<s1>"] = vector
    metadata = {"unet": json.dumps(["CrossAttention", "Attention", "GEGLU"]), "<s1>": "<embed>"}
    metadata |= {f"unet:{n}:rank": str(RANK) for n in range(len(pairs))}
    save_file(tensors, tmp_path / "x.safetensors", metadata)
    found = load_bundle(tmp_path / "x.safetensors")
    assert torch.equal(found.embeddings["<s1>"]["clip_l"], vector[None])
    assert len(found.lora) == 3 * len(wanted) == 3 * 144
    for name, (up, down) in wanted.items():
        assert torch.equal(found.lora[f"{name}.lora_up.weight"], up)
        assert torch.equal(found.lora[f"{name}.lora_down.weight"], down)
        assert found.lora[f"{name}.alpha"].item() == RANK


def counted_layers(unet: torch.nn.Module, order: str):
    """(name, Linear) in the order in which torch lists the modules of diffusers' UNet."""
    targets = {"CrossAttention", "Attention", "GEGLU"}
    found = [
        (f"{name}.{inner}", layer)
        for name, module in unet.named_modules()
        if type(module).__name__ in targets
        for inner, layer in module.named_modules()
        if isinstance(layer, torch.nn.Linear)
    ]
    if order == "new":
        return found
    groups = [found[start : start + 9] for start in range(0, len(found), 9)]
    return [one for group in groups for one in [*group[:4], group[8], *group[4:8]]]


@pytest.mark.parametrize(
    ("metadata", "count", "sentence"),
    [
        ({"unet": '["ResnetBlock2D"]'}, 1, "was trained on ResnetBlock2D"),
        ({"unet": '["Attention"]'}, 2, "has 2 layers in the UNet, and 144 are known"),
        ({"unet": '["Attention"]'}, 144, "in no known order"),
        ({"unet": "[" * 9000}, 1, "was trained on"),
        ({"unet": "5"}, 1, "the safelora was trained on 5, and how its layers are numbered"),
        ({"unet": "true"}, 1, "the safelora was trained on true, and how"),
        ({"text_encoder": '{"a": 1}'}, 1, 'the safelora was trained on {"a": 1}, and how'),
    ],
)
def test_a_safelora_of_other_layers_is_not_guessed_at(
    tmp_path: Path, metadata: dict[str, str], count: int, sentence: str
) -> None:
    tensors = {
        f"unet:{n}:{side}": torch.ones(4, 4) for n in range(count) for side in ("up", "down")
    }
    save_file(tensors, tmp_path / "x.safetensors", metadata)
    with pytest.raises(ValueError, match=sentence):
        load_bundle(tmp_path / "x.safetensors")


def test_a_safeloras_text_encoder(tmp_path: Path) -> None:
    tensors = {
        f"text_encoder:{n}:{side}": torch.full((4, 4), float(n))
        for n in range(8)
        for side in ("up", "down")
    }
    save_file(tensors, tmp_path / "x.safetensors", {"text_encoder": '["CLIPAttention"]'})
    found = load_bundle(tmp_path / "x.safetensors").lora
    names = ["k_proj", "v_proj", "q_proj", "out_proj"]
    for number in range(8):
        key = f"lora_te_text_model_encoder_layers_{number // 4}_self_attn_{names[number % 4]}"
        assert found[f"{key}.lora_up.weight"][0, 0] == number


def test_diffusers_reads_both_files_of_the_pair(sdxl, tmp_path: Path) -> None:
    vectors = {"clip_l": torch.randn(3, 768), "clip_g": torch.randn(3, 1280)}
    bundle = small_bundle(sdxl, vectors)
    lora, embeddings = save_bundle(bundle, tmp_path / "b.safetensors", Container.DIFFUSERS, None)
    pipeline = copy.deepcopy(sdxl)
    pipeline.load_lora_weights(str(tmp_path), weight_name=lora.name)
    rows, _ = read_safetensors(embeddings)
    tokens = ["<s0>", "<s1>", "<s2>"]
    for key, tokenizer, encoder in (
        ("clip_l", pipeline.tokenizer, pipeline.text_encoder),
        ("clip_g", pipeline.tokenizer_2, pipeline.text_encoder_2),
    ):
        pipeline.load_textual_inversion(
            rows[key], token=tokens, tokenizer=tokenizer, text_encoder=encoder
        )
        ids = tokenizer.convert_tokens_to_ids(tokens)
        found = encoder.get_input_embeddings().weight[ids].detach()
        assert torch.equal(found, vectors[key])


def test_an_embedding_that_diffusers_learned_is_named_by_its_token(sd15, tmp_path: Path) -> None:
    """As its textual inversion script saves it: the token's row, by its name."""
    pipeline = copy.deepcopy(sd15)
    pipeline.tokenizer.add_tokens("<toy>")
    pipeline.text_encoder.resize_token_embeddings(len(pipeline.tokenizer))
    number = pipeline.tokenizer.convert_tokens_to_ids("<toy>")
    row = pipeline.text_encoder.get_input_embeddings().weight[number].detach()
    save_file({"<toy>": row[None].clone()}, tmp_path / "learned_embeds.safetensors")
    found = load_bundle(tmp_path / "learned_embeds.safetensors")
    assert torch.equal(found.embeddings["<toy>"]["clip_l"], row[None])
