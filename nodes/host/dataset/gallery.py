"""The datasets that the gallery shows, their journals, and the routes that change them."""

from __future__ import annotations

import hashlib
import os
import threading
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ....training.dataset.captions.placeholders import placeholder_pattern
from ....training.dataset.checks.findings import rough_tokens
from ....training.dataset.folder.scan import is_below
from ....training.dataset.folder.text_files import read_text
from ....training.dataset.pictures.crops import plan_crops
from ....training.dataset.pictures.sheets import trained_view
from ....training.dataset.records import Dataset, Framing, Record, Transparency, file_stamp
from ....training.dataset.writing.review import Conflict, Review, dataset_id
from ....training.ports import Crop
from ..folders import file_facts, own_salt, sweep_caches, user_folder
from ..images import is_whole, save_picture
from ..routes import Call, Refused, Route
from ..users import current_user

PAGE, THUMB, MOST_SHOWN = 200, 384, 50
ATTEMPTS = 3
LOCK = threading.Lock()


@dataclass(slots=True)
class Reviewed:
    """A dataset shown by a Review Dataset node."""

    dataset: Dataset
    review: Review
    items: dict[str, Record]
    """Pictures by id."""
    stamps: dict[str, str]
    """The state of each caption file when the graph ran."""
    user: str
    """Whose it is, with --multi-user."""
    crops: dict[str, Crop] = field(default_factory=dict[str, Crop])
    """The first crop of each picture, filled on first use."""

    def crop(self, item: str) -> Crop:
        """The part of a picture that is trained; its bucket depends on the other pictures."""
        if not self.crops:
            planned = plan_crops(list(self.items.values()), Framing())
            self.crops = {key: crops[0] for key, crops in zip(self.items, planned, strict=True)}
        return self.crops[item]


# Datasets by id. A page can only send ids, so no path ever comes from it.
REVIEWED: dict[str, Reviewed] = {}


def identity_of(dataset: Dataset) -> str:
    """The id of a dataset's edits by the present user, on this computer."""
    user, earlier = current_user(), dataset_id(dataset)
    # Edits of earlier versions stay where they are.
    if not user and review_path(earlier).exists():
        return earlier
    return dataset_id(dataset, f"{own_salt()} {user}")


def review_path(identity: str) -> Path:
    return user_folder("reviews") / f"{identity}.jsonl"


def is_reviewed(path: Path) -> bool:
    """Whether these edits have been shown since the server started, so that it continues them."""
    return path.suffix == ".jsonl" and path.stem in REVIEWED and path == review_path(path.stem)


def review_of(identity: str) -> Review:
    """The edits of a dataset, whose id is sixteen hex digits."""
    return Review(review_path(identity))


def show(dataset: Dataset) -> tuple[str, Dataset, int]:
    """Show a dataset in the gallery; returns its id, the edited dataset and its revision."""
    identity = identity_of(dataset)
    sweep_caches()
    with LOCK:
        review = review_of(identity)
        items = {_item_id(record): record for record in dataset.records}
        stamps = {key: _stamp(record) for key, record in items.items()}
        REVIEWED[identity] = Reviewed(dataset, review, items, stamps, current_user())
        return identity, review.apply(dataset), review.revision


def revision_of(identity: str) -> int:
    """The latest revision of a dataset's edits, 0 for an unknown dataset."""
    is_id = all(c in "0123456789abcdef" for c in identity) and len(identity) == 16
    return review_of(identity).revision if is_id else 0


