"""The machine alone, published over ipc to a subscriber in another process."""

from __future__ import annotations

import functools
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import dask
import orjson
import zmq
from streamz import Stream

from benchmarks.common import (
    SLOTS,
    Figure,
    clean,
    earthquakes,
    energy,
    label,
    median_ratio,
    scratch_folder,
    subscriber,
    wait_for,
)
from timbr_wamp import Machine, Raw
from timbr_wamp.machine.serving.publisher import SEND_HIGH_WATER_MARK, Publisher
from timbr_wamp.names import new_oid

STAGES = 8
#: More than elsewhere: a round takes only about 1 s, so other load on the computer distorts it most.
LOCAL_ROUNDS = 9


@contextmanager
def published() -> Iterator[Callable[[bytes, bytes, bytes], None]]:
    """Give a function that sends three frames to a subscriber in another process."""
    context = zmq.Context()
    socket = context.socket(zmq.PUB)
    socket.setsockopt(zmq.SNDHWM, SEND_HIGH_WATER_MARK)
    endpoint = f"ipc://{scratch_folder()}/pub"
    socket.bind(endpoint)

    def send(oid: bytes, text: bytes, meta: bytes) -> None:
        socket.send(oid, zmq.SNDMORE)
        socket.send(text, zmq.SNDMORE)
        socket.send(meta)

    with subscriber(endpoint) as process:
        greet(socket, process)
        yield send
    socket.close(0)
    context.term()


def greet(socket: zmq.Socket[bytes], process: Any, publisher: Publisher | None = None) -> None:
    """Wait until the subscriber's connection carries messages."""
    poller = zmq.Poller()
    poller.register(process.stdout, zmq.POLLIN)
    for _ in range(1000):
        if publisher is not None:
            publisher.has_listeners()  # enters its subscription
        socket.send_multipart([b"hello", b"", b""])
        if poller.poll(10):
            wait_for(process, "hello")
            return
    raise AssertionError("the subscriber never connected")


def by_hand(messages: list[dict[str, Any]]) -> float:
    """Return messages per second of a hand-written loop over these three functions."""
    with published() as send:
        dumps, started = orjson.dumps, time.perf_counter()
        for seq, message in enumerate(messages, 1):
            received = time.time()
            oid = new_oid(received)
            text = dumps(message)
            f0 = clean(message)
            f0_text = dumps(f0)
            f1 = energy(f0)
            f1_text = dumps(f1)
            f2_text = dumps(label(f1, f0))
            whole = b"[" + b",".join((text, f0_text, f1_text, *(f2_text,) * 6)) + b"]"
            send(oid.encode(), whole, dumps(meta(seq, received)))
        return len(messages) / (time.perf_counter() - started)


def meta(seq: int, received: float) -> dict[str, Any]:
    """Return the third frame's content."""
    return {
        "run": "24db7f11694501a9", "seq": seq, "attempt": 1, "revision": 3, "received_at": received,
        "finished_at": time.time(), "errored": False,
    }  # fmt: skip


@contextmanager
def served(messages: list[dict[str, Any]]) -> Iterator[Machine]:
    """Give a machine with the three slots and a subscriber in another process."""
    os.environ["TIMBR_WAMP_RUNTIME_DIR"] = str(scratch_folder())
    with Machine(STAGES, serve=True) as machine:
        machine[0:3] = SLOTS
        with subscriber(str(machine.endpoint)) as process:
            assert machine._sockets is not None
            greet(machine._sockets.publisher._socket, process, machine._sockets.publisher)
            yield machine
            assert machine.status.processed == len(messages), machine.status


def pulling(messages: list[dict[str, Any]]) -> float:
    """Return messages per second of a machine that pulls a ready source."""
    with served(messages) as machine:
        started = time.perf_counter()
        machine.source = messages
        machine.start()
        assert machine.wait(120)
        return len(messages) / (time.perf_counter() - started)


def putting(messages: list[dict[str, Any]]) -> float:
    """Return messages per second of a machine fed by `put` from another thread."""
    with served(messages) as machine:
        machine.start()

        def feed() -> None:
            for message in messages:
                machine.put(message, block=True, timeout=60)

        started = time.perf_counter()
        thread = threading.Thread(target=feed)
        thread.start()
        thread.join()
        assert machine.wait(120)
        return len(messages) / (time.perf_counter() - started)


def unheard(messages: list[dict[str, Any]]) -> float:
    """Return messages per second of a served machine that pulls a ready source while nobody is subscribed."""
    os.environ["TIMBR_WAMP_RUNTIME_DIR"] = str(scratch_folder())
    with Machine(STAGES, serve=True) as machine:
        machine[0:3] = SLOTS
        started = time.perf_counter()
        machine.source = messages
        machine.start()
        assert machine.wait(120)
        return len(messages) / (time.perf_counter() - started)


