"""HTTP routes: ids and no paths, changes by POST only, all for ComfyUI's own page alone."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web
from server import PromptServer

LOG = logging.getLogger(__name__)
BODY_LIMIT = 64 * 1024
ID = re.compile(r'[^/\\:*?"<>|\x00-\x1f\x7f]{1,200}')
PICTURES = {".png": "image/png", ".jpg": "image/jpeg", ".webp": "image/webp"}
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


class Refused(Exception):
    """Answer a call with a 4xx status and a sentence."""

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """What a handler sees of a request: checked ids, the query, and the JSON object of a POST."""

    ids: Mapping[str, str]
    query: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)

    def number(self, name: str, default: int) -> int:
        """A whole number of 0 or more from the query; ValueError for anything else."""
        text = self.query.get(name, str(default))
        if not re.fullmatch(r"[0-9]{1,12}", text):
            raise ValueError(f"{name} must be a whole number.")
        return int(text)


Handler = Callable[[Call], Any]
"""Runs in its own thread and returns a JSON value or the path of a picture to send.

FileNotFoundError is answered with 404 and ValueError with 400, both with their message.
"""


@dataclass(frozen=True, slots=True)
class Route:
    """One address under /pivotal."""

    method: str
    path: str
    handler: Handler
    limit: int = BODY_LIMIT
    """Most bytes of a POST's body."""

    def __post_init__(self) -> None:
        assert self.method in ("GET", "POST") and self.path.startswith("/pivotal/")


def register(routes: Sequence[Route]) -> None:
    """Add routes to the host's server before it starts; it serves each under /api as well."""
    server = getattr(PromptServer, "instance", None)
    if server is not None:
        for route in routes:
            server.routes.route(route.method, route.path)(answering(route))


def answering(route: Route) -> Callable[[web.Request], Any]:
    """The aiohttp handler of a route; errors are answered with one sentence, never with a trace."""

    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            if not from_own_page(request.headers):
                raise Refused(403, "Only ComfyUI's own page may ask for this.")
            call = Call(
                ids={name: checked_id(value) for name, value in request.match_info.items()},
                query=dict(request.query),
                body=await read_body(request, route.limit) if route.method == "POST" else {},
            )
            return respond(await asyncio.to_thread(route.handler, call))
        except Refused as error:
            return refusal(error.status, str(error))
        except FileNotFoundError as error:
            # The system's own sentence has the whole path.
            own = error.errno is None
            return refusal(404, str(error) if own else "A file that this needs is gone.")
        except ValueError as error:
            return refusal(400, str(error))
        except OSError:
            LOG.exception("%s could not be answered", route.path)
            return refusal(503, "The disk could not be read or written: the log says more.")

    return answer


def checked_id(text: str) -> str:
    """An id that is safe as one part of a path; Refused for anything else."""
    if not ID.fullmatch(text) or text.strip(". ") == "":
        raise Refused(400, "This is not an id.")
    return text


async def read_body(request: web.Request, limit: int) -> Mapping[str, Any]:
    """The JSON object of a POST; Refused for anything else."""
    if request.content_type != "application/json":
        raise Refused(415, "Send JSON.")
    body = bytearray()
    try:
        async for chunk in request.content.iter_chunked(16 * 1024):
            body += chunk
            if len(body) > limit:
                raise Refused(413, f"This is longer than the {limit} bytes allowed.")
    except web.RequestPayloadError:
        raise Refused(400, "This is not compressed or divided as its headers say.") from None
    try:
        # Thousands of nested brackets end in a RecursionError.
        data = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        raise Refused(400, "This is not JSON.") from None
    if not isinstance(data, dict):
        raise Refused(400, "Send a JSON object.")
    return data


def from_own_page(headers: Mapping[str, str]) -> bool:
    """Whether a request comes from the page that this server served, or from no page at all."""
    # Browsers send Sec-Fetch-Site by themselves and pages cannot forge it. Names are compared
    # only for browsers too old to send it, since a proxy may rename the host.
    site = headers.get("Sec-Fetch-Site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = headers.get("Origin")
    return origin is None or origin.partition("://")[2].lower() == headers.get("Host", "").lower()


def respond(result: Any) -> web.StreamResponse:
    """An answer with JSON, or with the picture at a path."""
    if isinstance(result, Path):
        if result.suffix not in PICTURES:
            raise Refused(404, "This is not an image.")
        if result.is_symlink() or not result.is_file():
            raise Refused(404, "This image is gone.")
        kind = {"Content-Type": PICTURES[result.suffix]}
        return web.FileResponse(result, headers=HEADERS | kind)
    return web.json_response(result, headers=HEADERS)


def refusal(status: int, sentence: str) -> web.Response:
    return web.json_response({"error": sentence}, status=status, headers=HEADERS)
