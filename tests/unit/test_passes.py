"""The passes: a message runs through the slots, values are serialized right after their slot, failures are outcomes."""

from __future__ import annotations

import functools
import threading
import time
from collections import deque

import pytest

from tests.slot_kit import careful, context_of, outcomes, plain, process
from timbr_wamp.machine.running.executors.inline import InlineExecutor
from timbr_wamp.machine.slots.table import Revision, SlotTable


def revision_of(**slots: object) -> Revision:
    """A table of six slots with some of them set: ``f2=function``."""
    table = SlotTable(6, time.time)
    table.assign({int(name[1:]): function for name, function in slots.items()})
    return table.current()


both = pytest.mark.parametrize("run", [plain, careful])


def fail(*values):
    raise ValueError("on purpose")


@both
def test_every_slot_sees_what_all_slots_before_it_gave(run):
    values, texts, failures = run(
        revision_of(
            f0=lambda message: message + 1,
            f1=lambda f0, message: [f0, message],
            f3=lambda f2, f1, f0, message: [f2, f1, f0, message],
            f5=lambda f4: len(f4),
        ),
        1,
    )
    assert values == [1, 2, [2, 1], [2, 1], [[2, 1], [2, 1], 2, 1], [[2, 1], [2, 1], 2, 1], 4]
    assert texts == [b"1", b"2", b"[2,1]", b"[2,1]", b"[[2,1],[2,1],2,1]", b"[[2,1],[2,1],2,1]", b"4"]
    assert list(failures) == []


class CountsItsReading:
    """A value whose making into JSON can be counted."""

    def __init__(self) -> None:
        self.read = 0

    def __repr__(self) -> str:
        self.read += 1
        return "me"


@both
def test_unset_slots_carry_the_value_and_its_text_and_compute_nothing(run):
    value = CountsItsReading()
    values, texts, _ = run(revision_of(f1=lambda message: value), "in")
    assert value.read == 1
    assert [id(v) for v in values[2:]] == [id(value)] * 5
    assert {id(text) for text in texts[2:]} == {id(texts[2])}


@both
def test_a_table_without_functions_carries_the_message_through(run):
    assert run(revision_of(), {"a": 1})[1] == [b'{"a":1}'] * 7


@both
def test_a_value_changed_later_is_published_as_it_was(run):
    def change(value):
        value["a"] = "changed"
        return value

    _, texts, _ = run(revision_of(f0=lambda message: message, f1=change), {"a": 1})
    assert texts[0] == texts[1] == b'{"a":1}'
    assert texts[2] == b'{"a":"changed"}'


@both
def test_what_cannot_be_serialized_becomes_a_placeholder_and_later_slots_get_the_value_itself(run):
    values, texts, failures = run(revision_of(f0=lambda message: 1 + 2j, f1=lambda f0: f0.imag), 0)
    assert values[2] == 2.0
    assert texts[1] == b'{"__type__":"complex","value":"(1+2j)"}'
    assert list(failures) == []


@both
def test_a_slot_that_raises_gives_a_described_exception_and_its_consumers_are_skipped(run):
    revision = revision_of(
        f0=lambda message: "f0",
        f1=fail,
        f2=lambda f1: f1,
        f3=lambda f2, f1, f0, message: "never",
        f4=lambda: "needs nothing",
        f5=lambda f4: f4,
    )
    values, texts, failures = run(revision, "in")
    error = values[2]["_exception"]
    assert (error["exc_class"], error["exc_value"], error["task"]) == ("ValueError", "on purpose", "f1")
    assert 'raise ValueError("on purpose")' in error["exc_tb"]
    skipped = values[3]["_exception"]
    assert (skipped["exc_class"], skipped["exc_value"]) == ("UpstreamError", "f2 did not run: f1 failed")
    assert skipped["exc_tb"] is None
    assert values[4]["_exception"]["exc_value"] == "f3 did not run: f1 failed"
    assert values[5:] == ["needs nothing", "needs nothing"]
    assert [(f.slot, f.task, f.exc_class) for f in failures] == [
        (1, "f1", "ValueError"),
        (2, "f2", "UpstreamError"),
        (3, "f3", "UpstreamError"),
    ]
    assert len(values) == len(texts) == 7


@both
def test_a_slot_that_does_not_consume_what_failed_runs(run):
    ran = []
    run(revision_of(f0=fail, f1=lambda: ran.append("f1"), f2=lambda f1: ran.append("f2")), "in")
    assert ran == ["f1", "f2"]


@both
def test_what_an_unset_slot_carries_from_a_failed_one_is_a_failure_too(run):
    values, _, failures = run(revision_of(f0=fail, f3=lambda f2: "never"), "in")
    assert values[1] == values[2] == values[3]
    assert values[4]["_exception"]["exc_value"] == "f3 did not run: f0 failed"
    assert len(failures) == 2


