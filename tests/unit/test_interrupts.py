"""An interrupt at any point leaves the queue whole: counts add up, locks are free, no message is lost or doubled."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from feeder_kit import Rig
from interrupt_kit import interrupt_at, interrupt_everywhere
from machine_kit import LIMIT_S, assert_counts_add_up, in_thread

from timbr_wamp.errors import MachineFull
from timbr_wamp.machine import waiting
from timbr_wamp.machine.intake.message_queue import MessageQueue
from timbr_wamp.machine.messages import Entry


def entry(n: int) -> Entry:
    return (f"{n:024x}", n, 0.0, 1)


class Used:
    """A queue of four with messages 1 to 3, of which the first was taken; what a test's call took is in `taken`."""

    def __init__(self) -> None:
        self.queue = MessageQueue(4, on_full=lambda: None)
        for n in (1, 2, 3):
            self.queue.put(entry(n))
        self.first = self.queue.take(1, 0.0)
        self.taken: list[Entry] = []

    def drained(self) -> list[Any]:
        """Give back what the call took, and return all messages in their order, taken by another thread."""
        in_thread(self.queue.give_back, self.taken).result()
        entries = in_thread(self.queue.take, 100, 0.0).result()
        in_thread(self.queue.finish, len(entries)).result()
        return [message for _, message, _, _ in entries]


def whole(used: Used) -> None:
    """Fail unless counts add up and another thread gets in."""
    counts = in_thread(used.queue.snapshot).result()
    assert_counts_add_up(counts)
    assert counts.in_flight == len(used.first) + len(used.taken)


def test_put_queues_the_message_or_does_not_and_the_counts_say_which():
    seen = set()

    def check(used: Used, number: int) -> None:
        whole(used)
        put = used.queue.snapshot().put
        assert used.drained() == [2, 3, 4][: put - 1]
        seen.add(put)

    assert interrupt_everywhere(Used, lambda used: used.queue.put(entry(4)), check) > 3
    assert seen == {3, 4}, "before and after the message was queued"


def test_an_id_given_by_the_caller_is_put_once_although_the_first_put_was_interrupted():
    def check(used: Used, number: int) -> None:
        whole(used)
        in_thread(used.queue.put, entry(4), known=True).result()
        assert used.drained() == [2, 3, 4]

    assert interrupt_everywhere(Used, lambda used: used.queue.put(entry(4), known=True), check) > 10


def test_a_refused_put_is_counted_at_most_once():
    def full() -> Used:
        used = Used()
        used.queue.offer([entry(4), entry(5)], 0.0)
        return used

    def refused(used: Used) -> None:
        with pytest.raises(MachineFull):
            used.queue.put(entry(6))

    def check(used: Used, number: int) -> None:
        whole(used)
        assert used.queue.snapshot().refused in (0, 1)
        assert used.drained() == [2, 3, 4, 5]

    assert interrupt_everywhere(full, refused, check) > 10


def test_what_an_interrupted_take_took_is_with_its_caller_and_can_be_given_back():
    def check(used: Used, number: int) -> None:
        whole(used)
        assert used.drained() == [2, 3]

    assert interrupt_everywhere(Used, lambda used: used.queue.take(2, 0.0, into=used.taken), check) > 10


def test_what_is_given_back_is_in_the_queue_whatever_interrupts_it():
    def check(used: Used, number: int) -> None:
        counts = used.queue.snapshot()
        assert_counts_add_up(counts)
        assert used.drained() in ([2, 3], [1, 2, 3]), "not given back yet, or all of it"

    assert interrupt_everywhere(Used, lambda used: used.queue.give_back(used.first), check) > 10


@pytest.mark.parametrize(
    "call",
    [
        lambda used: used.queue.finish(processed=1),
        lambda used: used.queue.set_aside([entry(4)]),
        lambda used: used.queue.snapshot(),
        lambda used: used.queue.idle(),
        lambda used: used.queue.resize(9),
        lambda used: used.queue.wake(),
        lambda used: used.queue.offer([entry(4)], 0.0),
        lambda used: used.queue.fill(iter([entry(4), entry(5)])),
        lambda used: used.queue.wait_change(0.0),
        lambda used: used.queue.close(),
    ],
    ids=["finish", "set_aside", "snapshot", "idle", "resize", "wake", "offer", "fill", "wait_change", "close"],
)
def test_every_other_call_leaves_the_queue_whole(call):
    def check(used: Used, number: int) -> None:
        assert_counts_add_up(in_thread(used.queue.snapshot).result())
        assert in_thread(used.queue.take, 100, 0.0).result()[:2] == [entry(2), entry(3)]

    assert interrupt_everywhere(Used, call, check) > 3


