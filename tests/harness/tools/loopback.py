"""A web server on this machine: a git remote and a registry that knows one pack.

Standard library only.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse


@dataclass(kw_only=True)
class Registry:
    """The archives by their version, in the folder that is served; none means an unknown pack."""

    pack: str
    archives: dict[str, str] = field(default_factory=dict)

    def answer(self, path: str, address: str) -> dict[str, Any] | None:
        """The JSON for a path of the registry's interface; None for any other path."""
        parsed = urlparse(path)
        if parsed.path == "/nodes":
            return {"totalPages": 1, "nodes": [self.node()] if self.archives else []}
        if parsed.path == f"/nodes/{self.pack}/install":
            latest = list(self.archives)[-1]
            version = parse_qs(parsed.query).get("version", [latest])[0]
            url = f"{address}/{self.archives[version]}"
            return {"id": version, "version": version, "downloadUrl": url}
        if parsed.path == f"/nodes/{self.pack}/versions":
            return {"versions": [{"version": one} for one in self.archives]}
        return None

    def node(self) -> dict[str, Any]:
        return {
            "id": self.pack,
            "name": "Pivotal",
            "description": "",
            "publisher": {"name": "pivotal"},
            "repository": "https://example.invalid/elsewhere",
            "latest_version": {"version": list(self.archives)[-1]},
        }


@contextmanager
def served(folder: Path, registry: Registry) -> Iterator[str]:
    """Serve a folder's files and the registry; the address."""

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *words: Any) -> None:
            super().__init__(*words, directory=str(folder))

        def do_GET(self) -> None:
            found = registry.answer(self.path, address)
            if found is None:
                super().do_GET()
                return
            body = json.dumps(found).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def copyfile(self, source: Any, outputfile: Any) -> None:
            # Who follows redirects asks once and hangs up before it downloads.
            with suppress(ConnectionError):
                super().copyfile(source, outputfile)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        address = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield address
        finally:
            server.shutdown()
