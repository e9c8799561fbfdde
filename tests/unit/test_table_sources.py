"""Tables and files are sources of rows: what they are is told by type, and every row comes once, in order."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import orjson
import pandas
import psutil
import pyarrow
import pyarrow.parquet
import pytest
from feeder_kit import rigs
from wait_kit import wait_until

from timbr_wamp import Machine
from timbr_wamp.client.sources import source_ref
from timbr_wamp.contract import FunctionRef
from timbr_wamp.errors import InvalidArgument, NotASource, PluginNotInstalled
from timbr_wamp.rows import has_rows

LIMIT_S = 10.0
FRAME = pandas.DataFrame({
    "number": [1, 2, 3],
    "share": [0.5, None, 1.5],
    "at": pandas.to_datetime(["2026-01-02T00:00:00", None, "2026-01-03T04:05:06"]),
    "text": ["a", None, "ü"],
})  # fmt: skip
TABLE = pyarrow.table({"number": [1, None], "list": [[1], [2, 3]]})


def read(source: object, **options: Any) -> list[Any]:
    """Return the messages of a source as they are recorded; the last ones of many."""
    with Machine(1, serve=False) as machine:
        machine.set_source(source, **options)
        machine.start()
        assert machine.wait(LIMIT_S)
        assert machine.source.error is None, machine.source.error
        return [record.input for record in machine.recent(5000)]


def total_of(source: object) -> int | None:
    with Machine(1, serve=False) as machine:
        machine.source = source
        return machine.source.total


class Stream:
    """Offers Arrow's stream, and iterates over something else."""

    def __init__(self, table: Any) -> None:
        self._table = table

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._table.__arrow_c_stream__(requested_schema)

    def __iter__(self) -> Iterator[str]:
        return iter("columns")


