"""Measurements of datasets and captions; `dev.py bench dataset kills|many|captions` runs one."""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile

from common import prepare

WHAT = ("kills", "many", "captions")


def main() -> int:
    parser = argparse.ArgumentParser(prog="dev.py bench dataset", description=__doc__)
    parser.add_argument("what", choices=WHAT)
    known = parser.parse_args()
    # ComfyUI parses sys.argv as well.
    del sys.argv[1:]
    with tempfile.TemporaryDirectory() as base:
        prepare(base)
        return importlib.import_module(f"dataset.{known.what}").main()


if __name__ == "__main__":
    sys.exit(main())
