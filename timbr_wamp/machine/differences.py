"""What differs between two values as JSON, and between two source texts, in lines for people."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from itertools import islice
from typing import TypeVar

from timbr_wamp.values import JsonValue

T = TypeVar("T")

#: Differences of one value that are named; and characters of a value in one of them.
CHANGES, VALUE_CHARACTERS = 20, 80
#: Lines of a difference of source texts.
TEXT_LINES = 400


def json_changes(before: JsonValue, after: JsonValue, path: str = "") -> list[str]:
    """Return how a JSON value differs from another, one line for each place; at most `CHANGES` and one that says so.

    >>> json_changes({"mag": 3.2, "at": [1, 2]}, {"mag": 3.4, "at": [1], "ok": True})
    ['.mag: 3.2 → 3.4', '.at[1]: 2 → gone', '.ok: new, true']
    >>> json_changes(1, 1.0), json_changes(True, 1), json_changes({"a b": 1}, {"a b": 1})
    (['1 → 1.0'], ['true → 1'], [])
    """
    found = list(islice(_changes(before, after, path), CHANGES + 1))
    return [*found[:CHANGES], *(["…"] if len(found) > CHANGES else [])]


def _changes(before: JsonValue, after: JsonValue, path: str) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in before | after:
            yield from _member(before, after, key, f"{path}.{key}" if key.isidentifier() else f"{path}[{key!r}]")
    elif isinstance(before, list) and isinstance(after, list):
        first, second = dict(enumerate(before)), dict(enumerate(after))
        for number in range(max(len(before), len(after))):
            yield from _member(first, second, number, f"{path}[{number}]")
    elif type(before) is not type(after) or before != after:
        yield _line(path, f"{_shown(before)} → {_shown(after)}")


def _member(before: dict[T, JsonValue], after: dict[T, JsonValue], key: T, path: str) -> Iterator[str]:
    if key not in after:
        yield _line(path, f"{_shown(before[key])} → gone")
    elif key not in before:
        yield _line(path, f"new, {_shown(after[key])}")
    else:
        yield from _changes(before[key], after[key], path)


def _line(path: str, what: str) -> str:
    return f"{path}: {what}" if path else what


def _shown(value: JsonValue) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= VALUE_CHARACTERS else f"{text[: VALUE_CHARACTERS - 1]}…"


def text_diff(before: str | None, after: str | None, before_name: str, after_name: str) -> str:
    """Return the difference of two source texts in the unified form; empty when they are the same, or both unknown.

    >>> print(text_diff("lambda x: x", "lambda x: x + 1", "f0, revision 1", "f0, revision 2"))
    --- f0, revision 1
    +++ f0, revision 2
    @@ -1 +1 @@
    -lambda x: x
    +lambda x: x + 1
    """
    first, second = (before or "").splitlines(), (after or "").splitlines()
    lines = list(islice(difflib.unified_diff(first, second, before_name, after_name, lineterm=""), TEXT_LINES + 1))
    return "\n".join([*lines[:TEXT_LINES], *(["…"] if len(lines) > TEXT_LINES else [])])
