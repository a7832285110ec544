"""What the pack keeps in ComfyUI's user folder, and its removal by kind, age and size.

Runs without ComfyUI, and by its path alone: `python training/kept.py show`, or `prune`.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import stat
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

DAY = 24 * 3600.0
GIGABYTE = 10**9
MOST_DAYS = 100_000
NESTED = 2
"""Folders below each other in which files are kept."""


class Changed(ValueError):
    """Other files than those that were shown would be removed now."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptKind:
    """One kind of files, whose names no person has chosen."""

    kind: str
    title: str
    """English, translated in locales/*/main.json; so is `lost`"""
    lost: str
    """What removing the files costs"""
    names: str
    """A pattern of their paths in the pack's folder; files with other names are never touched"""
    is_work: bool = False
    """Whether they hold what a person did, so that they are removed only when they are named"""


KINDS = (
    KeptKind(
        kind="latents",
        title="latents of images",
        lost="The next run encodes its images again.",
        names=r"latents/[0-9a-f]{2}/[0-9a-f]{64}\.safetensors",
    ),
    KeptKind(
        kind="pictures",
        title="images and masks from lists",
        lost="Dataset from Lists saves its images again when its graph runs.",
        names=r"pictures/[0-9a-f]{32}\.png",
    ),
    KeptKind(
        kind="thumbs",
        title="thumbnails",
        lost="The gallery makes its thumbnails again.",
        names=r"thumbs/[0-9a-f]{32}(_[0-9a-f]{12})?\.webp",
    ),
    KeptKind(
        kind="captions",
        title="answers of caption models",
        lost="Caption Dataset asks its model about every image again.",
        names=r"captions/[0-9a-f]{24}\.jsonl",
    ),
    KeptKind(
        kind="facts",
        title="measurements of files",
        lost="Images and models are read and measured again.",
        names=r"facts\.sqlite(\.broken)?",
    ),
    KeptKind(
        kind="reviews",
        title="edits in Review Dataset",
        lost="Your edits are lost: captions and images are as in their files again.",
        names=r"reviews/[0-9a-f]{16}\.jsonl",
        is_work=True,
    ),
    KeptKind(
        kind="history",
        title="history of caption files",
        lost="What Save Captions wrote can no longer be undone.",
        names=r"history(_[^/]+)?\.jsonl",
        is_work=True,
    ),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptFile:
    """A file as it was found."""

    name: str
    """Its path in the pack's folder, with slashes"""
    kind: str
    size: int
    written: int
    """When it was last written, in nanoseconds since 1970"""


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptSum:
    """How much is kept of a kind."""

    kind: KeptKind
    files: int
    size: int
    oldest: float | None
    """Seconds since 1970; None without files"""
    newest: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Pruning:
    """Which files to remove: those of some kinds that are older than some days.

    With `most_bytes` only the oldest of them are removed, until the kinds together are as small as
    that or nothing older is left.
    """

    kinds: Sequence[str] = tuple(one.kind for one in KINDS if not one.is_work)
    older_than_days: float = 0.0
    most_bytes: int | None = None

    def __post_init__(self) -> None:
        known = [one.kind for one in KINDS]
        if unknown := [kind for kind in self.kinds if kind not in known]:
            raise ValueError(
                f'Nothing called "{unknown[0][:40]}" is kept: choose {", ".join(known)}.'
            )
        if not 0 <= self.older_than_days <= MOST_DAYS:
            raise ValueError(f"A number of days must be from 0 to {MOST_DAYS}.")
        if self.most_bytes is not None and self.most_bytes < 0:
            raise ValueError("What may be left must be 0 bytes or more.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Pruned:
    """The files that were removed, or that would be."""

    files: tuple[KeptFile, ...]
    left: tuple[KeptFile, ...] = ()
    """Files that changed meanwhile or could not be removed"""

    @property
    def identity(self) -> str:
        """A text that changes with any of the files: what was shown is what is removed."""
        text = repr([(file.name, file.size, file.written) for file in self.files])
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def kept_files(root: Path) -> list[KeptFile]:
    """Every file that the pack keeps in its folder, the oldest first; links do not count."""
    files = [file for name, status in _below(root) if (file := _kept(name, status))]
    return sorted(files, key=lambda file: (file.written, file.name))


def sums(files: Sequence[KeptFile]) -> list[KeptSum]:
    """How much there is of every kind."""
    return [_sum(kind, [file for file in files if file.kind == kind.kind]) for kind in KINDS]


def _sum(kind: KeptKind, files: Sequence[KeptFile]) -> KeptSum:
    times = [file.written / 1e9 for file in files]
    size = sum(file.size for file in files)
    oldest, newest = min(times, default=None), max(times, default=None)
    return KeptSum(kind=kind, files=len(files), size=size, oldest=oldest, newest=newest)


def prune(
    root: Path,
    pruning: Pruning,
    *,
    dry_run: bool = True,
    planned: str | None = None,
    in_use: Callable[[Path], bool] = lambda path: False,
) -> Pruned:
    """Remove files, or say which ones that would be.

    `planned` is the identity of a dry run; raises Changed if other files would be removed now.
    """
    wanted = Pruned(files=tuple(_chosen(root, pruning, in_use)))
    if planned is not None and planned != wanted.identity:
        raise Changed("The files have changed since they were shown: look again.")
    if dry_run:
        return wanted
    gone = {file for file in wanted.files if _removed(root, file, in_use)}
    left = tuple(file for file in wanted.files if file not in gone)
    return Pruned(files=tuple(file for file in wanted.files if file in gone), left=left)


def _chosen(root: Path, pruning: Pruning, in_use: Callable[[Path], bool]) -> Iterator[KeptFile]:
    files = [file for file in kept_files(root) if file.kind in pruning.kinds]
    latest = (time.time() - pruning.older_than_days * DAY) * 1e9
    size = sum(file.size for file in files)
    for file in files:
        if pruning.most_bytes is not None and size <= pruning.most_bytes:
            return
        if file.written <= latest and not _is_busy(root, file, in_use):
            size -= file.size
            yield file


def _is_busy(root: Path, file: KeptFile, in_use: Callable[[Path], bool]) -> bool:
    # SQLite has a journal next to a database that it is writing.
    path = root / file.name
    return in_use(path) or os.path.lexists(f"{path}-journal")


def _removed(root: Path, file: KeptFile, in_use: Callable[[Path], bool]) -> bool:
    """Whether a file was removed; not if it is another one by now."""
    path = root / file.name
    try:
        nested = [root / parent for parent in Path(file.name).parents if parent.name]
        is_own = all(_is_folder(os.lstat(parent)) for parent in nested)
        if not is_own or _kept(file.name, os.lstat(path)) != file or _is_busy(root, file, in_use):
            return False
        path.unlink()
    except OSError:
        return False
    return True


def _kept(name: str, status: os.stat_result) -> KeptFile | None:
    kinds = [one.kind for one in KINDS if re.fullmatch(one.names, name)]
    if not kinds or not stat.S_ISREG(status.st_mode):
        return None
    return KeptFile(name=name, kind=kinds[0], size=status.st_size, written=status.st_mtime_ns)


def _below(
    root: Path, prefix: str = "", depth: int = NESTED
) -> Iterator[tuple[str, os.stat_result]]:
    """Files by their paths below a folder, and what the disk says about them."""
    try:
        with os.scandir(root / prefix) as listed:
            entries = [(entry.name, entry.stat(follow_symlinks=False)) for entry in listed]
    except OSError:
        return
    for name, status in entries:
        if _is_folder(status) and depth:
            yield from _below(root, f"{prefix}{name}/", depth - 1)
        else:
            yield f"{prefix}{name}", status


def _is_folder(status: os.stat_result) -> bool:
    """Whether this is a folder and neither a link nor one of Windows' junctions."""
    return stat.S_ISDIR(status.st_mode) and not getattr(status, "st_reparse_tag", 0)


def show(options: argparse.Namespace) -> list[str]:
    """Say what is kept, how large it is, and what removing it costs."""
    return [str(options.folder), *_table(kept_files(options.folder), every=True)]


def prune_files(options: argparse.Namespace) -> list[str]:
    """Say which files would be removed; with --remove, remove them."""
    most = None if options.most_gb is None else int(options.most_gb * GIGABYTE)
    kinds = options.kinds or Pruning().kinds
    pruning = Pruning(kinds=kinds, older_than_days=options.days, most_bytes=most)
    done = prune(options.folder, pruning, dry_run=not options.remove)
    verb = "removed" if options.remove else "would be removed; add --remove to remove them"
    files = [file.name for file in done.files]
    left = [f"{file.name} is in use or was changed meanwhile, and is left." for file in done.left]
    count = "1 file" if len(files) == 1 else f"{len(files)} files"
    return [*files, f"{count} {verb}", *_table(done.files), *left]


def _table(files: Sequence[KeptFile], *, every: bool = False) -> list[str]:
    return [_line(one) for one in sums(files) if one.files or every]


def _line(one: KeptSum) -> str:
    size = f"{one.size / 1e6:,.1f} MB"
    dates = " to ".join(
        time.strftime("%Y-%m-%d", time.localtime(at)) for at in (one.oldest, one.newest) if at
    )
    return f"{one.kind.kind:9}{one.files:9,} files {size:>14}  {dates:24}  {one.kind.lost}"


COMMANDS = {"show": show, "prune": prune_files}


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(
        description="Show or remove what Pivotal keeps in ComfyUI's user folder. "
        "Close ComfyUI before you remove anything: only ComfyUI knows which files it uses."
    )
    commands = root.add_subparsers(dest="command", required=True)
    parsers = {name: commands.add_parser(name, help=run.__doc__) for name, run in COMMANDS.items()}
    for one in parsers.values():
        one.add_argument(
            "--folder",
            type=Path,
            default=_usual_folder(),
            help="the folder pivotal in ComfyUI's user folder (default: %(default)s)",
        )
    add = parsers["prune"].add_argument
    add("kinds", nargs="*", help="such as latents; by default all but reviews and history")
    add("--days", type=float, default=0.0, help="only files that are older than this")
    add("--most-gb", type=float, help="only the oldest, until at most this much is left of them")
    add("--remove", action="store_true", help="remove them; without it they are only listed")
    return root


def _usual_folder() -> Path:
    """The folder of a pack that lies in ComfyUI/custom_nodes."""
    return Path(__file__).absolute().parents[3] / "user" / "pivotal"


def main(arguments: Sequence[str]) -> int:
    """Run a command; return 1 and write a sentence to the error output if it fails."""
    options = parser().parse_args(arguments)
    try:
        if not options.folder.is_dir():
            raise FileNotFoundError(f"There is no folder {options.folder}: name it by --folder.")
        lines = COMMANDS[options.command](options)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    # A console may have no sign for a letter in the name of a user.
    coding = sys.stdout.encoding or "utf-8"
    text = "".join(f"{line}\n" for line in lines)
    sys.stdout.write(text.encode(coding, "backslashreplace").decode(coding))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
