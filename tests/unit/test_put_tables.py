"""`put_many` puts the rows of a table, as a source reads them, and what is no list of messages is refused by name."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import pyarrow
import pytest

from timbr_wamp import Machine
from timbr_wamp.client.arguments import sendable
from timbr_wamp.errors import InvalidArgument, NotASource
from timbr_wamp.rows import messages_of

FRAME = pandas.DataFrame({"number": [1, 2], "share": [0.5, None]})
ROWS = [{"number": 1, "share": 0.5}, {"number": 2, "share": None}]
TABLE = pyarrow.table({"number": [1, 2], "share": [0.5, None]})


def put_by(put: Callable[[Machine], object]) -> list[Any]:
    """Return the messages that a call has put, as they are recorded."""
    with Machine(1, serve=False) as machine:
        put(machine)
        while machine.status.queue_size:
            machine.get()
        return [record.input for record in machine.recent()]


@pytest.mark.parametrize(
    "table", [FRAME, TABLE, TABLE.to_batches()[0], TABLE.to_reader()], ids=lambda table: type(table).__name__
)
def test_a_tables_rows_are_the_messages(table: object) -> None:
    assert put_by(lambda machine: machine.put_many(table)) == ROWS


def test_rows_are_put_as_far_as_there_is_room() -> None:
    with Machine(1, 1, serve=False) as machine:
        assert len(machine.put_some(FRAME)) == 1
        assert machine.put_many(FRAME).refused == 2
        assert machine.status.refused == 2


@pytest.mark.parametrize(
    "messages", [(1, 2), range(1, 3), iter([1, 2]), {1: 0, 2: 0}.keys(), pandas.Series([1, 2])], ids=lambda m: type(m)
)
def test_anything_that_is_iterated_over_is_put_item_by_item(messages: object) -> None:
    assert put_by(lambda machine: machine.put_many(messages)) == [1, 2]


def test_ids_may_come_from_an_iterator() -> None:
    oids = [f"{number:024x}" for number in range(2)]
    with Machine(1, serve=False) as machine:
        assert machine.put_many([1, 2], iter(oids)).oids == oids  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ("data.csv", r"not str, which put\(\) puts as one message"),
        (b"[1]", r"not bytes, which put\(\)"),
        ({"a": 1}, r"not dict, which put\(\)"),
        (Path("data.csv"), r"m\.source = path"),
        (5, "not int"),
        (itertools.count(), r"more than 1,000,000 messages; m\.source"),
    ],
    ids=str,
)
def test_what_is_no_list_of_messages_is_refused_with_the_way_to_put_it(messages: object, said: str) -> None:
    with Machine(1, serve=False) as machine:
        with pytest.raises(InvalidArgument, match=said) as raised:
            machine.put_many(messages)
        assert raised.value.name == "messages"
        assert machine.status.put == 0


def test_a_table_whose_columns_have_one_name_is_refused() -> None:
    with pytest.raises(NotASource, match="two columns named 'a'"):
        messages_of(pandas.DataFrame([[1, 2]], columns=["a", "a"]))


@pytest.mark.parametrize("table", [FRAME, TABLE])
def test_a_table_that_is_sent_as_one_message_is_refused_with_the_way_to_send_its_rows(table: object) -> None:
    with pytest.raises(InvalidArgument, match=r"put_many\(\) puts its rows, m\.source = reads them"):
        sendable(table, "message")


@pytest.mark.parametrize("message", [FRAME, {"deep": [FRAME]}])
def test_what_cannot_be_sent_is_told_in_one_line(message: object) -> None:
    with pytest.raises(InvalidArgument) as raised:
        sendable(message, "message")
    assert "\n" not in str(raised.value)


def test_here_a_table_may_be_one_message() -> None:
    assert put_by(lambda machine: machine.put(FRAME))[0]["shape"] == [2, 2]
