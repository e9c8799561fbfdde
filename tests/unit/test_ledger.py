"""The queue and every count of a machine, always adding up."""

from __future__ import annotations

import asyncio
import contextvars

import pytest
from machine_kit import in_thread, wait_until

from timbr_wamp.errors import InvalidArgument, MachineClosed, MachineFull, WouldDeadlock
from timbr_wamp.machine.intake.message_queue import KNOWN_OIDS, Droppable, MessageQueue
from timbr_wamp.machine.processing import is_processing, mark_thread, processing


def entry(n: int) -> tuple[str, object, float, int]:
    return (f"{n:024x}", n, 0.0, 1)


def put(ledger: MessageQueue, *numbers: int) -> None:
    for n in numbers:
        ledger.put(entry(n))


def messages(entries: list) -> list[object]:
    return [message for _, message, _, _ in entries]


@pytest.fixture
def ledger():
    made = MessageQueue(3)
    yield made
    made.snapshot().validate()


def test_messages_leave_in_the_order_they_came(ledger):
    put(ledger, 1, 2, 3)
    assert messages(ledger.take(2, 0.0)) == [1, 2]
    assert messages(ledger.take(2, 0.0)) == [3]
    assert ledger.take(2, 0.0) == []


def test_a_full_queue_refuses_and_counts_apart_what_it_refused(ledger):
    put(ledger, 1, 2, 3)
    with pytest.raises(MachineFull, match=r"the queue is full \(3 messages\)"):
        put(ledger, 4)
    counts = ledger.snapshot()
    assert (counts.put, counts.refused, counts.queue_size) == (3, 1, 3)


def test_what_is_taken_is_in_flight_until_it_is_accounted_for(ledger):
    put(ledger, 1, 2, 3)
    ledger.take(3, 0.0)
    assert ledger.snapshot().in_flight == 3
    ledger.finish(processed=1, errored=1, dropped=1)
    counts = ledger.snapshot()
    assert (counts.processed, counts.errored, counts.dropped, counts.in_flight) == (1, 1, 1, 0)
    assert ledger.idle()


def test_what_is_given_back_goes_first_again_in_its_order(ledger):
    put(ledger, 1, 2, 3)
    taken = ledger.take(3, 0.0)
    put(ledger, 4)
    ledger.give_back(taken[1:])
    assert messages(ledger.take(9, 0.0)) == [2, 3, 4]


def test_what_is_given_back_may_stand_above_the_capacity_and_nothing_is_lost(ledger):
    put(ledger, 1, 2, 3)
    taken = ledger.take(3, 0.0)
    put(ledger, 4, 5, 6)
    ledger.give_back(taken)
    assert ledger.snapshot().queue_size == 6
    with pytest.raises(MachineFull):
        put(ledger, 7)
    assert messages(ledger.take(9, 0.0)) == [1, 2, 3, 4, 5, 6]


def test_a_writer_that_waits_gets_in_when_there_is_room(ledger):
    put(ledger, 1, 2, 3)
    writer = in_thread(ledger.put, entry(4), block=True)
    ledger.take(3, 0.0)
    assert writer.result() is True
    assert messages(ledger.take(9, 0.0)) == [4]


def test_a_writer_that_waits_gets_in_when_the_reader_steps_one_message_at_a_time(ledger):
    put(ledger, 1, 2, 3)
    writer = in_thread(ledger.put, entry(4), block=True)
    ledger.take(1, 0.0)
    assert writer.result() is True


def test_a_writer_that_waits_gets_into_the_room_that_a_stopped_reader_left(ledger):
    big = MessageQueue(100)
    put(big, *range(100))
    writer = in_thread(big.put, entry(100), block=True)
    big.take(10, 0.0)
    big.wake()
    assert writer.result() is True


def test_a_writer_that_waits_too_long_is_refused(ledger):
    put(ledger, 1, 2, 3)
    with pytest.raises(MachineFull):
        ledger.put(entry(4), block=True, timeout_s=0.01)
    assert ledger.snapshot().refused == 1


def test_closing_ends_the_wait_of_writers_and_readers(ledger):
    reader = in_thread(ledger.take, 1, 60.0)
    full = MessageQueue(1)
    full.put(entry(1))
    writer = in_thread(full.put, entry(2), block=True)
    ledger.close()
    full.close()
    assert reader.result() == []
    with pytest.raises(MachineClosed):
        writer.result()
    with pytest.raises(MachineClosed):
        ledger.put(entry(3))
    assert full.snapshot().refused == 0


def test_a_waiting_reader_is_woken_by_a_message_and_by_wake(ledger):
    reader = in_thread(ledger.take, 1, 60.0)
    put(ledger, 1)
    assert messages(reader.result()) == [1]
    other = in_thread(ledger.take, 1, 60.0)
    wait_until(lambda: ledger.wake() or other.done, "the reader looked around")
    assert other.result() == []


def test_a_reader_is_not_put_to_sleep_by_what_happened_since_it_last_looked(ledger):
    wakes = ledger.wakes
    ledger.wake()
    assert in_thread(ledger.take, 1, 60.0, wakes).result() == []


def test_an_id_given_by_the_caller_is_put_once(ledger):
    assert ledger.put(entry(1), known=True) is True
    assert ledger.put(entry(1), known=True) is False
    ledger.take(1, 0.0)
    ledger.finish(processed=1)
    assert ledger.put(entry(1), known=True) is False
    assert ledger.snapshot().put == 1


def test_an_id_that_was_refused_may_be_put_again(ledger):
    put(ledger, 1, 2, 3)
    with pytest.raises(MachineFull):
        ledger.put(entry(4), known=True)
    ledger.take(3, 0.0)
    assert ledger.put(entry(4), known=True) is True


