"""What a machine publishes, to whom, and how much may be under way; real sockets where ZeroMQ decides."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st
from machine_kit import LIMIT_S, Machines
from wait_kit import wait_until

from timbr_wamp.contract import ROW_LIMIT_BYTES, BatchHead, RecordsBatch, records_from_batch, texts_from_batch
from timbr_wamp.machine import Machine
from timbr_wamp.machine.records.batches import BATCH_BYTES, BatchText, batch_texts, page, sample_text
from timbr_wamp.machine.records.ring import RecordRing
from timbr_wamp.machine.records.rows import Block
from timbr_wamp.machine.serving.listeners import BATCHES_WINDOW_BYTES, SAMPLES_WINDOW_BYTES, Listener
from timbr_wamp.machine.serving.publisher import SEND_BYTES
from timbr_wamp.machine.serving.sampler import EVENTS_PER_S, Sampler
from timbr_wamp.names import BATCHES, SAMPLES, checked_oid, new_listener, new_oid

# --- texts -----------------------------------------------------------------------------------


def a_block(first: int, values: list[list[Any]], layout: tuple[int, ...] = ()) -> Block:
    """Return consecutive records that were made of these values."""
    oids = [f"{n:024x}" for n in range(first, first + len(values))]
    metas = [
        b'{"run":"r","seq":%d,"attempt":1,"revision":2,"received_at":1.5,"finished_at":2.5,"errored":false}' % seq
        for seq in range(first, first + len(values))
    ]
    parts = []
    for row, meta in zip(values, metas, strict=True):
        parts += [*map(orjson.dumps, row), meta]
    counts = [layout or [1] * len(row) for row in values]
    texts = [
        [orjson.dumps(value) for value, n in zip(row, count, strict=True) for _ in range(n)]
        for row, count in zip(values, counts, strict=True)
    ]
    return Block(first, oids, parts, list(map(len, parts)), layout, metas, texts)


def sent(text: BatchText) -> RecordsBatch:
    """Return a batch as a reader gets it."""
    return RecordsBatch(
        run="r", first_seq=text.first_seq, last_seq=text.last_seq, count=text.count, layout=list(text.layout),
        block=text.text.decode(),
    )  # fmt: skip


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@given(data=st.data(), layout=st.lists(st.integers(1, 4), min_size=1, max_size=4), first=st.integers(1, 10**6))
def test_the_text_of_a_batch_holds_each_value_once_and_gives_the_whole_records(data, layout, first):
    row = st.lists(json_values, min_size=len(layout), max_size=len(layout))
    values = data.draw(st.lists(row, min_size=1, max_size=9))
    shown = () if set(layout) == {1} else tuple(layout)
    (text,) = batch_texts(a_block(first, values, shown))
    batch = sent(text)
    assert [row[:3] for row in orjson.loads(batch.block)] == [
        [first + n, f"{first + n:024x}", row] for n, row in enumerate(values)
    ]
    records = records_from_batch(batch)
    whole = [tuple(v for v, n in zip(row, layout, strict=True) for _ in range(n)) for row in values]
    assert [record[1:] for record in records] == whole
    assert [(record.seq, record.revision, record.finished_at) for record in records] == [
        (first + n, 2, 2.5) for n in range(len(values))
    ]
    assert [tuple(orjson.loads(t)) for _, _, t in texts_from_batch(batch) if t is not None] == whole


def test_large_rows_are_cut_off_and_large_blocks_divided():
    block = a_block(5, [["x" * 100_000, 1], ["y" * ROW_LIMIT_BYTES, 2], ["z" * 100_000, 3], ["ä" * 90_000, 4]], (1, 3))
    texts = list(batch_texts(block))
    assert [(text.first_seq, text.last_seq, text.count) for text in texts] == [(5, 7, 3), (8, 8, 1)]
    assert all(len(text.text) <= BATCH_BYTES for text in texts)
    records = [record for text in texts for record in records_from_batch(sent(text))]
    assert [record.seq for record in records] == [5, 6, 7, 8]
    assert [record.values for record in records if record.seq != 6] == [(1, 1, 1), (3, 3, 3), (4, 4, 4)]
    assert records[1].meta.text_bytes == len(orjson.dumps(["y" * ROW_LIMIT_BYTES, 2, 2, 2]))


def test_a_sample_has_the_chosen_rows_as_far_as_they_fit():
    block = a_block(1, [[n] for n in range(10)])
    text = sample_text(block, range(2, 10, 3))
    assert [row[0] for row in orjson.loads(text.text)] == [3, 6, 9]
    assert (text.first_seq, text.last_seq, text.count) == (3, 9, 3)
    large = a_block(1, [["x" * 100_000] for _ in range(5)])
    assert sample_text(large, range(5)).count == 2


@given(
    blocks=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(0, 300)), min_size=1, max_size=6),
    limit_bytes=st.integers(1, 3000),
)
def test_a_page_of_kept_records_begins_with_the_first_and_a_new_batch_where_the_layout_changes(blocks, limit_bytes):
    ring, seq, expected = RecordRing(), 1, []
    for count, width, size in blocks:
        values = [["v" * size] * width for _ in range(count)]
        ring.extend([a_block(seq, values, (2,) * width)])
        expected += [[seq + n, [2] * width] for n in range(count)]
        seq += count
    batches = page("r", ring.after(0, 1000, 10**9)[2], limit_bytes)
    found = [[row[0], batch.layout] for batch in batches for row in orjson.loads(batch.block)]
    assert found
    assert found == expected[: len(found)]
    assert sum(len(batch.block) for batch in batches) <= limit_bytes + len(batches) + 1200 * (len(found) == 1)
    assert all(a.layout != b.layout for a, b in pairwise(batches))


# --- what may be under way -------------------------------------------------------------------


@given(steps=st.lists(st.one_of(st.integers(1, 600_000), st.just(None)), max_size=300), messages=st.integers(1, 50))
def test_no_more_is_under_way_to_a_listener_than_its_window_and_one_message(steps, messages):
    listener = Listener(new_listener(SAMPLES))
    under_way: list[int] = []
    asked = 0
    for step in steps:
        if step is None:  # it acknowledges what it was asked to
            listener.acknowledge(asked)
            under_way = [total for total in under_way if total > asked]
        elif listener.may_send(messages):
            assert listener.sent_bytes - (under_way[0] if under_way else listener.sent_bytes) < SAMPLES_WINDOW_BYTES
            assert len(under_way) < messages
            if listener.note_sent(step, messages):
                asked = listener.sent_bytes
            under_way.append(listener.sent_bytes)
    listener.acknowledge(listener.sent_bytes)
    assert listener.may_send(messages)


def test_after_a_full_window_batches_are_left_out_until_half_of_it_is_free():
    listener = Listener(new_listener(BATCHES))
    part = BATCHES_WINDOW_BYTES // 8
    while listener.may_send(1000):
        listener.note_sent(part, 1000)
    assert listener.sent_bytes == BATCHES_WINDOW_BYTES
    listener.acknowledge(3 * part)
    assert not listener.may_send(1000)
    listener.acknowledge(5 * part)
    assert listener.may_send(1000)
    listener.acknowledge(part)  # an old acknowledgment changes nothing
    assert listener.may_send(1000)
    listener.acknowledge(None)
    assert listener.may_send(1)


# --- over sockets ----------------------------------------------------------------------------


@pytest.fixture
def served(machines: Machines, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    folder = Path(tempfile.mkdtemp(prefix="tw", dir="/tmp"))
    monkeypatch.setenv("TIMBR_WAMP_RUNTIME_DIR", str(folder))
    yield machines(2, serve=True)
    shutil.rmtree(folder, ignore_errors=True)


Subscribe = Callable[..., "zmq.Socket[bytes]"]


@pytest.fixture
def subscribe(served: Machine) -> Iterator[Subscribe]:
    """Connect subscribers; each is entered when the function returns."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    sockets: list[zmq.Socket[bytes]] = []

    def subscribe(topic: bytes, receive_high_water_mark: int = 0) -> zmq.Socket[bytes]:
        socket = context.socket(zmq.SUB)
        sockets.append(socket)
        socket.setsockopt(zmq.RCVHWM, receive_high_water_mark)
        socket.setsockopt(zmq.SUBSCRIBE, topic)
        before = subscriptions(served)
        socket.connect(str(served.endpoint))
        wait_until(lambda: subscriptions(served) > before, "the subscription is there")
        return socket

    yield subscribe
    for socket in sockets:
        socket.close(linger=0)
    context.term()


