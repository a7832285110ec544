"""Sends the requests of route_requests.py to a real server and judges what it answers and does."""

from __future__ import annotations

import hashlib
import json
import re
import select
import shutil
import socket
import sys
import sysconfig
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any

from factories import write_pictures
from harness.faults import cancelling
from harness.faults.route_requests import ROUTES, SECRET, Known, Request, make_request
from harness.host.graphs import Graph
from harness.host.server import Server

RUN, FOLDER, USER = "routes run", "routes", "Alice"
NODES = Path(__file__).with_name("touched_files.py")
SECONDS, PATIENCE = 120.0, 0.3
PLAIN = {"POST /pivotal/runs/{run}/ask": 409}
"""Answers to what the editor sends, where that is not 200: the run has finished"""
CLOSED = {**PLAIN, "POST /pivotal/kept/prune": 403}
"""The same with --multi-user"""
OWN_WORDS = re.compile(r"[A-Za-z\"].*[.]", re.DOTALL)


@dataclass(kw_only=True, slots=True)
class Answer:
    """What came back for a request."""

    status: int | None
    """None where the connection ended without an answer."""
    body: bytes
    seconds: float


@dataclass(kw_only=True, slots=True)
class Record:
    """What a share of the requests has come to."""

    requests: int = 0
    answers: Counter[str] = field(default_factory=Counter[str])
    succeeded: Counter[str] = field(default_factory=Counter[str])
    """Requests of each route that were answered with 2xx."""
    findings: list[str] = field(default_factory=list[str])
    slowest: tuple[float, int] = (0.0, -1)
    before: int = 0
    after: int = 0
    peak: int = 0
    """Resident memory of the server in MB."""


@contextmanager
def furnished(host: Path, base: Path, *, users: bool = False) -> Iterator[tuple[Server, Known]]:
    """A server with a run, a reviewed dataset and a bundle, which notes what routes open."""
    cancelling.furnish(base)
    shutil.copyfile(NODES, base / "custom_nodes" / "harness_touched_files.py")
    (base.parent / "secret.txt").write_text(SECRET, encoding="utf-8")
    options = ["--cpu", *(["--multi-user"] if users else [])]
    with Asked(Path(sys.executable), host, base, options) as server:
        names = [server.post("/users", {"username": name}) for name in (USER, "Bob") if users]
        server.user = names[0] if users else ""
        known = Known(port=server.port, base=str(base), user=server.user, **what_is_known(server))
        known.others = [*names[1:], "nobody", f"../{known.user}", "x" * 300, "", known.user + "x"]
        yield server, known


class Asked(Server):
    """A server that a user asks."""

    user = ""

    def answer(self, request: urllib.request.Request) -> Any:
        if self.user:
            request.add_header("Comfy-User", self.user)
        return super().answer(request)


def what_is_known(server: Server) -> dict[str, Any]:
    """Ids that exist: a run with a preview, a reviewed dataset with a picture, and a bundle."""
    write_pictures(server.base / "input" / FOLDER, ["a TOK", "TOK on grass"])
    graph = Graph()
    node = graph.add("CheckpointLoaderSimple", ckpt_name="sd15.safetensors")
    drawn = graph.add(
        "Pivotal_Previews", prompts="a TOK", every=1, time_share=1.0, seeds="1", steps=1, width=64,
        height=64,
    )  # fmt: skip
    run = graph.train(
        (node.out(0), node.out(1), node.out(2)), FOLDER, concepts=graph.concept(),
        adapter=graph.add("Pivotal_Lora", rank=2).out(), steps=1, run_name=RUN,
        previews=drawn.out(),
    )  # fmt: skip
    graph.add("Pivotal_SaveBundle", bundle=run.out(), filename_prefix="loras/routes")
    data = graph.add("Pivotal_LoadDataset", folder=FOLDER).out()
    review = graph.add("Pivotal_ReviewDataset", dataset=data)
    dataset = server.run(graph, timeout=300)["outputs"][review]["review"][0]["dataset"]
    (picture,) = (server.base / "output").glob(f"pivotal*/**/{RUN}/previews/*.jpg")
    item = server.get(f"/pivotal/datasets/{dataset}/items")["items"][0]["item"]
    ids = {"run": RUN, "picture": picture.name, "dataset": dataset, "item": item}
    return {"ids": ids, "bundle": "loras/routes_00001.safetensors"}


def fuzz(server: Server, known: Known, seeds: Sequence[int]) -> Record:
    """Send the requests of some seeds, and see that nothing else of the server changes."""
    record = Record()
    with untouched(server, record):
        memory = MemoryOf(server.process.pid)
        record.before = memory.now()
        for seed in seeds:
            server.check_alive()
            known.tag = tag_of(server, known)
            request = make_request(seed, known)
            answer = send(known.port, request)
            note(record, seed, request, answer, known)
        record.after, record.peak = memory.now(), memory.peak()
    return record


