"""With --multi-user, one user's runs, edits and history are closed to another."""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from host.run.test_cancel import server_graph

from factories import write_pictures
from harness.faults.cancelling import furnish
from harness.faults.route_fuzzing import Asked
from harness.host.server import ServerFailed

HOST = pytest.importorskip("comfy.cli_args").__file__
RUN = "same name"


class UsersServer(Asked):
    """A server that is asked by one user or another."""

    @contextmanager
    def asked_by(self, user: str) -> Iterator[None]:
        before, self.user = self.user, user
        try:
            yield
        finally:
            self.user = before

    def status(self, path: str, body: Any = None) -> int:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url(path), data, {"Content-Type": "application/json"} if data else {}
        )
        try:
            self.answer(request)
        except urllib.error.HTTPError as error:
            return error.code
        except ValueError:  # a picture
            return 200
        return 200


@pytest.fixture(scope="module")
def shared(host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[UsersServer]:
    base = tmp_path_factory.mktemp("users")
    furnish(base)
    write_pictures(base / "input" / "pictures", ["a TOK", "TOK on grass"])
    place = Path(HOST).parents[1]
    with UsersServer(Path(sys.executable), place, base, ["--cpu", "--multi-user"]) as running:
        yield running


@pytest.fixture(scope="module")
def users(shared: UsersServer) -> tuple[str, str]:
    return tuple(shared.post("/users", {"username": name}) for name in ("Alice", "Bob"))


def work(server: UsersServer, **extra: Any) -> dict[str, Any]:
    """Train, review and save captions; what the nodes show."""
    graph, base = server_graph()
    drawn = graph.add(
        "Pivotal_Previews", prompts="a TOK", every=1, time_share=1.0, seeds="1", steps=1, width=64,
        height=64,
    )  # fmt: skip
    run = graph.train(
        base, "pictures", concepts=graph.concept(), adapter=graph.add("Pivotal_Lora", rank=2).out(),
        steps=1, run_name=RUN, previews=drawn.out(),
    )  # fmt: skip
    graph.add("Pivotal_SaveBundle", bundle=run.out(), filename_prefix="loras/users")
    data = graph.add("Pivotal_LoadDataset", folder="pictures").out()
    review = graph.add("Pivotal_ReviewDataset", dataset=data)
    edited = graph.add("Pivotal_EditCaptions", dataset=data, operations="suffix: , sharp")
    graph.add("Pivotal_SaveCaptions", dataset=edited.out(), on_existing="append", dry_run=False)
    outputs = server.run(graph, timeout=300)["outputs"]
    return {"dataset": outputs[review]["review"][0]["dataset"], "outputs": outputs}


@pytest.fixture(scope="module")
def of_alice(shared: UsersServer, users: tuple[str, str]) -> dict[str, Any]:
    with shared.asked_by(users[0]):
        return work(shared)


def runs_of(server: UsersServer, user: str) -> list[str]:
    with server.asked_by(user):
        return [run["run"] for run in server.get("/pivotal/runs")["runs"]]


def addresses(dataset: str) -> list[str]:
    return [f"/pivotal/runs/{RUN.replace(' ', '%20')}", f"/pivotal/datasets/{dataset}/items"]


@pytest.mark.timeout(900)
def test_runs_and_reviews_are_seen_by_their_user_alone(shared, users, of_alice):
    alice, bob = users
    assert runs_of(shared, alice) == [RUN]
    assert runs_of(shared, bob) == runs_of(shared, "") == runs_of(shared, "nobody") == []
    for user, status in ((alice, 200), (bob, 404), ("", 404), ("../" + alice, 404)):
        with shared.asked_by(user):
            assert [shared.status(path) for path in addresses(of_alice["dataset"])] == [status] * 2
    edits = f"/pivotal/datasets/{of_alice['dataset']}"
    with shared.asked_by(bob):
        assert shared.status(f"{edits}/undo", {}) == 404
        assert shared.status(f"{edits}/replace", {"find": "a", "new": "b"}) == 404


def test_a_picture_is_shown_to_the_user_in_its_address(shared, users, of_alice):
    folder = shared.base / "output" / "pivotal_users" / users[0] / RUN / "previews"
    (picture,) = folder.glob("*.jpg")
    for user, status in ((users[0], 200), (users[1], 404)):
        address = f"/pivotal/runs/{RUN.replace(' ', '%20')}/previews/{picture.name}?user={user}"
        assert shared.status(address) == status


@pytest.mark.timeout(900)
def test_the_same_graph_of_another_user_is_another_run_another_review_and_another_history(
    shared, users, of_alice
):
    alice, bob = users
    with shared.asked_by(bob):
        of_bob = work(shared)
    assert of_bob["dataset"] != of_alice["dataset"]
    assert runs_of(shared, alice) == runs_of(shared, bob) == [RUN]
    for user in users:
        assert (
            shared.base / "output" / "pivotal_users" / user / RUN / "bundle.safetensors"
        ).exists()
    graph, _ = server_graph()
    data = graph.add("Pivotal_LoadDataset", folder="pictures").out()
    graph.add("Pivotal_SaveCaptions", dataset=data, undo_revision=1)
    with shared.asked_by(bob), pytest.raises(ServerFailed, match="There is no revision 1"):
        shared.run(graph, timeout=60)
    with shared.asked_by(alice):
        shared.run(graph, timeout=60)
    assert (shared.base / "input" / "pictures" / "0.txt").read_text() == "a TOK"


@pytest.mark.timeout(900)
def test_a_prompt_cannot_say_that_it_is_of_another_user(shared, users, of_alice):
    alice, bob = users
    graph, _ = server_graph()
    data = graph.add("Pivotal_LoadDataset", folder="pictures").out()
    review = graph.add("Pivotal_ReviewDataset", dataset=data)
    titled = {key: {"_meta": {"title": key}, **node} for key, node in graph.items()}
    prompt = {"prompt": titled, "client_id": "x", "extra_data": {"pivotal_user": alice}}
    with shared.asked_by(bob):
        queued = shared.post("/prompt", prompt)["prompt_id"]
        shown = shared.wait(queued, 120)["outputs"][review]["review"][0]["dataset"]
    assert shown != of_alice["dataset"]


def test_what_is_kept_is_counted_for_everybody_and_removed_by_nobody(shared, users):
    old = shared.base / "user" / "pivotal" / "thumbs" / f"{'0' * 32}.webp"
    old.parent.mkdir(parents=True, exist_ok=True)
    old.write_bytes(b"x")
    for user in (*users, ""):
        with shared.asked_by(user):
            answer = shared.get("/pivotal/kept")
            assert "python training/kept.py" in answer["closed"]
            assert not any(name in json.dumps(answer) for name in users)
            assert {row["kind"]: row["files"] for row in answer["kinds"]}["thumbs"] >= 1
            for extra in ({}, {"id": "0123456789abcdef"}):
                order = {"kinds": ["thumbs"], "days": 0, **extra}
                assert shared.status("/pivotal/kept/prune", order) == 403
    assert old.exists()
