"""Long-term costs: memory over a million messages, processor time of idle services."""

from __future__ import annotations

import time

import psutil

from benchmarks.common import Figure
from benchmarks.services import LocalServices, local_services
from benchmarks.wamp import wamp_subscriber

MEBIBYTE = 1024 * 1024
IDLE_S = 10.0


def resident_mib(at: LocalServices) -> float:
    """Return the resident memory of kernel and bridge together."""
    kernel = at.kernel.info().pid
    assert kernel is not None
    return sum(float(psutil.Process(pid).memory_info().rss) for pid in (kernel, at.bridge_pid())) / MEBIBYTE


def memory(at: LocalServices) -> Figure:
    """Growth from a hundred thousand small messages to a million, with a WAMP subscriber."""
    feed = "m.set_source(iter(range({})), replace=True); assert m.wait(150); import time; time.sleep(1)"
    at.kernel_run("del m[0:3]")
    with wamp_subscriber(at):
        at.kernel_run(feed.format(100_000))
        early = resident_mib(at)
        at.kernel_run(feed.format(900_000))
        late = resident_mib(at)
    note = f"{early:.0f} → {late:.0f} MiB"
    return Figure(
        "memory of kernel and bridge, 1,000,000 against 100,000 messages", late - early, "<=", 30, "MiB", note
    )


def idle(at: LocalServices) -> Figure:
    """Processor time of a kernel with an idle machine and of its bridge."""
    kernel = at.kernel.info().pid
    assert kernel is not None
    processes = [psutil.Process(pid) for pid in (kernel, at.bridge_pid())]

    def used() -> float:
        return sum(float(sum(process.cpu_times()[:2])) for process in processes)

    time.sleep(3.0)
    before = used()
    time.sleep(IDLE_S)
    part = (used() - before) / IDLE_S * 100
    return Figure("idle machine and bridge, of one core", part, "<=", 2, "%")


def figures() -> list[Figure]:
    """Measure and return the figures."""
    with local_services() as at:
        return [idle(at), memory(at)]
