"""Damaged and hostile bundle files, a seed each, and what reading them may do.

A reader may refuse a file with a sentence (ValueError) or load it; nothing else. Each case is one
of: bytes of a real file that were changed, cut or doubled; a header made up; a torch file that
lies or names code; names and texts that no one expects.
"""

from __future__ import annotations

import io
import json
import pickle
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save

from pack.bundles.formats.header import FIELD
from pack.bundles.load import load_bundle
from pack.bundles.metadata import INDEX

MARK = "fuzzing-ran-code"
Made = tuple[str, bytes]


def read_case(path: Path) -> str:
    """`loaded` or `refused`; any other exception is a finding."""
    try:
        bundle = load_bundle(path)
    except ValueError as error:
        if not str(error).strip():
            raise RuntimeError("a refusal without a sentence") from error
        return "refused"
    size = path.stat().st_size
    held = [*bundle.lora.values()]
    held += [
        rows for v in (bundle.embeddings, bundle.outputs) for r in v.values() for rows in r.values()
    ]
    taken = sum(tensor.numel() * tensor.element_size() for tensor in held)
    # Vectors of eight bits become fp32, which is four times as much.
    if taken > 4 * size + 4096:
        raise RuntimeError(f"a file of {size} bytes became {taken} bytes of tensors")
    return "loaded"


def make_case(seed: int) -> Made:
    """(file name, content) of a seed."""
    rng = random.Random(seed)
    return rng.choice(MAKERS)(rng)


def tensors(rng: random.Random) -> dict[str, torch.Tensor]:
    """A small bundle of a random form."""
    name = rng.choice(
        ["cat", "v1.0", "<s0><s1>", "猫", "a b", "", ".", "x" * 300, "a\x00b", "\u202e"]
    )
    width = rng.choice([768, 1024, 1280, 2048, 4096, 5, 1])
    rows = torch.zeros(rng.choice([0, 1, 2]), width)
    keys = [
        f"bundle_emb.{name}.clip_l",
        f"bundle_emb.{name}.string_to_param.*",
        "emb_params",
        "clip_l",
        "string_to_param.*",
        "text_encoders_0",
        name or "token",
        "unet:0:up",
        "IN01",
    ]
    made = {rng.choice(keys): rows}
    if rng.random() < 0.6:
        stem = rng.choice(["lora_unet_x", "unet.a.attn1.to_q", "down_blocks.0.processor"])
        end = rng.choice(
            ["lora_up.weight", "lora_A.weight", "alpha", "hada_w1_a", "lora.down.weight"]
        )
        made[f"{stem}.{end}"] = torch.zeros(rng.choice([(2, 3), (1,), (), (2, 3, 1, 1)]))
    if rng.random() < 0.2:
        made[f"bundle_emb.{name}.clip_g_out"] = torch.full(
            (1, 1280), rng.choice([0.0, float("nan")])
        )
    return made


def metadata(rng: random.Random) -> dict[str, str]:
    """Header texts, some of which our own code reads."""
    junk: list[str] = [
        "",
        "{",
        "[" * 50_000,
        '{"a":' * 20_000,
        "9" * 6000,
        '"\\ud800"',
        "\x00",
        "null",
    ]
    junk += [
        '{"kind": "embedding", "entries": [{"name": "x"}]}',
        '{"entries": 7}',
        '{"family": []}',
    ]
    told = ['{"(a+)+$": 2}', '{"x": 3}', '{"x": "3"}', "[1]", f'{{"x": {"9" * 400}}}']
    junk += [
        f'{{"{part}.lora_alpha": 4, "{part}.alpha_pattern": {pattern}}}'
        for part in ("unet", "down_blocks")
        for pattern in told
    ]
    junk += ['{"x": {"clip_l": {"dtype": "F32", "shape": [9999999999, 9999999999], "data": ""}}}']
    fields = [
        INDEX,
        FIELD,
        "workflow",
        "name",
        "unet",
        "<s1>",
        "lora_adapter_metadata",
        "token_map",
    ]
    fields += ["modelspec.thumbnail", "ss_x", "string_to_param"]
    return {rng.choice(fields): rng.choice(junk) for _ in range(rng.choice([0, 1, 2]))}


def whole(rng: random.Random) -> bytes:
    return save(tensors(rng), metadata(rng) or None)


def as_it_is(rng: random.Random) -> Made:
    stem = rng.choice(["x", "x_emb", "lora", "x-500"])
    return f"{stem}.safetensors", whole(rng)


def mutated(rng: random.Random) -> Made:
    """Bytes changed, cut out, doubled or cut off, most of them in the header."""
    content = bytearray(whole(rng))
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        place = rng.randrange(min(len(content), rng.choice([9, 300, len(content)])) or 1)
        action = rng.choice(["flip", "set", "cut", "double", "end"])
        if action == "flip":
            content[place] ^= 1 << rng.randrange(8)
        elif action == "set":
            content[place] = rng.choice(b'{}[]",:0-9\x00\xff')
        elif action == "cut":
            del content[place : place + rng.randrange(1, 9)]
        elif action == "double":
            content[place:place] = content[place : place + rng.randrange(1, 40)]
        else:
            del content[place:]
        if not content:
            break
    return "x.safetensors", bytes(content)


