"""The text of caption files, in whatever encoding they were saved."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from ....bundles.files.foreign import open_plain

MOST_OF_A_CAPTION = 1024**2
"""Bytes; a page of text has some thousand"""
MOST_OF_A_TABLE = 128 * 1024**2
"""Bytes; the table of a million images has about as many"""


def read_text(path: Path, most: int = MOST_OF_A_CAPTION) -> tuple[str, bool]:
    """A file's text without byte-order mark and surrounding space, and whether it is a guess.

    Files that are not UTF-8 are read as Windows-1252, which defines all but five bytes. Raises
    ValueError if the file cannot be opened or has more than `most` bytes.
    """
    try:
        with open_plain(path.resolve(), "rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        why = error.strerror or error
        raise ValueError(
            f"{path.name} cannot be opened ({why}): make it readable or remove it."
        ) from error
    if len(data) > most:
        raise ValueError(
            f"{path.name} is longer than {most // 1024**2} MB, which is more than captions have: "
            "shorten or remove it."
        )
    return decoded(data)


def decoded(data: bytes) -> tuple[str, bool]:
    """The text of a file's bytes, and whether its encoding is a guess."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return clean(data.decode("utf-16", "replace")), False
    if (wide := _without_mark(data)) is not None:
        return clean(wide), False
    try:
        return clean(data.decode("utf-8-sig")), False
    except UnicodeDecodeError:
        return clean(data.removeprefix(b"\xef\xbb\xbf").decode("cp1252", "replace")), True


def _without_mark(data: bytes) -> str | None:
    """UTF-16 without a byte-order mark, by the zeros in every second byte of its Latin letters."""
    for codec, zeros in (("utf-16-le", data[1::2]), ("utf-16-be", data[::2])):
        if len(data) % 2 == 0 and 2 * zeros.count(0) > len(zeros):
            with suppress(UnicodeDecodeError):
                return data.decode(codec)
    return None


def clean(text: str) -> str:
    """Text with uniform line ends, stripped, and whole: it can be written as UTF-8."""
    return whole(text.replace("\r\n", "\n").replace("\r", "\n").strip())


def whole(text: str) -> str:
    """A text without halves of characters, as JSON can hold them; pairs of halves are joined."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