def waits_then(act: Callable[[Used], object], wait: Callable[[Used], object]) -> Callable[[Used], None]:
    """Return a call that waits, while another thread does in time what ends the wait."""

    def call(used: Used) -> None:
        helper = threading.Timer(0.002, act, [used])
        helper.start()
        try:
            wait(used)
        finally:
            helper.join()

    return call


def test_a_put_that_waits_for_room_leaves_the_queue_whole():
    def full() -> Used:
        used = Used()
        used.queue.offer([entry(4), entry(5)], 0.0)
        return used

    def make_room(used: Used) -> None:
        used.first += used.queue.take(2, 0.0)

    def check(used: Used, number: int) -> None:
        whole(used)
        assert used.drained() in ([4, 5], [4, 5, 6])

    call = waits_then(make_room, lambda used: used.queue.put(entry(6), block=True, timeout_s=LIMIT_S))
    assert interrupt_everywhere(full, call, check, modules=["timbr_wamp.machine"]) > 20


def test_a_take_that_waits_for_a_message_leaves_the_queue_whole():
    def empty() -> Used:
        used = Used()
        used.first += used.queue.take(2, 0.0)
        return used

    def check(used: Used, number: int) -> None:
        whole(used)
        assert used.drained() == [4]

    call = waits_then(lambda used: used.queue.put(entry(4)), lambda used: used.queue.take(1, LIMIT_S, into=used.taken))
    assert interrupt_everywhere(empty, call, check, modules=["timbr_wamp.machine"]) > 20


def test_a_reader_whose_wake_up_was_interrupted_finds_the_message_soon(monkeypatch):
    monkeypatch.setattr(waiting, "WAKE_LIMIT_S", 0.01)
    for number in range(1, 200):
        queue = MessageQueue(4)
        reader = in_thread(queue.take, 1, 60.0)
        interrupted = interrupt_at(lambda: queue.put(entry(1)), number)  # noqa: B023
        if not queue.snapshot().put:
            queue.put(entry(1))
        assert reader.result() == [entry(1)]
        if not interrupted:
            return


# --- sources ---


def read_to_its_end(rig: Rig) -> None:
    """Fail unless another thread can let the source read, and every message comes once and in order."""
    in_thread(rig.feeder.permit).result()
    assert rig.run_to_end() == list(range(20))
    counts = in_thread(rig.queue.snapshot).result()
    assert_counts_add_up(counts)
    assert (counts.put, counts.in_flight) == (20, 0)


@pytest.mark.parametrize("make", [lambda: (n for n in range(20)), lambda: list(range(20))], ids=["threaded", "ready"])
@pytest.mark.parametrize("verb", ["permit", "hold", "read_ready"])
def test_an_interrupted_verb_of_a_source_loses_no_message(make, verb):
    arguments = (3,) if verb == "read_ready" else ()

    def started() -> Rig:
        rig = Rig(make(), bufsize=4)
        if verb != "permit":
            rig.feeder.permit()
        return rig

    def check(rig: Rig, number: int) -> None:
        read_to_its_end(rig)
        rig.close()

    def call(rig: Rig) -> None:
        getattr(rig.feeder, verb)(*arguments)

    assert interrupt_everywhere(started, call, check, modules=["timbr_wamp.machine"]) > 1


def test_an_interrupted_close_ends_the_source_when_it_is_closed_again():
    def started() -> Rig:
        return Rig(n for n in range(20)).start()

    def check(rig: Rig, number: int) -> None:
        rig.close()
        assert not rig.reading

    assert interrupt_everywhere(started, lambda rig: rig.feeder.close(), check, modules=["timbr_wamp.machine"]) > 1