def subscriptions(machine: Machine) -> int:
    assert machine._sockets is not None
    machine._sockets.publisher.has_listeners()
    return sum(machine._sockets.publisher._listeners._counts.values())


def step(machine: Machine, *messages: object) -> list[str]:
    return [machine.put(message) and machine.get()[0] for message in messages]


def arrived(socket: zmq.Socket[bytes], until: bytes = b"") -> list[list[bytes]]:
    """Return the messages that are there, or all up to one that contains ``until``."""
    messages = []
    while socket.poll(LIMIT_S * 1000 if until else 0):
        messages.append(socket.recv_multipart())
        if until and any(until in frame for frame in messages[-1]):
            break
    return messages


def test_each_subscriber_gets_its_form_and_no_other(served, subscribe):
    first, second = new_oid(), new_oid()
    served[1] = lambda x: {"n": x}
    everything, also, prefix, batches, sample = map(
        subscribe, (b"", b"", first.encode(), new_listener(BATCHES), new_listener(SAMPLES))
    )
    for number, oid in enumerate((first, second)):
        served.put(number, oid=oid)
        served.get()
    step(served, "last")
    for socket in (everything, also):
        found = arrived(socket, b'"last"')
        assert [frames[0].decode() for frames in found[:2]] == [first, second]
        assert len(found) == 3
        assert found[0][1] == b'[0,0,{"n":0}]'
    assert [frames[1] for frames in arrived(prefix, b"[0")] == [b'[0,0,{"n":0}]']
    for socket in (batches, sample):
        found = arrived(socket, b'"last"')
        heads = [msgspec.json.decode(frames[1], type=BatchHead) for frames in found]
        assert [(head.run, head.first_seq, head.last_seq, head.count) for head in heads] == [
            (served.run, seq, seq, 1) for seq in (1, 2, 3)
        ]
        assert {(tuple(head.layout), head.sampled) for head in heads} == {((2, 1), 1)}
        assert orjson.loads(found[0][2])[0][:3] == [1, first, [0, {"n": 0}]]
    assert not arrived(everything) + arrived(prefix) + arrived(batches)


