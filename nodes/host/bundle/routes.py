"""The route that tells the editor what a bundle file is called by, before anything is queued."""

from __future__ import annotations

from typing import Any

from ....bundles.load import peek
from ..folders import bundle_files, bundle_path
from ..routes import Call, Route


def bundle_glance(call: Call) -> dict[str, Any]:
    """Names, triggers and thumbnails of one file of the lists that the nodes offer."""
    file = call.query.get("file", "")
    if file not in bundle_files():
        raise FileNotFoundError("There is no such bundle: refresh the list.")
    found = peek(bundle_path(file))
    names = [
        {
            "name": entry.name,
            "trigger": f"embedding:{entry.name}",
            "initial": entry.initial,
            "placeholder": entry.placeholder,
            "thumbnail": entry.thumbnail,
        }
        for entry in found.entries
    ]
    return {
        "file": file,
        "names": names,
        "lora": found.lora,
        "family": found.family,
        "thumbnail": found.thumbnail,
        "notes": list(found.notes),
    }


ROUTES = [Route("GET", "/pivotal/bundle", bundle_glance)]
