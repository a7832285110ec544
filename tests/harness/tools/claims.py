"""What an install is claimed to do, whether it came true, and the record of it.

Standard library only.
"""

from __future__ import annotations

import json
from typing import Any

from harness.tools.environment import NEWEST, ROOT, say

RESULTS = ROOT / "benchmarks" / "results" / "manager.json"


class Check:
    """Collects claims and whether they came true, and what each install changed."""

    def __init__(self) -> None:
        self.claims: list[tuple[bool, str]] = []
        self.packages: dict[str, dict[str, Any]] = {}

    def that(self, holds: bool, claim: str) -> None:
        """Say a claim and keep it."""
        say(f"{'yes' if holds else 'NO '}  {claim}")
        self.claims.append((holds, claim))

    def failed(self) -> int:
        return sum(1 for holds, _ in self.claims if not holds)

    def as_json(self) -> dict[str, Any]:
        claims = [{"holds": holds, "claim": claim} for holds, claim in self.claims]
        return {"claims": claims, "packages": self.packages}


def record(name: str, check: Check, pinned: str) -> None:
    """Put a story beside the others' results: as data, and its claims as a page."""
    about = (
        f"ComfyUI {NEWEST.version} with {pinned}, fresh, on Linux; the git remote and the registry "
        "are a web server on the same machine. `python3 dev.py manager record` writes this page."
    )
    before = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    stories = before.get("stories", {}) | {name: check.as_json()}
    data = {"about": about, "stories": stories}
    RESULTS.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    rows = [one for story in stories.values() for one in story["claims"]]
    lines = [f"| {'yes' if row['holds'] else '**no**'} | {row['claim']} |" for row in rows]
    head = ["# Installed by ComfyUI-Manager", "", about, "", "| | claim |", "|---|---|"]
    RESULTS.with_suffix(".md").write_text("\n".join([*head, *lines, ""]), encoding="utf-8")
