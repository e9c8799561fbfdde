"""What is shown of slots and rows: from the core's own values to those of the wire."""

from __future__ import annotations

import warnings
from typing import Any

from timbr_wamp.contract import RecordRow, SlotCounts, SlotInfo
from timbr_wamp.machine.protocols import Row
from timbr_wamp.machine.slots.functions import function_name
from timbr_wamp.machine.slots.table import Revision, Slot


class AliasedValues(UserWarning):
    """Two slots returned one object that was changed in between; texts show it as it was, values do not."""


def wire_row(row: Row) -> RecordRow:
    """Return a kept row as it crosses the wire."""
    return RecordRow(row[0], row[1], row[2].decode(), row[3].decode())


def slot_info(slot: Slot) -> SlotInfo:
    """Return what the wire says of a slot."""
    if slot.function is None:
        return SlotInfo(slot=slot.number, name=slot.name, revision=slot.since, author=slot.author, policy=slot.policy)
    return SlotInfo(
        slot=slot.number, name=slot.name, identity=False, kind=slot.kind, policy=slot.policy,
        function=function_name(slot.function), source=slot.source, values=slot.arguments.values,
        texts=slot.arguments.texts, revision=slot.since, author=slot.author, counts=slot_counts(slot),
    )  # fmt: skip


def slot_counts(slot: Slot) -> SlotCounts:
    """Return how often a slot's function ran, and how fast."""
    tally = slot.tally
    timings = sorted(tally.timings)
    return SlotCounts(
        slot=slot.number,
        calls=tally.seen - tally.skipped,
        errors=tally.errors,
        skipped=tally.skipped,
        retries=tally.retries,
        mended=tally.mended,
        defaults=tally.defaults,
        timeouts=tally.timeouts,
        p50_s=timings[len(timings) // 2] if timings else None,
        p99_s=timings[int(len(timings) * 0.99)] if timings else None,
    )


def warn_of_aliases(revision: Revision, values: list[Any], texts: list[bytes]) -> None:
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
