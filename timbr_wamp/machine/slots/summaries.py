"""Slots as wire structs: `SlotInfo` and `SlotCounts`."""

from __future__ import annotations

from timbr_wamp.contract import SlotCounts, SlotInfo
from timbr_wamp.machine.slots.table import Slot


def slot_info(slot: Slot) -> SlotInfo:
    """Return a slot as a wire struct."""
    if slot.function is None:
        return SlotInfo(slot=slot.number, name=slot.name, revision=slot.since, author=slot.author, policy=slot.policy)
    return SlotInfo(
        slot=slot.number, name=slot.name, identity=False, kind=slot.kind, policy=slot.policy,
        function=slot.function_name, source=slot.source, values=slot.arguments.values,
        texts=slot.arguments.texts, revision=slot.since, author=slot.author, counts=slot_counts(slot),
    )  # fmt: skip


def slot_counts(slot: Slot) -> SlotCounts:
    """Return how often a slot's function ran, and how fast."""
    tally = slot.tally
    timings = sorted(tally.timings)
    return SlotCounts(
        slot=slot.number,
        calls=tally.calls,
        errors=tally.errors,
        skipped=tally.skipped,
        retries=tally.retries,
        mended=tally.mended,
        defaults=tally.defaults,
        timeouts=tally.timeouts,
        p50_s=timings[len(timings) // 2] if timings else None,
        p99_s=timings[int(len(timings) * 0.99)] if timings else None,
    )
