"""Policies and options as words of a command line."""

from __future__ import annotations

import pytest

from timbr_wamp.contract import Policy
from timbr_wamp.contract.policy_syntax import POLICY_COMPLETIONS, parse_options, parse_policy
from timbr_wamp.errors import InvalidArgument


@pytest.mark.parametrize(
    ("words", "policy"),
    [
        ("drop", Policy(on_error="drop")),
        (["stop", "retries=3", "backoff_s=0.5"], Policy(on_error="stop", retries=3, backoff_s=0.5)),
        ("retries=2, backoff_s=0.1", Policy(retries=2, backoff_s=0.1)),
        ("default=0", Policy(on_error="default", default=0)),
        ("default=[0,1],timeout_s=2", Policy(on_error="default", default=[0, 1], timeout_s=2.0)),
        (["default=no reading"], Policy(on_error="default", default="no reading")),
        ("default={'value': None}", Policy(on_error="default", default={"value": None})),
        ("none", None),
    ],
)
def test_words_become_a_policy(words, policy):
    assert parse_policy(words) == policy


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("", "not one of record"),
        ("drop stop", "one verdict"),
        ("nonsense", "not one of record, default, drop"),
        ("retries", "retries needs a value: retries=N"),
        (["drop", "backoff_s"], "backoff_s needs a value: backoff_s=S"),
        ("tries=3", "'tries' is unknown"),
        ("retries=many", "retries"),
        ("retries=-1", "retries"),
        ("=3", "'=3'"),
        ("default=1e999", "default.*out of range"),
    ],
)
def test_invalid_words_are_refused_by_name(words, reason):
    with pytest.raises(InvalidArgument, match=reason):
        parse_policy(words)


def test_every_completion_is_valid():
    values = {"retries=": "1", "backoff_s=": "0", "backoff_max_s=": "9", "default=": "1", "timeout_s=": "1"}
    for word in POLICY_COMPLETIONS:
        made = parse_policy(word + values.get(word, ""))
        assert (made is None) == (word == "none")


def test_options_are_json_python_literals_or_texts():
    assert parse_options(["retries=5", "then=drop", 'take=["a"]']) == {"retries": 5, "then": "drop", "take": ["a"]}
    assert parse_options(["then=None", "also=(1, 2)"]) == {"then": None, "also": (1, 2)}
    with pytest.raises(InvalidArgument, match="name=value"):
        parse_options(["retries"])