@both
def test_two_slots_may_fail_in_one_message(run):
    _, _, failures = run(revision_of(f0=fail, f1=lambda: 1 / 0), "in")
    assert [failure.exc_class for failure in failures] == ["ValueError", "ZeroDivisionError"]


@both
@pytest.mark.parametrize("error", [SystemExit(3), GeneratorExit(), BaseException("b"), StopIteration(1), MemoryError()])
def test_whatever_a_slot_raises_is_the_messages_outcome(run, error):
    def slot(value):
        raise error

    _, _, failures = run(revision_of(f0=slot), "in")
    assert failures[0].exc_class == type(error).__qualname__


def test_a_keyboard_interrupt_in_another_thread_than_the_main_one_is_an_outcome():
    def slot(value):
        raise KeyboardInterrupt

    done = []
    thread = threading.Thread(target=lambda: done.append(plain(revision_of(f0=slot), "in")))
    thread.start()
    thread.join(5.0)
    assert done[0][2][0].exc_class == "KeyboardInterrupt"


@both
def test_a_keyboard_interrupt_in_the_main_thread_is_the_users(run):
    def slot(value):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(revision_of(f0=slot), "in")


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


class Hostile:
    def __repr__(self) -> str:
        raise RuntimeError("no")


@both
def test_an_exception_that_cannot_be_printed_is_described(run):
    def slot(value):
        raise Unprintable

    _, _, failures = run(revision_of(f0=slot), "in")
    assert failures[0].exc_class == "Unprintable"
    assert "RuntimeError" in failures[0].exc_value


@both
def test_a_value_whose_own_code_raises_is_described_and_passed_on(run):
    _, texts, failures = run(revision_of(f0=lambda message: Hostile(), f1=lambda f0: 1), "in")
    assert b"Hostile" in texts[1]
    assert texts[2] == b"1"
    assert not failures


@both
def test_exception_texts_that_utf_8_cannot_carry_are_written_out(run):
    def slot(value):
        raise OSError("no such file: \udcff")

    _, _, failures = run(revision_of(f0=slot), "in")
    for text in (failures[0].exc_value, failures[0].exc_tb):
        assert b"no such file: \\udcff" in text.encode()


@both
def test_tracebacks_are_bounded_and_show_neither_our_frames_nor_all_of_a_recursion(run):
    def slot(n):
        return slot(n)

    _, _, failures = run(revision_of(f0=slot), "in")
    assert failures[0].exc_class == "RecursionError"
    assert len(failures[0].exc_tb) <= 6000
    assert "timbr_wamp/machine/running/compiled_pass.py" not in failures[0].exc_tb


@both
def test_the_cause_of_an_exception_is_in_its_traceback(run):
    def slot(value):
        try:
            fail()
        except ValueError as error:
            raise RuntimeError("outer") from error

    _, _, failures = run(revision_of(f0=slot), "in")
    assert "on purpose" in failures[0].exc_tb
    assert failures[0].exc_value == "outer"


@both
def test_a_slot_of_source_without_python_frames_has_a_traceback_that_names_its_error(run):
    _, _, failures = run(revision_of(f0=float), "no number")
    assert "could not convert" in failures[0].exc_tb


def test_both_passes_give_the_same_record():
    revision = revision_of(f0=lambda message: {"m": message}, f2=lambda f1, f0: [f1, f0], f4=functools.partial(fail))
    for message in (1, None, [1.5, "x"], {1: 2}, 1j):
        values, texts, failures = plain(revision, message)
        values_2, texts_2, failures_2 = careful(revision, message)
        assert texts[:5] == texts_2[:5]
        assert values[:5] == values_2[:5]
        assert outcomes(failures) == outcomes(failures_2)


def test_both_passes_give_a_huge_message_whole_so_that_the_record_decides_what_is_too_large():
    huge = "x" * 17_000_000
    assert {len(texts[0]) for _, texts, _ in (plain(revision_of(), huge), careful(revision_of(), huge))} == {17_000_002}


def test_each_entry_is_processed_by_the_revision_that_is_newest_when_it_starts():
    table = SlotTable(1, time.time)
    context = context_of(table.current)

    def change(value):
        table.assign({0: lambda value: "new"})
        return "old"

    table.assign({0: change})
    entries = deque((f"{n:024x}", n, 0.0, 1) for n in range(3))
    done = list(process(InlineExecutor(), entries, context))
    assert [revision.number for _, revision, *_ in done] == [1, 2, 2]
    assert [texts[1] for _, _, texts, *_ in done] == [b'"old"', b'"new"', b'"new"']


def test_an_abandoned_executor_has_started_nothing_more():
    started = []
    table = SlotTable(1, time.time)
    table.assign({0: started.append})
    entries = deque((f"{n:024x}", n, 0.0, 1) for n in range(3))
    context = context_of(table.current)
    context.commit_due = 0.0
    iterator = process(InlineExecutor(), entries, context)
    next(iterator)
    iterator.close()
    assert started == [0]
    assert len(entries) == 2