class Inventive:
    """Has every attribute that it is asked for; a source all the same, since it iterates."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__arrow") or name in ("to_dict", "to_pylist", "num_rows", "iloc"):
            raise AssertionError(f"it was asked for {name}")
        return lambda *args, **kwargs: self

    def __iter__(self) -> Iterator[int]:
        return iter([1, 2])


# --- tables ----------------------------------------------------------------------------------


def test_a_dataframe_is_read_row_by_row_without_nan() -> None:
    assert read(FRAME) == [
        {"number": 1, "share": 0.5, "at": "2026-01-02T00:00:00", "text": "a"},
        {"number": 2, "share": None, "at": None, "text": None},
        {"number": 3, "share": 1.5, "at": "2026-01-03T04:05:06", "text": "ü"},
    ]


def test_slots_get_a_rows_values_as_pythons_own() -> None:
    seen: list[Any] = []
    with Machine(1, serve=False) as machine:
        machine[0] = seen.append
        machine.source = FRAME
        machine.start()
        assert machine.wait(LIMIT_S)
    assert [type(row["number"]) for row in seen] == [int, int, int]
    assert seen[1]["share"] is None
    assert isinstance(seen[0]["at"], pandas.Timestamp)


def test_names_of_columns_are_texts() -> None:
    levels = pandas.MultiIndex.from_tuples([("a", 1), ("a", 2)])
    assert read(pandas.DataFrame([[1, 2]])) == [{"0": 1, "1": 2}]
    assert read(pandas.DataFrame([[1, 2]], columns=levels)) == [{"a.1": 1, "a.2": 2}]


def test_a_long_table_comes_whole_and_in_order() -> None:
    frame = pandas.DataFrame({"n": range(2000)})
    assert read(frame) == [{"n": n} for n in range(2000)]
    assert read(pyarrow.Table.from_pandas(frame)) == [{"n": n} for n in range(2000)]


@pytest.mark.parametrize(
    "make",
    [lambda: TABLE, lambda: TABLE.to_batches()[0], lambda: TABLE.to_reader(), lambda: Stream(TABLE)],
    ids=["Table", "RecordBatch", "RecordBatchReader", "stream"],
)
def test_what_arrow_has_is_read_row_by_row(make: Any) -> None:
    assert has_rows(make())
    assert read(make()) == [{"number": 1, "list": [1]}, {"number": None, "list": [2, 3]}]


def test_the_number_of_rows_is_known_where_the_table_knows_it() -> None:
    assert [total_of(source) for source in (FRAME, TABLE, TABLE.to_batches()[0])] == [3, 2, 2]
    assert [total_of(source) for source in (TABLE.to_reader(), Stream(TABLE), lambda: FRAME)] == [None] * 3


def test_a_function_may_give_a_table_and_a_table_can_be_read_again() -> None:
    assert len(read(lambda: FRAME)) == 3
    with Machine(1, serve=False) as machine:
        machine.set_source(FRAME, on_exhausted="restart", backoff_s=0.001)
        machine.start()
        wait_until(lambda: len(machine.recent(9)) == 9, "nine records")
        machine.stop()
        numbers = [record.input["number"] for record in machine.recent(9)]
        assert sorted(numbers) == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    with pytest.raises(InvalidArgument, match="cannot be restarted"), Machine(1, serve=False) as machine:
        machine.set_source(TABLE.to_reader(), on_exhausted="restart")


def test_rows_follow_the_policy_when_the_queue_is_full() -> None:
    with rigs() as rig:
        source = rig(pandas.DataFrame({"n": range(100)}), policy="drop_new").start()
        source.wait_for_end()
        assert [row["n"] for row in source.dropped] == list(range(4, 100))
    with rigs() as rig:
        assert [row["n"] for row in rig(pandas.DataFrame({"n": range(100)})).start().run_to_end()] == list(range(100))


def test_columns_are_read_value_by_value_and_values_are_no_rows() -> None:
    assert read(FRAME["number"]) == [1, 2, 3]
    assert read([FRAME.shape, "x"]) == [[3, 4], "x"]
    assert read(Inventive()) == [1, 2]
    with Machine(1, serve=False) as machine:
        machine.put(7)
        machine.start()
        assert machine.wait(LIMIT_S)
        assert read(machine.recent()) == [[machine.recent()[0].oid, 7, 7]]


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        (pandas.DataFrame([[1, 2]], columns=["a", "a"]), "two columns named 'a'"),
        (pandas.DataFrame(), "no columns"),
        (pyarrow.Table.from_arrays([[1], [2]], names=["a", "a"]), "two columns named 'a'"),
        (Stream(pyarrow.chunked_array([[1, 2]])), "no rows"),
        ({"a": 1}, "to put it as one message"),
        ("readings", r"\.csv"),
    ],
    ids=["same names", "no columns", "same names in Arrow", "a stream of values", "dict", "text"],
)
def test_what_is_no_table_of_named_columns_is_refused_at_once(source: object, hint: str) -> None:
    with Machine(1, serve=False) as machine, pytest.raises(NotASource, match=hint):
        machine.source = source


def test_a_stream_without_pyarrow_is_refused_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with Machine(1, serve=False) as machine, pytest.raises(PluginNotInstalled, match="pip install pyarrow"):
        machine.source = Stream(TABLE)


# --- files -----------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_a_csv_file_has_numbers_texts_and_missing_values(folder: Path) -> None:
    path = written(folder, "data.csv", 'n,share,code,note\n1,2.5,007,"a, b"\n\n-2,1e3,,nan\n')
    rows = [
        {"n": 1, "share": 2.5, "code": "007", "note": "a, b"},
        {"n": -2, "share": 1000.0, "code": None, "note": "nan"},
    ]
    for source in (path, str(path), "data.csv", PurePosixPath("data.csv"), lambda: path):
        assert read(source) == rows
    assert total_of(path) == 2


def test_a_csv_file_tells_its_separator_by_its_first_line_and_may_have_a_mark(folder: Path) -> None:
    assert read(written(folder, "a.csv", "\ufeffn;s\n1;a,b\n")) == [{"n": 1, "s": "a,b"}]
    assert read(written(folder, "b.csv", "n\n1\n")) == [{"n": 1}]
    assert read(written(folder, "c.tsv", "n\ts,t;u\n1\tx\n")) == [{"n": 1, "s,t;u": "x"}]


def test_rows_that_are_too_long_or_short_lose_no_cell(folder: Path) -> None:
    assert read(written(folder, "a.csv", "n,s\n1\n2,x,3,y\n")) == [
        {"n": 1, "s": None}, {"n": 2, "s": "x", "_rest": [3, "y"]}
    ]  # fmt: skip


def test_numbers_that_no_float_or_program_can_hold_stay_texts(folder: Path) -> None:
    long = "9" * 5000
    assert read(written(folder, "a.csv", f"n\n1e999\n{long}\n")) == [{"n": "1e999"}, {"n": long}]


def test_lines_of_json_are_handed_on_as_they_are(folder: Path) -> None:
    path = written(folder, "data.jsonl", '{"a": 1.50}\n\n[2]\n"x"')
    assert read(path) == [{"a": 1.5}, [2], "x"]
    assert total_of("data.jsonl") == 3
    with Machine(1, serve=False) as machine:
        machine.source = written(folder, "bad.ndjson", "1\nnot json\n2\n")
        machine[0] = lambda x: x + 1
        machine.start()
        assert machine.wait(LIMIT_S)
        assert [record.errored for record in machine.recent()] == [False, True, False]


def test_a_parquet_file_is_read_in_parts(folder: Path) -> None:
    pyarrow.parquet.write_table(TABLE, "data.parquet")
    assert read("data.parquet") == TABLE.to_pylist()
    assert total_of(folder / "data.parquet") == 2


def test_readers_of_csv_are_iterators_as_ever(folder: Path) -> None:
    with written(folder, "data.csv", "n\n1\n2\n").open() as file:
        assert read(csv.DictReader(file)) == [{"n": "1"}, {"n": "2"}]


@pytest.mark.parametrize(
    ("name", "text", "hint"),
    [
        ("missing.csv", None, r"the file 'missing\.csv' is not there \(the working folder is /"),
        ("data.xlsx", "x", r"of no kind that is read as rows \(\.csv"),
        ("folder.csv", b"", "is no file"),
        ("empty.csv", "", "names no columns"),
        ("twice.csv", "a,a\n1,2\n", "same name"),
        ("latin.csv", b"\xfc,b\n", "utf-8"),
        ("bad.parquet", "x", "cannot be read"),
    ],
    ids=["missing", "unknown kind", "folder", "empty", "same names", "not UTF-8", "no Parquet"],
)
def test_a_file_that_cannot_be_read_is_refused_at_once(folder: Path, name: str, text: Any, hint: str) -> None:
    if name == "folder.csv":
        (folder / name).mkdir()
    elif text is not None:
        written(folder, name, text)
    with Machine(1, serve=False) as machine, pytest.raises(NotASource, match=hint):
        machine.source = Path(name)


def test_a_file_with_an_error_in_its_middle_gives_what_comes_before_and_says_so(folder: Path) -> None:
    path = written(folder, "data.csv", b"n\n" + b"1\n" * 10_000 + b"\xff\n")
    with Machine(1, serve=False) as machine:
        machine.source = path
        machine.start()
        machine.wait(LIMIT_S)
        assert machine.source.state == "failed"
        assert "UnicodeDecodeError" in (machine.source.error or "")
        assert machine.status.put > 1000


def test_a_file_is_closed_when_it_is_read_or_its_source_deleted(folder: Path) -> None:
    path = written(folder, "data.csv", "n\n" + "1\n" * 10_000)
    with Machine(1, serve=False, bufsize=10) as machine:
        machine.source = path
        machine.put(0)
        machine.start()
        wait_until(lambda: machine.source.count > 0, "a first row")
        machine.stop()
        machine.delete_source()
    assert wait_until(lambda: str(path) not in {file.path for file in psutil.Process().open_files()}, "it is closed")


# --- to a machine elsewhere ------------------------------------------------------------------


def rows_in(ref: FunctionRef) -> Any:
    assert ref.kind == "source"
    return eval(ref.text or "")


def test_a_table_goes_to_a_machine_elsewhere_as_its_rows(folder: Path) -> None:
    rows = rows_in(source_ref(FRAME))
    assert rows[1] == {"number": 2, "share": None, "at": None, "text": None}
    assert rows[2]["text"] == "ü"
    assert rows_in(source_ref(TABLE)) == TABLE.to_pylist()
    assert rows_in(source_ref(written(folder, "data.csv", "n\n1\n"))) == [{"n": 1}]
    assert rows_in(source_ref(written(folder, "data.jsonl", '{"a": [1]}\n'))) == [{"a": [1]}]
    assert rows_in(source_ref("data.csv")) == [{"n": 1}]


def test_what_is_no_table_goes_as_functions_do() -> None:
    assert source_ref("lambda: range(3)").text == "lambda: range(3)"
    assert source_ref([1, 2]).kind == "cloudpickle"


def test_a_table_too_large_for_one_call_is_refused_with_the_way_to_do_it() -> None:
    endless = pyarrow.table({"text": ["x" * 1000] * 2000})
    with pytest.raises(InvalidArgument, match=r"put_many\(\)"):
        source_ref(endless)


def test_a_file_that_is_not_here_may_be_one_of_the_kernels(folder: Path) -> None:
    with pytest.raises(NotASource, match=r"source text \"__import__\('pathlib'\)\.Path\('there\.csv'\)\""):
        source_ref("there.csv")
    with pytest.raises(NotASource, match="not there"):
        source_ref(Path("there.csv"))
    with pytest.raises(NotASource, match="key by key"):
        source_ref({"a": 1})
    with pytest.raises(NotASource, match="cannot be read"):
        source_ref(written(folder, "bad.jsonl", "1\nnot json\n"))


def test_rows_of_any_values_can_be_sent() -> None:
    frame = pandas.DataFrame({"x": [{"a": (1, 2)}, b"bytes", "quote ' \" \\ \n", float("inf")]})
    rows = rows_in(source_ref(frame))
    assert rows[0] == {"x": {"a": [1, 2]}}
    assert rows[2] == {"x": "quote ' \" \\ \n"}
    assert orjson.dumps(rows)
