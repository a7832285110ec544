"""The route that shows the names in a bundle file before anything is queued."""

from __future__ import annotations

from typing import Any

from ....bundles.load import peek
from ..folders import as_listed, bundle_path
from ..routes import Call, Route


def bundle_overview(call: Call) -> dict[str, Any]:
    """Names, triggers and thumbnails of a file that the nodes list."""
    file = call.query.get("file", "")
    if as_listed(file) is None:
        raise FileNotFoundError("There is no such bundle: refresh the list.")
    bundle = peek(bundle_path(file))
    names = [
        {
            "name": entry.name,
            "trigger": f"embedding:{entry.name}",
            "initial": entry.initial,
            "placeholder": entry.placeholder,
            "thumbnail": entry.thumbnail,
        }
        for entry in bundle.entries
    ]
    return {
        "file": file,
        "names": names,
        "lora": bundle.lora,
        "family": bundle.family,
        "thumbnail": bundle.thumbnail,
        "notes": list(bundle.notes),
        "opened": bundle.opened,
    }


ROUTES = [Route("GET", "/pivotal/bundle", bundle_overview)]
