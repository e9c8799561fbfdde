"""Measure and print the figures: ``python -m benchmarks [group …]``; all groups without one."""

from __future__ import annotations

import importlib
import platform
import sys

GROUPS = ("local", "journal", "slots", "wamp", "growth", "resources", "start", "idle")


def main(wanted: list[str]) -> int:
    """Run the groups; return 0 when every figure reaches its target, else 1."""
    unknown = sorted(set(wanted) - set(GROUPS))
    if unknown:
        print(f"no group {unknown[0]!r}; there are {', '.join(GROUPS)}")
        return 2
    print(f"Python {platform.python_version()} on {platform.machine()}; median of at least 5 rounds side by side")
    missed = 0
    for group in wanted or GROUPS:
        print(f"-- {group}", flush=True)
        for figure in importlib.import_module(f"benchmarks.{group}").figures():
            print(figure.line(), flush=True)
            missed += not figure.met
    print(f"{missed} figures missed" if missed else "all figures met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
