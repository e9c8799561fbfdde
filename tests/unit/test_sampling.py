"""Which messages are timed: as many as documented, and spread over batches and over the places in them."""

from __future__ import annotations

from collections import Counter, deque

import pytest

from tests.slot_kit import context_of, process
from timbr_wamp.machine.running.executors.inline import InlineExecutor
from timbr_wamp.machine.running.executors.processes import ProcessesExecutor
from timbr_wamp.machine.running.executors.threads import ThreadsExecutor
from timbr_wamp.machine.running.sampling import TIMED_EVERY, TimingSample
from timbr_wamp.machine.slots.table import SlotTable


def test_one_message_of_every_so_many_is_timed_in_batches_of_any_size():
    sample, timed, position = TimingSample(1), [], 0
    for size in (1, 7, 64, 3, 200, 1) * 20:
        timed += [position + place for place in sample.choose(size)]
        position += size
    assert [place // TIMED_EVERY for place in timed] == list(range(len(timed)))
    assert len(timed) in (position // TIMED_EVERY, position // TIMED_EVERY + 1)


def test_each_place_in_a_batch_is_timed_about_as_often():
    sample, places = TimingSample(1), Counter()
    for _ in range(3200):
        places.update(sample.choose(64))
    assert set(places) == set(range(64))
    assert max(places.values()) < 2.5 * min(places.values())


def test_the_first_message_is_timed():
    assert TimingSample().next_is_timed()


@pytest.mark.parametrize("make", [InlineExecutor, ThreadsExecutor, ProcessesExecutor])
def test_every_executor_times_that_many(make):
    table = SlotTable(2, float)
    table.assign({0: int, 1: str})
    executor = make()
    try:
        for _ in range(4):
            list(process(executor, deque((f"{n:024x}", n, 0.0, 1) for n in range(64)), context_of(table.current)))
    finally:
        executor.close()
    assert [len(step.slot.tally.timings) for step in table.current().steps] == [8, 8]
