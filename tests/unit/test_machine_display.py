"""Bars and status cards of a local machine: they show it and do not change it."""

from __future__ import annotations

import threading
import time

import pytest
from machine_kit import Machines

from timbr_wamp.errors import InvalidArgument
from timbr_wamp.user_warnings import NotRunning


def test_waiting_shows_a_bar_until_all_is_recorded(machines: Machines, capsys: pytest.CaptureFixture[str]):
    m = machines(1)
    m.set_source(range(200))
    m.start()
    assert m.wait(10.0, progress="rich")
    assert m.status.processed == 200
    assert "200" in capsys.readouterr().err


def test_waiting_with_a_bar_ends_as_without_one(machines: Machines):
    m = machines(1)
    m.put(1)
    with pytest.warns(NotRunning):
        assert not m.wait(10.0, progress="none"), "it does not run"
    gate = threading.Event()
    m.set(0, lambda x: gate.wait(10.0))
    m.start()
    started = time.monotonic()
    assert not m.wait(0.3, progress="none")
    assert 0.3 <= time.monotonic() - started < 5.0
    gate.set()
    assert m.wait(10.0, progress=True), "without a source, all that was put is recorded"
    with pytest.raises(InvalidArgument, match="one of auto"):
        m.wait(1.0, progress="loud")  # type: ignore[arg-type]


def test_a_status_card_is_written_where_nobody_looks(machines: Machines, capsys: pytest.CaptureFixture[str]):
    m = machines(1, name="quiet")
    card = m.display_status()
    assert not card.running
    assert "machine quiet" in capsys.readouterr().out
