"""`keywords_taken`: which keywords of an event a callback is called with."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def keywords_taken(function: Callable[..., object], given: int, words: dict[str, Any]) -> dict[str, Any]:
    """Return those of ``words`` that ``function`` takes beside ``given`` arguments by position.

    Events have keywords for programs, such as ``sampled``, and later versions may add some. A callback that
    does not name them is called without them.

    >>> keywords_taken(lambda oid, values: None, 2, {"sampled": 4})
    {}
    >>> keywords_taken(lambda oid, values, *, sampled=1: None, 2, {"sampled": 4})
    {'sampled': 4}
    """
    if not words:
        return words
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # some builtins have no signature
        return {}
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return words
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    left = {p.name for p in positional[given:] if p.kind is p.POSITIONAL_OR_KEYWORD}
    left |= {parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}
    return {name: value for name, value in words.items() if name in left}
