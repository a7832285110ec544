"""Embedding files of torch (`.pt`, `.bin`), read without running anything that they hold."""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, cast

import torch
from torch import Tensor

SUFFIXES = frozenset({".pt", ".bin"})
_STORAGES = ("Float", "Half", "BFloat16", "Double", "Long", "Int", "Short", "Char", "Byte", "Bool")
# All that a file of plain tensors refers to; nothing else is looked up.
_ALLOWED = frozenset(
    {
        "collections OrderedDict",
        "torch._utils _rebuild_tensor_v2",
        "torch._utils _rebuild_tensor",
        "torch._utils _rebuild_parameter",
        "torch.nn.parameter Parameter",
        *(f"torch {kind}Storage" for kind in _STORAGES),
    }
)
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
# It holds five objects: magic number, protocol, system, content and list of storages.
_LEGACY_PARTS = 5
_MAX_OPCODES, _MAX_DEPTH, _MAX_TEXT = 2_000_000, 2, 1000


def read_torch(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors (nested ones under `outer.inner`) and short texts of a file.

    ValueError for a file that is damaged, refers to anything but tensors, or would take up more
    memory than it is long.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        _check_names(path, file, size)
        file.seek(0)
        try:
            loaded: object = torch.load(file, map_location="cpu", weights_only=True)
        # A damaged file can fail anywhere inside the library, in many ways.
        except Exception as error:
            raise _unreadable(path, str(error).split("\n")[0][:200]) from error
    if not isinstance(loaded, Mapping):
        raise ValueError(
            f"{path} holds a {type(loaded).__name__} without names, so it is not clear what its "
            "tensors are for: choose a file with named tensors."
        )
    tensors: dict[str, Tensor] = {}
    texts: dict[str, str] = {}
    _flatten(cast("Mapping[object, object]", loaded), "", tensors, texts, _MAX_DEPTH)
    return {key: _plain(path, key, tensor, size) for key, tensor in tensors.items()}, texts


def _flatten(
    values: Mapping[object, object],
    prefix: str,
    tensors: dict[str, Tensor],
    texts: dict[str, str],
    depth: int,
) -> None:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Tensor):
            tensors[name] = value.detach()
        elif isinstance(value, Mapping) and depth > 1:
            inner = cast("Mapping[object, object]", value)
            _flatten(inner, f"{name}.", tensors, texts, depth - 1)
        elif isinstance(value, str | int | float) and not prefix:
            texts[name] = str(value)[:_MAX_TEXT]


def _plain(path: Path, key: str, tensor: Tensor, size: int) -> Tensor:
    """The tensor in memory of its own; with strides of 0, a few bytes can pose as a huge one."""
    if tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise _unreadable(path, f"{key[:60]} is not a plain tensor")
    if tensor.numel() * tensor.element_size() > size:
        raise _unreadable(path, f"{key[:60]} claims to be larger than the file")
    return tensor.contiguous().clone()


def _check_names(path: Path, file: BinaryIO, size: int) -> None:
    """Before a file is loaded, refuse it if it refers to a function or compresses its data."""
    if file.read(len(_LEGACY)) == _LEGACY:
        stream, count = file, _LEGACY_PARTS
        file.seek(0)
    else:
        stream, count = _object_list(path, file, size), 1
    try:
        for _ in range(count):
            _check_opcodes(path, stream)
    except _Foreign:
        raise
    except Exception as error:
        raise _unreadable(path, "its list of tensors is cut or damaged") from error


class _Foreign(ValueError):
    """The file holds more than tensors."""


def _check_opcodes(path: Path, stream: BinaryIO) -> None:
    for number, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if number > _MAX_OPCODES:
            raise _Foreign(f"{path} holds more objects than any embedding file does.")
        named = opcode.name == "GLOBAL" and argument not in _ALLOWED
        if named or opcode.name in ("STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4"):
            what = argument if isinstance(argument, str) else opcode.name
            raise _Foreign(
                f"{path} holds {what[:60].replace(' ', '.')}, which is not a tensor and could run "
                "code: it is not loaded. Ask for a safetensors file."
            )


def _object_list(path: Path, file: BinaryIO, size: int) -> BinaryIO:
    """The list of objects in the archive that newer files are."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            if sum(entry.file_size for entry in entries) > size:
                raise _unreadable(path, "it unpacks to more than its size")
            listed = [entry for entry in entries if entry.filename.endswith("data.pkl")]
            if len(listed) != 1:
                raise _unreadable(path, "it has no list of tensors")
            return io.BytesIO(archive.read(listed[0]))
    except ValueError:
        raise
    except Exception as error:
        raise _unreadable(path, "its archive is damaged") from error


def _unreadable(path: Path, reason: str) -> ValueError:
    return ValueError(
        f"{path} is not a readable torch file: {reason}. Copy it again or choose another."
    )
