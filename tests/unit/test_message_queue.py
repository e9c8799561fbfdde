"""The queue and the counts of a machine, which always add up."""

from __future__ import annotations

import asyncio
import contextvars

import pytest
from machine_kit import assert_counts_add_up, in_thread
from wait_kit import wait_until

from timbr_wamp.errors import InvalidArgument, MachineClosed, MachineFull, WouldDeadlock
from timbr_wamp.machine.intake.message_queue import KNOWN_OIDS, Droppable, MessageQueue
from timbr_wamp.machine.processing import is_processing, mark_thread, processing


def entry(n: int) -> tuple[str, object, float, int]:
    return (f"{n:024x}", n, 0.0, 1)


def put(queue: MessageQueue, *numbers: int) -> None:
    for n in numbers:
        queue.put(entry(n))


def messages(entries: list) -> list[object]:
    return [message for _, message, _, _ in entries]


@pytest.fixture
def queue():
    made = MessageQueue(3)
    yield made
    assert_counts_add_up(made.snapshot())


def test_messages_leave_in_the_order_they_came(queue):
    put(queue, 1, 2, 3)
    assert messages(queue.take(2, 0.0)) == [1, 2]
    assert messages(queue.take(2, 0.0)) == [3]
    assert queue.take(2, 0.0) == []


def test_a_full_queue_refuses_and_counts_apart_what_it_refused(queue):
    put(queue, 1, 2, 3)
    with pytest.raises(MachineFull, match=r"the queue is full \(3 messages\)"):
        put(queue, 4)
    counts = queue.snapshot()
    assert (counts.put, counts.refused, counts.queue_size) == (3, 1, 3)


def test_what_is_taken_is_in_flight_until_it_is_accounted_for(queue):
    put(queue, 1, 2, 3)
    queue.take(3, 0.0)
    assert queue.snapshot().in_flight == 3
    queue.finish(processed=1, errored=1, dropped=1)
    counts = queue.snapshot()
    assert (counts.processed, counts.errored, counts.dropped, counts.in_flight) == (1, 1, 1, 0)
    assert queue.idle()


def test_what_is_given_back_goes_first_again_in_its_order(queue):
    put(queue, 1, 2, 3)
    taken = queue.take(3, 0.0)
    put(queue, 4)
    queue.give_back(taken[1:])
    assert messages(queue.take(9, 0.0)) == [2, 3, 4]


def test_what_is_given_back_may_stand_above_the_capacity_and_nothing_is_lost(queue):
    put(queue, 1, 2, 3)
    taken = queue.take(3, 0.0)
    put(queue, 4, 5, 6)
    queue.give_back(taken)
    assert queue.snapshot().queue_size == 6
    with pytest.raises(MachineFull):
        put(queue, 7)
    assert messages(queue.take(9, 0.0)) == [1, 2, 3, 4, 5, 6]


def test_a_writer_that_waits_gets_in_when_there_is_room(queue):
    put(queue, 1, 2, 3)
    writer = in_thread(queue.put, entry(4), block=True)
    queue.take(3, 0.0)
    assert writer.result() is True
    assert messages(queue.take(9, 0.0)) == [4]


def test_a_writer_that_waits_gets_in_when_the_reader_steps_one_message_at_a_time(queue):
    put(queue, 1, 2, 3)
    writer = in_thread(queue.put, entry(4), block=True)
    queue.take(1, 0.0)
    assert writer.result() is True


def test_a_writer_that_waits_gets_into_the_room_that_a_stopped_reader_left(queue):
    big = MessageQueue(100)
    put(big, *range(100))
    writer = in_thread(big.put, entry(100), block=True)
    big.take(10, 0.0)
    big.wake()
    assert writer.result() is True


def test_a_writer_that_waits_too_long_is_refused(queue):
    put(queue, 1, 2, 3)
    with pytest.raises(MachineFull):
        queue.put(entry(4), block=True, timeout_s=0.01)
    assert queue.snapshot().refused == 1


def test_closing_ends_the_wait_of_writers_and_readers(queue):
    reader = in_thread(queue.take, 1, 60.0)
    full = MessageQueue(1)
    full.put(entry(1))
    writer = in_thread(full.put, entry(2), block=True)
    queue.close()
    full.close()
    assert reader.result() == []
    with pytest.raises(MachineClosed):
        writer.result()
    with pytest.raises(MachineClosed):
        queue.put(entry(3))
    assert full.snapshot().refused == 0


def test_a_waiting_reader_is_woken_by_a_message_and_by_wake(queue):
    reader = in_thread(queue.take, 1, 60.0)
    put(queue, 1)
    assert messages(reader.result()) == [1]
    other = in_thread(queue.take, 1, 60.0)
    wait_until(lambda: queue.wake() or other.done, "the reader looked around")
    assert other.result() == []


def test_a_reader_is_not_put_to_sleep_by_what_happened_since_it_last_looked(queue):
    wakes = queue.wakes
    queue.wake()
    assert in_thread(queue.take, 1, 60.0, wakes).result() == []


def test_an_id_given_by_the_caller_is_put_once(queue):
    assert queue.put(entry(1), known=True) is True
    assert queue.put(entry(1), known=True) is False
    queue.take(1, 0.0)
    queue.finish(processed=1)
    assert queue.put(entry(1), known=True) is False
    assert queue.snapshot().put == 1


def test_an_id_that_was_refused_may_be_put_again(queue):
    put(queue, 1, 2, 3)
    with pytest.raises(MachineFull):
        queue.put(entry(4), known=True)
    queue.take(3, 0.0)
    assert queue.put(entry(4), known=True) is True


