"""The routes of what is kept show it to everybody, and remove only what they have shown."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from host.run.test_cancel import server_graph
from host.run.test_routes import ask

from factories import write_pictures
from harness.host.server import Server

JSON = {"Content-Type": "application/json"}
DAY = 24 * 3600.0
OLD = 2000
"""Days: older than anything that other tests leave in the same server"""
ASKED = {"kinds": ["thumbs", "latents"], "days": OLD - 1}


def planted(server: Server, name: str, size: int = 10, days: float = OLD) -> Path:
    path = server.base / "user" / "pivotal" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    at = time.time() - days * DAY
    os.utime(path, (at, at))
    return path


def prune(server: Server, **body: Any) -> tuple[int, dict[str, Any]]:
    return ask(server, "/pivotal/kept/prune", json.dumps(body).encode(), **JSON)


def test_everything_kept_is_shown_by_kind(server: Server):
    planted(server, f"latents/00/{'0' * 64}.safetensors", 1234)
    status, answer = ask(server, "/pivotal/kept")
    assert status == 200 and answer["closed"] == ""
    rows = {row["kind"]: row for row in answer["kinds"]}
    assert [kind for kind, row in rows.items() if row["is_work"]] == ["reviews", "history"]
    assert rows["latents"]["files"] >= 1 and rows["latents"]["bytes"] >= 1234
    assert (time.time() - rows["latents"]["oldest"]) / DAY == pytest.approx(OLD, abs=1)
    assert all(row["title"] and row["lost"].endswith(".") for row in rows.values())
    assert str(server.base) not in json.dumps(answer)


def test_what_was_shown_is_removed_and_nothing_else(server: Server):
    old = [planted(server, f"thumbs/{n * 32}.webp") for n in "ab"]
    young = planted(server, f"thumbs/{'c' * 32}.webp", days=1)
    server.wait_until_idle(timeout=120)
    status, shown = prune(server, **{**ASKED, "kinds": ["thumbs"]})
    assert status == 200 and not shown["is_done"] and all(path.exists() for path in old)
    assert [(row["kind"], row["files"], row["bytes"]) for row in shown["kinds"]] == [
        ("thumbs", 2, 20)
    ]
    late = planted(server, f"thumbs/{'d' * 32}.webp")
    status, answer = prune(server, **{**ASKED, "kinds": ["thumbs"]}, id=shown["id"])
    assert status == 409 and "look again" in answer["error"] and old[0].exists()
    late.unlink()
    status, done = prune(server, **{**ASKED, "kinds": ["thumbs"]}, id=shown["id"])
    assert status == 200 and done["is_done"] and done["left"] == 0
    assert done["kinds"] == shown["kinds"]
    assert young.exists() and not any(path.exists() for path in old)
    young.unlink()


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"kinds": []},
        {"kinds": "thumbs", "days": 1},
        {"kinds": [["thumbs"]], "days": 1},
        {"kinds": ["salt.txt"], "days": 1},
        {"kinds": ["../../input"], "days": 1},
        {"kinds": ["thumbs"]},
        {"kinds": ["thumbs"], "days": True},
        {"kinds": ["thumbs"], "days": "1"},
        {"kinds": ["thumbs"], "days": -1},
        {"kinds": ["thumbs"], "days": 1e999},
        {"kinds": ["thumbs"], "days": 10**400},
        {"kinds": ["thumbs"], "days": 1, "bytes": 0.5},
        {"kinds": ["thumbs"], "days": 1, "bytes": -1},
        {"kinds": ["thumbs"], "days": 1, "id": 7},
        {"kinds": ["thumbs"], "days": 1, "id": ["x"]},
    ],
    ids=lambda body: json.dumps(body)[:60],
)
def test_an_order_that_the_page_does_not_send_is_refused_with_a_sentence(server, body):
    status, answer = prune(server, **body)
    assert status == 400 and answer["error"].endswith(".")


def test_edits_that_were_shown_and_images_that_were_given_to_nodes_are_left(host, server: Server):
    write_pictures(server.base / "input" / "used", ["a TOK", "TOK on grass"])
    graph, _ = server_graph()
    data = graph.add("Pivotal_LoadDataset", folder="used").out()
    lists = graph.add("Pivotal_DatasetToLists", dataset=data)
    again = graph.add("Pivotal_DatasetFromLists", images=lists.out(0)).out()
    review = graph.add("Pivotal_ReviewDataset", dataset=again)
    dataset = server.run(graph, timeout=300)["outputs"][review]["review"][0]["dataset"]
    item = server.get(f"/pivotal/datasets/{dataset}/items")["items"][0]
    change = {"item": item["item"], "tag": item["tag"], "caption": "mine"}
    server.post(f"/pivotal/datasets/{dataset}/edit", change)
    kept = server.base / "user" / "pivotal"
    used = [*(kept / "pictures").glob("*.png"), kept / "reviews" / f"{dataset}.jsonl"]
    assert len(used) >= 3
    for path in used:
        os.utime(path, (0, 0))
    other = planted(server, f"reviews/{'0' * 16}.jsonl")
    order = {"kinds": ["pictures", "reviews"], "days": OLD - 1}
    shown = prune(server, **order)[1]
    assert prune(server, **order, id=shown["id"])[0] == 200
    assert all(path.exists() for path in used) and not other.exists()


def test_nothing_is_removed_while_a_graph_runs(host, server: Server):
    """The run is cancelled at its first steps."""
    old = planted(server, f"thumbs/{'e' * 32}.webp")
    write_pictures(server.base / "input" / "busy", ["a TOK"])
    graph, base = server_graph()
    run = graph.train(
        base, "busy", concepts=graph.concept(), adapter=graph.add("Pivotal_Lora", rank=2).out(),
        steps=10_000, run_name="busy",
    )  # fmt: skip
    graph.add("Pivotal_SaveBundle", bundle=run.out(), filename_prefix="loras/busy")
    shown = prune(server, **ASKED)[1]
    queued = server.queue(graph)
    try:
        status, answer = prune(server, **ASKED, id=shown["id"])
        assert status == 409 and "A graph runs or waits" in answer["error"] and old.exists()
        assert prune(server, **ASKED)[0] == 200, "a dry run is answered at any time"
    finally:
        end = time.monotonic() + 300
        while server.history(queued) is None and time.monotonic() < end:
            server.interrupt()
            time.sleep(0.2)
    server.wait_until_idle(timeout=120)
    assert prune(server, **ASKED, id=shown["id"])[0] in (200, 409)
