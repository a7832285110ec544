"""Twenty thousand requests of strangers to the pack's routes; `dev.py bench routes` runs it.

A real server has a finished run, a reviewed dataset and a bundle. Shares of the requests run on
servers of their own; every fourth server has --multi-user. It resumes if it was interrupted.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common import RESULTS, ROOT, machine, prepare, publish, read_json

REQUESTS, SHARE, USERS_EVERY = 20_000, 2500, 4


def share(host: Path, start: int, count: int, users: bool) -> dict[str, Any]:
    """Send the requests of `count` seeds to a server of their own."""
    from harness.faults.route_fuzzing import furnished, fuzz

    with (
        tempfile.TemporaryDirectory(prefix="pivotal-routes-") as folder,
        furnished(host, Path(folder, "base"), users=users) as (server, known),
    ):
        record = fuzz(server, known, range(start, start + count))
    row = {name: getattr(record, name) for name in record.__slots__}
    ordered = {name: dict(sorted(row[name].items())) for name in ("answers", "succeeded")}
    return {**row, **ordered, "multi_user": users}


def page(content: Mapping[str, Any]) -> str:
    """The page of what routes.json holds."""
    shares = list(content["shares"].values())
    answers, succeeded = Counter[str](), Counter[str]()
    for one in shares:
        answers.update(one["answers"])
        succeeded.update(one["succeeded"])
    findings = [finding for one in shares for finding in one["findings"]]
    users = sum(one["requests"] for one in shares if one["multi_user"])
    lines = [
        "# Requests of strangers",
        "",
        f"{content['machine']}. Seeded requests to a real server that has a finished run, a "
        f"reviewed dataset and a bundle; each share of {SHARE} has a server of its own. "
        "`python3 dev.py bench routes` writes this page. tests/harness/faults/route_requests.py "
        "makes the requests: a quarter are what the editor sends, and the others have another "
        "method, address, id, query, user, site, type, body or framing in up to three places.",
        "",
        "A request counts as a fault if it is answered with 5xx, if it succeeds although no page "
        "of ours sends it, if it fails although the editor sends it (a caption that earlier "
        "requests made long may refuse to grow), if its answer has a path of this computer or no "
        "whole sentence, if a route opens a file outside ComfyUI's folders "
        "(noted by an audit hook in the server), or if any file changes but the edits and caches "
        "in `user/pivotal`.",
        "",
        "| | |",
        "|---|---|",
        f"| requests | {sum(answers.values()):,} |",
        f"| of these with `--multi-user` | {users:,} |",
        f"| faults | {len(findings)} |",
        f"| slowest answer | {max(one['slowest'][0] for one in shares):.2f} s |",
        f"| memory of a server after its share, compared with before | at most "
        f"{max(one['after'] - one['before'] for one in shares):+d} MB |",
        f"| highest memory during a share, compared with before | at most "
        f"{max(one['peak'] - one['before'] for one in shares):+d} MB |",
        "",
        "| answer | requests |",
        "|---|---|",
        *(f"| {name} | {count:,} |" for name, count in sorted(answers.items())),
        "",
        "`none` is a connection that ended without an answer because the request was not HTTP or "
        "never ended. Not sent is an `Origin` that is no address, which ComfyUI itself answers "
        "with 500 before it looks for a route.",
        "",
        "| route | requests that succeeded |",
        "|---|---|",
        *(f"| `{name}` | {count:,} |" for name, count in sorted(succeeded.items())),
        "",
        *findings[:50],
    ]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    """Send the shares that are missing, and write the page after each."""
    parser = argparse.ArgumentParser(prog="dev.py bench routes", description=__doc__)
    parser.add_argument("--requests", type=int, default=REQUESTS)
    known = parser.parse_args()
    path, host = RESULTS / "routes.json", Path(os.environ["PIVOTAL_COMFYUI"])
    content = read_json(path, {"shares": {}})
    with tempfile.TemporaryDirectory() as own:
        prepare(own)
        from harness.host.runner import start_host

        # The prompts are built from the host's own nodes.
        start_host(ROOT)
        for start in range(0, known.requests, SHARE):
            if str(start) not in content["shares"]:
                users = start // SHARE % USERS_EVERY == USERS_EVERY - 1
                done = share(host, start, min(SHARE, known.requests - start), users)
                shares = {**content["shares"], str(start): done}
                content = {"machine": machine(), "shares": shares}
                publish(path, content, page)
                print(f"{start + SHARE:,} requests, {len(done['findings'])} faults")
    print(page(content))


if __name__ == "__main__":
    main()
