"""What idle kernels cost: processor time of router, host and bridges with 1 to 100 kernels, and of the list.

The kernels are real ones with an idle machine; their own cost is printed apart. ``BENCH_KERNELS=1,10`` measures
with these numbers of kernels.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from benchmarks.common import Figure
from benchmarks.services import LocalServices, local_services, scratch_path, wait_until
from timbr_wamp import runtime

SIZES = tuple(int(size) for size in os.environ.get("BENCH_KERNELS", "1,10,30,100").split(","))
#: Kernels that are started, and ended, at the same time.
STARTERS, ENDERS = 4, 16
SETTLE_S, MEASURE_S = 6.0, 20.0
LIST_ROUNDS = 30

MACHINE = "import timbr_wamp\nm = timbr_wamp.Machine()\nm.start()\n"


def processor_s(process: psutil.Process) -> float:
    """Return the processor time of a process so far, in seconds; on Linux to the nanosecond."""
    folder = Path(f"/proc/{process.pid}/task")
    try:
        return sum(int((task / "schedstat").read_text().split()[0]) for task in folder.iterdir()) / 1e9
    except OSError:
        return float(sum(process.cpu_times()[:2]))


class Processes:
    """The processes of the services, by what they are."""

    def __init__(self, at: LocalServices) -> None:
        folder = scratch_path(at.environ)
        kernels = runtime.live_files(folder, "kernel-", runtime.KernelFile).values()
        bridges = runtime.live_files(folder, "bridge-", runtime.BridgeFile).values()
        hosts = runtime.live_files(folder, "host", runtime.HostFile).values()
        node = runtime.read_file(runtime.node_file(folder), runtime.NodeFile)
        assert node is not None
        router = psutil.Process(node.pid)
        self.groups = {
            "router": [router, *router.children(recursive=True)],
            "host": [psutil.Process(file.pid) for file in hosts],
            "bridges": [psutil.Process(file.pid) for file in bridges],
            "kernels": [psutil.Process(file.pid) for file in kernels],
        }

    def used_s(self) -> dict[str, float]:
        """Return the processor time of each group so far."""
        return {name: sum(map(processor_s, group)) for name, group in self.groups.items()}

    def counts(self) -> tuple[int, int]:
        """Return the number of kernels and bridges."""
        return len(self.groups["kernels"]), len(self.groups["bridges"])


def grow(at: LocalServices, startup: Path, count: int) -> None:
    """Start kernels until there are ``count``, all on the router, each with its machine."""
    with ThreadPoolExecutor(STARTERS) as pool:
        missing = count - len(at.client.kernels())
        list(pool.map(lambda _: at.client.start_kernel(host="bench", startup=str(startup)), range(missing)))
    wait_until(lambda: sum(bool(kernel.machines) for kernel in at.client.kernels()) == count, 30.0)


def end_all(at: LocalServices) -> float:
    """End the kernels, many at the same time; return how long it took, in seconds."""
    started = time.perf_counter()
    with ThreadPoolExecutor(ENDERS) as pool:
        list(pool.map(lambda info: at.client.kernel(info.kernel_id).shutdown(), at.client.kernels()))
    wait_until(lambda: not Processes(at).counts()[0], 60.0)
    return time.perf_counter() - started


def list_ms(at: LocalServices) -> float:
    """Return the median duration of `client.kernels()`."""
    found = []
    for _ in range(LIST_ROUNDS):
        started = time.perf_counter()
        at.client.kernels()
        found.append(time.perf_counter() - started)
    return statistics.median(found) * 1000


def idle_part(at: LocalServices, count: int) -> dict[str, float]:
    """Return the percentage of one core that each group of processes uses."""
    processes = Processes(at)
    assert processes.counts() == (count, count)
    time.sleep(SETTLE_S)
    before, started = processes.used_s(), time.monotonic()
    time.sleep(MEASURE_S)
    after, elapsed = processes.used_s(), time.monotonic() - started
    return {name: (after[name] - before[name]) / elapsed * 100 for name in after}


def figures(sizes: Iterable[int] = SIZES) -> Iterator[Figure]:
    """Measure and yield the figures."""
    with local_services() as at, tempfile.TemporaryDirectory() as folder:
        startup = Path(folder) / "machine.py"
        startup.write_text(MACHINE)
        count = 0
        try:
            for count in sizes:
                grow(at, startup, count)
                part = idle_part(at, count)
                own = part.pop("kernels")
                note = ", ".join(f"{name} {value:.2f}" for name, value in part.items()) + f"; kernels {own:.1f}"
                yield Figure(f"router, host, bridges of {count} idle kernels, of one core", sum(part.values()), "<=", 5,
                             "%", note)  # fmt: skip
                yield Figure(f"the list of {count} kernels, median", list_ms(at), "<=", 20, "ms")
        finally:
            took_s = end_all(at)
        yield Figure(f"{count} kernels and their bridges are ended on request", took_s, "<=", 40, "s")
