"""Records, errors, statuses and slots become DataFrames, Arrow tables and dicts, whatever values are in them."""

from __future__ import annotations

import dataclasses
import math
import pickle
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec
import pandas
import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st

from timbr_wamp import Machine
from timbr_wamp.contract import ErrorRow, KernelInfo, Record, RecordMeta, RecordRow, SlotNames, record_from_row
from timbr_wamp.errors import PluginNotInstalled, RecordTooLarge
from timbr_wamp.faces.tables import ErrorRows, RecordRows
from timbr_wamp.magic.views import Kernels
from timbr_wamp.rows import JSON_FIELD, Grid, Tabular

LIMIT_S = 10.0
AFTER_VALUES = ["seq", "run", "attempt", "revision", "received_at", "finished_at", "errored", "dropped", "error"]


@pytest.fixture
def machine() -> Iterator[Machine]:
    """Return a machine that has recorded 4, 2 and 0, of which the last one failed."""
    with Machine(3, serve=False) as made:
        made.set(0, lambda x: 8 / x, name="ratio")
        made.set(2, lambda ratio: {"twice": 2 * ratio})
        for message in (4, 2, 0):
            made.put(message)
        made.start()
        assert made.wait(LIMIT_S)
        yield made


def a_record(*values: Any, names: tuple[str | None, ...] = (), **meta: Any) -> Record:
    known = {"run": "r", "seq": 1, "attempt": 1, "revision": 1, "received_at": 1.5, "finished_at": 2.0}
    made = RecordMeta(errored=False, **{**known, **meta})
    return Record.make("69216a08aabbccddee000001", list(values), made, names=SlotNames(names))


# --- records ---------------------------------------------------------------------------------


def test_records_are_a_frame_with_the_slots_names_as_columns(machine: Machine) -> None:
    frame = machine.recent().to_frame()
    assert list(frame.columns) == ["oid", "in", "ratio", "f1", "f2", *AFTER_VALUES]
    assert frame["in"].tolist() == [4, 2, 0]
    assert frame["seq"].tolist() == [1, 2, 3]
    assert frame["errored"].tolist() == [False, False, True]
    assert str(frame["received_at"].dt.tz) == "UTC"


def test_a_failed_value_is_missing_and_told_in_a_column_of_its_own(machine: Machine) -> None:
    frame = machine.recent().to_frame()
    assert frame["ratio"].dtype == "float64"
    assert math.isnan(frame["ratio"].iloc[2])
    assert frame["error"].isna().tolist() == [True, True, False]
    assert frame["error"].iloc[2] == "ratio: ZeroDivisionError: division by zero"


def test_pandas_itself_takes_records_with_the_slots_names(machine: Machine) -> None:
    for records in (machine.recent(), list(machine.recent())):
        frame = pandas.DataFrame(records)
        assert list(frame.columns) == ["oid", "in", "ratio", "f1", "f2"]
        assert frame["f2"].iloc[0] == {"twice": 4.0}


def test_records_are_an_arrow_table_and_dicts_with_the_same_columns(machine: Machine) -> None:
    records = machine.recent()
    table = records.to_arrow()
    dicts = records.to_dicts()
    assert table.column_names == list(dicts[0]) == list(records.to_frame().columns)
    assert table.schema.field("ratio").type == pyarrow.float64()
    assert table.schema.field("received_at").type == pyarrow.timestamp("us", tz="UTC")
    assert table["f2"].to_pylist() == [row["f2"] for row in dicts]
    assert dicts[1]["received_at"] == records[1].received_at
    assert pyarrow.RecordBatchReader.from_stream(records).read_all().equals(table)


def test_a_record_is_named_like_a_named_tuple_and_stays_one(machine: Machine) -> None:
    record = machine(4)
    assert record._fields == ("oid", "in", "ratio", "f1", "f2")
    assert record._asdict() == dict(zip(record._fields, record, strict=True))
    assert record == (record.oid, 4, 2.0, 2.0, {"twice": 4.0})
    with_texts = machine(4, include_serialized=True)
    assert with_texts._fields[5:] == ("oid_s", "in_s", "f0_s", "f1_s", "f2_s")
    assert len(with_texts._fields) == len(with_texts)
    assert pickle.loads(pickle.dumps(record))._fields == record._fields
    assert record.to_frame()["ratio"].tolist() == [2.0]


def test_a_slots_name_that_is_a_column_already_gives_way_to_its_number() -> None:
    record = a_record(1, 2, 3, 4, 5, names=("seq", "oid", "f3_s", "error"))
    assert record._fields == ("oid", "in", "f0", "f1", "f2", "f3")


