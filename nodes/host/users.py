"""Whose runs, edits and history these are, in a server that was started with --multi-user.

The host knows who sends a request and not who queued a prompt, so a prompt gets its user's name
when it is queued. As with the host itself, a name is not a password: users are kept apart from each
other's work, not from each other's attacks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

from aiohttp import web
from comfy.cli_args import args
from server import PromptServer

HEADER, QUERY, EXTRA = "comfy-user", "user", "pivotal_user"
NOBODY = ""
"""Everybody without --multi-user, and with it clients that give no name"""
_ASKS: ContextVar[str | None] = ContextVar("user", default=None)


def current_user() -> str:
    """The user whose request is answered here or whose prompt runs; NOBODY without --multi-user."""
    if not args.multi_user:
        return NOBODY
    asks = _ASKS.get()
    return _running() if asks is None else asks


def _running() -> str:
    server = getattr(PromptServer, "instance", None)
    running = list(server.prompt_queue.currently_running.values()) if server else []
    return str(running[-1][3].get(EXTRA, NOBODY)) if running else NOBODY


def user_of(request: web.Request) -> str:
    """The user who sends a request; NOBODY for a name that the server does not know."""
    # A browser sends no header with the address of a picture.
    name = request.headers.get(HEADER) or request.query.get(QUERY, "")
    known = PromptServer.instance.user_manager.users
    return name if args.multi_user and name in known else NOBODY


@web.middleware
async def _remember(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    token = _ASKS.set(user_of(request))
    try:
        return await handler(request)
    finally:
        _ASKS.reset(token)


def _mark(prompt: dict[str, Any]) -> dict[str, Any]:
    """A prompt with the name of the user who queues it, whatever name came with it."""
    extra = prompt.get("extra_data")
    prompt["extra_data"] = {**(extra if isinstance(extra, dict) else {}), EXTRA: current_user()}
    return prompt


def register() -> None:
    """Know users from now on; before the server starts, and with --multi-user alone."""
    server = getattr(PromptServer, "instance", None)
    if server is not None and args.multi_user:
        server.app.middlewares.append(_remember)
        server.add_on_prompt_handler(_mark)