def test_two_writers_with_one_id_that_both_wait_for_room_put_it_once(queue):
    put(queue, 1, 2, 3)
    writers = [in_thread(queue.put, entry(4), block=True, known=True) for _ in range(2)]
    queue.take(3, 0.0)
    assert sorted(writer.result() for writer in writers) == [False, True]


def test_known_ids_are_bounded():
    queue = MessageQueue(KNOWN_OIDS + 10)
    for n in range(KNOWN_OIDS + 1):
        queue.put(entry(n), known=True)
    assert queue.put(entry(1), known=True) is False
    assert queue.put(entry(0), known=True) is True


def test_offering_queues_what_there_is_room_for_and_refuses_nothing(queue):
    put(queue, 1)
    assert queue.offer([entry(n) for n in (2, 3, 4)], 0.0) == 2
    assert queue.offer([entry(4)], 0.01) == 0
    counts = queue.snapshot()
    assert (counts.put, counts.refused, counts.queue_size) == (3, 0, 3)


def test_offering_to_a_closed_queue_queues_nothing(queue):
    queue.close()
    assert queue.offer([entry(1)], 0.0) == 0


def test_a_smaller_capacity_keeps_what_waits_and_a_larger_one_lets_writers_in(queue):
    put(queue, 1, 2, 3)
    queue.resize(1)
    assert queue.snapshot().queue_size == 3
    with pytest.raises(MachineFull):
        put(queue, 4)
    writer = in_thread(queue.put, entry(4), block=True)
    queue.resize(4)
    assert writer.result() is True


@pytest.mark.parametrize("capacity", [0, -1, 1.5, "8", True, None])
def test_a_capacity_is_a_whole_number_of_at_least_1(capacity):
    with pytest.raises(InvalidArgument, match="bufsize"):
        MessageQueue(capacity)


def test_what_is_set_aside_is_put_and_under_way_but_never_waits(queue):
    put(queue, 1)
    queue.set_aside([entry(2), entry(3)])
    counts = queue.snapshot()
    assert (counts.put, counts.queue_size, counts.in_flight) == (3, 1, 2)
    queue.finish(dropped=2)
    assert messages(queue.take(9, 0.0)) == [1]
    assert queue.snapshot().dropped == 2


def test_the_oldest_droppable_messages_make_room_and_no_others(queue):
    queue.offer([Droppable(entry(1))], 0.0)
    put(queue, 2)
    queue.offer([Droppable(entry(3))], 0.0)
    dropped = queue.displace([Droppable(entry(4)), Droppable(entry(5)), Droppable(entry(6))])
    assert messages(dropped) == [1, 3, 4]
    assert queue.snapshot().in_flight == 3
    queue.finish(dropped=3)
    assert messages(queue.take(9, 0.0)) == [2, 5, 6]


def test_nothing_is_displaced_while_there_is_room(queue):
    assert queue.displace([Droppable(entry(1)), Droppable(entry(2))]) == []
    assert messages(queue.take(9, 0.0)) == [1, 2]


def test_displacing_wakes_a_reader_that_waits(queue):
    reader = in_thread(queue.take, 1, 60.0)
    queue.displace([Droppable(entry(1))])
    assert messages(reader.result()) == [1]


def test_an_eager_writer_gets_in_with_any_room(queue):
    big = MessageQueue(100)
    put(big, *range(100))
    writer = in_thread(big.offer, [entry(100)], 60.0, eager=True)
    wait_until(lambda: big.crowded, "it found no room")
    big.take(2, 0.0)
    assert writer.result() == 1


def test_what_a_reader_gave_back_is_never_displaced(queue):
    queue.offer([Droppable(entry(n)) for n in (1, 2, 3)], 0.0)
    queue.give_back(queue.take(2, 0.0))
    dropped = queue.displace([Droppable(entry(4)), Droppable(entry(5))])
    assert messages(dropped) == [3, 4]
    queue.finish(dropped=2)
    assert messages(queue.take(9, 0.0)) == [1, 2, 5]


# --- deadlocks ---


def test_a_put_that_would_wait_for_its_own_caller_is_refused_with_the_reason(queue):
    put(queue, 1, 2, 3)
    with processing(queue):
        with pytest.raises(WouldDeadlock, match=r"put\(block=True\)"):
            queue.put(entry(4), block=True)
        with pytest.raises(MachineFull):
            queue.put(entry(4))
        queue.take(1, 0.0)
        assert queue.put(entry(4), block=True) is True, "there is room"
    assert queue.snapshot().refused == 2


def test_tasks_and_threads_of_an_event_loop_are_part_of_what_started_them(queue):
    put(queue, 1, 2, 3)

    async def waits() -> None:
        await asyncio.to_thread(queue.put, entry(4), block=True)

    with processing(queue), pytest.raises(WouldDeadlock):
        asyncio.run(waits())
    with processing(queue):
        helper = in_thread(queue.put, entry(4), block=True)
    queue.take(3, 0.0)
    assert helper.result() is True, "a thread of its own may wait"


def test_processing_a_message_of_one_machine_may_wait_for_another(queue):
    put(queue, 1, 2, 3)
    with processing(object()):
        writer = in_thread(queue.put, entry(4), block=True)
    queue.take(3, 0.0)
    assert writer.result() is True
    assert not is_processing(queue)
    context = contextvars.copy_context()
    context.run(mark_thread, queue)
    assert context.run(is_processing, queue)