def test_slots_that_are_renamed_give_columns_their_newest_names(machine: Machine) -> None:
    machine.set(0, lambda x: x, name="renamed")
    assert machine.recent()[0]._fields[2] == "renamed"


def test_records_of_different_widths_and_of_none_are_one_table() -> None:
    meta = msgspec.json.encode(
        RecordMeta(
            run="r", seq=2, attempt=1, revision=1, received_at=1.0, finished_at=1.0, errored=False, text_bytes=300_000
        )
    ).decode()
    too_large = record_from_row(RecordRow(2, "a" * 24, None, meta))
    with pytest.raises(RecordTooLarge):
        too_large._asdict()
    records = RecordRows([too_large, a_record(1, 2), a_record(1, 2, 3)])
    frame = records.to_frame()
    assert frame["f1"].isna().tolist() == [True, True, False]
    assert "300,000 bytes" in frame["error"].iloc[0]
    assert records.to_arrow().num_rows == 3


def test_no_records_are_a_table_with_its_columns_and_types() -> None:
    assert list(RecordRows().to_frame().columns) == ["oid", "in", *AFTER_VALUES]
    assert RecordRows().to_arrow().schema.field("seq").type == pyarrow.int64()
    assert RecordRows().to_dicts() == []


def test_a_table_of_records_shows_what_slots_made_and_the_last_value(machine: Machine) -> None:
    shown = str(machine.recent())
    assert "ratio 2.0, f2 {'twice': 4.0}" in shown
    assert "result" in shown
    assert ", f1 " not in shown
    assert "ratio ✗ ZeroDivisionError" in shown


# --- structs ---------------------------------------------------------------------------------

STRUCTS: dict[str, Callable[[Machine], Any]] = {
    "errors": lambda m: m.errors, "one error": lambda m: m.errors[0], "groups": lambda m: m.error_groups,
    "status": lambda m: m.status, "slots": lambda m: m.slots, "one slot": lambda m: m.slots[0],
    "revisions": lambda m: m.revisions, "events": lambda m: m.events(), "progress": lambda m: m.progress(),
}  # fmt: skip


@pytest.mark.parametrize("which", STRUCTS)
def test_structs_and_lists_of_them_are_tables_with_their_fields_as_columns(machine: Machine, which: str) -> None:
    rows = STRUCTS[which](machine)
    item = rows[0] if isinstance(rows, list) else rows
    dicts, frame, table = rows.to_dicts(), rows.to_frame(), rows.to_arrow()
    assert list(item._fields) == list(item._asdict()) == list(frame.columns) == table.column_names
    assert len(dicts) == len(frame) == table.num_rows == (len(rows) if isinstance(rows, list) else 1)
    assert dicts[0] == item._asdict()


def test_times_of_errors_are_timestamps_and_seconds_in_dicts(machine: Machine) -> None:
    errors = machine.errors
    at = datetime.fromtimestamp(errors[0].time, UTC)
    assert abs((errors.to_frame()["time"].iloc[0].to_pydatetime() - at).total_seconds()) < 1e-5
    assert errors.to_arrow().schema.field("time").type == pyarrow.timestamp("us", tz="UTC")
    assert errors.to_dicts()[0]["time"] == errors[0].time
    last = machine.status
    last.last_processed_time = None
    assert last.to_frame()["last_processed_time"].isna().all()


def test_nested_structs_are_dicts(machine: Machine) -> None:
    status = machine.status._asdict()
    assert status["source"]["state"] == "none"
    assert status["slots"][0]["calls"] == 3
    assert machine.status.to_arrow()["source"].to_pylist()[0]["state"] == "none"


def test_pandas_itself_takes_structs_with_their_fields(machine: Machine) -> None:
    frame = pandas.DataFrame(machine.errors)
    assert list(frame.columns) == list(machine.errors[0]._fields)
    assert dataclasses.asdict(machine.errors[0])["exc_class"] == "ZeroDivisionError"


def test_a_struct_can_be_a_message_itself(machine: Machine) -> None:
    assert machine(machine.errors[0], include_serialized=True).texts[0].startswith('{"run":')


def test_lists_without_items_keep_columns_and_types() -> None:
    assert ErrorRows().to_frame()["time"].dtype == "datetime64[us, UTC]"
    assert ErrorRows().to_arrow().schema.field("exc_class").type == pyarrow.string()
    assert list(ErrorRows().to_frame().columns) == list(ErrorRow.__struct_fields__)
    assert "kernel_id" in Kernels().to_arrow().column_names
    kernel = KernelInfo(kernel_id="lab_4f2a9c01d3e7", name="demo", host="lab", state="busy")
    assert Kernels([kernel]).to_dicts()[0]["machines"] == []


