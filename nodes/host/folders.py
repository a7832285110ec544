"""The folders that the pack uses: ComfyUI's input, output, model and user folders."""

from __future__ import annotations

import itertools
import os
import re
import secrets
import sys
import time
from contextlib import suppress
from pathlib import Path, PureWindowsPath

import folder_paths
from comfy.cli_args import args

from ...bundles.files.atomic import create_files, remove_drafts
from ...bundles.load import SUFFIXES, files_of
from ...training.dataset.facts import Store
from .roots import line_about, own_folders
from .versions import is_within

RUNS = "pivotal"
CACHES = ("latents", "pictures", "thumbs", "captions", "reviews")
DATASETS = "[datasets] "
NO_FOLDER = "(no folder of images yet)"
NO_FOLDER_YET = (
    "There is no folder of images yet: put yours into a folder inside ComfyUI's input folder, such "
    "as input/my_cat, press R in the editor and choose it here."
)
OF_THE_HOST = frozenset({"3d", "clipspace", "painter", "pasted", "threed", "webcam"})
"""Folders that ComfyUI and its editor make in the input folder for themselves"""
SHARE = re.compile(r"\s*[\\/]{2}")
DEVICES = {"CON", "PRN", "AUX", "NUL", *(f"{d}{n}" for d in ("COM", "LPT") for n in range(1, 10))}
LONGEST_RUN_NAME = 250
"""Bytes; file systems allow 255, and a run of the same name gets _2 and so on."""
LONGEST_PREFIX = 230
"""Bytes of a file's name before its number and ending."""
DATE_WORDS = {
    "%year%": "%Y",
    "%month%": "%m",
    "%day%": "%d",
    "%hour%": "%H",
    "%minute%": "%M",
    "%second%": "%S",
}
BUNDLE_KINDS = ("loras", "embeddings", "bundles")


def add_bundle_folder() -> None:
    """Make the host list `models/bundles`, in addition to the folders of its configuration."""
    folder = str(Path(folder_paths.models_dir, "bundles"))
    paths, suffixes = folder_paths.folder_names_and_paths.setdefault("bundles", ([], set()))
    suffixes.update(SUFFIXES)
    if folder not in paths:
        paths.append(folder)


add_bundle_folder()


def keeps_metadata() -> bool:
    """Whether files may hold the graph that made them: not with --disable-metadata."""
    return not args.disable_metadata


def input_folder(name: str) -> Path:
    """A folder inside ComfyUI's input folder; ValueError outside of it, or FileNotFoundError."""
    root = folder_paths.get_input_directory()
    path = Path(root, checked_place(name))
    if not is_within(root, path):
        raise ValueError(f'The folder "{name}" is outside ComfyUI\'s input folder: move it inside.')
    if not path.is_dir():
        raise FileNotFoundError(
            NO_FOLDER_YET
            if name == NO_FOLDER
            else f'There is no folder "{name}" in ComfyUI\'s input folder: put your images into '
            f"input/{name} and press R, or choose another folder."
        )
    return path


def user_folder(name: str = "") -> Path:
    """The pack's folder in ComfyUI's user folder, or a folder inside it: caches and journals.

    A folder that cannot be created is reported by the code that writes to it.
    """
    path = Path(folder_paths.get_user_directory(), RUNS, name)
    with suppress(OSError):
        path.mkdir(parents=True, exist_ok=True)
    return path


def own_salt() -> str:
    """A random text that only this installation knows, made when it is first needed."""
    path = user_folder() / "salt.txt"
    with suppress(OSError):
        if not path.exists():
            with suppress(FileExistsError):
                create_files({path: lambda draft: draft.write_text(secrets.token_hex(16))})
        return path.read_text()
    return ""


def sweep_caches() -> None:
    """Remove drafts that killed processes left in the pack's folder in the user folder."""
    root = user_folder()
    below = [path for name in CACHES for path in (root / name, *_folders_in(root / name))]
    remove_drafts([root, *below])


