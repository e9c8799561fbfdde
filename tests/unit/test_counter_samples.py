"""A machine's counters once a second, on a clock that the test moves."""

from __future__ import annotations

import pytest

from timbr_wamp.machine import Machine
from timbr_wamp.machine.serving.counter_samples import KEPT, CounterSamples


class Clock:
    """UTC and monotonic time in one."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def machine(clock):
    with Machine(2, clock=clock) as machine:
        yield machine


@pytest.fixture
def samples(machine):
    return CounterSamples(lambda: machine.status)


def test_it_counts_once_a_second_however_often_it_is_asked(machine, samples, clock):
    machine[0] = lambda x: 1 / x
    for tick in range(12):  # three seconds
        clock.now = 1000 + tick / 4
        machine.put(tick % 2)
        machine.get()
        assert 0 < samples.note(clock.now) <= 1
    metrics = samples.metrics(600)
    assert metrics.time == [1000, 1001, 1002, 1002.75]
    assert metrics.processed == [0, 2, 4, 6]
    assert metrics.errored == [1, 3, 5, 6]
    assert (metrics.run, metrics.dropped, metrics.queue_size) == (machine.run, [0] * 4, [0] * 4)


def test_only_the_time_asked_for_is_returned_and_now(samples, clock):
    for second in range(100):
        clock.now = 1000.0 + second
        samples.note(clock.now)
    clock.now = 1099.5
    assert samples.metrics(3).time == [1097, 1098, 1099, 1099.5]
    assert samples.metrics(-5).time == [1099.5]


def test_what_is_kept_is_bounded(samples, clock):
    for second in range(2 * KEPT):
        clock.now = 1000.0 + second
        samples.note(clock.now)
    assert len(samples.metrics(1e9).time) == KEPT + 1


def test_a_long_pause_gives_one_sample_and_no_series_of_late_ones(samples, clock):
    samples.note(clock.now)
    clock.now += 50.3
    assert samples.note(clock.now) == 1.0
    assert samples.metrics(600).time == [1000, 1050.3, 1050.3]


def test_samples_of_a_clock_that_was_set_back_are_left_out(samples, clock):
    samples.note(5.0)
    clock.now -= 500
    samples.note(6.0)
    assert samples.metrics(600).time == [500, 500]


def test_a_status_that_cannot_be_read_is_tried_again_a_second_later():
    def read():
        raise RuntimeError("a property of a subclass")

    samples = CounterSamples(read)
    with pytest.raises(RuntimeError):
        samples.note(1.0)
    assert samples.note(1.5) == 0.5