def tag_of(server: Server, known: Known) -> str:
    """What a page knows of an image's caption; a page that has just read it."""
    rows = server.get(f"/pivotal/datasets/{known.ids['dataset']}/items")["items"]
    return next(row["tag"] for row in rows if row["item"] == known.ids["item"])


def send(port: int, request: Request) -> Answer:
    """Send the bytes of a request on a connection of its own and read the answer."""
    began, status, body = time.monotonic(), None, b""
    with socket.create_connection(("127.0.0.1", port), SECONDS) as connection:
        # The server may hang up before it has read everything.
        with suppress(ConnectionError):
            connection.sendall(request.data)
            if request.silent and not select.select([connection], [], [], PATIENCE)[0]:
                # The server waits for bytes that never come.
                connection.shutdown(socket.SHUT_WR)
        with suppress(ConnectionError, HTTPException):
            answer = HTTPResponse(connection, method=request.method)
            answer.begin()
            status, body = answer.status, answer.read()
    return Answer(status=status, body=body, seconds=time.monotonic() - began)


def note(record: Record, seed: int, request: Request, answer: Answer, known: Known) -> None:
    record.requests += 1
    record.answers[str(answer.status or "none")] += 1
    record.slowest = max(record.slowest, (round(answer.seconds, 3), seed))
    if answer.status is not None and 200 <= answer.status < 300 and request.method != "OPTIONS":
        record.succeeded[request.route] += 1
    for fault in faults(request, answer, known):
        told = f"{request.route} ({', '.join(request.odd)})"
        record.findings.append(f"seed {seed}: {told}: {fault}"[:400])


def faults(request: Request, answer: Answer, known: Known) -> Iterator[str]:
    """What an answer promises not to be."""
    status, body = answer.status, answer.body
    if status is None:
        if not request.silent:
            yield "no answer"
        return
    if status >= 500:
        yield f"{status}: {body[:100]!r}"
    # The host itself answers OPTIONS, with nothing.
    hosts_own = request.method == "OPTIONS" and not body
    if 200 <= status < 400 and not request.ours and not hosts_own:
        yield f"{status} for what no page of ours sends: {request.data[:200]!r}"
    # Earlier requests may have left a caption that cannot grow.
    grown = status == 400 and request.route.endswith("replace") and b"characters, and" in body
    wanted = (CLOSED if known.user else PLAIN).get(request.route, 200)
    if request.plain and status != wanted and not grown:
        yield f"{status} for what the editor sends: {body[:100]!r}"
    for words in (known.base, "Traceback", SECRET):
        if words.encode() in body:
            yield f"the answer has {words!r}"
    if request.stranger and status == 200 and request.route == ROUTES[0] and RUN.encode() in body:
        yield "another user's run is in the list"
    if status >= 400 and body.startswith(b'{"error": '):
        sentence = json.loads(body)["error"]
        if not OWN_WORDS.fullmatch(sentence):
            yield f"no sentence: {sentence[:100]!r}"


class MemoryOf:
    """The resident memory of a process in MB; 0 where the system has no /proc."""

    def __init__(self, pid: int) -> None:
        self._status = Path(f"/proc/{pid}/status")
        # Makes the peak begin here; the run before has taken more.
        with suppress(OSError):
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    def now(self) -> int:
        return self._read("VmRSS")

    def peak(self) -> int:
        return self._read("VmHWM")

    def _read(self, name: str) -> int:
        if not self._status.exists():
            return 0
        found = re.search(rf"{name}:\s*(\d+) kB", self._status.read_text())
        return int(found[1]) // 1024 if found else 0


@contextmanager
def untouched(server: Server, record: Record) -> Iterator[None]:
    """Within this context, routes open files of ours alone and write only edits and caches."""
    before = everything(server.base.parent)
    yield
    after = everything(server.base.parent)
    changed = sorted(path for path in before | after if before.get(path) != after.get(path))
    own = server.base / "user" / "pivotal"
    for path in changed:
        if not Path(path).is_relative_to(own) and path != str(server.log_path):
            record.findings.append(f"{path} was changed")
    touched = server.get("/harness/touched")
    if not touched:
        record.findings.append("what routes open was not noted")
    for event, path in touched:
        if not is_ours(server.base, event, Path(path)):
            record.findings.append(f"{event} {path}")


def is_ours(base: Path, event: str, path: Path) -> bool:
    """Whether a route may do this: read what it shows and what Python imports, write its caches."""
    if event.startswith(("subprocess", "socket", "os.system", "os.exec", "os.spawn", "os.fork")):
        return False
    code = [sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib")]
    places = [base / name for name in ("input", "output", "models", "user/pivotal")]
    return any(path.is_relative_to(place) for place in [*places, *map(Path, code)])


def everything(root: Path) -> dict[str, str]:
    """The files of a server and of the folder that holds it, with their content."""
    found = {}
    for path in root.rglob("*"):
        parts = path.relative_to(root).parts
        if "models" not in parts and "custom_nodes" not in parts and path.is_file():
            found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found
