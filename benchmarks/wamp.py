"""From the machine in its kernel through bridge and router to a WAMP subscriber, and back."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import psutil
import zmq
from autobahn.asyncio.component import Component

from benchmarks.common import ROUNDS, Figure, subscriber, wait_for
from benchmarks.services import LocalServices, local_services, quantile, scratch_path, wait_until
from timbr_wamp import runtime
from timbr_wamp.names import kernel_uri

#: Repetitions of the week of earthquakes: as many messages as the machine's ring holds.
TIMES = 8
MESSAGES = TIMES * 1707
#: For latencies: number of messages, and their rate in messages/s.
PACED, RATE = 5_000, 1_000
#: Seconds for which the router is frozen, and sizes of records meanwhile; the smaller ones travel with their values.
FROZEN_S, LARGE = 8.0, (600_000, 200_000)
#: Longest wait for a subscriber, seconds.
LIMIT_S = 120
#: Readers at once.
READERS = 3
#: Slot changes whose effect is awaited.
CHANGES = 20


@contextmanager
def wamp_subscriber(at: LocalServices) -> Iterator[subprocess.Popen[str]]:
    """Run `benchmarks.wamp_subscriber`, subscribed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.wamp_subscriber", at.url, at.kernel.id],
        env={**at.environ, "TIMBR_WAMP_TOKEN": at.token}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert said(process) == "ready"
        yield process
    finally:
        process.kill()
        process.wait()


def said(process: subprocess.Popen[str]) -> Any:
    """Return the next line of the subscriber."""
    assert process.stdout is not None
    poller = zmq.Poller()
    poller.register(process.stdout, zmq.POLLIN)
    assert poller.poll(LIMIT_S * 1000), "the subscriber is silent"
    line = process.stdout.readline()
    assert line, "the subscriber ended"
    return json.loads(line)


def tell(process: subprocess.Popen[str], command: str, number: int) -> None:
    """Give the subscriber a command."""
    assert process.stdin is not None
    process.stdin.write(f"{command} {number}\n")
    process.stdin.flush()


FEED = f"m.set_source(c.earthquakes({TIMES}), replace=True)"


#: Run in the kernel: send greetings until the subscriber's connection carries messages; after the run, send ``end``.
HELLO = """
m._sockets.publisher.has_listeners()
for _ in range(50): m._sockets.publisher._socket.send_multipart([b'hello', b'', b''])
"""
END = "m._sockets.publisher._socket.send_multipart([b'end', b'', b''])"


def bare(at: LocalServices, endpoint: str) -> float:
    """Return records per second at a ZeroMQ subscriber, until it received the last one.

    Records that PUB dropped count as received, which can only raise the figure that WAMP is compared with.
    """
    with subscriber(endpoint) as process:
        assert process.stdout is not None
        poller = zmq.Poller()
        poller.register(process.stdout, zmq.POLLIN)
        while not poller.poll(50):
            at.kernel_run(HELLO)
        wait_for(process, "hello")
        started = time.perf_counter()
        at.kernel_run(f"{FEED}\nassert m.wait(120)\n{END}")
        while not poller.poll(20):
            at.kernel_run(END)  # the one before may be among those that were dropped
        return MESSAGES / (time.perf_counter() - started)


def over_wamp(at: LocalServices, processes: list[subprocess.Popen[str]]) -> float:
    """Return complete records per second at each of several subscribers, until the last one has all of them."""
    for process in processes:
        tell(process, "count", MESSAGES)
        assert said(process) == "counting"
    started = time.perf_counter()
    at.kernel_run(FEED)
    found = [said(process) for process in processes]
    elapsed = time.perf_counter() - started
    assert not any(one["gaps"] for one in found), found
    return MESSAGES / elapsed


def throughput(at: LocalServices) -> Iterator[Figure]:
    """Compare complete records over WAMP, at one reader and at three, with a bare ZeroMQ subscriber."""
    endpoint = at.kernel_run("print(m.endpoint)").strip()
    plain: list[float] = []
    readings: dict[int, list[float]] = {1: [], READERS: []}
    for _ in range(ROUNDS):
        plain.append(bare(at, endpoint))
        for readers, values in readings.items():
            with ExitStack() as stack:
                processes = [stack.enter_context(wamp_subscriber(at)) for _ in range(readers)]
                values.append(over_wamp(at, processes))
    for readers, target in ((1, 0.9), (READERS, 0.5)):
        ratio = statistics.median(w / p for w, p in zip(readings[readers], plain, strict=True))
        note = f"{statistics.median(readings[readers]):,.0f}/s against {statistics.median(plain):,.0f}/s"
        name = "complete records through records()" if readers == 1 else f"the same, at each of {READERS} readers"
        yield Figure(f"{name} ÷ at a bare ZeroMQ subscriber", ratio, ">=", target, note=note)


