"""`python -m bundles`: the same work where there is no ComfyUI."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pack.bundles.__main__ import main
from pack.bundles.load import load_bundle

ROOT = Path(__file__).resolve().parents[2]
ROWS = torch.arange(1536.0).reshape(2, 768)
LORA = {
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_up.weight": (
        torch.ones(320, 4)
    ),
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight": (
        torch.ones(4, 768)
    ),
}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    save_file(LORA, tmp_path / "lora.safetensors")
    torch.save({"string_to_param": {"*": ROWS}}, tmp_path / "cat.pt")
    return tmp_path


def test_it_runs_without_comfyui(files: Path) -> None:
    """In a process whose only path is the pack's folder."""
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); import runpy; "
        "runpy.run_module('bundles', run_name='__main__'); "
        "assert not any(name.split('.')[0] == 'comfy' for name in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(ROOT), "inspect", str(files / "cat.pt")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=files)
    assert done.returncode == 0, done.stderr
    assert "family: sd15" in done.stdout and "SHA-256" in done.stdout


def test_pack_convert_inspect_and_unpack(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = files / "out.safetensors"
    lora, cat = str(files / "lora.safetensors"), str(files / "cat.pt")
    words = ["--lora", lora, "--embedding", f"tom={cat}", "--embedding", cat]
    assert main(["pack", str(out), *words]) == 0
    packed = load_bundle(out)
    assert packed.names == ["tom", "cat"] and packed.lora.keys() == LORA.keys()
    assert torch.equal(packed.embeddings["tom"]["clip_l"], ROWS)
    assert main(["convert", str(out), str(files / "h"), "--container", "header"]) == 0
    assert torch.equal(load_bundle(files / "h.safetensors").embeddings["cat"]["clip_l"], ROWS)
    assert main(["unpack", str(out), str(files / "apart")]) == 0
    names = {path.name for path in (files / "apart").iterdir()}
    assert names == {"out.safetensors", "tom.safetensors", "cat.safetensors"}
    assert main(["inspect", str(out), str(files / "apart")]) == 0
    said = capsys.readouterr().out
    assert "saved" in said and "names: tom, cat" in said and "together with" in said


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["inspect", "nowhere.safetensors"], "There is no file"),
        (["convert", "lora.safetensors", "lora.safetensors"], "never overwritten"),
        (["convert", "lora.safetensors", "x", "--token-map", "a = 1"], "splits one embedding"),
        (["pack", "x.safetensors"], "nothing to pack"),
        (["convert", "lora.safetensors", "x", "--container", "cog"], "cog-sdxl takes an SDXL"),
    ],
)
def test_a_sentence_says_why_not(
    files: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(files)
    before = sorted(files.iterdir())
    assert main(words) == 1
    said = capsys.readouterr()
    assert sentence in said.err and said.out == "" and sorted(files.iterdir()) == before
