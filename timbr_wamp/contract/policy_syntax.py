"""Parse policies and options from the arguments of a command line or a magic: ``drop retries=3``.

An argument is a verdict or ``name=value``. A value is JSON or a Python literal; else it is a text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, get_args

from timbr_wamp.contract.policies import checked_policy
from timbr_wamp.contract.structs import Policy, Verdict
from timbr_wamp.errors import InvalidArgument
from timbr_wamp.literals import literal_or_text

#: The argument that removes a slot's own policy.
NO_POLICY = "none"
#: Completions of a policy's arguments.
POLICY_COMPLETIONS = (
    *get_args(Verdict),
    *(f"{name}=" for name in Policy.__struct_fields__ if name != "on_error"),
    NO_POLICY,
)

#: Words that need a value, and how that is written.
_VALUES = {"retries": "N", "backoff_s": "S", "backoff_max_s": "S", "timeout_s": "S"}

#: Separator between two arguments in one text. A comma inside a value is not a separator.
_SEPARATOR = re.compile(r"[,\s]+(?=[a-z_]+(?:[=,\s]|$))")


def parse_policy(arguments: str | Sequence[str]) -> Policy | None:
    """Return the policy of the arguments; None for `NO_POLICY`. A text is split at commas and spaces.

    >>> parse_policy(["drop", "retries=3"]).retries
    3
    >>> parse_policy("default=[0,1],retries=2").default
    [0, 1]

    Raises:
        InvalidArgument: an unknown verdict or name, two verdicts, or a number out of range.
    """
    parts = _SEPARATOR.split(arguments.strip()) if isinstance(arguments, str) else list(arguments)
    if parts == [NO_POLICY]:
        return None
    verdicts = [part for part in parts if "=" not in part]
    for word in verdicts:
        if word in _VALUES:
            raise InvalidArgument("policy", f"{word} needs a value: {word}={_VALUES[word]}")
    if len(verdicts) > 1 or not parts:
        verdict_names = ", ".join(get_args(Verdict))
        raise InvalidArgument("policy", f"expected one verdict ({verdict_names}) and name=value, or {NO_POLICY}")
    fields = parse_options([part for part in parts if "=" in part])
    if "default" in fields:
        fields.setdefault("on_error", "default")
    if verdicts:
        fields["on_error"] = checked_policy(verdicts[0]).on_error  # raises an error that lists the verdicts
    return checked_policy(fields)


def parse_options(arguments: Sequence[str]) -> dict[str, Any]:
    """Return options from arguments of the form ``name=value``.

    >>> parse_options(["retries=5", "then=drop"])
    {'retries': 5, 'then': 'drop'}

    Raises:
        InvalidArgument: an argument of another form.
    """
    options: dict[str, Any] = {}
    for argument in arguments:
        name, equals, text = argument.partition("=")
        if not equals or not name.isidentifier():
            raise InvalidArgument("options", f"{argument!r} does not have the form name=value")
        options[name] = literal_or_text(text, name)
    return options