def latency(at: LocalServices) -> Figure:
    """Measure the time from put to the record that ``records()`` gives, at 1,000 messages/s."""
    code = f"""
import time
quakes, started = c.earthquakes(), time.perf_counter()
for number in range({PACED}):
    m.put(quakes[number % 1707], block=True, timeout=10)
    left = started + number / {RATE} - time.perf_counter()
    if left > 0: time.sleep(left)
"""
    with wamp_subscriber(at) as process:
        found = []
        for _ in range(ROUNDS):
            tell(process, "count", PACED)
            assert said(process) == "counting"
            at.kernel_run(code)
            found.append(said(process))
    p99 = statistics.median(f["p99_s"] for f in found) * 1000
    p50 = statistics.median(f["p50_s"] for f in found) * 1000
    return Figure("put → records() at 1,000/s, p99", p99, "<=", 25, "ms", f"p50 {p50:.1f} ms")


async def calls_per_s(session: Any, uri: str, count: int) -> float:
    """Return sequential calls per second."""
    started = time.perf_counter()
    for _ in range(count):
        await session.call(uri)
    return count / (time.perf_counter() - started)


ECHO = """
import asyncio, os, sys
import psutil
import zmq
from autobahn.asyncio.component import Component
from autobahn.wamp.types import RegisterOptions
url, uri, name, secret = sys.argv[1], sys.argv[2], *os.environ["TIMBR_WAMP_TOKEN"].split(".", 1)
component = Component(transports=[{"type": "websocket", "url": url, "serializers": ["msgpack"]}], realm="timbr",
                      authentication={"ticket": {"authid": name, "ticket": secret}})
@component.on_join
async def joined(session, details):
    await session.register(lambda: payload, uri)
    print("ready", flush=True)
payload = {"put": 1, "processed": 1, "state": "running", "rate_per_s": [1.0, 1.0, 1.0], "slots": []}
loop = asyncio.new_event_loop()
asyncio.set_event_loop(loop)
component.start(loop)
loop.run_forever()
"""


async def with_session(at: LocalServices, work: Any) -> Any:
    """Run ``work(session)`` with a bare autobahn session."""
    name, secret = at.token.split(".", 1)
    component = Component(
        transports=[{"type": "websocket", "url": at.url, "serializers": ["msgpack"]}], realm="timbr",
        authentication={"ticket": {"authid": name, "ticket": secret}},
    )  # fmt: skip
    result: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    @component.on_join  # type: ignore[untyped-decorator]
    async def joined(session: Any, details: Any) -> None:
        try:
            result.set_result(await work(session))
        except Exception as error:  # raised where the result is awaited
            result.set_exception(error)

    component.start(asyncio.get_running_loop())
    try:
        return await asyncio.wait_for(result, 170)
    finally:
        await component.stop()


