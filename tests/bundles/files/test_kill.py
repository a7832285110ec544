"""A process that dies while it writes: what was there is whole, what is new is whole or absent."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from pack.bundles.files.safetensors import read_safetensors
from pack.bundles.load import load_bundle

ROOT = Path(__file__).resolve().parents[3]
WRITER = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import torch
from bundles.save import Container, save_bundle
from bundles.files.safetensors import replace_safetensors
from bundles.bundle import Bundle
folder, number = Path(sys.argv[2]), 0
print("ready", flush=True)
while True:
    number += 1
    rows = torch.full((2, 768), float(number))
    layer = torch.full((500, 500), float(number))
    lora = {f"lora_unet_{n}.lora_up.weight": layer.clone() for n in range(8)}
    replace_safetensors(folder / "state.safetensors", lora, {"number": str(number)})
    bundle = Bundle(family="sd15", lora=lora, embeddings={"cat": {"clip_l": rows}})
    save_bundle(bundle, folder / f"{number}" / "b.safetensors", Container.LOOSE, None)
"""


@pytest.mark.parametrize("seconds", [0.02, 0.11, 0.3, 0.7])
def test_a_kill_leaves_whole_files_alone(tmp_path: Path, seconds: float) -> None:
    command = [sys.executable, "-c", WRITER, str(ROOT), str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    while not (tmp_path / "state.safetensors").exists():
        time.sleep(0.01)
    time.sleep(seconds)
    process.kill()
    process.wait()
    tensors, metadata = read_safetensors(tmp_path / "state.safetensors")
    wanted = float(metadata["number"])
    assert len(tensors) == 8 and all(torch.all(tensor == wanted) for tensor in tensors.values())
    for file in tmp_path.rglob("*.safetensors"):
        if file.name == "b.safetensors":
            found, number = load_bundle(file), float(file.parent.name)
            assert len(found.lora) == 8 and all((t == number).all() for t in found.lora.values())
        elif file.name == "cat.safetensors":
            assert (load_bundle(file).embeddings["cat"]["clip_l"] == float(file.parent.name)).all()