def _item_id(record: Record) -> str:
    return hashlib.sha256(record.name.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _find(call: Call) -> Reviewed:
    reviewed = REVIEWED.get(call.ids["dataset"])
    if reviewed is None or reviewed.user != current_user():
        raise FileNotFoundError("This dataset is not loaded: queue the graph once.")
    return reviewed


def _record(reviewed: Reviewed, item: str) -> Record:
    record = reviewed.items.get(item)
    if record is None:
        raise FileNotFoundError("There is no such image in this dataset.")
    return record


def _caption_file(record: Record) -> Path | None:
    """The text file of a caption; None for captions from tables or without a file."""
    place = record.read_from
    if place is None or place.row:
        return None
    # A link may have come to lead out of the folder since it was read.
    return place.path if is_below(os.path.realpath(place.path.parent), place.path) else None


def _stamp(record: Record) -> str:
    """A text that changes with the caption's file."""
    path = _caption_file(record)
    return repr(file_stamp(path)) if path is not None and path.is_file() else ""


def items(call: Call) -> dict[str, Any]:
    """A page of the pictures that pass the filter, with counts."""
    with LOCK:
        reviewed = _find(call)
        offset, text = call.number("offset", 0), call.query.get("text", "").casefold()
        flag = call.query.get("flag", "")
        rows = [_row(reviewed, key, record) for key, record in reviewed.items.items()]
    shown = [row for row in rows if text in row["caption"].casefold() and _passes(row, flag)]
    return {
        "total": len(shown),
        "all": len(rows),
        "offset": offset,
        "revision": reviewed.review.revision,
        "flags": sorted({flag for row in rows for flag in row["flags"]}),
        "placeholders": _placeholders(reviewed.dataset),
        "items": shown[offset : offset + PAGE],
    }


def _passes(row: dict[str, Any], flag: str) -> bool:
    if flag == "off":
        return not row["enabled"]
    return not flag or flag in row["flags"] or (flag == "edited" and row["edited"])


def _placeholders(dataset: Dataset) -> list[str]:
    return sorted({record.concept for record in dataset.records if record.concept})


def _row(reviewed: Reviewed, key: str, record: Record) -> dict[str, Any]:
    stamp = _stamp(record)
    edit = reviewed.review.edits.get(record.name)
    now = reviewed.review.edited(record)
    caption = now.caption if now else (edit.caption if edit else None) or record.caption
    flags = list(now.flags if now else record.flags)
    pattern = placeholder_pattern([record.concept] if record.concept else [])
    if record.concept and not pattern.search(caption):
        flags.append("no_placeholder")
    if not caption.strip():
        flags.append("no_caption")
    return {
        "item": key,
        "name": record.name,
        "caption": caption,
        "file": _in_file(record) if stamp != reviewed.stamps[key] else None,
        "edited": edit is not None and edit.caption is not None,
        "enabled": now is not None,
        "flags": list(dict.fromkeys(flags)),
        "tokens": rough_tokens(caption),
        "size": [record.width, record.height],
        "shown": _shown(record),
        "tag": reviewed.review.tag(record, stamp),
    }


def _in_file(record: Record) -> str:
    """The caption in its file now; empty if the file is gone."""
    path = _caption_file(record)
    return read_text(path)[0] if path is not None and path.is_file() else ""


def thumbnail(call: Call) -> Path:
    """A small version of a picture with its mask and crop, made once for each content."""
    reviewed, key = _find(call), call.ids["item"]
    record = _record(reviewed, key)
    crop = reviewed.crop(key) if record.framing else None
    with closing(file_facts()) as facts:
        for _ in range(ATTEMPTS):
            name = f"{facts.content(record.path)[:32]}{_shown(record, crop)}"
            path = user_folder("thumbs") / f"{name}.webp"
            if is_whole(path):
                return path
            picture = trained_view(record, THUMB, crop)
            # A file that changed while it was read would be shown under the name of the other.
            if name == f"{facts.content(record.path)[:32]}{_shown(record, crop)}":
                save_picture(path, picture, quality=80)
                return path
    raise ValueError(f"{record.name} is being written: look again when it is done.")


def _shown(record: Record, crop: Crop | None = None) -> str:
    """Names what a thumbnail shows in addition to its file's content; empty for a plain picture."""
    mask = file_stamp(record.mask) if record.mask and record.mask.is_file() else None
    if record.framing is None and mask is None and record.transparency is Transparency.WHITE:
        return ""
    # Part of the names of thumbnails: the names of these classes and their fields must stay.
    seen = repr((record.framing, crop, mask, record.transparency.value))
    return f"_{hashlib.sha256(seen.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"


def edit(call: Call) -> dict[str, Any]:
    """Change a picture's caption, or switch the picture on or off; 409 if it changed meanwhile."""
    values = {name: call.body[name] for name in ("caption", "enabled") if name in call.body}
    kinds = {"caption": str, "enabled": bool}
    if not values or any(not isinstance(v, kinds[name]) for name, v in values.items()):
        raise ValueError("Send a caption, or whether the image is enabled.")
    key = str(call.body.get("item", ""))
    with LOCK:
        reviewed = _find(call)
        record = _record(reviewed, key)
        try:
            stamp = _stamp(record)
            seen = _in_file(record) if stamp != reviewed.stamps[key] else None
            tag = str(call.body.get("tag", ""))
            reviewed.review.change(record, tag, values, stamp, seen)
        except Conflict as conflict:
            raise Refused(409, str(conflict)) from conflict
        # The page now shows what the file says.
        reviewed.stamps[key] = stamp
        return {"revision": reviewed.review.revision, "item": _row(reviewed, key, record)}


def replace_in_captions(call: Call) -> dict[str, Any]:
    """Find and replace in all captions; with `preview` only report what would change."""
    find, new = (str(call.body.get(name, "")) for name in ("find", "replace"))
    with LOCK:
        reviewed = _find(call)
        records = list(reviewed.items.values())
        changes = reviewed.review.replaced(records, find, new)
        if not call.body.get("preview"):
            reviewed.review.replace_all(records, find, new)
        rows = [
            {"name": name, "before": old, "after": text} for name, (old, text) in changes.items()
        ]
        return {
            "count": len(rows),
            "changes": rows[:MOST_SHOWN],
            "revision": reviewed.review.revision,
        }


def undo(call: Call) -> dict[str, Any]:
    """Take back the latest change."""
    with LOCK:
        reviewed = _find(call)
        return {"undone": reviewed.review.undo(), "revision": reviewed.review.revision}


ROUTES = [
    Route("GET", "/pivotal/datasets/{dataset}/items", items),
    Route("GET", "/pivotal/datasets/{dataset}/thumbs/{item}", thumbnail),
    Route("POST", "/pivotal/datasets/{dataset}/edit", edit),
    Route("POST", "/pivotal/datasets/{dataset}/replace", replace_in_captions),
    Route("POST", "/pivotal/datasets/{dataset}/undo", undo),
]
