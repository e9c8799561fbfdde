"""Check policies, written as ``"drop"``, ``{"retries": 3}`` or ``Policy(retries=3)``, and options of sources.

For their meaning see `Policy` and `SourceOptions`. `timbr_wamp.machine` carries them out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeAlias, get_args

import msgspec

from timbr_wamp.codecs.base import class_name
from timbr_wamp.contract.structs import Policy, SourceOptions, Verdict
from timbr_wamp.errors import InvalidArgument, clean_text, did_you_mean, not_one_of, what_there_is
from timbr_wamp.values import DEPTH_LIMIT, json_safe, placeholder

PolicyLike: TypeAlias = Policy | str | Mapping[str, object]

RETRIES_LIMIT = 1_000


def checked_policy(policy: PolicyLike, name: str = "policy") -> Policy:
    """Return the `Policy` for a verdict, a mapping or a policy, after checking it.

    >>> checked_policy("drop")
    Policy(on_error='drop', retries=0, backoff_s=0.0, backoff_max_s=60.0, default=None, timeout_s=None)
    >>> checked_policy({"retries": 3, "backoff_s": 0.1}).retries
    3

    Raises:
        InvalidArgument: an unknown verdict or key, a number out of range, or a default that JSON does not have.
    """
    if isinstance(policy, str):
        if policy not in get_args(Verdict):
            raise InvalidArgument(name, not_one_of(policy, get_args(Verdict)))
        policy = {"on_error": policy}
    if isinstance(policy, Policy):
        policy = msgspec.structs.asdict(policy)  # a struct does not check what it is made of
    if not isinstance(policy, Mapping):
        raise InvalidArgument(name, f"{policy!r} is not a policy; use a verdict, a mapping or a Policy")
    fields = dict(policy)
    unknown = sorted(str(key) for key in fields if key not in Policy.__struct_fields__)
    if unknown:
        known = ", ".join(Policy.__struct_fields__) + did_you_mean(unknown[0], Policy.__struct_fields__)
        raise InvalidArgument(name, f"{', '.join(map(repr, unknown))} is unknown; a policy has {known}")
    default = checked_json(fields.pop("default", None), f"{name}.default")
    try:
        checked = msgspec.structs.replace(msgspec.convert(fields, Policy), default=default)
    except msgspec.ValidationError as error:
        raise InvalidArgument(name, str(error)) from None
    _check_numbers(checked, name)
    return checked


def checked_json(value: object, argument: str) -> object:
    """Return ``value`` if JSON has it as it is: text, finite numbers of 64 bits, lists, dicts with text as keys.

    Tuples count as lists. For options that are shown to others, who must be able to read them.

    Raises:
        InvalidArgument: it is something else, or holds something else.
    """
    try:
        problem = _problem(value, 0)
    except Exception:  # it changed meanwhile
        problem = "it changes while it is checked"
    if problem is not None:
        raise InvalidArgument(argument, f"{problem}; it must be of text, numbers, lists and dicts with text as keys")
    return value


def _problem(value: Any, depth: int) -> str | None:
    """Return what JSON does not have of a value; None if it has all."""
    kind = type(value)
    if depth > DEPTH_LIMIT:
        return f"it is nested deeper than {DEPTH_LIMIT} levels"
    if kind is list or kind is tuple:
        return next((found for item in list(value) if (found := _problem(item, depth + 1))), None)
    if kind is dict:
        if not all(type(key) is str and clean_text(key) == key for key in list(value)):
            return "one of its keys is not a text that UTF-8 can encode"
        return next((found for item in list(value.values()) if (found := _problem(item, depth + 1))), None)
    if kind not in (str, int, float, bool, type(None)):
        return f"{class_name(kind)} is not a value of JSON"
    return None if json_safe(value) == value else f"{placeholder(value)['__repr__']} has no JSON form"


def _check_numbers(policy: Policy, name: str) -> None:
    if not 0 <= policy.retries <= RETRIES_LIMIT:
        raise InvalidArgument(f"{name}.retries", f"{policy.retries!r} is not between 0 and {RETRIES_LIMIT}")
    if not 0.0 <= policy.backoff_s <= policy.backoff_max_s < math.inf:
        raise InvalidArgument(f"{name}.backoff_s", f"{policy.backoff_s!r} is not between 0 and {policy.backoff_max_s}")
    if policy.timeout_s is not None and not 0 < policy.timeout_s < math.inf:
        raise InvalidArgument(f"{name}.timeout_s", f"{policy.timeout_s!r} is not greater than 0, or is endless")


def backoff_s(policy: Policy, tries: int) -> float:
    """Return the seconds to wait before the next retry, after ``tries`` failed tries."""
    return min(policy.backoff_s * 2.0 ** min(tries - 1, 60), policy.backoff_max_s)


def source_options(options: Mapping[str, Any]) -> SourceOptions:
    """Return a source's options from a mapping of their fields. The machine checks the values.

    >>> source_options({"policy": "drop_old", "restarts": 3}).restarts
    3

    Raises:
        InvalidArgument: an unknown field.
    """
    unknown = sorted(set(options) - set(SourceOptions.__struct_fields__))
    if unknown:
        known = what_there_is(unknown[0], "known options", SourceOptions.__struct_fields__)
        raise InvalidArgument("source options", f"{', '.join(map(repr, unknown))} is unknown{known}")
    return SourceOptions(**options)
