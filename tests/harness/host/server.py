"""A real ComfyUI process and a small client of its HTTP interface, standard library only."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Prompt = dict[str, dict[str, Any]]
# Threads that spin while they wait make a busy machine ten times slower.
QUIET = {"OMP_WAIT_POLICY": "PASSIVE"}
START_SECONDS = 900.0
STOP_SECONDS = 20.0


class ServerFailed(RuntimeError):
    """The server did not start, refused a prompt, or could not finish it."""


class Server:
    """A server process on a free port of this machine, running inside `with`."""

    def __init__(self, python: Path, host: Path, base: Path, options: Sequence[str]) -> None:
        self.base, self.port = base, free_port()
        self.log_path = base / "server.log"
        self.client_id = uuid.uuid4().hex
        self.command = [str(python), str(host / "main.py"), *options]
        self.command += ["--listen", "127.0.0.1", "--port", str(self.port)]
        self.command += ["--base-directory", str(base), "--database-url", "sqlite:///:memory:"]
        self.command += ["--disable-auto-launch", "--disable-api-nodes"]

    def __enter__(self) -> Server:
        self.base.mkdir(parents=True, exist_ok=True)
        environment = QUIET | os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=subprocess.STDOUT, cwd=self.base, env=environment
            )
        try:
            self.wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def wait_until_ready(self) -> None:
        """Return when the server answers."""
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            self.check_alive()
            try:
                self.get("/system_stats")
                return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.2)
        raise ServerFailed(f"ComfyUI did not answer in {START_SECONDS:.0f} s.\n{self.tail()}")

    def check_alive(self) -> None:
        """Raise when the process has ended."""
        code = self.process.poll()
        if code is not None:
            raise ServerFailed(f"ComfyUI ended with {code}.\n{self.tail()}")

    def stop(self) -> None:
        """End the process, gently first."""
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def log(self) -> str:
        """Everything that the server has printed."""
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def tail(self, lines: int = 25) -> str:
        """The end of the log."""
        return "\n".join(self.log().splitlines()[-lines:])

    def get(self, path: str) -> Any:
        """The JSON answer to a GET."""
        return self.answer(urllib.request.Request(self.url(path)))

    def post(self, path: str, data: Any) -> Any:
        """The JSON answer to a POST of JSON; None when the answer is empty."""
        headers = {"Content-Type": "application/json"}
        return self.answer(
            urllib.request.Request(self.url(path), json.dumps(data).encode(), headers)
        )

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def answer(self, request: urllib.request.Request) -> Any:
        """Send a request past any proxy and read its answer."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=60) as response:
            body = response.read()
        return json.loads(body) if body else None

    def object_info(self) -> dict[str, Any]:
        """The description of every node, by its id."""
        return self.get("/object_info")

    def queue(self, prompt: Prompt, workflow: dict[str, Any] | None = None) -> str:
        """Queue a prompt, with the editor's workflow for the files' metadata; return its id."""
        # Without `_meta` the host's node replacement ends in a KeyError.
        titled = {
            key: {"_meta": {"title": node["class_type"]}, **node} for key, node in prompt.items()
        }
        data: dict[str, Any] = {"prompt": titled, "client_id": self.client_id}
        if workflow is not None:
            data["extra_data"] = {"extra_pnginfo": {"workflow": workflow}}
        try:
            return self.post("/prompt", data)["prompt_id"]
        except urllib.error.HTTPError as error:
            raise ServerFailed(refusal(error.read().decode("utf-8", "replace"))) from error

    def history(self, prompt_id: str) -> dict[str, Any] | None:
        """What a prompt has come to, None while it waits or runs."""
        self.check_alive()
        return self.get(f"/history/{prompt_id}").get(prompt_id)

    def wait(self, prompt_id: str, timeout: float) -> dict[str, Any]:
        """The history of a prompt that has ended, however it ended."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            found = self.history(prompt_id)
            if found is not None:
                return found
            time.sleep(0.1)
        raise ServerFailed(f"The prompt did not end in {timeout:.0f} s.\n{self.tail()}")

    def run(self, prompt: Prompt, timeout: float) -> dict[str, Any]:
        """Queue a prompt and return its history; raise with the node's sentence when it failed."""
        found = self.wait(self.queue(prompt), timeout)
        sentence = failure(found)
        if sentence:
            raise ServerFailed(sentence)
        return found

    def wait_until_idle(self, timeout: float) -> None:
        """Return when nothing runs and nothing waits."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            self.check_alive()
            queue = self.get("/queue")
            if not queue["queue_running"] and not queue["queue_pending"]:
                return
            time.sleep(0.1)
        raise ServerFailed(f"The queue was not empty after {timeout:.0f} s.\n{self.tail()}")

    def interrupt(self) -> None:
        """Press Cancel."""
        self.post("/interrupt", {})


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def failure(history: dict[str, Any]) -> str | None:
    """The sentence of the node that failed, None when the prompt succeeded."""
    for event, data in history["status"]["messages"]:
        if event == "execution_interrupted":
            return f"Interrupted in node {data['node_id']} ({data['node_type']})."
        if event == "execution_error":
            return f"{data['node_type']}: {data['exception_message'].strip()}"
    return None if history["status"]["status_str"] == "success" else "The prompt failed."


def refusal(body: str) -> str:
    """The sentences in the answer to a refused prompt."""
    try:
        answer = json.loads(body)
    except ValueError:
        return body
    nodes = answer.get("node_errors") or {}
    found = [
        f"{node['class_type']}: {error['message']}: {error['details']}"
        for node in nodes.values()
        for error in node["errors"]
    ]
    return "\n".join(found) or f"{answer['error']['message']}: {answer['error']['details']}"
