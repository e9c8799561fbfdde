"""The local bus: events are numbered, kept and logged; hooks and callbacks get them in one thread."""

from __future__ import annotations

import logging
import os
import threading
import traceback

import pytest
from machine_kit import LIMIT_S, Gate, ManualClock, in_thread

from timbr_wamp.contract import ErrorRow
from timbr_wamp.errors import InvalidArgument
from timbr_wamp.machine.events.hooks import Hooks
from timbr_wamp.machine.events.log import EVENTS_KEPT, WAITING_LIMIT, EventLog


@pytest.fixture
def log():
    log = EventLog(ManualClock(), name="test")
    yield log
    assert log.close(LIMIT_S), "an event was not delivered"


def error_row(**changes):
    known = {
        "run": "r", "seq": 1, "oid": "a", "attempt": 1, "revision": 1, "time": 0.0, "slot": 0, "task": "f0",
        "exc_class": "ValueError", "exc_value": "x", "exc_tb": "", "input": "1",
    }  # fmt: skip
    return ErrorRow(**known | changes)


def bus_threads():
    return [thread for thread in threading.enumerate() if thread.name == "timbr test bus"]


def test_events_are_numbered_dated_and_kept(log):
    log.add("started", "ann")
    log.add("drained", count=3)
    first, second = log.newest(5)
    assert (first.kind, first.number, first.author, first.time) == ("started", 1, "ann", 1_000_000.0)
    assert (second.kind, second.number, second.data) == ("drained", 2, {"count": 3})
    assert log.newest(1) == [second]
    assert log.newest(0) == []
    assert log.after(1) == (2, [second])


def test_the_newest_are_kept(log):
    for _ in range(EVENTS_KEPT + 5):
        log.add("full")
    assert [event.number for event in log.newest(EVENTS_KEPT * 2)] == list(range(6, EVENTS_KEPT + 6))


def test_without_subscribers_there_is_no_bus_thread(log):
    log.add("started")
    log.error(error_row())
    assert bus_threads() == []


def test_callbacks_get_their_kinds_in_order_in_the_bus_thread(log):
    seen, threads = [], set()

    def take(event):
        seen.append(event.kind)
        threads.add(threading.current_thread().name)

    log.on("drained", lambda event: seen.append(("drained", event.data["count"])))
    log.on("*", take)
    log.add("started")
    log.add("drained", count=3)
    assert log.flush(LIMIT_S)
    assert seen == ["started", "drained", ("drained", 3)]
    assert threads == {"timbr test bus"}


def test_a_removed_callback_gets_nothing_more(log):
    seen = []
    end = log.on("started", seen.append)
    log.add("started")
    assert log.flush(LIMIT_S)
    end()
    log.add("started")
    assert log.flush(LIMIT_S)
    assert [event.number for event in seen] == [1]


def test_an_unknown_kind_is_refused_with_its_neighbours(log):
    with pytest.raises(InvalidArgument, match="on_drained"):
        log.on("draind", print)


def test_error_rows_go_to_their_subscribers(log):
    seen = []
    log.on("error", seen.append)
    row = error_row()
    log.error(row)
    assert log.flush(LIMIT_S)
    assert seen == [row]


def test_hook_objects_and_the_registry_are_taken(caplog):
    class OnEvent:
        def __init__(self):
            self.kinds = []

        def on_event(self, event):
            self.kinds.append(event.kind)

    hook = OnEvent()
    log = EventLog(ManualClock(), [hook], name="test")
    log.add("started")
    assert log.close(LIMIT_S)
    assert hook.kinds == ["started"]
    hooks = Hooks()
    assert EventLog(ManualClock(), hooks).hooks is hooks


def test_a_callback_that_fails_is_counted_and_others_get_the_event(log, caplog):
    seen = []
    log.on("*", lambda event: 1 / 0)
    log.on("*", seen.append)
    log.add("started")
    assert log.flush(LIMIT_S)
    assert (log.failures.count, len(seen)) == (1, 1)
    assert "ZeroDivisionError" in caplog.text


