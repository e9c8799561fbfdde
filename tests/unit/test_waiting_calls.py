"""Calls of the local wire that wait, that are cancelled, and how many there may be."""

from __future__ import annotations

import asyncio
import itertools
import threading

import msgspec
import pytest
from machine_kit import LIMIT_S
from wait_kit import wait_until
from wire_kit import Peer

from timbr_wamp.contract import PAYLOAD_LIMIT_BYTES
from timbr_wamp.errors import CallCancelled, ControlBusy, InvalidArgument, from_wire
from timbr_wamp.machine import Machine
from timbr_wamp.machine.serving.control import RUNNING, WAITING
from timbr_wamp.machine.serving.waiting_calls import MESSAGES_LIMIT
from timbr_wamp.places import Places

STR = {"kind": "source", "text": "str"}


def control_threads(machine: Machine) -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(f"timbr {machine.name} ")]


def refused(peer: Peer, name: str, *args: object) -> ControlBusy:
    """Return why there was no place for a call."""
    _, kind, value = peer.reply(peer.send(name, *args))
    assert kind == "error", f"there was a place: {kind}, {value}"
    error = from_wire(*value)
    assert isinstance(error, ControlBusy)
    return error


def assert_cancelled(peer: Peer, number: int) -> None:
    with pytest.raises(CallCancelled):
        peer.result(number)


# --- places ----------------------------------------------------------------------------------


def test_a_newcomer_finds_a_place_until_many_have_taken_what_they_could():
    places = Places(16)
    taken = dict.fromkeys("abcdefgh", 0)
    for author in taken:
        while places.enter(author):
            taken[author] += 1
    assert taken == {"a": 8, "b": 4, "c": 2, "d": 1, "e": 1, "f": 0, "g": 0, "h": 0}
    places.leave("a", 8)
    assert places.enter("h")