def test_no_message_id_begins_as_the_topics_of_batches():
    assert BATCHES[0] == SAMPLES[0] == 0
    with pytest.raises(ValueError, match="id"):
        checked_oid((BATCHES + b"0123456789abcdef").decode()[:24])


def test_subscriptions_that_end_take_only_their_own_with_them(served, subscribe):
    everything, also, batches = subscribe(b""), subscribe(b""), subscribe(new_listener(BATCHES))
    everything.setsockopt(zmq.UNSUBSCRIBE, b"")
    wait_until(lambda: subscriptions(served) == 2, "one has unsubscribed")
    step(served, "one")
    assert len(arrived(also, b'"one"')) == len(arrived(batches, b'"one"')) == 1
    batches.close()
    wait_until(lambda: subscriptions(served) == 1, "the listener is gone")
    step(served, "two")
    assert len(arrived(also, b'"two"')) == 1
    assert not arrived(everything)
    also.close()
    wait_until(lambda: subscriptions(served) == 0, "nobody listens")


def test_an_end_of_a_subscription_that_never_was_does_no_harm(served, subscribe):
    with zmq.Context() as context, context.socket(zmq.XSUB) as odd:
        odd.linger = 0
        odd.connect(str(served.endpoint))
        for topic in (b"", new_listener(BATCHES), b"\0", b"abc"):
            odd.send(b"\0" + topic)
        odd.send(b"\1abc")
        wait_until(lambda: subscriptions(served) == 1, "the last subscription is there")
    wait_until(lambda: subscriptions(served) == 0, "it has ended")
    batches = subscribe(new_listener(BATCHES))
    step(served, "one")
    assert len(arrived(batches, b'"one"')) == 1


def test_a_topic_between_the_forms_gets_nothing(served, subscribe):
    odd, everything = subscribe(b"\0"), subscribe(b"")
    listener = subscribe(new_listener(BATCHES))
    step(served, "one")
    assert len(arrived(listener, b'"one"')) == len(arrived(everything, b'"one"')) == 1
    assert not arrived(odd)


def test_a_listener_that_does_not_acknowledge_gets_its_window_and_goes_on_when_it_does(served, subscribe):
    topic = new_listener(BATCHES)
    listener = subscribe(topic)
    size = 200_000
    count = BATCHES_WINDOW_BYTES // size + 20
    step(served, *("x" * size for _ in range(count)))
    found = received(listener)
    assert BATCHES_WINDOW_BYTES <= sum(len(frames[2]) for frames in found) < BATCHES_WINDOW_BYTES + 2 * size
    heads = [msgspec.json.decode(frames[1], type=BatchHead) for frames in found]
    assert [head.acknowledge for head in heads].count(True) >= 3
    assert served._sockets is not None
    served._sockets.publisher.acknowledge(topic, heads[-1].sent_bytes)
    step(served, "after")
    ((_, head, _),) = arrived(listener, b'"after"')
    assert msgspec.json.decode(head, type=BatchHead).first_seq == count + 1


def received(socket: zmq.Socket[bytes]) -> list[list[bytes]]:
    """Return all that is on its way, when nothing more is sent."""
    messages = []
    while socket.poll(300):
        messages.append(socket.recv_multipart())
    return messages


def test_what_waits_for_a_slow_subscriber_of_single_records_is_bounded_in_bytes(served, subscribe):
    slow = subscribe(b"", receive_high_water_mark=1)
    large = "x" * 600_000
    step(served, *(large for _ in range(120)))
    waiting = sum(len(frames[1]) for frames in received(slow))
    assert waiting < SEND_BYTES + 10 * 2**20 < 120 * 3 * 600_000
    step(served, *range(100), "small again")
    assert arrived(slow, b"small again")


def test_above_the_cap_the_machine_sends_a_sample(served, subscribe):
    sample, batches = subscribe(new_listener(SAMPLES)), subscribe(new_listener(BATCHES))
    served.configure(bufsize=20_000)
    for number in range(10_000):
        served.put(number)
    started = time.monotonic()
    served.start()
    assert served.wait(LIMIT_S)
    elapsed_s = time.monotonic() - started
    served.put("last")
    arrived(batches, b'"last"')
    heads = [msgspec.json.decode(frames[1], type=BatchHead) for frames in received(sample)]
    assert max(head.sampled for head in heads) > 1
    windows = elapsed_s / Sampler.WINDOW_S + 2
    assert sum(head.count for head in heads) <= EVENTS_PER_S * Sampler.WINDOW_S * windows
