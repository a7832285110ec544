"""A small share of the requests that `dev.py bench routes` sends to real servers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.faults import route_requests
from harness.faults.route_fuzzing import CLOSED, PLAIN, furnished, fuzz
from harness.faults.route_requests import Known, make_request
from pack.nodes.extension import ROUTES
from pack.nodes.host.routes import BODY_LIMIT

HOST = Path(os.environ["PIVOTAL_COMFYUI"])
SHARES = {"one user": (400, False), "many users": (100, True)}
SECONDS, MEGABYTES = 10.0, 500
KNOWN = Known(
    port=8188,
    base="/base",
    ids={"run": "a run", "picture": "a.jpg", "dataset": "0" * 16, "item": "1" * 16},
    bundle="loras/a.safetensors",
)


def test_the_requests_are_to_every_route():
    assert {f"{route.method} {route.path}" for route in ROUTES} == set(route_requests.ROUTES)
    assert route_requests.BODY_LIMIT == BODY_LIMIT == max(route.limit for route in ROUTES)


def test_a_seed_is_a_request():
    made = [make_request(seed, KNOWN) for seed in range(2000)]
    assert made == [make_request(seed, KNOWN) for seed in range(2000)]
    assert {request.route for request in made if request.plain} == set(route_requests.ROUTES)
    assert {request.route for request in made if not request.ours} == set(route_requests.ROUTES)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("share", SHARES)
def test_strangers_get_nothing_and_change_nothing(host, tmp_path: Path, share: str):
    count, users = SHARES[share]
    with furnished(HOST, tmp_path / "base", users=users) as (server, known):
        record = fuzz(server, known, range(count))
    assert record.findings == []
    answered = set(route_requests.ROUTES) - (CLOSED if users else PLAIN).keys()
    assert record.requests == count and set(record.succeeded) == answered
    assert record.slowest[0] < SECONDS and record.peak - record.before < MEGABYTES
