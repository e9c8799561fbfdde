"""Each kind of value has its own JSON form; users' codecs work like the built-in ones."""

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
import io
import json
import os
import pathlib
import re
import subprocess
import sys
import threading
import uuid
from importlib.metadata import EntryPoint
from unittest.mock import Mock

import numpy
import pandas
import pytest

from timbr_wamp import plugins
from timbr_wamp.codecs import Codec, register_codec, registry
from timbr_wamp.errors import InvalidArgument
from timbr_wamp.values import PREVIEW_LIMIT_BYTES, json_safe, to_json

UTC = datetime.UTC


def preview(value):
    """Return the form of a value, which is the same wherever it stands."""
    seen = json.loads(to_json(value))
    assert json_safe(value) == seen
    assert json.loads(to_json({1: value}))["1"] == seen
    return seen


class Pair(collections.namedtuple("Pair", "a b")):
    __slots__ = ()


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        (decimal.Decimal("1.10"), {"__type__": "Decimal", "value": "1.10"}),
        (fractions.Fraction(1, 3), {"__type__": "Fraction", "numerator": 1, "denominator": 3}),
        (datetime.timedelta(1, 2), {"__type__": "timedelta", "days": 1, "seconds": 2, "microseconds": 0}),
        (datetime.datetime(2020, 1, 2, tzinfo=UTC), "2020-01-02T00:00:00Z"),
        (datetime.time(1, tzinfo=UTC), "01:00:00Z"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (pathlib.Path("/a"), {"__type__": "Path", "value": "/a"}),
        (b"abc", {"__type__": "bytes", "__bytes__": 3, "__repr__": "b'abc'"}),
        (memoryview(b"abcd").cast("H"), {"__type__": "memoryview", "__bytes__": 4, "__repr__": "b'abcd'"}),
        ({3, 1, 2}, [1, 2, 3]),
        (frozenset({"b", "a"}), ["a", "b"]),
        (Pair(1, 2), [1, 2]),
        (range(3), [0, 1, 2]),
        (range(5000), {"__type__": "range", "start": 0, "stop": 5000, "step": 1}),
        (2**70, {"__type__": "int", "value": str(2**70)}),
        (10**5000, {"__type__": "int", "bits": 16610}),
        (re.compile("a+", re.I), {"__type__": "Pattern", "value": "a+", "flags": 34}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_preview_is_short_and_natural(value, seen):
    assert preview(value) == seen


def test_equal_sets_have_equal_texts():
    one, other = {8, 0, "b", None}, {None, "b", 0, 8}
    assert to_json(one) == to_json(other)


@pytest.mark.parametrize(
    "value",
    [b"x" * 10**6, numpy.zeros(10**6), numpy.zeros((10**6, 0)), numpy.zeros((500,) + (1,) * 30),
     decimal.Decimal("1" * 10**5), pathlib.Path("/" + "a" * 10**5),
     fractions.Fraction(10**9000, 7), range(10**9), ValueError("x" * 10**6), io.BytesIO(bytes(10**6)),
     pandas.DataFrame({f"column {n}" * 20: ["\x00" * 1000] * 100 for n in range(100)}),
     pandas.Series(["ü" * 1000] * 1000, name="n" * 1000), pandas.Index(["x" * 1000] * 100),
     numpy.array([[list(range(10**5))], None], dtype=object), numpy.array(["x" * 10**5] * 5),
     numpy.zeros(2, dtype=[(f"f{n}", "i4") for n in range(1000)])],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_a_preview_of_something_large_is_bounded(value):
    assert len(to_json(value)) <= PREVIEW_LIMIT_BYTES


class TestExceptions:
    def test_class_text_and_causes_are_shown(self):
        try:
            try:
                {}["k"]
            except KeyError as error:
                raise ValueError("no such thing") from error
        except ValueError as error:
            seen = preview(error)
        assert seen == {
            "__type__": "ValueError",
            "exc_class": "builtins.ValueError",
            "exc_value": "no such thing",
            "causes": [{"exc_class": "builtins.KeyError", "exc_value": "'k'"}],
        }

    def test_a_chain_that_returns_to_itself_ends(self):
        first, second = ValueError("first"), ValueError("second")
        first.__cause__, second.__cause__ = second, first
        assert [cause["exc_value"] for cause in preview(first)["causes"]] == ["second"]

    def test_a_long_chain_is_cut(self):
        error = ValueError(0)
        for number in range(1, 50):
            above = ValueError(number)
            above.__cause__ = error
            error = above
        assert len(preview(error)["causes"]) == 5


class TestArrays:
    @pytest.mark.parametrize(
        ("array", "seen"),
        [
            (numpy.arange(6).reshape(2, 3), [[0, 1, 2], [3, 4, 5]]),
            (numpy.arange(6).reshape(2, 3)[:, ::2], [[0, 2], [3, 5]]),
            (numpy.asfortranarray([[1.5, 2], [3, numpy.nan]]), [[1.5, 2.0], [3.0, None]]),
            (numpy.array(3), 3),
            (numpy.zeros((2, 0)), [[], []]),
            (numpy.arange(3, dtype=">i4"), [0, 1, 2]),
            (numpy.array([0.1], dtype="f4"), [0.1]),
            (numpy.array(["a", "ü"]), ["a", "ü"]),
            (numpy.array(["2020-01-01", "NaT"], dtype="M8[ns]"), ["2020-01-01T00:00:00", None]),
            (numpy.ma.array([1, 2], mask=[False, True]), [1, None]),
        ],
    )
    def test_a_small_array_of_numbers_dates_or_text_is_a_list_in_any_memory_layout(self, array, seen):
        assert preview(array) == seen

    def test_a_large_array_shows_its_shape_and_its_first_items(self):
        assert preview(numpy.ones((1000, 1000))[:, ::2]) == {
            "__type__": "ndarray", "dtype": "<f8", "shape": [1000, 500], "nbytes": 4_000_000, "head": [1.0] * 10,
        }  # fmt: skip

    @pytest.mark.parametrize("array", [[1j], [{1}], numpy.zeros(2, [("a", "i4")])], ids=["complex", "object", "fields"])
    def test_an_array_of_other_types_is_described_at_any_size(self, array):
        assert preview(numpy.array(array))["__type__"] == "ndarray"

    def test_numbers_are_numbers(self):
        values = [numpy.float64(1.5), numpy.float32(0.1), numpy.int8(-1), numpy.bool_(True), numpy.str_("a")]
        assert preview(values) == [1.5, 0.1, -1, True, "a"]

    @pytest.mark.parametrize("text", ["2020-01-02", "20000-01-01", "2020-01-01T00:00:00.123456789"])
    def test_dates_keep_years_and_digits_that_datetime_does_not_have(self, text):
        assert preview(numpy.datetime64(text)) == text
        assert preview(numpy.array([text, "NaT"], dtype="M8")) == [text, None]

    def test_objects_in_an_array_are_shown_by_their_class(self):
        assert preview(numpy.array([Mock(), numpy.int64(2)], dtype=object))["head"][1] == 2


class TestTables:
    TABLE = pandas.DataFrame(
        {
            "n": [1, 2],
            "x": [0.5, None],
            "text": ["a", None],
            "at": pandas.to_datetime(["2020-01-01", "2021-01-01"], utc=True),
            "maybe": pandas.array([1, None], dtype="Int64"),
            "kind": pandas.Categorical(["u", "v"]),
            "any": [{1}, (2,)],
        },
        index=pandas.MultiIndex.from_tuples([("p", 1), ("q", 2)], names=["one", "two"]),
    )

    def test_a_table_shows_shape_types_and_first_rows(self):
        seen = preview(self.TABLE)
        assert seen["shape"] == [2, 7]
        assert seen["columns"] == list(self.TABLE.columns)
        assert seen["dtypes"][:2] == ["int64", "float64"]
        assert seen["head"][1][:3] == [2, None, None]

    def test_a_column_shows_its_length_and_first_items(self):
        assert preview(pandas.Series([1.5, None], name="s")) == {
            "__type__": "Series", "dtype": "float64", "length": 2, "name": "s", "head": [1.5, None],
        }  # fmt: skip
        assert preview(pandas.RangeIndex(2, 9, 3))["head"] == [2, 5, 8]

    def test_times_keep_their_nanoseconds(self):
        assert preview(pandas.Timestamp("2020-01-01T00:00:00.123456789")) == "2020-01-01T00:00:00.123456789"
        assert preview(pandas.Timedelta("1s 3ns"))["value"] == "P0DT0H0M1.000000003S"

    def test_what_is_missing_is_null(self):
        assert preview([pandas.NaT, pandas.NA]) == [None, None]


class TestFiles:
    def test_a_preview_shows_the_position_of_a_file_and_does_not_move_it(self, tmp_path):
        path = tmp_path / "f"
        path.write_bytes(b"0123456789")
        with path.open("rb") as file:
            file.seek(4)
            assert preview(file) == {
                "__type__": "file", "class": "BufferedReader", "closed": False,
                "name": str(path), "mode": "rb", "size_bytes": 10, "position": 4,
            }  # fmt: skip
            assert file.read() == b"456789"
        assert preview(file)["closed"] is True

    def test_a_file_whose_lines_are_being_read_is_described(self, tmp_path):
        path = tmp_path / "f"
        path.write_text("a\nb\n")
        with path.open() as file:
            assert next(file) == "a\n"
            assert "position" not in preview(file)
            assert next(file) == "b\n"

    def test_a_pipe_is_never_read(self):
        reading, writing = os.pipe()
        with os.fdopen(reading, "rb") as reader, os.fdopen(writing, "wb", buffering=0) as writer:
            writer.write(b"x")
            assert "size_bytes" not in preview(reader)
            assert reader.read(1) == b"x"


class Celsius:
    def __init__(self, degrees):
        self.degrees = degrees


class CelsiusCodec:
    """Kelvin in a preview, so that one sees which codec was asked."""

    name = "test.Celsius"

    def matches(self, value):
        return isinstance(value, Celsius)

    def preview(self, value):
        return {"kelvin": value.degrees + 273.15}


@pytest.fixture
def fresh_registry(monkeypatch):
    """A registry that the test may fill."""
    monkeypatch.setattr(registry, "_registry", registry._Registry())


@pytest.fixture
def entry_point(monkeypatch, fresh_registry):
    """Install a codec, its class or its factory as an entry point; return the list of loads."""

    def install(part):
        loads = []

        def load(group, name):
            loads.append((group, name))
            return part

        point = EntryPoint("celsius", "elsewhere:codec", plugins.CODECS)
        monkeypatch.setattr(plugins, "entry_points", lambda group: (point,) if group == plugins.CODECS else ())
        monkeypatch.setattr(plugins, "load", load)
        return loads

    return install


class TestOwnCodecs:
    def test_the_codec_of_this_test_is_one(self):
        assert isinstance(CelsiusCodec(), Codec)

    @pytest.mark.parametrize(
        "part", [CelsiusCodec(), CelsiusCodec, lambda: CelsiusCodec()], ids=["codec", "class", "factory"]
    )
    def test_a_codec_of_an_entry_point_is_found_on_demand_and_loaded_once(self, entry_point, part):
        loads = entry_point(part)
        assert to_json({"plain": [1, "a"]}) == b'{"plain":[1,"a"]}'
        assert loads == []
        assert preview(Celsius(0.0)) == {"__type__": "test.Celsius", "kelvin": 273.15}
        assert loads == [(plugins.CODECS, "celsius")]

    @pytest.mark.parametrize("part", [object(), lambda: 1 / 0])
    def test_an_entry_point_without_a_codec_is_left_out(self, entry_point, part):
        entry_point(part)
        assert preview([Celsius(0.0), 1j])[1]["__type__"] == "complex"

    @pytest.mark.parametrize("key", [Celsius, f"{__name__.partition('.')[0]}.Celsius"], ids=["class", "name"])
    def test_a_codec_is_registered_for_a_class_and_its_subclasses(self, fresh_registry, key):
        class Warm(Celsius):
            pass

        assert preview(Warm(0.0))["__type__"].endswith("Warm")
        register_codec(key, CelsiusCodec())
        assert preview(Warm(0.0)) == {"__type__": "test.Celsius", "kelvin": 273.15}

    def test_a_codec_may_replace_a_built_in_one(self, fresh_registry):
        class Short(CelsiusCodec):
            def preview(self, value):
                return f"{len(value)} bytes"

        register_codec(bytes, Short())
        assert preview(b"abc") == "3 bytes"

    @pytest.mark.parametrize("kind", [int, str, dict, type("Sub", (dict,), {}), datetime.date, uuid.UUID, re.RegexFlag])
    def test_plain_json_cannot_be_taken(self, fresh_registry, kind):
        with pytest.raises(InvalidArgument, match="plain JSON"):
            register_codec(kind, CelsiusCodec())

    def test_what_is_no_codec_is_refused(self):
        with pytest.raises(InvalidArgument, match="lacks one of"):
            register_codec(Celsius, object())  # type: ignore[arg-type]

    @pytest.mark.parametrize("method", ["preview", "matches"])
    @pytest.mark.parametrize("raised", [RuntimeError, SystemExit, KeyboardInterrupt, GeneratorExit])
    def test_a_codec_that_raises_does_not_affect_others(self, entry_point, method, raised):
        def fail(self, value):
            raise raised("no")

        broken = type("Broken", (CelsiusCodec,), {method: fail})
        entry_point(broken)
        seen = []
        thread = threading.Thread(target=lambda: seen.append(json.loads(to_json([Celsius(0.0), {1}, 2]))))
        thread.start()  # in the main thread a KeyboardInterrupt is the user's
        thread.join(10)
        assert "__repr__" in seen[0][0]
        assert seen[0][2] == 2

    def test_a_codec_whose_preview_is_too_long_gives_a_placeholder(self, fresh_registry):
        register_codec(Celsius, type("Long", (CelsiusCodec,), {"preview": lambda self, value: "x" * 10**6})())
        text = to_json([Celsius(0.0), 1])
        assert "__repr__" in json.loads(text)[0]
        assert len(text) < 500

    def test_a_codec_that_returns_its_own_value_ends(self, fresh_registry):
        register_codec(Celsius, type("Same", (CelsiusCodec,), {"preview": lambda self, value: [value]})())
        assert b"holds itself" in to_json(Celsius(0.0))


def test_neither_numpy_nor_pandas_is_ever_imported_by_us():
    script = (
        "import sys; from timbr_wamp.values import to_json\n"
        "assert to_json([{1}, object()]).startswith(b'[[1],')\n"
        "print([name for name in ('numpy', 'pandas') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert ran.stdout.strip() == "[]"
