"""A process that reads complete records by `RemoteMachine.records`, as users do.

``python -m benchmarks.wamp_subscriber URL KERNEL_ID`` with the token in the environment. Reads commands from standard
input and answers each with lines of JSON:

- ``count N``: ``"counting"``, and after the next N records ``{"count", "gaps", "p50_s", "p99_s"}``.
- ``revisions N``: ``[revision, time]`` at the first record of each of the next N revisions.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import timbr_wamp
from benchmarks.services import quantile
from timbr_wamp.client import Records
from timbr_wamp.contract import Record

#: The latency of one record in this many is measured.
LOOK_EVERY = 7


def say(value: Any) -> None:
    """Answer the parent."""
    print(json.dumps(value), flush=True)


def count(records: Records, wanted: int) -> dict[str, Any]:
    """Return what came until ``wanted`` records came, those that are lost included."""
    found = gaps = 0
    latencies: list[float] = []
    for item in records:
        if isinstance(item, Record):
            found += 1
            if item.seq % LOOK_EVERY == 0:
                latencies.append(time.time() - item.received_at)
        elif isinstance(item, timbr_wamp.Gap):
            gaps += item.last - item.first + 1
        if found + gaps >= wanted:
            break
    return {"count": found, "gaps": gaps, "p50_s": quantile(latencies, 0.5), "p99_s": quantile(latencies, 0.99)}


def tell_revisions(records: Records, wanted: int) -> None:
    """Say when the first record of each new revision came."""
    revision = None
    for item in records:
        if isinstance(item, Record) and item.revision != revision:
            if revision is not None:
                wanted -= 1
            revision = item.revision
            say([revision, time.time()])
            if not wanted:
                return


def main(url: str, kernel_id: str) -> None:
    """Serve the parent's requests."""
    with timbr_wamp.connect(url, os.environ["TIMBR_WAMP_TOKEN"], timeout_s=20) as client:
        records = client.kernel(kernel_id).machine().records().start()
        say("ready")
        for line in sys.stdin:
            command, number = line.split()
            if command == "count":
                say("counting")
                say(count(records, int(number)))
            else:
                tell_revisions(records, int(number))


if __name__ == "__main__":
    main(*sys.argv[1:3])
