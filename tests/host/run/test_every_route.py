"""Every route refuses what does not come from the editor's page, and no GET changes anything."""

from __future__ import annotations

import hashlib
import json
import re
import urllib.parse
from pathlib import Path

import pytest
from host.run.test_routes import HOSTILE, ask

from harness.faults.route_fuzzing import RUN, what_is_known
from harness.host.server import Server
from pack.nodes.extension import ROUTES
from pack.nodes.host.routes import Route

PLACE = re.compile(r"\{(\w+)\}")
JSON = {"Content-Type": "application/json"}
GETS = [route for route in ROUTES if route.method == "GET"]
POSTS = [route for route in ROUTES if route.method == "POST"]
SLOTS = [(route, slot) for route in ROUTES for slot in PLACE.findall(route.path)]


def named(value: object) -> str | None:
    return f"{value.method} {value.path}" if isinstance(value, Route) else None


@pytest.fixture(scope="module")
def known(host, server: Server) -> dict[str, str]:
    """Ids that exist: a run with a preview, a reviewed dataset with a picture, a bundle."""
    return dict(what_is_known(server)["ids"])


def address(route: Route, ids: dict[str, str]) -> str:
    return PLACE.sub(lambda match: urllib.parse.quote(ids[match[1]]), route.path)


def everything(base: Path) -> dict[str, str]:
    """Every file of a server and its content, but for its log and what is made again when gone."""
    again = ("server.log", "facts.sqlite", "thumbs")
    files = (path for path in base.rglob("*") if path.is_file())
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if not any(part.startswith(again) for part in path.relative_to(base).parts)
        and "models" not in path.relative_to(base).parts
        and not any(path.is_relative_to(link) for link in links(base))
    }


def links(base: Path) -> list[Path]:
    """Linked folders, such as the pack itself, which other tests of this machine write into."""
    return [path for path in (base / "custom_nodes").iterdir() if path.is_symlink()]


def test_no_get_changes_anything(server, known):
    before = everything(server.base)
    for route in GETS:
        path = address(route, known)
        query = "?file=loras/routes_00001.safetensors" if path == "/pivotal/bundle" else ""
        for tail in (query, query, "?after=0&offset=0&text=x&flag=off&ask=finish&undo=1"):
            status, _ = read(server, path + tail)
            assert status in (200, 404), (path + tail, status)
        assert read(server, path + query)[0] == 200, path
    assert everything(server.base) == before


def read(server: Server, path: str) -> tuple[int, bytes]:
    """Status and body of a GET that may answer with a picture."""
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(server.url(path), timeout=60) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


@pytest.mark.parametrize("route", POSTS, ids=named)
def test_a_get_of_what_changes_something_is_no_route(server, known, route):
    assert read(server, address(route, known))[0] in (404, 405)


@pytest.mark.parametrize("route", GETS, ids=named)
def test_a_post_of_what_is_read_is_no_route(server, known, route):
    assert ask(server, address(route, known), b"{}", **JSON)[0] == 405


REFUSED = {
    "a form": (415, b"a=b", {"Content-Type": "application/x-www-form-urlencoded"}),
    "plain text, which any page may send": (415, b"{}", {"Content-Type": "text/plain"}),
    "no type": (415, b"{}", {"Content-Type": ""}),
    "another site": (403, b"{}", {**JSON, "Origin": "http://evil.example"}),
    "another site by the browser's word": (403, b"{}", {**JSON, "Sec-Fetch-Site": "cross-site"}),
    "a sibling of this site": (403, b"{}", {**JSON, "Sec-Fetch-Site": "same-site"}),
    "a page in a sandbox": (403, b"{}", {**JSON, "Origin": "null"}),
    "no JSON": (400, b"{", JSON),
    "a list": (400, b"[]", JSON),
    "brackets without end": (400, b"[" * 60_000, JSON),
    "text that is no UTF-8": (400, b'{"ask": "\xff"}', JSON),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("route", POSTS, ids=named)
def test_a_post_that_the_editor_would_not_send_is_refused(server, known, route, case):
    wanted, body, headers = REFUSED[case]
    before = everything(server.base)
    status, answer = ask(server, address(route, known), body, **headers)
    assert status == wanted, answer
    assert everything(server.base) == before


FOREIGN = [case for case, (status, _, _) in REFUSED.items() if status == 403]


@pytest.mark.parametrize("case", FOREIGN)
@pytest.mark.parametrize("route", GETS, ids=named)
def test_what_is_read_is_read_by_the_own_page_alone(server, known, route, case):
    """A page elsewhere cannot have thumbnails made, whatever --enable-cors-header allows it."""
    _, _, headers = REFUSED[case]
    assert ask(server, address(route, known), None, **headers)[0] == 403


@pytest.mark.parametrize("route", POSTS, ids=named)
def test_a_body_that_is_not_compressed_as_it_says_is_refused(server, known, route):
    headers = {**JSON, "Content-Encoding": "gzip"}
    assert ask(server, address(route, known), b"{}", **headers) == (
        400,
        {"error": "This is not compressed or divided as its headers say."},
    )


@pytest.mark.parametrize("route", POSTS, ids=named)
def test_a_body_over_the_limit_is_refused(server, known, route):
    body = json.dumps({"caption": "x" * route.limit}).encode()
    assert ask(server, address(route, known), body, **JSON)[0] == 413


@pytest.mark.parametrize(("route", "slot"), SLOTS, ids=str)
def test_a_hostile_id_gets_a_4xx_in_every_place(server, known, route, slot):
    body = None if route.method == "GET" else b"{}"
    for name in HOSTILE:
        ids = {**{key: urllib.parse.quote(value) for key, value in known.items()}, slot: name}
        path = PLACE.sub(lambda match, ids=ids: ids[match[1]], route.path)
        status, answer = ask(server, path, body, **(JSON if body else {}))
        assert 400 <= status < 500, (path, status)
        assert str(server.base) not in json.dumps(answer)


ASKED = {
    "nothing": (400, {}),
    "something else": (400, {"ask": "format"}),
    "a list": (400, {"ask": ["finish"]}),
    "a run that does not train": (409, {"ask": "finish"}),
}


@pytest.mark.parametrize("case", ASKED)
def test_a_run_is_asked_what_it_knows_and_only_while_it_trains(server, known, case):
    wanted, body = ASKED[case]
    path = f"/pivotal/runs/{urllib.parse.quote(RUN)}/ask"
    status, answer = ask(server, path, json.dumps(body).encode(), **JSON)
    assert status == wanted and answer["error"].endswith(".")


@pytest.mark.parametrize("name", ["cut.safetensors", "junk.pt", "pair.safetensors"])
def test_a_file_that_cannot_be_read_is_named_without_its_folder(server: Server, name: str):
    """Where ComfyUI lies, and so often the owner's name, is nobody's business."""
    folder = server.base / "models" / "loras"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"\xff" * 40)
    (folder / "pair_emb.safetensors").write_bytes(b"\xff" * 40)
    _, answer = ask(server, f"/pivotal/bundle?file=loras/{name}")
    assert name in json.dumps(answer) and str(server.base) not in json.dumps(answer)
