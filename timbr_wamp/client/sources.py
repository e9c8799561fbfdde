"""A source as it is sent to a machine elsewhere: a function or an iterable as functions are, a table as its rows.

Tables and files are read here, where they are, and go as one JSON text. So the kernel needs neither the library that
made the table nor the same Python. What does not fit into one call is better read where the machine is.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import PurePath

from timbr_wamp.client.functions import function_ref
from timbr_wamp.contract import PAYLOAD_LIMIT_BYTES, FunctionRef
from timbr_wamp.errors import InvalidArgument, NotASource
from timbr_wamp.rows import RowSource, has_rows, has_table_suffix, row_source
from timbr_wamp.values import text_of

#: Of a payload, what the texts of rows may take: the rest is for quotes and escapes.
ROWS_LIMIT_BYTES = PAYLOAD_LIMIT_BYTES * 3 // 4


def source_ref(source: object) -> FunctionRef:
    """Return what sends a source.

    Raises:
        InvalidArgument: a table or file too large for one call, or what cannot be sent.
        NotASource: a file that is not there, or a mapping.
    """
    if isinstance(source, dict):
        raise NotASource("dict", "would be read key by key; give its values, or a list of messages")
    if not has_rows(source):
        return function_ref(source)
    try:
        rows = row_source(source)
    except NotASource as error:
        if isinstance(source, str) and has_table_suffix(source):
            there = f"\"__import__('pathlib').Path({source!r})\""
            problem = f"{error.problem}; for a file of the kernel's computer give the source text {there}"
            raise NotASource(error.type_name, problem) from None
        raise
    assert rows is not None
    texts: list[bytes] = []
    size = 0
    for row in _read(source, rows):
        texts.append(text_of(row))
        size += len(texts[-1]) + 1
        if size > ROWS_LIMIT_BYTES:
            problem = (
                f"its rows take more than {ROWS_LIMIT_BYTES:,} bytes, which one call does not carry; put them in "
                "portions by put_many(), or send a function that reads them where the kernel runs"
            )
            raise InvalidArgument("source", problem)
    text = (b"[%b]" % b",".join(texts)).decode()
    return FunctionRef(kind="source", text=f"__import__('json').loads({text!r})")


def _read(source: object, rows: RowSource) -> Iterator[object]:
    try:
        yield from rows.rows(json.loads)
    except (OSError, ValueError, csv.Error) as error:  # JSON's and Unicode's errors are ValueErrors
        name = f"the file {str(source)!r}" if isinstance(source, (str, PurePath)) else type(source).__name__
        raise NotASource(name, f"cannot be read: {error}") from None
