"""Time from ``timbr-wamp demo`` until the page answers, with the environments already made."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
import urllib.request

from benchmarks.common import ROUNDS, Figure, scratch_folder
from timbr_wamp.router import find_crossbar, free_port
from timbr_wamp.settings import load_settings


def once() -> float:
    """Return the seconds from the command to the page's answer."""
    folder = scratch_folder()
    environ = {
        **os.environ, "TIMBR_WAMP_RUNTIME_DIR": str(folder / "run"), "TIMBR_WAMP_DATA_DIR": str(folder / "data"),
        "TIMBR_WAMP_CROSSBAR": str(find_crossbar(load_settings())),
    }  # fmt: skip
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "timbr_wamp", "demo", "--json", "--port", str(free_port())],
        env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        with urllib.request.urlopen(said["page_url"].split("#")[0], timeout=10) as answer:
            assert answer.status == 200
        return time.perf_counter() - started
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(40)
        finally:
            process.kill()
            process.wait(5)


def figures() -> list[Figure]:
    """Measure and return the figure."""
    seconds = [once() for _ in range(ROUNDS)]
    note = f"from {min(seconds):.1f} to {max(seconds):.1f} s"
    return [Figure("demo to the answering page, environments made", statistics.median(seconds), "<=", 15, "s", note)]
