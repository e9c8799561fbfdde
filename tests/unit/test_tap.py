"""Taps: the newest values of one slot, live, parsed when they are read."""

from __future__ import annotations

import sys
import threading

import orjson
import pytest

from timbr_wamp.errors import InvalidArgument, PluginNotInstalled
from timbr_wamp.faces import tap as module
from timbr_wamp.faces.tap import TAP_LIMIT, Tap

FAILED = {"_exception": {"exc_class": "ValueError", "exc_value": "x", "exc_tb": "", "task": "f0"}}


def row(seq, *values):
    return (seq, f"oid{seq}", orjson.dumps(list(values)), b"{}")


def test_a_tap_reads_like_a_sequence_of_the_newest_values():
    tap = Tap("f0", 1, 3)
    assert (len(tap), list(tap), tap.oids) == (0, [], [])
    tap.publish([row(n, n, n * 10) for n in range(1, 6)])
    assert list(tap) == [30, 40, 50]
    assert (tap[-1], tap[0], tap[1:], len(tap)) == (50, 30, [40, 50], 3)
    assert 40 in tap
    assert list(reversed(tap)) == [50, 40, 30]
    with pytest.raises(IndexError):
        tap[3]


def test_it_grows_with_each_record():
    tap = Tap("in", 0, 2)
    seen = [list(tap)]
    for n in range(3):
        tap.publish([row(n, n)])
        seen.append(list(tap))
    assert seen == [[], [0], [0, 1], [1, 2]]


def test_rows_hold_seq_and_oid():
    tap = Tap("f0", 1, 5)
    tap.add_row(7, "a", b'[1,{"mag":2.5}]')
    tap.add_row(8, "b", '[1,"text"]')
    assert tap.rows == [(7, "a", {"mag": 2.5}), (8, "b", "text")]
    assert tap.oids == ["a", "b"]


def test_nothing_is_parsed_before_somebody_looks_and_nothing_twice(monkeypatch):
    parsed = []

    def parse(text):
        parsed.append(text)
        return orjson.loads(text)

    monkeypatch.setattr(module, "parse_json", parse)
    tap = Tap("f0", 1, 3)
    tap.publish([row(n, n, n) for n in range(10)])
    assert parsed == []
    assert list(tap) == [7, 8, 9]
    assert list(tap) == [7, 8, 9]
    assert len(parsed) == 3
    tap.publish([row(10, 10, 10)])
    assert tap[-1] == 10
    assert len(parsed) == 4


def test_records_of_a_new_run_follow_those_of_the_old():
    tap = Tap("f0", 1, 5)
    tap.add_row(1, "a", "[1,1]")
    assert list(tap) == [1]
    tap.add_row(1, "b", "[1,2]")
    assert tap.rows == [(1, "a", 1), (1, "b", 2)]


def test_failures_are_shown_or_left_out():
    rows = [row(1, 1, 1), row(2, 2, FAILED), row(3, 3, 3)]
    shown, left_out = Tap("f0", 1), Tap("f0", 1, errors=False)
    for tap in (shown, left_out):
        tap.publish(rows)
    assert list(shown) == [1, FAILED, 3]
    assert left_out.rows == [(1, "oid1", 1), (3, "oid3", 3)]
    assert len(left_out) == 2


def test_records_without_that_slot_or_without_text():
    tap = Tap("f1", 2)
    tap.publish([row(1, 1, 1), row(2, 1, 1, 9)])
    tap.add_row(3, "c", None)
    assert tap.rows == [(2, "oid2", 9), (3, "c", {"__type__": "text", "__too_large__": True})]


def test_null_is_a_value():
    tap = Tap("f0", 1)
    tap.publish([row(1, 1, None)])
    assert tap.rows == [(1, "oid1", None)]


def test_clearing_and_closing():
    ended = []
    tap = Tap("f0", 1, on_close=lambda: ended.append(1))
    tap.publish([row(1, 1, 1)])
    assert tap[0] == 1
    tap.clear()
    assert list(tap) == []
    with tap:
        tap.publish([row(2, 1, 2)])
    tap.close()
    tap.publish([row(3, 1, 3)])
    assert (list(tap), tap.closed, ended) == ([2], True, [1])


def test_its_repr_shows_label_size_and_newest_values():
    tap = Tap("f0 (clean)", 1, 10)
    tap.publish([row(n, n, n) for n in range(5)])
    assert repr(tap) == "<tap f0 (clean), 5 of 10: […, 2, 3, 4]>"
    tap.clear()
    tap.close()
    assert repr(tap) == "<tap f0 (clean), 0 of 10, closed: []>"


@pytest.mark.parametrize("n", [0, -1, TAP_LIMIT + 1, 1.5, True, "5"])
def test_an_invalid_size_is_refused(n):
    with pytest.raises(InvalidArgument, match="argument n: a whole number from 1 to"):
        Tap("f0", 1, n)


def test_without_pandas_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(PluginNotInstalled, match="pip install pandas"):
        Tap("f0", 1).to_dataframe()


def test_a_dataframe_has_a_column_for_each_key():
    pytest.importorskip("pandas", reason="pandas is not installed")
    tap = Tap("f0", 1)
    assert list(tap.to_dataframe().columns) == ["oid", "f0"]
    tap.publish([row(4, 0, {"mag": 1.5, "oid": "theirs"}), row(5, 0, 7), row(6, 0, FAILED)])
    frame = tap.to_dataframe()
    assert frame.index.name == "seq"
    assert list(frame.index) == [4, 5, 6]
    assert list(frame.columns) == ["oid", "mag", "f0.oid", "f0", "_exception"]
    assert list(frame["oid"]) == ["oid4", "oid5", "oid6"]
    assert (frame.loc[4, "mag"], frame.loc[4, "f0.oid"], frame.loc[5, "f0"]) == (1.5, "theirs", 7)
    assert frame.loc[6, "_exception"]["exc_class"] == "ValueError"


def test_readers_and_writers_get_along():
    tap, wrong, ended = Tap("f0", 1, 20), [], threading.Event()

    def read():
        while not ended.is_set():
            values = list(tap)
            if values != list(range(values[0], values[0] + len(values))) if values else False:
                wrong.append(values)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for batch in range(300):
        tap.publish([row(n, n, n) for n in range(batch * 7, batch * 7 + 7)])
    ended.set()
    for reader in readers:
        reader.join(5)
    assert wrong == []
    assert list(tap) == list(range(2080, 2100))
