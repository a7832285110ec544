"""Embedding files of torch (`.pt`, `.bin`), read without running anything that they hold."""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import BinaryIO, cast

import torch
from torch import Tensor

SUFFIXES = frozenset({".pt", ".bin"})
_STORAGES = ("Float", "Half", "BFloat16", "Double", "Long", "Int", "Short", "Char", "Byte", "Bool")


class _StandIn:
    """What is made in place of an object that is no tensor: it keeps its parts and runs nothing."""

    parameters: Mapping[object, object] = {}

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        if isinstance(state, Mapping):
            values = cast("Mapping[object, object]", state).get("_parameters")
            if isinstance(values, Mapping):
                self.parameters = cast("Mapping[object, object]", values)


# The first trainers wrote a ParameterDict, and a step that numpy has counted.
_REPLACED = frozenset(
    {
        "torch.nn.modules.container ParameterDict",
        "numpy.core.multiarray scalar",
        "numpy._core.multiarray scalar",
        "numpy dtype",
    }
)
_BYTES = "_codecs encode"
"""How a list of objects spells bytes, here those of a number of numpy"""
_LONGEST_NUMBER = 64
# All that a file of plain tensors refers to; nothing else is looked up.
_ALLOWED = frozenset(
    {
        *_REPLACED,
        _BYTES,
        "__builtin__ set",
        "builtins set",
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
        places = _check_names(path, file, size)
        file.seek(0)
        try:
            source = _with_stand_ins(file, places) if places else file
            with _known_stand_in():
                loaded: object = torch.load(source, map_location="cpu", weights_only=True)
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


def _known_stand_in() -> AbstractContextManager[object]:
    """torch looks it up inside; before its version 2.5 it could not."""
    known = getattr(torch.serialization, "safe_globals", None)
    return known([_StandIn]) if known else nullcontext()


def _with_stand_ins(file: BinaryIO, places: Sequence[tuple[int, int]]) -> BinaryIO:
    """The file with the stand-in's name at these places (from, to) of its list of objects.

    torch would also find the name of the real object if another pack has allowed that.
    """
    if file.read(len(_LEGACY)) == _LEGACY:
        file.seek(0)
        return io.BytesIO(_renamed(file.read(), places))
    copy = io.BytesIO()
    with zipfile.ZipFile(file) as archive, zipfile.ZipFile(copy, "w") as made:
        for entry in archive.infolist():
            content = archive.read(entry)
            listed = entry.filename.endswith("data.pkl")
            made.writestr(entry.filename, _renamed(content, places) if listed else content)
    copy.seek(0)
    return copy


def _renamed(objects: bytes, places: Sequence[tuple[int, int]]) -> bytes:
    name = f"c{_StandIn.__module__}\n{_StandIn.__qualname__}\n".encode()
    parts: list[bytes] = []
    end = 0
    for start, after in places:
        parts += [objects[end:start], name]
        end = after
    return b"".join([*parts, objects[end:]])


def _flatten(
    values: Mapping[object, object],
    prefix: str,
    tensors: dict[str, Tensor],
    texts: dict[str, str],
    depth: int,
) -> None:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, _StandIn):
            value = value.parameters
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


def _check_names(path: Path, file: BinaryIO, size: int) -> list[tuple[int, int]]:
    """Before a file is loaded, refuse it if it refers to a function or compresses its data.

    Returns where its list of objects has names that a stand-in takes the place of.
    """
    if file.read(len(_LEGACY)) == _LEGACY:
        stream, count = file, _LEGACY_PARTS
        file.seek(0)
    else:
        stream, count = _object_list(path, file, size), 1
    places: list[tuple[int, int]] = []
    try:
        for _ in range(count):
            places += _check_opcodes(path, stream)
    except _Foreign:
        raise
    except Exception as error:
        raise _unreadable(path, "its list of tensors is cut or damaged") from error
    return places


class _Foreign(ValueError):
    """The file holds more than tensors."""


def _check_opcodes(path: Path, stream: BinaryIO) -> Iterator[tuple[int, int]]:
    bytes_seen = _BytesCheck()
    for number, (opcode, argument, position) in enumerate(pickletools.genops(stream)):
        if not bytes_seen.allows(opcode.name, argument):
            raise _Foreign(f"{path} encodes more than a number: it is not loaded.")
        if number > _MAX_OPCODES:
            raise _Foreign(f"{path} holds more objects than any embedding file does.")
        named = opcode.name == "GLOBAL" and argument not in _ALLOWED
        if named or opcode.name in ("STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4"):
            what = argument if isinstance(argument, str) else opcode.name
            raise _Foreign(
                f"{path} holds {what[:60].replace(' ', '.')}, which is not a tensor and could run "
                "code: it is not loaded. Ask for a safetensors file."
            )
        if opcode.name == "GLOBAL" and argument in _REPLACED and position is not None:
            # A letter and two lines; the argument has a blank between them.
            yield position, position + len(argument.encode()) + 2


class _BytesCheck:
    """Whether a list of objects encodes only short texts that it spells out.

    Anything else could grow without end, by encoding again what was encoded.
    """

    def __init__(self) -> None:
        self._awaited: list[tuple[str, ...]] = []
        self._places: set[object] = set()
        self._is_last = False

    def allows(self, opcode: str, argument: object) -> bool:
        """Whether the next object fits what came before it."""
        if opcode.endswith("PUT") or opcode == "MEMOIZE":
            if self._is_last:
                self._places.add(argument)
            return not (self._is_last and opcode == "MEMOIZE")
        self._is_last = opcode == "GLOBAL" and argument == _BYTES
        if self._awaited:
            short = len(argument) <= _LONGEST_NUMBER if isinstance(argument, str) else True
            return opcode in self._awaited.pop(0) and short
        if self._is_last or (opcode.endswith("BINGET") and argument in self._places):
            text = ("BINUNICODE",)
            self._awaited = [text, (*text, "BINGET", "LONG_BINGET"), ("TUPLE2",), ("REDUCE",)]
        return True


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
