"""Warn when two slots returned one object that was changed in between."""

from __future__ import annotations

import warnings
from typing import Any

from timbr_wamp.machine.protocols import Plan


class AliasedValues(UserWarning):
    """Two slots returned one object that was changed in between; texts show the earlier state, values do not."""


def warn_of_aliases(revision: Plan, values: list[Any], texts: list[bytes]) -> None:
    """Warn when two slots returned one object that was changed in between."""
    first: dict[int, tuple[str, bytes]] = {}
    for step in revision.steps:
        index = step.slot.number + 1
        value, text = values[index], texts[index]
        if isinstance(value, (list, dict, set, bytearray)) or hasattr(value, "__dict__"):
            task, earlier = first.setdefault(id(value), (step.slot.task, text))
            if earlier != text:
                warnings.warn(
                    f"{task} and {step.slot.task} returned the same object, changed in between; "
                    f"return a copy if the record shall show both",
                    AliasedValues,
                    stacklevel=3,
                )