def test_two_writers_with_one_id_that_both_wait_for_room_put_it_once(ledger):
    put(ledger, 1, 2, 3)
    writers = [in_thread(ledger.put, entry(4), block=True, known=True) for _ in range(2)]
    ledger.take(3, 0.0)
    assert sorted(writer.result() for writer in writers) == [False, True]


def test_known_ids_are_bounded():
    ledger = MessageQueue(KNOWN_OIDS + 10)
    for n in range(KNOWN_OIDS + 1):
        ledger.put(entry(n), known=True)
    assert ledger.put(entry(1), known=True) is False
    assert ledger.put(entry(0), known=True) is True


def test_offering_queues_what_there_is_room_for_and_refuses_nothing(ledger):
    put(ledger, 1)
    assert ledger.offer([entry(n) for n in (2, 3, 4)], 0.0) == 2
    assert ledger.offer([entry(4)], 0.01) == 0
    counts = ledger.snapshot()
    assert (counts.put, counts.refused, counts.queue_size) == (3, 0, 3)


def test_offering_to_a_closed_ledger_queues_nothing(ledger):
    ledger.close()
    assert ledger.offer([entry(1)], 0.0) == 0


def test_a_smaller_capacity_keeps_what_waits_and_a_larger_one_lets_writers_in(ledger):
    put(ledger, 1, 2, 3)
    ledger.resize(1)
    assert ledger.snapshot().queue_size == 3
    with pytest.raises(MachineFull):
        put(ledger, 4)
    writer = in_thread(ledger.put, entry(4), block=True)
    ledger.resize(4)
    assert writer.result() is True


@pytest.mark.parametrize("capacity", [0, -1, 1.5, "8", True, None])
def test_a_capacity_is_a_whole_number_of_at_least_1(capacity):
    with pytest.raises(InvalidArgument, match="bufsize"):
        MessageQueue(capacity)


def test_what_is_set_aside_is_put_and_under_way_but_never_waits(ledger):
    put(ledger, 1)
    ledger.set_aside([entry(2), entry(3)])
    counts = ledger.snapshot()
    assert (counts.put, counts.queue_size, counts.in_flight) == (3, 1, 2)
    ledger.finish(dropped=2)
    assert messages(ledger.take(9, 0.0)) == [1]
    assert ledger.snapshot().dropped == 2


def test_the_oldest_droppable_messages_make_room_and_no_others(ledger):
    ledger.offer([Droppable(entry(1))], 0.0)
    put(ledger, 2)
    ledger.offer([Droppable(entry(3))], 0.0)
    dropped = ledger.displace([Droppable(entry(4)), Droppable(entry(5)), Droppable(entry(6))])
    assert messages(dropped) == [1, 3, 4]
    assert ledger.snapshot().in_flight == 3
    ledger.finish(dropped=3)
    assert messages(ledger.take(9, 0.0)) == [2, 5, 6]


def test_nothing_is_displaced_while_there_is_room(ledger):
    assert ledger.displace([Droppable(entry(1)), Droppable(entry(2))]) == []
    assert messages(ledger.take(9, 0.0)) == [1, 2]


def test_displacing_wakes_a_reader_that_waits(ledger):
    reader = in_thread(ledger.take, 1, 60.0)
    ledger.displace([Droppable(entry(1))])
    assert messages(reader.result()) == [1]


def test_an_eager_writer_gets_in_with_any_room(ledger):
    big = MessageQueue(100)
    put(big, *range(100))
    writer = in_thread(big.offer, [entry(100)], 60.0, eager=True)
    wait_until(lambda: big.crowded, "it found no room")
    big.take(2, 0.0)
    assert writer.result() == 1


def test_what_a_reader_gave_back_is_never_displaced(ledger):
    ledger.offer([Droppable(entry(n)) for n in (1, 2, 3)], 0.0)
    ledger.give_back(ledger.take(2, 0.0))
    dropped = ledger.displace([Droppable(entry(4)), Droppable(entry(5))])
    assert messages(dropped) == [3, 4]
    ledger.finish(dropped=2)
    assert messages(ledger.take(9, 0.0)) == [1, 2, 5]


# --- who would wait for itself ---


def test_a_put_that_would_wait_for_its_own_caller_is_refused_with_the_reason(ledger):
    put(ledger, 1, 2, 3)
    with processing(ledger):
        with pytest.raises(WouldDeadlock, match=r"put\(block=True\)"):
            ledger.put(entry(4), block=True)
        with pytest.raises(MachineFull):
            ledger.put(entry(4))
        ledger.take(1, 0.0)
        assert ledger.put(entry(4), block=True) is True, "there is room"
    assert ledger.snapshot().refused == 2


def test_tasks_and_threads_of_an_event_loop_are_part_of_what_started_them(ledger):
    put(ledger, 1, 2, 3)

    async def waits() -> None:
        await asyncio.to_thread(ledger.put, entry(4), block=True)

    with processing(ledger), pytest.raises(WouldDeadlock):
        asyncio.run(waits())
    with processing(ledger):
        helper = in_thread(ledger.put, entry(4), block=True)
    ledger.take(3, 0.0)
    assert helper.result() is True, "a thread of its own may wait"


def test_processing_a_message_of_one_machine_may_wait_for_another(ledger):
    put(ledger, 1, 2, 3)
    with processing(object()):
        writer = in_thread(ledger.put, entry(4), block=True)
    ledger.take(3, 0.0)
    assert writer.result() is True
    assert not is_processing(ledger)
    context = contextvars.copy_context()
    context.run(mark_thread, ledger)
    assert context.run(is_processing, ledger)
