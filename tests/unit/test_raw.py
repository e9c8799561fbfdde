"""`Raw` messages: a JSON text is handed on as it came, and parsed where a slot takes the message."""

from __future__ import annotations

import json
import pickle

import pytest
from machine_kit import LIMIT_S

from timbr_wamp import Raw
from timbr_wamp.errors import InvalidArgument
from timbr_wamp.machine import Machine
from timbr_wamp.machine.messages import Row
from timbr_wamp.values import parse_json

EXECUTORS = ["inline", "threads", "processes"]


class Rows:
    """A sink that keeps the texts."""

    def __init__(self) -> None:
        self.texts: list[bytes] = []

    def publish(self, rows: list[Row]) -> None:
        self.texts += [row[2] for row in rows]


@pytest.fixture(params=EXECUTORS)
def served(request):
    """A machine with three slots and what it published."""
    rows = Rows()
    with Machine(3, serve=False, executor=request.param, sinks=[rows]) as machine:
        yield machine, rows


def run(machine: Machine, *messages: object) -> None:
    for message in messages:
        machine.put(message)
    machine.start()
    assert machine.wait(4 * LIMIT_S)


def test_the_text_is_published_unchanged_and_slots_get_its_value(served):
    machine, rows = served
    machine[1] = lambda message: message["a"] + 1
    run(machine, Raw(b'{"a": 1,  "big": 123456789012345678901234567890}'))
    text = b'{"a": 1,  "big": 123456789012345678901234567890}'
    assert rows.texts == [b"[" + text + b"," + text + b",2,2]"]


def test_without_a_slot_the_text_passes_through(served):
    machine, rows = served
    run(machine, Raw("[1, 2]"))
    assert rows.texts == [b"[[1, 2],[1, 2],[1, 2],[1, 2]]"]


def test_a_text_that_is_not_json_fails_in_each_slot_that_takes_the_message(served):
    machine, _ = served
    machine[0] = lambda message: message
    machine[1] = lambda: "independent"
    machine[2] = lambda f1, f0, message: message
    run(machine, Raw(b"{nonsense"), Raw(b"1"))
    broken, whole = machine.recent()
    assert [outcome.kind for outcome in broken.outcomes] == ["error", "value", "skipped"]
    assert broken.input == {"__type__": "Raw", "__invalid_json__": "{nonsense"}
    assert [outcome.kind for outcome in whole.outcomes] == ["value"] * 3
    assert [(row.exc_class, row.slot) for row in machine.errors] == [("InvalidArgument", 0)]
    assert "is not JSON" in machine.errors[0].exc_value


def test_a_text_that_is_not_json_and_that_no_slot_takes_is_described(served):
    machine, rows = served
    run(machine, Raw(b"\xff"))
    assert b"__invalid_json__" in rows.texts[0]


DEEP = [
    "[" * 101 + "]" * 101,
    "[" * 101 + "1" + "]" * 101,
    "[" * 990 + "]" * 990,  # orjson reads it, others do not
    "[" * 1020 + "]" * 1020,
    '{"a":' * 101 + "1" + "}" * 101,
    "[" * 100_000 + "]" * 100_000,
]
#: Numbers that no float can hold.
HUGE = [
    "1e400",
    "-1E+400",
    "1.8e308",
    "1" * 290 + "e99",
    "1" * 400,
    "1" * 5_000,
    '{"a": [1e99999999999999999999]}',
]
UNREADABLE = [*DEEP, *HUGE]
READABLE = [
    "[" * 100 + "1" + "]" * 100,
    '"' + "[" * 2_000 + '"',
    "[" + "[]," * 300 + "[]]",
    "1e300",
    "1e-400",
    '"1e400"',
    '"' + "1" * 400 + '"',
]


@pytest.mark.parametrize("text", UNREADABLE)
def test_a_text_that_not_every_reader_can_parse_is_refused(text):
    with pytest.raises(InvalidArgument):
        Raw(text).parsed()


@pytest.mark.parametrize("text", READABLE)
def test_a_text_that_every_reader_can_parse_is_taken(text):
    assert Raw(text).parsed() == json.loads(text)


@pytest.mark.parametrize("takes", [True, False])
def test_texts_that_not_every_reader_can_parse_harm_neither_the_machine_nor_its_records(takes):
    with Machine(2, serve=False) as machine:
        if takes:
            machine[0] = lambda message: 1
        run(machine, *map(Raw, UNREADABLE), Raw("7"))
        *bad, good = machine.recent(50)
        assert len(bad) == len(UNREADABLE)
        assert all(record.input["__type__"] == "Raw" for record in bad[: len(DEEP)])
        assert [record.input for record in bad[len(DEEP) :]] == [parse_json(text) for text in HUGE]
        assert [record.errored for record in bad] == [takes] * len(bad)
        assert good.input == 7
        assert machine.running


@pytest.mark.parametrize(
    "text", [b"\xff", b'"\xc3"', b'"\xed\xa0\x80"', b"01", b"[1,]", b"nul", b'"\\ud800"', b"", b"1 2", b"NaN"]
)
def test_what_is_no_json_is_told_without_making_its_value(text):
    with pytest.raises(InvalidArgument):
        Raw(text).check()


@pytest.mark.parametrize("text", [*READABLE, *HUGE, '"é"', "[" * 99 + "1e400" + "]" * 99])
def test_a_text_that_records_may_show_passes_the_check(text):
    Raw(text).check()


@pytest.mark.parametrize("text", [*DEEP, '{"a":' * 101 + "1e400" + "}" * 101])
def test_a_text_that_is_too_deep_fails_the_check(text):
    with pytest.raises(InvalidArgument, match=r"deeper|not JSON"):
        Raw(text).check()


def test_a_number_that_no_float_can_hold_is_shown_replayed_and_retried_as_it_was(served):
    machine, rows = served
    run(machine, Raw("[1e400]"))
    machine.replay(machine.run, [1])
    assert machine.wait(LIMIT_S)
    assert rows.texts == [b"[[1e400],[1e400],[1e400],[1e400]]"] * 2
    machine[0] = lambda message: message
    machine.replay(machine.run, [1])
    assert machine.wait(LIMIT_S)
    assert rows.texts[2].startswith(b"[[1e400],")
    assert machine.recent(1)[0].errored


def test_stepping_and_dry_runs_take_it_too():
    with Machine(1, serve=False) as machine:
        machine[0] = lambda message: message["a"]
        machine.put(Raw(b'{"a":1}'))
        assert machine.get()[1:] == ('{"a":1}', "1")
        assert machine(Raw(b'{"a":2}')).values == (2,)
        assert machine(Raw(b"no")).errored


def test_a_raw_message_that_failed_is_retried_as_it_was():
    with Machine(1, serve=False) as machine:
        machine[0] = lambda message: 1 // message["a"]
        run(machine, Raw(b'{"a": 0}'))
        machine[0] = lambda message: message["a"]
        machine.retry_errors()
        assert machine.wait(LIMIT_S)
        assert [record.values for record in machine.recent()][-1] == (0,)


def test_it_is_a_value():
    raw = Raw('{"a":1}')
    assert raw == Raw(b'{"a":1}')
    assert len({raw, Raw(b'{"a":1}')}) == 1
    assert pickle.loads(pickle.dumps(raw)) == raw
    assert repr(raw) == """Raw('{"a":1}')"""
    assert raw.parsed() == {"a": 1}
    with pytest.raises(InvalidArgument, match="not JSON"):
        Raw(b"{").parsed()