def lying_header(rng: random.Random) -> Made:
    """Overlapping, oversized and negative tensors; lengths that are not true."""
    numbers = [0, 1, -1, 4, 8, 2**31, 2**63 - 1, 2**64, 1e308, 0.5, "4", None, [1], True]
    header: dict[str, object] = {}
    for name in ("clip_l", "bundle_emb.x.clip_l", "__metadata__", "lora_x.lora_up.weight")[
        : rng.randrange(1, 5)
    ]:
        header[name] = {
            "dtype": rng.choice(
                ["F32", "F16", "BF16", "F64", "I8", "BOOL", "F8_E4M3", "F4", "X", 5]
            ),
            "shape": [rng.choice(numbers) for _ in range(rng.choice([0, 1, 2, 2, 9]))],
            "data_offsets": [rng.choice(numbers), rng.choice(numbers)],
        }
        if name == "__metadata__" and rng.random() < 0.5:
            header[name] = rng.choice([{"a": 1}, {"a": "b"}, [], "x", {"a": {"b": "c"}}])
    text = json.dumps(header).encode()
    length = rng.choice([len(text), len(text), len(text) + 1, 0, 2**32, 2**63, 100_000_001])
    return "x.safetensors", struct.pack("<Q", length) + text + b"\0" * rng.choice([0, 4, 6144])


def many_names(rng: random.Random) -> Made:
    """Thousands of names, far more than anyone trains."""
    count = rng.choice([10, 500, 10_000 if rng.random() < 0.02 else 100])
    made = {f"bundle_emb.n{number}.clip_l": torch.ones(1, 3) for number in range(count)}
    return "x.safetensors", save(made)


class Hostile:
    """Pickled, it asks whoever loads it to write a file."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return (open, (MARK, "w"))


def torch_file(rng: random.Random) -> Made:
    """torch files that are good, that name code, and that claim more than they hold."""
    rows = torch.ones(2, 768)
    huge = torch.ones(1).expand(2**40)
    values: list[object] = [
        {"string_to_param": {"*": rows}, "name": "x"},
        {"<x>": rows},
        {"string_to_param": {"*": huge}},
        {"x": Hostile()},
        Hostile(),
        rows,
        [rows],
        {1: rows},
        {"string_to_param": {"*": rows.to_sparse()}},
        {"string_to_param": {"*": torch.quantize_per_tensor(rows, 0.1, 0, torch.qint8)}},
        {"string_to_param": {"*": torch.nn.Parameter(rows)}},
        {"a": {"b": {"c": {"d": rows}}}},
        {"clip_l": rows, "x": "y" * 10_000, "n": float("nan")},
        {"bundle_emb.x.clip_l": rows, "bundle_emb.x.string_to_token.*": 265},
        torch.nn.Linear(2, 2),
        {"string_to_param": torch.nn.ParameterDict({"*": torch.nn.Parameter(rows)})},
    ]
    written = io.BytesIO()
    new = rng.random() < 0.6
    torch.save(rng.choice(values), written, _use_new_zipfile_serialization=new)
    content = bytearray(written.getvalue())
    if rng.random() < 0.6:
        for _ in range(rng.choice([1, 3, 10])):
            content[rng.randrange(len(content))] = rng.randrange(256)
    if rng.random() < 0.2:
        del content[rng.randrange(len(content)) :]
    return rng.choice(["x.pt", "x.bin", "learned_embeds.bin", "x-500.pt"]), bytes(content)


def opcodes(rng: random.Random) -> Made:
    """A stream of pickle that is not torch's, bare or in the archive where torch keeps its own."""
    bodies = [
        pickle.dumps(Hostile(), rng.randrange(6)),
        pickle.dumps({"x": [1] * rng.randrange(3)}, rng.randrange(6)),
        b"cos\nsystem\n(S'touch " + MARK.encode() + b"'\ntR.",
        b"(" * 50_000 + b".",
        b"]" + b"q\x00h\x00a" * 5000 + b".",
        b"\x80\x02c__builtin__\nbytearray\n\x8a\x06\x00\x00\x00\x00\x00\x7f\x85R.",
        bytes(rng.randrange(256) for _ in range(200)),
        b"",
    ]
    body = rng.choice(bodies)
    if rng.random() < 0.3:
        return "x.pt", body
    written = io.BytesIO()
    kind = rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    with zipfile.ZipFile(written, "w", kind) as archive:
        archive.writestr(rng.choice(["archive/data.pkl", "data.pkl", "x/y/data.pkl"]), body)
        archive.writestr("archive/version", "3")
        if rng.random() < 0.3:
            archive.writestr("archive/data/0", b"\0" * rng.choice([4, 5_000_000]))
        if rng.random() < 0.1:
            archive.writestr("other/data.pkl", body)
    return "x.pt", written.getvalue()


MAKERS: list[Callable[[random.Random], Made]] = [
    as_it_is,
    mutated,
    mutated,
    mutated,
    lying_header,
    lying_header,
    many_names,
    torch_file,
    torch_file,
    opcodes,
]