def _folders_in(folder: Path) -> list[Path]:
    with suppress(OSError), os.scandir(folder) as entries:
        return [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    return []


def dataset_folder(name: str, path: str) -> Path:
    """The folder at an absolute path if one is given, else one of the input or datasets folders.

    Raises ValueError for a relative path and for a folder that is closed to this server's users,
    and FileNotFoundError for a missing folder.
    """
    if path.strip():
        wanted = Path(checked_place(path.strip().strip('"'))).expanduser()
        if not wanted.is_absolute():
            raise ValueError(f'The path "{path}" is not absolute: start it at the root.')
        line_about(wanted, path.strip())
        if not wanted.is_dir():
            raise FileNotFoundError(f"There is no folder {wanted}: correct the path.")
        return wanted
    if name.startswith(DATASETS):
        return _in_datasets(name.removeprefix(DATASETS))
    return input_folder(name)


def _in_datasets(name: str) -> Path:
    for root in folder_paths.get_folder_paths("datasets"):
        path = Path(root, checked_place(name))
        if is_within(root, path) and path.is_dir():
            return path
    raise FileNotFoundError(f'There is no folder "{name}" in the datasets folder.')


def is_writable(path: Path) -> bool:
    """Whether a file, once links are resolved, is in a folder that the pack may write to."""
    return any(is_within(root, path) for root in own_folders())


def dataset_folders() -> list[str]:
    """Folders of pictures in the input folder and, with a mark, in the datasets folders."""
    names = sorted(input_folders(), key=lambda name: name.split("/")[0] in OF_THE_HOST)
    if "datasets" in folder_paths.folder_names_and_paths:
        for root in folder_paths.get_folder_paths("datasets"):
            names += [DATASETS + path.relative_to(root).as_posix() for path in _below(Path(root))]
    # The first one is what a new node shows.
    return names if names and names[0].split("/")[0] not in OF_THE_HOST else [NO_FOLDER, *names]


def _below(root: Path) -> list[Path]:
    """All folders below a folder, except hidden ones."""
    folders = list[Path]()
    for parent, names, _ in os.walk(root):
        names[:] = [name for name in names if not name.startswith(".")]
        folders += [Path(parent, name) for name in names]
    return sorted(folders)


def input_folders() -> list[str]:
    return sorted(folder_paths.get_input_subfolders())


def checked_letters(name: str) -> str:
    """A name that the file system can have; ValueError in a server that was started in plain C."""
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        raise ValueError(
            f"No file can be called {ascii(name[:40])} here, because ComfyUI runs with file names "
            f"in {sys.getfilesystemencoding()}: use other letters, or start it with PYTHONUTF8=1."
        ) from None
    return name


def checked_place(name: str) -> str:
    """A path or a part of one on this machine; ValueError for //host/share, with either slash.

    To look whether there is such a folder, Windows signs in to the other machine.
    """
    if SHARE.match(checked_letters(name)):
        raise ValueError(
            f'"{name[:80]}" is a folder of another machine: connect it as a drive, or copy it here.'
        )
    return name


def checked_run_name(name: str) -> str:
    """A run's name as a single path part; ValueError if it could lead anywhere else."""
    stripped = checked_letters(name.strip())
    size = len(stripped.encode("utf-8", "surrogatepass"))
    if size > LONGEST_RUN_NAME:
        raise ValueError(
            f'The run name "{stripped[:24]}..." is too long for a folder: it has {size} bytes in '
            f"UTF-8 and may have {LONGEST_RUN_NAME}. Shorten it."
        )
    # Windows drops trailing dots and reserves some names for devices, with any extension.
    reserved = stripped.split(".")[0].strip().upper() in DEVICES
    if not stripped.rstrip(".") or reserved or re.search(r'[\\/:*?"<>|\x00-\x1f]|\.$', stripped):
        raise ValueError(
            f'The run name "{name}" cannot be a folder: use letters, digits, blanks, - and _.'
        )
    return stripped


def new_bundle_path(prefix: str, *, own_folder: bool = False) -> Path:
    """The next free `<prefix>_00001.safetensors` in the output folder; ValueError outside it.

    With `own_folder` it is `<prefix>_00001/<name>.safetensors`, for files that belong together.
    """
    root = Path(folder_paths.get_output_directory())
    wanted = _checked_prefix(root, prefix)
    for number in itertools.count(1):
        stem = root / wanted.parent / f"{wanted.name}_{number:05}"
        path = stem / f"{wanted.name}.safetensors" if own_folder else Path(f"{stem}.safetensors")
        if not path.exists() and not (own_folder and stem.exists()):
            return path
    raise AssertionError("unreachable")


def _checked_prefix(root: Path, prefix: str) -> Path:
    """A prefix with its date filled in, as a relative path; ValueError if no file can have it."""
    # Workflows made on Windows contain backslashes.
    wanted = Path(dated(checked_letters(prefix.strip())).replace("\\", "/"))
    elsewhere = wanted.is_absolute() or ".." in wanted.parts or PureWindowsPath(wanted).drive
    if elsewhere or not is_within(root, root / wanted) or not wanted.name:
        raise ValueError(
            f'The name "{prefix}" leads outside ComfyUI\'s output folder: '
            "use a name such as loras/cat."
        )
    if any(len(os.fsencode(part)) > LONGEST_PREFIX for part in wanted.parts):
        raise ValueError(
            f'The name "{prefix[:24]}..." is too long for a file: shorten filename_prefix.'
        )
    if os.name == "nt" and any(map(_is_refused_by_windows, wanted.parts)):
        raise ValueError(
            f'Windows does not allow the name "{prefix}" for a file or folder: choose another.'
        )
    return wanted


def _is_refused_by_windows(part: str) -> bool:
    device = part.split(".")[0].strip().upper() in DEVICES
    return device or part[-1] in ". " or bool(re.search(r'[<>:"|?*\x00-\x1f]', part))


def dated(prefix: str) -> str:
    """A prefix with the words for date and time that ComfyUI's own save nodes fill in."""
    now = time.localtime()
    for word, form in DATE_WORDS.items():
        prefix = prefix.replace(word, time.strftime(form, now))
    return prefix


def in_output(path: Path) -> dict[str, str]:
    """A file of the output folder as the host reports it to the editor."""
    relative = path.relative_to(folder_paths.get_output_directory())
    return {"filename": path.name, "subfolder": relative.parent.as_posix(), "type": "output"}


def bundle_files(*kinds: str) -> list[str]:
    """Files that may hold a bundle or a part of one, as `<kind>/<name>`; all kinds by default."""
    return [
        f"{kind}/{name}"
        for kind in kinds or BUNDLE_KINDS
        for name in folder_paths.get_filename_list(kind)
        if Path(name).suffix.lower() in SUFFIXES
    ]


def as_listed(file: str) -> str | None:
    """A file as `bundle_files` lists it: a workflow from another system has the other slashes."""
    files = bundle_files()
    if file in files:
        return file
    wanted = file.replace("\\", "/")
    return next((one for one in files if one.replace("\\", "/") == wanted), None)


def bundle_path(file: str) -> Path:
    """The path of a file that `bundle_files` lists; FileNotFoundError if it is gone."""
    kind, _, name = (as_listed(file) or file).partition("/")
    known = kind in BUNDLE_KINDS and not SHARE.match(name)
    path = folder_paths.get_full_path(kind, name) if known else None
    if path is None:
        raise FileNotFoundError(
            f'There is no bundle "{file}": choose another file or refresh the list.'
        )
    return Path(path)


def bundle_state(file: str) -> str:
    """A text that changes with the file, or with any file that is read together with it."""
    stats = [(path.name, path.stat()) for path in files_of(bundle_path(file))]
    return " ".join(f"{name} {stat.st_mtime_ns} {stat.st_size}" for name, stat in stats)


def file_facts() -> Store:
    """Stored facts about files: digests and measurements."""
    return Store(user_folder() / "facts.sqlite")
