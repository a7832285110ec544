"""`dev.py bench dataset kills|many|captions`."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
WHAT = ("kills", "many", "captions")


def main() -> int:
    """Run one of the measurements, each of which writes into benchmarks/results/."""
    parser = argparse.ArgumentParser(prog="dev.py bench dataset", description=__doc__)
    parser.add_argument("--work", type=Path, help="not used: everything is made anew")
    parser.add_argument("what", choices=WHAT)
    known = parser.parse_args()
    return importlib.import_module(known.what).main()


if __name__ == "__main__":
    sys.exit(main())
