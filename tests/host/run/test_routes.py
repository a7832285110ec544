"""Routes take ids and never paths, change nothing on GET, and obey the editor's own page alone."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request

import pytest

from factories import write_pictures
from harness.host.server import Server
from pack.nodes.extension import ROUTES
from pack.nodes.host import routes
from pack.nodes.host.routes import Call, Refused, checked_id, from_own_page

HOSTILE = [
    "..", ".", "%2e%2e", "..%2f..%2fetc%2fpasswd", "a%2fb", "a%5cb", "C:%5cWindows", "%00", "a%0ab",
    "%2e%2e%2f%2e%2e%2fuser", "x" * 300, "nul%22", "a%3cb",
]  # fmt: skip


def ask(server: Server, path: str, body: bytes | None = None, **headers: str) -> tuple[int, dict]:
    """Status and JSON of an answer, whatever it is."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(server.url(path), data=body, headers=named)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.loads(response.read() or b"{}")
    except urllib.error.HTTPError as error:
        text = error.read()
        return error.code, json.loads(text) if text.startswith(b"{") else {}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_id_gets_a_4xx_with_a_sentence_or_nothing(server, name):
    status, answer = ask(server, f"/pivotal/runs/{name}")
    assert 400 <= status < 500
    assert "Traceback" not in json.dumps(answer) and str(server.base) not in json.dumps(answer)


def test_a_run_that_is_not_there_is_not_found(server):
    assert ask(server, "/pivotal/runs/nobody") == (404, {"error": 'There is no run "nobody".'})


@pytest.mark.parametrize("after", ["-1", "x", "1e9", "1" * 40, "%F0%9F%98%80"])
def test_a_query_that_is_no_number_is_refused(server, after):
    runs = server.base / "output" / "pivotal" / "asked"
    runs.mkdir(parents=True, exist_ok=True)
    (runs / "run.json").write_text('{"recipe": {"train": {"steps": 1}}}')
    assert ask(server, f"/pivotal/runs/asked?after={after}")[0] == 400


PLANTED = ["[" * 200_000, "null", "[]", "1", '"x"', '{"steps": NaN, "finished": 1e999}', ""]
PLANTED += ['{"steps": ' + "[" * 500 + "]" * 500 + "}", '{"steps": {}, "finished": "x"}', "\ud800"]
GOOD = {"step": 1, "steps": 2, "loss": 0.5, "losses": [0.5]}


@pytest.mark.parametrize("text", PLANTED, ids=lambda text: text[:12])
def test_a_run_folder_of_junk_costs_only_itself(server, text):
    """Anybody on the network can upload files into a folder of runs."""
    data = text.encode("utf-8", "surrogatepass")
    junk = server.base / "output" / "pivotal" / "planted"
    junk.mkdir(parents=True, exist_ok=True)
    for name in ("run.json", "progress.json", "plan.json"):
        (junk / name).write_bytes(data)
    (junk / "report.jsonl").write_bytes(data + b"\n" + json.dumps(GOOD).encode() + b"\n" + data)
    status, answer = ask(server, "/pivotal/runs")
    assert status == 200
    assert [one for one in answer["runs"] if one["run"] == "planted"] == [
        {"run": "planted", "state": "stopped", "steps": 0, "step": 0}
    ]
    status, answer = ask(server, "/pivotal/runs/planted")
    assert status == 200 and answer["reports"] == [GOOD] and answer["total"] == answer["next"] == 1


@pytest.mark.skipif(os.name == "nt", reason="needs links")
def test_a_link_in_a_run_folder_shows_nothing_of_what_it_leads_to(server, tmp_path):
    theirs = write_pictures(tmp_path / "private", ["x"]) and tmp_path / "private" / "0.png"
    (tmp_path / "theirs.jsonl").write_text(json.dumps(GOOD))
    run = server.base / "output" / "pivotal" / "linked"
    (run / "previews").mkdir(parents=True)
    (run / "run.json").write_text("{}")
    (run / "report.jsonl").symlink_to(tmp_path / "theirs.jsonl")
    (run / "previews" / "a.png").symlink_to(theirs)
    assert ask(server, "/pivotal/runs/linked")[1]["reports"] == []
    assert ask(server, "/pivotal/runs/linked/previews/a.png")[0] == 404


def test_every_address_is_served_under_api_too(server):
    assert ask(server, "/api/pivotal/runs")[0] == 200


@pytest.mark.parametrize("text", ["..", ". .", "", "a/b", "a\\b", "a\0", "x" * 201, 'a"b', "a:b"])
def test_ids_are_single_parts_of_a_path(text):
    with pytest.raises(Refused):
        checked_id(text)


@pytest.mark.parametrize("text", ["concept", "my cat_2", "крот", "猫", "v1.5 (final)", ".hidden"])
def test_names_that_people_give_are_ids(text):
    assert checked_id(text) == text


@pytest.mark.parametrize(
    ("headers", "own"),
    [
        ({}, True),
        ({"Origin": "http://127.0.0.1:8188", "Host": "127.0.0.1:8188"}, True),
        ({"Origin": "http://evil.example", "Host": "127.0.0.1:8188"}, False),
        ({"Origin": "null", "Host": "127.0.0.1:8188"}, False),
        ({"Origin": "https://gpu.example", "Host": "inner", "Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "none"}, True),
    ],
)
def test_only_the_own_page_may_change_anything(headers, own):
    assert from_own_page(headers) is own


def test_a_route_is_a_get_or_a_post_under_the_packs_name():
    assert {route.method for route in ROUTES} <= {"GET", "POST"}
    with pytest.raises(AssertionError):
        routes.Route("GET", "/runs", lambda call: {})


def test_a_gap_in_a_query_is_its_default():
    assert Call(ids={}, query={}).number("after", 3) == 3
