"""Embedding files of torch (`.pt`, `.bin`), read without running anything that they hold.

torch reads only what was checked: the bytes are taken from the disk once, and an archive is written
anew from its checked parts, so that the two readers cannot disagree about what a file says.
"""

from __future__ import annotations

import io
import pickletools
import re
import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from torch.torch_version import TorchVersion

SUFFIXES = frozenset({".pt", ".bin"})
SAFE_TORCH = "2.10"
"""The first version whose `weights_only` has no known hole.

Version 2.6 closed CVE-2025-32434, where a file could run code. Version 2.10 closed CVE-2026-24747,
where a file could overwrite memory.
"""
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
_ARCHIVE, _ARCHIVE_END, _END_LENGTH = b"PK\x03\x04", b"PK\x05\x06", 22
_OBJECTS = "data.pkl"
# What torch.save writes into the one folder of its archive.
_ENTRY = re.compile(
    r"data\.pkl|data/[0-9]+|version|byteorder|\.format_version|\.storage_alignment"
    r"|\.data/serialization_id"
)


def read_torch(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors (nested ones under `outer.inner`) and short texts of a file.

    ValueError for a file that is damaged, refers to anything but tensors, or would take up more
    memory than it is long.
    """
    _check_torch(path)
    content = path.read_bytes()
    size = len(content)
    checked = _checked(path, content)
    try:
        with _known_stand_in():
            loaded: object = torch.load(io.BytesIO(checked), map_location="cpu", weights_only=True)
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


def _check_torch(path: Path) -> None:
    """Raise ValueError if the installed torch is not safe against a made-up file."""
    if TorchVersion(torch.__version__) < SAFE_TORCH:
        raise ValueError(
            f"{path} is a torch file, and torch {torch.__version__} has known security holes that "
            f"such a file can use: update torch to {SAFE_TORCH} or newer, or get the file as "
            "safetensors."
        )


def _checked(path: Path, content: bytes) -> bytes:
    """The file for torch, with the stand-in's name in place of the objects that it replaces.

    torch would also find the real object under its own name if another pack has allowed that.
    """
    if not content.startswith(_LEGACY):
        entries = _entries(path, content)
        objects = entries[_OBJECTS]
        entries[_OBJECTS] = _renamed(objects, _check_names(path, objects, 1))
        return _archive(entries)
    # In such a file torch looks for an archive of the kinds that it wrote before and after.
    if zipfile.is_zipfile(io.BytesIO(content)) or tarfile.is_tarfile(io.BytesIO(content)):
        raise _unreadable(path, "it is an old file of torch and an archive at once")
    return _renamed(content, _check_names(path, content, _LEGACY_PARTS))


def _archive(entries: Mapping[str, bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in entries.items():
            archive.writestr(f"archive/{name}", content)
    return made.getvalue()


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


def _check_names(path: Path, content: bytes, count: int) -> list[tuple[int, int]]:
    """Refuse lists of objects (so many, one after the other) that refer to a function.

    Returns where they have names that a stand-in takes the place of.
    """
    stream = io.BytesIO(content)
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


def _check_opcodes(path: Path, stream: io.BytesIO) -> Iterator[tuple[int, int]]:
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
        if opcode.name == "GLOBAL" and position is not None:
            # A letter and two lines; the argument has a blank between them. Written with escapes,
            # torch would read another name than the one checked here, and another length.
            spelled = b"c" + str(argument).replace(" ", "\n").encode() + b"\n"
            after = position + len(spelled)
            if stream.getvalue()[position:after] != spelled:
                raise _Foreign(
                    f"{path} spells names in a way that torch does not: it is not loaded."
                )
            if argument in _REPLACED:
                yield position, after


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


def _entries(path: Path, content: bytes) -> dict[str, bytes]:
    """The parts of the archive that newer files are, by their names inside its one folder."""
    # Another reader could find a second archive in front of this one or behind it.
    end = content[-_END_LENGTH:]
    if not (content.startswith(_ARCHIVE) and end.startswith(_ARCHIVE_END)):
        raise _unreadable(path, "its archive is damaged")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            listed = archive.infolist()
            _check_form(path, listed, len(content))
            return {_split(entry)[1]: archive.read(entry) for entry in listed}
    except ValueError:
        raise
    except Exception as error:
        raise _unreadable(path, "its archive is damaged") from error


def _check_form(path: Path, entries: Sequence[zipfile.ZipInfo], size: int) -> None:
    """Raise ValueError for an archive of another form than torch.save writes."""
    if sum(entry.file_size for entry in entries) > size:
        raise _unreadable(path, "it unpacks to more than its size")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise _unreadable(path, "its archive is compressed")
    roots, names = {_split(e)[0] for e in entries}, [_split(e)[1] for e in entries]
    foreign = [name for name in names if not _ENTRY.fullmatch(name)]
    if foreign or len(roots) != 1:
        what = repr(foreign[0])[:60] if foreign else "several folders"
        raise _unreadable(path, f"its archive holds {what}, which torch does not write")
    if len(set(names)) != len(names):
        raise _unreadable(path, "its archive holds two parts of the same name")
    if _OBJECTS not in names:
        raise _unreadable(path, "it has no list of tensors")


def _split(entry: zipfile.ZipInfo) -> tuple[str, str]:
    """(the archive's folder, the name inside it); orig_filename is what stands in the file."""
    folder, _, name = entry.orig_filename.partition("/")
    return folder, name


def _unreadable(path: Path, reason: str) -> ValueError:
    return ValueError(
        f"{path} is not a readable torch file: {reason}. Copy it again or choose another."
    )
