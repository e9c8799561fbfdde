"""What a person writes as a value is JSON or Python, in a terminal and in a notebook alike."""

from __future__ import annotations

import pytest

from timbr_wamp.errors import InvalidArgument
from timbr_wamp.literals import json_value, literal


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"x": true}', {"x": True}),
        ("{'x': True, \"y\": null}", {"x": True, "y": None}),
        ("None", None),
        ("false", False),
        ('"true"', "true"),
        ("(1, 'two')", (1, "two")),
        (' [1, 2]  # and a comment "#"', [1, 2]),
        (r'"\ud83d\ude00\/"', "\U0001f600/"),
        ("1_000", 1000),
        ("{1: -2.5}", {1: -2.5}),
    ],
)
def test_json_and_python_literals_are_read(text, value):
    assert literal(text) == value


@pytest.mark.parametrize("text", ["good", "{broken", "f(1)", "x + 1", "", "[" * 100_000, "-" * 100_000 + "1", "NaN"])
def test_what_is_neither_is_refused_by_name_with_both_reasons(text):
    with pytest.raises(InvalidArgument, match=r"(?s)argument MESSAGE: is not JSON: .+; nor a Python literal; .*quotes"):
        literal(text, "MESSAGE")


@pytest.mark.parametrize("text", ["1e999", "-1e999", '{"a": [1e400]}', r'"\ud83d"', r"'\ud83d'"])
def test_what_json_cannot_carry_is_refused(text):
    with pytest.raises(InvalidArgument, match=r"out of range|surrogate"):
        literal(text)


def test_json_alone_takes_no_python():
    assert json_value("[1, null]") == [1, None]
    with pytest.raises(ValueError, match="NaN is not a JSON value"):
        json_value("NaN")
