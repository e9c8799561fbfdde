"""Policies and options as words of a command line: ``drop retries=3``, for all who have one.

A word is a verdict or ``name=value``; a value is JSON, or else the text itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, get_args

from timbr_wamp.contract.policies import checked_policy
from timbr_wamp.contract.structs import Policy, Verdict
from timbr_wamp.errors import InvalidArgument

#: The word that takes a slot's own policy away.
NO_POLICY = "none"
#: What a policy's words begin with, for completion.
POLICY_WORDS = (
    *get_args(Verdict),
    *(f"{name}=" for name in Policy.__struct_fields__ if name != "on_error"),
    NO_POLICY,
)

#: Between two words that came as one text; a comma within a value stays.
_BETWEEN = re.compile(r"[,\s]+(?=[a-z_]+(?:[=,\s]|$))")


def policy_from(words: str | Sequence[str]) -> Policy | None:
    """Return the policy that words say; None for `NO_POLICY`. One text is split at commas and spaces.

    >>> policy_from(["drop", "retries=3"]).retries
    3
    >>> policy_from("default=[0,1],retries=2").default
    [0, 1]

    Raises:
        InvalidArgument: a word that is none, two verdicts, or a figure out of bounds.
    """
    parts = _BETWEEN.split(words.strip()) if isinstance(words, str) else list(words)
    if parts == [NO_POLICY]:
        return None
    verdicts = [part for part in parts if "=" not in part]
    if len(verdicts) > 1 or not parts:
        raise InvalidArgument("policy", f"one verdict ({', '.join(get_args(Verdict))}) and name=value, or {NO_POLICY}")
    fields = options_from([part for part in parts if "=" in part])
    if "default" in fields:
        fields.setdefault("on_error", "default")
    if verdicts:
        fields["on_error"] = checked_policy(verdicts[0]).on_error  # a word of people: the error lists them all
    return checked_policy(fields)


def options_from(words: Sequence[str]) -> dict[str, Any]:
    """Return options from words ``name=value``.

    >>> options_from(["retries=5", "then=drop"])
    {'retries': 5, 'then': 'drop'}

    Raises:
        InvalidArgument: a word without a name or value.
    """
    options: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name.isidentifier():
            raise InvalidArgument("options", f"{word!r} does not read name=value")
        try:
            options[name] = json.loads(text)
        except ValueError:
            options[name] = text
    return options
