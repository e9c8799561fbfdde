"""How deeply messages are nested, and the size of the log: ``timbr_nesting`` and ``timbr_log`` of the router."""

from __future__ import annotations

import contextlib
import importlib
import json
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

CONFIG = Path(__file__).parents[2] / "router-config"


@pytest.fixture(scope="module", name="nesting")
def _nesting() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(CONFIG)
        return importlib.import_module("timbr_nesting")


@pytest.fixture(name="log")
def _log(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(CONFIG)
    module = importlib.import_module("timbr_log")
    monkeypatch.setattr(module, "MAX_BYTES", 1000)
    return module


def depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


_LEAVES = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text() | st.text('[]{}"\\')
)  # fmt: skip
_VALUES = st.recursive(
    _LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text('ab"[\\'), inner), max_leaves=60
)


@given(_VALUES, st.booleans())
def test_json_of_any_value_has_the_nesting_of_the_value(nesting: Any, value: Any, spaced: bool) -> None:
    content = json.dumps(value, ensure_ascii=False, indent=1 if spaced else None).encode("utf-8", "surrogatepass")
    nesting.check_json(content, depth(value))
    if depth(value):
        with pytest.raises(nesting.TooDeep):
            nesting.check_json(content, depth(value) - 1)


@given(
    st.recursive(
        _LEAVES | st.binary(), lambda inner: st.lists(inner, min_size=1) | st.dictionaries(st.text(), inner, min_size=1)
    )
)
def test_msgpack_of_any_value_has_the_nesting_of_the_value(nesting: Any, value: Any) -> None:
    content = msgpack.packb(value)
    nesting.check_msgpack(content, depth(value))
    if depth(value):
        with pytest.raises(nesting.TooDeep):
            nesting.check_msgpack(content, depth(value) - 1)


@given(st.binary())
def test_what_is_no_message_raises_nothing_else(nesting: Any, content: bytes) -> None:
    for check in (nesting.check_json, nesting.check_msgpack):
        with contextlib.suppress(nesting.TooDeep):
            check(content, 3)


@pytest.mark.parametrize(
    "value",
    [
        [[["x" * 70_000], b"y" * 300], {"k": {"k": [1.5, -1, 2**40, "z" * 40]}}] * 20,
        [{str(number): [number] for number in range(70_000)}, [[0.5]] * 70_000],
        [msgpack.ExtType(5, b"\x91" * size) for size in (1, 2, 4, 8, 16, 3, 300, 70_000)] + [[[]]] * 9,
    ],
    ids=["long texts", "many entries", "extensions"],
)
def test_every_form_of_msgpack_is_understood(nesting: Any, value: Any) -> None:
    levels = 1 + max(depth([item]) - 1 for item in value)
    nesting.check_msgpack(msgpack.packb(value), levels)
    with pytest.raises(nesting.TooDeep):
        nesting.check_msgpack(msgpack.packb([[value]]), levels)


@pytest.mark.parametrize(
    "content",
    [b"[" * 2**20, b"[" * 4 + b'"' + b'\\"' * 2**19, b'["' * 2**19, b'["\\' * 2**19, b"[]{}" * 2**18],
    ids=["open", "open text", "texts", "escapes", "pairs"],
)
def test_a_megabyte_of_anything_is_checked(nesting: Any, content: bytes) -> None:
    """The time is in proportion to the size: what is not would meet the time limit of a test here."""
    with contextlib.suppress(nesting.TooDeep):
        nesting.check_json(content, 100)
    with contextlib.suppress(nesting.TooDeep):
        nesting.check_msgpack(content, 100)


def test_a_log_that_is_too_large_is_moved_and_the_writer_goes_on(log: Any, tmp_path: Path) -> None:
    path = tmp_path / "router.log"
    with open(path, "ab", buffering=0) as writer:
        writer.write(b"a" * 999)
        assert not log.keep_small(path)
        writer.write(b"b" * 201)
        assert log.keep_small(path)
        writer.write(b"later")
    assert path.read_bytes() == b"later"
    older = tmp_path / "router.log.1"
    assert older.read_bytes() == b"a" * 799 + b"b" * 201
    assert older.stat().st_mode & 0o777 == 0o600


def test_a_missing_log_is_no_error(log: Any, tmp_path: Path) -> None:
    assert not log.keep_small(tmp_path / "router.log")


def test_the_log_says_only_so_much_of_connections_and_counts_the_rest(log: Any) -> None:
    now = 0.0
    complaints = log.Complaints(lambda: now)
    lines: list[str] = []
    write = complaints.limited(lambda text, **values: lines.append(text.format(**values)))
    for number in range(1000):
        write("line {number}", number=number)
    assert lines == [f"line {number}" for number in range(log.LINES)]
    now = log.INTERVAL_S
    write("later")
    assert lines[log.LINES :] == [f"{1000 - log.LINES} further lines about connections were left out", "later"]


def test_a_traceback_is_new_once_for_each_place(log: Any) -> None:
    complaints = log.Complaints()
    news = []
    for kind in (ValueError, ValueError, KeyError, ValueError):
        try:
            raise kind("x")
        except Exception as error:
            news.append(complaints.is_new(error))
    assert news == [True, False, True, False]