def test_calls_of_one_kind_and_one_author_keep_out_nobody_else(served, peer, new_gate):
    gate = new_gate()
    served[0] = gate
    calls = [peer.send("call", n) for n in range(RUNNING // 2)]
    for _ in calls:
        gate.wait_until_entered()
    with pytest.raises(ControlBusy, match=str(RUNNING // 2)):
        peer.call("call", 99)
    other = peer.send("call", 8, author="bob")
    gate.wait_until_entered()
    assert peer.call("slot_set", 1, STR)["change"] == "set 1"
    assert peer.call("rollback", 0)["change"]
    assert peer.call("stop")["state"] == "stopped"
    assert peer.call("start")["state"] == "running"
    gate.open()
    texts = [str(peer.result(call)["text"])[1] for call in [*calls, other]]
    assert sorted(texts) == [str(n) for n in range(RUNNING // 2 + 1)]


# --- waiting holds no thread -----------------------------------------------------------------


def test_waiting_calls_hold_no_thread_and_keep_nobody_out(served, peer):
    served.start()
    served.pause()
    while served.status.queue_size < 100:
        served.put("waits")
    before = control_threads(served)
    puts = [peer.send("put_many", [n, n], timeout_s=30.0) for n in range(50)]
    watches = [peer.send("progress", 30.0, 86_400.0) for _ in range(50)]
    for watch in watches:
        assert peer.reply(watch)[1] == "progress"
    assert control_threads(served) == before
    assert peer.call("slot_set", 0, STR)["change"] == "set 0"
    assert len(peer.call("call", 1)["oid"]) == 24
    served.resume()
    assert [len(peer.result(put)["oids"]) for put in puts] == [2] * 50
    wait_until(lambda: served.status.processed == 200, "all was processed")
    served.stop()
    for watch in watches:
        while (reply := peer.reply(watch))[1] == "progress":
            pass
        assert reply[2]["state"] == "stopped"


def test_waiting_calls_are_bounded(served, peer):
    served.start()
    for _ in range(WAITING // 2):
        peer.send("progress", 30.0)
    assert refused(peer, "progress", 30.0).under_way == WAITING // 2
    assert peer.status().state == "running"


def test_put_many_puts_what_has_room_and_ends_in_time(served, peer):
    reply = peer.call("put_many", list(range(150)), timeout_s=0.3)
    assert (len(reply["oids"]), reply["refused"]) == (100, 50)
    with pytest.raises(InvalidArgument, match="oids"):
        peer.call("put_many", [1, 2], ["0" * 24], 5.0)


def test_put_many_waits_for_room_though_a_hook_is_slow(served, peer, new_gate):
    gate = new_gate()
    served.hook("pre_put", lambda message: gate(message) if message == "gate" else None)
    asked = peer.send("put_many", ["gate", *range(150)], timeout_s=LIMIT_S)
    gate.wait_until_entered()
    assert peer.status().put == 0
    gate.open()
    served.start()
    assert len(peer.result(asked)["oids"]) == 151
    assert served.wait(LIMIT_S)


def test_a_large_put_many_leaves_the_control_thread_time_for_others(machines, runtime_dir, connect):
    machine = machines(bufsize=2 * MESSAGES_LIMIT, serve=True)
    peer = connect(machine)
    asked = peer.send("put_many", [0] * MESSAGES_LIMIT)
    assert peer.status().put < MESSAGES_LIMIT
    reply = peer.reply(asked)
    assert len(reply[2]["oids"]) == MESSAGES_LIMIT
    assert len(msgspec.msgpack.encode(reply)) < PAYLOAD_LIMIT_BYTES


def test_more_messages_than_an_answer_can_name_are_refused_before_any_is_put(served, peer):
    for name, *args in (("put_many", [0] * (MESSAGES_LIMIT + 1)), ("replay", served.run, [1] * (MESSAGES_LIMIT + 1))):
        with pytest.raises(InvalidArgument, match="too many"):
            peer.call(name, *args)
    assert peer.status().put == 0


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf"), 2.0**70, 1e10])
def test_a_timeout_that_is_no_time_is_refused(served, peer, number):
    for name, *args in (("progress", 0.1, number), ("put_many", [1], None, number), ("stop", False, number)):
        with pytest.raises(InvalidArgument, match="timeout_s"):
            peer.call(name, *args)


# --- cancelling ------------------------------------------------------------------------------


def test_a_cancelled_wait_gives_its_place_back_and_puts_nothing(served, peer):
    while served.status.queue_size < 100:
        served.put("waits")
    number = peer.send("put_many", ["never"], timeout_s=60.0)
    watch = peer.send("put_many", ["after"], timeout_s=60.0)
    peer.status()
    peer.cancel(number)
    peer.status()
    served.start()
    assert len(peer.result(watch)["oids"]) == 1
    assert served.wait(LIMIT_S)
    assert "never" not in [record.input for record in served.recent(200)]


def test_a_client_that_has_gone_is_noticed_and_its_calls_are_cancelled(served, peer, connect):
    served.start()
    gone = connect(served)
    numbers = [gone.send("progress", 0.1, 86_400.0) for _ in range(WAITING // 2)]
    assert gone.reply(numbers[-1])[1] == "progress"
    assert refused(peer, "progress", 30.0)
    gone.close()

    def there_is_room() -> bool:
        number = peer.send("progress", 30.0, 0.1)
        return peer.reply(number)[1] == "progress"

    wait_until(there_is_room, "the places were given back")


def test_cancelling_a_call_cancels_an_async_slot(served, peer):
    entered, ended = threading.Event(), threading.Event()

    async def slow(value):
        entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.set()
            raise

    later = []
    served[0] = slow
    served[1] = later.append
    number = peer.send("call", 1)
    assert entered.wait(LIMIT_S)
    peer.cancel(number)
    assert ended.wait(LIMIT_S)
    assert_cancelled(peer, number)
    assert later == []


def test_cancelling_a_call_abandons_a_slot_in_threads(machines, runtime_dir, connect, new_gate):
    machine = machines(executor="threads", serve=True)
    peer, gate, later = connect(machine), new_gate(), []
    machine[0] = gate
    machine[1] = later.append
    number = peer.send("call", 1)
    gate.wait_until_entered()
    peer.cancel(number)
    assert_cancelled(peer, number)
    assert machine.status.policies.abandoned == 1
    gate.open()
    wait_until(lambda: machine.status.policies.abandoned == 0, "the slot ended")
    assert later == []


def test_cancelling_a_call_ends_the_child_process_that_runs_it(machines, runtime_dir, connect, tmp_path):
    machine = machines(executor="processes", serve=True)
    peer = connect(machine)
    mark = tmp_path / "entered"

    def slow(value):
        mark.touch()
        threading.Event().wait(3600)

    machine[0] = slow
    number = peer.send("call", 1)
    wait_until(mark.exists, "the child called the slot")
    peer.cancel(number)
    assert_cancelled(peer, number)
    machine[0] = "lambda x: x + 1"
    assert peer.call("call", 1)["text"].startswith("[1,2")


def test_a_slot_of_the_machines_own_thread_cannot_be_cancelled_but_nothing_runs_after_it(served, peer, new_gate):
    gate, later = new_gate(), []
    served[0] = gate
    served[1] = later.append
    number = peer.send("call", 1)
    gate.wait_until_entered()
    peer.cancel(number)
    peer.status()
    gate.open()
    assert_cancelled(peer, number)
    assert later == []


def test_a_cancelled_call_waits_for_no_retry(served, peer):
    tries = itertools.count()

    def fails(value):
        next(tries)
        raise ValueError

    served.set(0, fails, policy={"retries": 5, "backoff_s": 60.0})
    number = peer.send("call", 1)
    wait_until(lambda: repr(tries) == "count(1)", "the slot raised")
    peer.cancel(number)
    assert_cancelled(peer, number)
    assert repr(tries) == "count(1)"


def test_a_queued_put_that_is_cancelled_is_not_put(served, peer, new_gate):
    gate = new_gate()
    served.hook("pre_put", gate)
    first, second, third = (peer.send("put", n) for n in range(3))
    gate.wait_until_entered()
    peer.cancel(second)
    peer.status()
    gate.open()
    for number in (first, third):
        peer.result(number)
    assert peer.status().put == 2


def test_to_cancel_what_is_not_there_does_nothing(served, peer):
    peer.cancel(12345)
    assert peer.status().name == served.name