def lines_by_hand(lines: list[bytes]) -> float:
    """Return JSON lines per second of a loop that parses each line, writes it anew and publishes it."""
    with published() as send:
        dumps, loads, started = orjson.dumps, orjson.loads, time.perf_counter()
        for seq, line in enumerate(lines, 1):
            received = time.time()
            oid = new_oid(received)
            text = dumps(loads(line))
            send(oid.encode(), b"[" + text + b"," + text + b"]", dumps(meta(seq, received)))
        return len(lines) / (time.perf_counter() - started)


def raw_lines(lines: list[bytes]) -> float:
    """Return JSON lines per second of a machine with one unset slot that takes them as `Raw`."""
    os.environ["TIMBR_WAMP_RUNTIME_DIR"] = str(scratch_folder())
    with Machine(1, serve=True) as machine, subscriber(str(machine.endpoint)) as process:
        assert machine._sockets is not None
        greet(machine._sockets.publisher._socket, process, machine._sockets.publisher)
        started = time.perf_counter()
        machine.source = [Raw(line) for line in lines]
        machine.start()
        assert machine.wait(120)
        return len(lines) / (time.perf_counter() - started)


def by_streamz(messages: list[dict[str, Any]]) -> float:
    """Return messages per second of a streamz pipeline that publishes the same three frames."""
    with published() as send:
        seq = 0

        def begin(message: dict[str, Any]) -> tuple[float, str, list[Any], list[bytes]]:
            received = time.time()
            return received, new_oid(received), [message], [orjson.dumps(message)]

        def stage(function: Callable[..., Any], count: int, state: Any) -> Any:
            value = function(*state[2][: -count - 1 : -1])
            state[2].append(value)
            state[3].append(orjson.dumps(value))
            return state

        def publish(state: Any) -> None:
            nonlocal seq
            seq += 1
            received, oid, _, texts = state
            send(oid.encode(), b"[" + b",".join(texts) + b"]", orjson.dumps(meta(seq, received)))

        source = Stream()
        node = source.map(begin)
        for function, count in ((clean, 1), (energy, 1), (label, 2), *((same, 1),) * 5):
            node = node.map(functools.partial(stage, function, count))
        node.sink(publish)
        started = time.perf_counter()
        for message in messages:
            source.emit(message)
        return len(messages) / (time.perf_counter() - started)


def same(value: Any) -> Any:
    """Return ``value``: an unset slot, as timbr-machine ran it."""
    return value


def by_dask(messages: list[dict[str, Any]]) -> float:
    """Return messages per second of one Dask graph for each message, as timbr-machine made it."""
    functions = [clean, energy, label, *(same,) * 5]
    wanted = [1, 1, 2, *(1,) * 5]
    with published() as send:
        started = time.perf_counter()
        for seq, message in enumerate(messages, 1):
            received = time.time()
            graph: dict[str, Any] = {"in": (same, message), "in_s": (orjson.dumps, "in")}
            names = ["in"]
            for number, (function, count) in enumerate(zip(functions, wanted, strict=True)):
                graph[f"f{number}"] = (function, *names[: -count - 1 : -1])
                graph[f"f{number}_s"] = (orjson.dumps, f"f{number}")
                names.append(f"f{number}")
            texts = dask.get(graph, [f"{name}_s" for name in names])
            send(new_oid(received).encode(), b"[" + b",".join(texts) + b"]", orjson.dumps(meta(seq, received)))
        return len(messages) / (time.perf_counter() - started)


def figures() -> list[Figure]:
    """Measure and return the core's figures."""
    many, few = earthquakes(30), earthquakes()[:400]
    lines = [orjson.dumps(message) for message in many]
    (pulled, put, streamz_ratio), values = median_ratio(
        LOCAL_ROUNDS, lambda: by_hand(many), lambda: pulling(many), lambda: putting(many), lambda: by_streamz(many)
    )
    (quiet,), _ = median_ratio(LOCAL_ROUNDS, lambda: pulling(many), lambda: unheard(many))
    (raw,), _ = median_ratio(LOCAL_ROUNDS, lambda: lines_by_hand(lines), lambda: raw_lines(lines))
    dask_rates = [by_dask(few) for _ in range(LOCAL_ROUNDS)]
    against_streamz = statistics.median(m / s for m, s in zip(values[1], values[3], strict=True))
    against_dask = statistics.median(m / d for m, d in zip(values[1], dask_rates, strict=True))
    del streamz_ratio
    rate = f"{statistics.median(values[1]):,.0f}/s against {statistics.median(values[0]):,.0f}/s"
    return [
        Figure("machine pulling a ready source ÷ a loop written by hand", pulled, ">=", 1.0, note=rate),
        Figure("machine fed by put from another thread ÷ the loop by hand", put, ">=", 0.9),
        Figure("JSON lines as Raw, handed on ÷ a loop that parses and writes them anew", raw, ">=", 1.3),
        Figure("nobody subscribed ÷ somebody, pulling a ready source", quiet, ">=", 1.2),
        Figure("machine ÷ streamz doing the same", against_streamz, ">=", 1.5),
        Figure("machine ÷ one Dask get_sync graph a message", against_dask, ">=", 30.0),
    ]