def status_calls(at: LocalServices) -> list[Figure]:
    """Compare ``status`` over WAMP with a bare echo, idle; then measure its p99 with the machine at full speed."""
    node = runtime.read_file(runtime.node_file(scratch_path(at.environ)), runtime.NodeFile)
    assert node is not None
    host = node.host_token.split(".", 1)[0]
    echo_uri = f"io.timbr.kernel.{host}_0123456789ab.ping"
    status_uri = kernel_uri(at.kernel.id, "machine", "status")
    echo = subprocess.Popen(
        [sys.executable, "-c", ECHO, at.url, echo_uri], env={**os.environ, "TIMBR_WAMP_TOKEN": node.host_token},
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert echo.stdout is not None
        assert echo.stdout.readline().strip() == "ready"

        async def compare(session: Any) -> float:
            ratios = []
            for _ in range(ROUNDS):
                base = await calls_per_s(session, echo_uri, 300)
                ratios.append(await calls_per_s(session, status_uri, 300) / base)
            return statistics.median(ratios)

        ratio = asyncio.run(with_session(at, compare))
    finally:
        echo.kill()
        echo.wait()

    async def durations(session: Any) -> list[float]:
        found = []
        for _ in range(1000):
            started = time.perf_counter()
            await session.call(status_uri)
            found.append(time.perf_counter() - started)
        return found

    at.kernel_run("import itertools; m.set_source(itertools.cycle(c.earthquakes()), replace=True)")
    busy = asyncio.run(with_session(at, durations))
    rate = at.machine.status.rate_per_s[0]
    at.kernel_run("del m.source; assert m.wait(30)")
    p99 = quantile(busy, 0.99) * 1000
    return [
        Figure("status over WAMP ÷ a bare autobahn echo, calls a second", ratio, ">=", 0.8),
        Figure("status over WAMP while the machine runs at full speed, p99", p99, "<=", 50, "ms", f"at {rate:,.0f}/s"),
    ]


def slot_change(at: LocalServices) -> Figure:
    """Measure the time from setting a slot to its first record at the WAMP subscriber; the worst of 20."""
    at.kernel_run(
        "def paced():\n    import time\n    quakes = c.earthquakes()\n    for n in range(10**9):\n"
        "        time.sleep(0.001)\n        yield quakes[n % 1707]\nm.set_source(paced, replace=True)"
    )
    found = []
    with wamp_subscriber(at) as process:
        tell(process, "revisions", CHANGES)
        said(process)  # the current revision
        for number in range(CHANGES):
            started = time.time()
            at.machine[3] = f"lambda label: [{number}, label]"
            _, seen = said(process)
            found.append((seen - started) * 1000)
    at.kernel_run("del m.source; del m[3]; assert m.wait(30)")
    median = statistics.median(found)
    return Figure(f"a live slot change, seen at the WAMP subscriber, worst of {CHANGES}", max(found), "<=", 50, "ms",
                  f"median {median:.1f} ms")  # fmt: skip


def viewer(at: LocalServices) -> Figure:
    """Measure the processor time of a message in the machine with a viewer of single records, and without one."""
    costs: dict[bool, list[float]] = {False: [], True: []}
    topic = kernel_uri(at.kernel.id, "machine")
    feed = f"m.set_source(c.earthquakes({10 * TIMES}), replace=True)"  # over a second: a burst's first window is more
    code = (
        f"import time\nstarted = time.process_time()\n{feed}\nassert m.wait(120)\nprint(time.process_time() - started)"
    )

    async def seen(session: Any) -> None:
        await session.subscribe(lambda *args, **keywords: None, topic)
        while not int(at.kernel_run("print(len(m._sockets.publisher._listeners.sampled))")):
            at.kernel_run("m._sockets.publisher.has_listeners()")
        costs[True].append(await asyncio.to_thread(lambda: float(at.kernel_run(code))))

    for _ in range(2 * ROUNDS):
        costs[False].append(float(at.kernel_run(code)))
        asyncio.run(with_session(at, seen))
        wait_until(lambda: not int(at.kernel_run("print(int(m._sockets.publisher.has_listeners()))")), 20)
    extra = statistics.median(b / a for a, b in zip(costs[False], costs[True], strict=True)) - 1
    return Figure("processor time that a viewer of K.machine costs the machine", 100 * extra, "<=", 5, "%")


def frozen_router(at: LocalServices, size_bytes: int) -> Iterator[Figure]:
    """Measure how much kernel and bridge grow while the router is frozen and a reader wants all of large records."""
    node = runtime.read_file(runtime.node_file(scratch_path(at.environ)), runtime.NodeFile)
    assert node is not None
    router = [psutil.Process(node.pid), *psutil.Process(node.pid).children(recursive=True)]
    watched = {"kernel": psutil.Process(int(at.kernel_run("import os; print(os.getpid())"))),
               "bridge": psutil.Process(at.bridge_pid())}  # fmt: skip
    at.kernel_run(
        f"import itertools, time\ndel m[0:3]\ndef large():\n    for n in itertools.count():\n"
        f"        time.sleep(0.002)\n        yield str(n) * ({size_bytes} // len(str(n)))\n"
        "m.set_source(large, replace=True)"
    )
    with wamp_subscriber(at) as process:
        tell(process, "count", 500)  # until the ring is full
        assert said(process) == "counting"
        said(process)
        tell(process, "count", 1_000_000)
        before = {name: one.memory_info().rss for name, one in watched.items()}
        grown = dict.fromkeys(watched, 0)
        try:
            for one in router:
                one.suspend()
            started = time.monotonic()
            while time.monotonic() < started + FROZEN_S:
                time.sleep(0.1)
                for name, one in watched.items():
                    grown[name] = max(grown[name], one.memory_info().rss - before[name])
        finally:
            for one in router:
                one.resume()
    at.kernel_run("del m.source; assert m.wait(30); m[0:3] = c.SLOTS")
    for name, growth in grown.items():
        name = f"growth of the {name}, router frozen, records of {size_bytes // 1000} KB"
        yield Figure(name, growth / 2**20, "<=", 64, "MiB")


def figures() -> Iterator[Figure]:
    """Measure and yield the figures."""
    with local_services() as at:
        yield latency(at)
        yield from throughput(at)
        yield from status_calls(at)
        yield slot_change(at)
        yield viewer(at)
        for size_bytes in LARGE:
            yield from frozen_router(at, size_bytes)