# --- values of any kind ----------------------------------------------------------------------


class Table(Tabular):
    """One column."""

    def __init__(self, *values: Any) -> None:
        self.values = values

    def _grid(self) -> Grid:
        return Grid(["x"], [[value] for value in self.values])


def arrow_of(*values: Any) -> tuple[Any, list[Any]]:
    """Return the column's type, or "json", and its values."""
    table = Table(*values).to_arrow()
    kept = table.schema.field("x")
    told = {key.decode(): value.decode() for key, value in (kept.metadata or {}).items()}
    return "json" if told == JSON_FIELD else kept.type, table["x"].to_pylist()


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ((1, None, 2), pyarrow.int64()),
        ((1, 2.5), pyarrow.float64()),
        ((True, None), pyarrow.bool_()),
        (("a", None), pyarrow.string()),
        ((None, None), pyarrow.null()),
        (([1], [2, 3]), pyarrow.list_(pyarrow.int64())),
        (({"a": 1}, None), pyarrow.struct({"a": pyarrow.int64()})),
    ],
    ids=str,
)
def test_values_of_one_kind_have_arrows_type(values: tuple[Any, ...], kind: Any) -> None:
    assert arrow_of(*values) == (kind, list(values))


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ((1, "a"), ["1", '"a"']),
        ((True, 1), ["true", "1"]),
        (({"a": 1}, {"a": "x"}), ['{"a":1}', '{"a":"x"}']),
        (({}, None), ["{}", None]),
        ((2**70, 1), [f'{{"__type__":"int","value":"{2**70}"}}', "1"]),
        ((2**60 + 1, 0.5), [str(2**60 + 1), "0.5"]),
        (([1], "x"), ["[1]", '"x"']),
        ((datetime(2026, 1, 2, tzinfo=UTC),), ['"2026-01-02T00:00:00Z"']),
        ((b"bytes", 1), None),
        (("\ud800",), None),
        ((object(), 1), None),
    ],
    ids=[
        "number and text",
        "bool and number",
        "dicts that differ",
        "empty dict",
        "beyond 64 bits",
        "beyond a float",
        "list and text",
        "time",
        "bytes",
        "surrogate",
        "object",
    ],
)
def test_values_of_several_kinds_are_json_texts_and_the_field_says_so(values: Any, texts: list[Any] | None) -> None:
    kind, found = arrow_of(*values)
    assert kind == "json"
    assert texts is None or found == texts


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(json_values, max_size=5))
def test_any_values_become_a_frame_and_a_table(values: list[Any]) -> None:
    table = Table(*values)
    assert len(table.to_frame()) == table.to_arrow().num_rows == len(values)


def test_integers_beside_missing_values_stay_exact_in_a_frame() -> None:
    assert Table(2**60 + 1, None).to_frame()["x"].iloc[0] == 2**60 + 1
    assert Table(1, None).to_frame()["x"].dtype == "float64"
    assert Table(2**70, 1).to_frame()["x"].tolist() == [2**70, 1]
    assert Table(1, True).to_frame()["x"].tolist() == [1, True]


@pytest.mark.parametrize(("library", "method"), [("pandas", "to_frame"), ("pyarrow", "to_arrow")])
def test_a_missing_library_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch, library: str, method: str) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(PluginNotInstalled, match=rf"pip install {library}, or 'timbr-wamp\[tables\]'"):
        getattr(RecordRows(), method)()
    assert RecordRows([a_record(1, 2)]).to_dicts()[0]["in"] == 1


# --- short faces -----------------------------------------------------------------------------


def test_many_message_ids_are_a_list_with_a_short_repr(machine: Machine) -> None:
    for _ in range(20):
        machine.put(0)
    assert machine.wait(LIMIT_S)
    oids = machine.retry_errors()
    assert isinstance(oids, list)
    assert len(oids) == 21
    assert repr(oids).startswith("<21 message ids: ")
    assert len(repr(oids)) < 150
    assert repr(oids[:1]) == f"['{oids[0]}']"


def test_structs_have_a_repr_that_leaves_out_what_is_empty_or_nested(machine: Machine) -> None:
    shown = repr(machine.status)
    assert shown.startswith("Status(name='machine', run=")
    assert "processed=2, errored=1" in shown
    assert "SourceStatus" not in shown
    assert len(shown) < 600
    assert len(repr(machine.errors[0])) < 800
    assert repr(machine.errors) == str(machine.errors)


def test_a_card_says_machine_once(machine: Machine) -> None:
    assert "running  machine, revision" in str(machine.status)
    with Machine(1, name="other", serve=False) as other:
        assert "idle  machine other, revision" in str(other.status)