def test_a_callback_that_exits_does_not_end_the_bus(log, caplog):
    seen = []

    def leave(event):
        raise SystemExit(3)

    log.on("started", leave)
    log.on("drained", seen.append)
    log.add("started")
    log.add("drained")
    assert log.flush(LIMIT_S)
    assert [event.kind for event in seen] == ["drained"]
    assert log.failures.count == 1


def test_a_slow_callback_delays_nobody_and_events_beyond_the_limit_are_dropped_and_counted(log):
    gate, seen = Gate(), []
    log.on("*", gate)
    log.on("*", seen.append)
    log.add("started")
    gate.wait_until_entered()
    for _ in range(WAITING_LIMIT + 7):
        log.add("full")
    assert log.dropped == 7
    assert log.number == WAITING_LIMIT + 8
    gate.open()
    assert log.flush(LIMIT_S)
    assert len(seen) == WAITING_LIMIT + 1


def test_listeners_are_called_at_once_in_the_adding_thread(log):
    seen = []
    end = log.listen(lambda: seen.append(threading.current_thread()))
    log.add("started")
    assert seen == [threading.current_thread()]
    end()
    end()
    log.add("started")
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("kind", "level"),
    [("failed", "ERROR"), ("source_failed", "ERROR"), ("object_failed", "ERROR"), ("stalled", "WARNING"),
     ("full", "INFO"), ("drained", "INFO")],
)  # fmt: skip
def test_every_event_is_a_log_line(log, caplog, kind, level):
    caplog.set_level(logging.INFO, "timbr_wamp.machine.events.log")
    log.add(kind, count=3)
    (line,) = caplog.records
    assert (line.levelname, line.getMessage()) == (level, f"machine test: {kind} {{'count': 3}}")
    assert line.args[:2] == ("test", kind)


# --- the end ---------------------------------------------------------------------------------


def test_closing_delivers_waiting_events_and_ends_the_thread(log):
    gate, seen = Gate(), []
    log.on("*", gate)
    log.on("*", seen.append)
    for _ in range(10):
        log.add("full")
    gate.wait_until_entered()
    closing = in_thread(log.close, LIMIT_S)
    gate.open()
    assert closing.result() is True
    assert (len(seen), log.dropped, bus_threads()) == (10, 0, [])


def test_closing_waits_at_most_its_timeout(caplog):
    log, gate = EventLog(ManualClock(), name="test"), Gate()
    log.on("*", gate)
    for _ in range(10):
        log.add("full")
    gate.wait_until_entered()
    assert log.close(0.05) is False
    assert log.dropped == 9
    gate.open()
    assert log.close(LIMIT_S)
    assert bus_threads() == []


def test_events_after_close_are_kept_but_not_delivered(log):
    seen = []
    log.on("*", seen.append)
    assert log.close(LIMIT_S)
    log.add("started")
    assert (seen, log.dropped, log.newest(1)[0].kind) == ([], 1, "started")


def test_a_callback_may_close_and_flush(log):
    answers = []

    def close(event):
        answers.append((log.flush(LIMIT_S), log.close(LIMIT_S)))

    log.on("started", close)
    log.add("started")
    (thread,) = bus_threads()
    thread.join(LIMIT_S)
    assert answers == [(False, True)]
    assert not thread.is_alive()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_has_a_new_bus_and_does_not_hang(log):
    gate = Gate()
    log.on("started", gate)
    log.add("started")
    log.add("started")
    gate.wait_until_entered()
    child = os.fork()
    if child == 0:  # no assert reaches pytest from the child: the exit code reports
        code = 1
        try:
            seen = []
            log.on("drained", seen.append)
            log.add("drained")
            code = 0 if log.close(LIMIT_S) and len(seen) == 1 else 2
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    gate.open()
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
