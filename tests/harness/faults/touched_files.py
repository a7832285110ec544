"""A node pack for a server that tests start: notes what is opened while a route of ours answers."""

from __future__ import annotations

import os
import sys
from contextvars import ContextVar
from typing import Any

from aiohttp import web
from server import PromptServer

EVENTS = ("open", "os.", "shutil.", "sqlite3.connect", "subprocess.", "socket.connect", "glob.")
_ASKED: ContextVar[bool] = ContextVar("asked", default=False)
TOUCHED: set[tuple[str, str]] = set()


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not event.startswith(EVENTS) or not _ASKED.get():
        return
    if event.startswith(("socket.", "subprocess.")):
        TOUCHED.add((event, repr(arguments[1])))
        return
    for one in arguments[: 1 if event == "open" else 2]:
        if isinstance(one, str | bytes | os.PathLike):
            TOUCHED.add((event, os.path.abspath(os.fsdecode(one))))


@web.middleware
async def _noted(request: web.Request, handler: Any) -> web.StreamResponse:
    if "/pivotal/" not in request.path:
        return await handler(request)
    # The thread in which a handler runs gets a copy of this context.
    token = _ASKED.set(True)
    try:
        return await handler(request)
    finally:
        _ASKED.reset(token)


async def _touched(request: web.Request) -> web.Response:
    return web.json_response(sorted(TOUCHED))


sys.addaudithook(_audit)
PromptServer.instance.app.middlewares.append(_noted)
PromptServer.instance.routes.get("/harness/touched")(_touched)
NODE_CLASS_MAPPINGS: dict[str, Any] = {}
