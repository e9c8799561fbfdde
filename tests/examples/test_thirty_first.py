"""The thirty-first message: 310 real earthquakes, and a slot that raises on every 31st of them.

In this process, with a real ZeroMQ subscriber that counts from outside.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
import zmq
from machine_kit import LIMIT_S, assert_counts_add_up

from timbr_wamp.machine import Machine

EARTHQUAKES = Path(__file__).parents[2] / "examples" / "data" / "earthquakes.json"
COUNT, EVERY = 310, 31


@pytest.fixture
def quakes() -> list[dict[str, object]]:
    features = json.loads(EARTHQUAKES.read_text())["features"][:COUNT]
    return [{"number": n, **feature["properties"]} for n, feature in enumerate(features, start=1)]


@pytest.fixture
def machine(monkeypatch) -> Iterator[Machine]:
    folder = Path(tempfile.mkdtemp(prefix="tw", dir="/tmp"))
    monkeypatch.setenv("TIMBR_WAMP_RUNTIME_DIR", str(folder))
    with Machine(serve=True) as made:
        yield made
        assert_counts_add_up(made.status)
    shutil.rmtree(folder)


@pytest.fixture
def subscriber(machine: Machine) -> Iterator[zmq.Socket[bytes]]:
    """A subscriber that is surely there: XPUB would tell, PUB does not, so a record is sent till one comes."""
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.setsockopt(zmq.SUBSCRIBE, b"")
        socket.setsockopt(zmq.RCVHWM, 0)
        socket.connect(str(machine.endpoint))
        socket.rcvtimeo = 20
        for _ in range(200):
            machine.put("hello")
            machine.get()
            try:
                socket.recv_multipart()
            except zmq.Again:
                continue
            break
        socket.rcvtimeo = int(LIMIT_S * 1000)
        machine.put("last")
        last = machine.get()[0].encode()
        while socket.recv_multipart()[0] != last:
            pass
        yield socket


def clean(quake):
    return {"number": quake["number"], "mag": float(quake["mag"] or 0.0), "place": quake["place"]}


def energy(quake):
    if quake["number"] % EVERY == 0:
        raise ValueError(f"the {quake['number']}th earthquake")
    return 10 ** (1.5 * quake["mag"] + 4.8)


def energy_mended(quake):
    return 10 ** (1.5 * quake["mag"] + 4.8)


def label(joules, quake):
    return {"place": quake["place"], "strong": joules > 1e10}


def test_every_31st_message_fails_is_seen_mended_and_retried(machine, subscriber, quakes):
    warm_up = machine.status.put
    machine.set(0, clean, name="clean")
    machine.set(1, energy, name="energy")
    machine.set(2, label, name="label")
    machine.set(3, lambda *values: len(values), name="count")
    machine.set(4, lambda: "independent", name="free")
    machine.source = quakes
    machine.start()
    records = [subscriber.recv_multipart() for _ in range(COUNT)]
    assert machine.wait(LIMIT_S)

    assert len({oid for oid, _, _ in records}) == COUNT
    metas = [orjson.loads(meta) for _, _, meta in records]
    assert [meta["seq"] for meta in metas] == list(range(warm_up + 1, warm_up + COUNT + 1))
    errored = [n for n, meta in enumerate(metas, start=1) if meta["errored"]]
    assert errored == list(range(EVERY, COUNT + 1, EVERY))
    assert len(errored) == 10

    for n in errored:
        _, _, f1, f2, f3, f4, *_ = orjson.loads(records[n - 1][1])
        error = f1["_exception"]
        assert (error["task"], error["exc_class"], error["exc_value"]) == (
            "f1 (energy)",
            "ValueError",
            f"the {n}th earthquake",
        )
        assert "energy" in error["exc_tb"]
        for skipped in (f2, f3):
            assert skipped["_exception"]["exc_class"] == "UpstreamError"
            assert "f1 (energy) failed" in skipped["_exception"]["exc_value"]
        assert f4 == "independent"

    status = machine.status
    assert status.running
    assert (status.put - warm_up, status.processed - warm_up, status.errored) == (COUNT, 300, 10)
    assert (status.dropped, status.queue_size, status.in_flight) == (0, 0, 0)
    assert [(c.slot, c.calls, c.errors, c.skipped) for c in status.slots] == [
        (0, 310, 0, 0),
        (1, 310, 10, 0),
        (2, 300, 0, 10),
        (3, 300, 0, 10),
        (4, 310, 0, 0),
    ]
    assert [(error.slot, error.oid) for error in machine.errors] == [(1, records[n - 1][0].decode()) for n in errored]

    machine["energy"] = energy_mended
    retried = machine.retry_errors()
    assert retried == [records[n - 1][0].decode() for n in errored]
    again = [subscriber.recv_multipart() for _ in retried]
    assert machine.wait(LIMIT_S)
    assert [oid.decode() for oid, _, _ in again] == retried
    for _, text, meta in again:
        decoded = orjson.loads(meta)
        assert (decoded["attempt"], decoded["errored"], decoded["revision"]) == (2, False, machine.revision)
        assert orjson.loads(text)[3]["place"]
    assert all(error.resolved for error in machine.errors)
    status = machine.status
    assert (status.put - warm_up, status.processed - warm_up, status.errored) == (COUNT + 10, 310, 10)
    assert status.running
    assert machine.retry_errors() == []
