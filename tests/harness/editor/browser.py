"""The browser of the browser tests: found, or installed where that is possible.

Standard library only: `dev.py test` uses it before it starts pytest.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MISSING = "needs Chromium: install it, or set PIVOTAL_CHROMIUM to its path"


def find_browser() -> str | None:
    """The path of Chromium or Chrome; PIVOTAL_CHROMIUM is looked at first."""
    chosen = os.environ.get("PIVOTAL_CHROMIUM")
    if chosen:
        return shutil.which(chosen)
    return next((path for path in map(shutil.which, NAMES) if path), None)


def ensure_browser(say: Callable[[str], None]) -> None:
    """Install Chromium with apt-get where it is missing and that may be done; else say so."""
    if find_browser():
        return
    if not (hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("apt-get")):
        say(f"no browser tests: this {MISSING}")
        return
    say("installing chromium for the browser tests")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "check": False}
    subprocess.run(["apt-get", "update"], **quiet)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    command = ["apt-get", "install", "-y", "--no-install-recommends", "chromium"]
    subprocess.run(command, env=environment, **quiet)
    if not find_browser():
        say(f"no browser tests: apt-get could not install chromium; this {MISSING}")
