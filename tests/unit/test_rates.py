"""Records per second over the last 1, 10 and 60 seconds."""

from __future__ import annotations

import pytest

from timbr_wamp.machine.records.rates import Rates


def steady(clock, rates: Rates, per_s: int, seconds: float, count: int = 0) -> int:
    for _ in range(int(seconds * 10)):
        count += per_s // 10
        rates.note(clock.advance(0.1), count)
    return count


def test_before_anything_happened_all_rates_are_0(clock):
    rates = Rates(clock())
    assert rates.rates(clock(), 0) == (0.0, 0.0, 0.0)
    assert rates.rates(clock.advance(100.0), 0) == (0.0, 0.0, 0.0)


def test_a_steady_stream_has_its_rate_over_every_span(clock):
    rates = Rates(clock())
    count = steady(clock, rates, 100, 120.0)
    assert rates.rates(clock(), count) == pytest.approx((100.0, 100.0, 100.0), rel=0.05)


def test_a_young_machine_is_not_averaged_over_time_before_it(clock):
    rates = Rates(clock())
    count = steady(clock, rates, 100, 5.0)
    assert rates.rates(clock(), count) == pytest.approx((100.0, 100.0, 100.0), rel=0.05)


def test_rates_fall_to_0_when_nothing_happens_any_more(clock):
    rates = Rates(clock())
    count = steady(clock, rates, 100, 60.0)
    clock.advance(2.0)
    one, ten, sixty = rates.rates(clock(), count)
    assert one == 0.0
    assert ten == pytest.approx(80.0, rel=0.1)
    assert sixty == pytest.approx(97.0, rel=0.1)
    assert rates.rates(clock.advance(60.0), count) == (0.0, 0.0, 0.0)


def test_a_burst_after_silence_is_a_burst(clock):
    rates = Rates(clock())
    count = steady(clock, rates, 100, 5.0)
    clock.advance(600.0)
    count = steady(clock, rates, 1000, 1.0, count)
    one, ten, sixty = rates.rates(clock(), count)
    assert one == pytest.approx(1000.0, rel=0.35)
    assert ten == pytest.approx(100.0, rel=0.35)
    assert sixty == pytest.approx(1000.0 / 60, rel=0.35)


def test_a_clock_set_back_gives_no_negative_rate(clock):
    rates = Rates(clock())
    count = steady(clock, rates, 100, 5.0)
    clock.advance(-3600.0)
    rates.note(clock(), count + 1)
    assert min(rates.rates(clock(), count + 1)) >= 0.0
    count = steady(clock, rates, 100, 5.0, count + 1)
    assert rates.rates(clock(), count)[0] == pytest.approx(100.0, rel=0.1), "and it counts on by the new time"


def test_memory_is_bounded(clock):
    rates = Rates(clock())
    steady(clock, rates, 100, 1000.0)
    assert len(rates._points) < 300


def test_what_was_noted_just_before_a_silence_is_not_taken_for_what_happens_after_it():
    rates = Rates(0.0)
    rates.note(0.0, 1)
    rates.note(0.1, 5)
    assert rates.rates(100.0, 5) == (0.0, 0.0, 0.0)
