"""Trials and comparisons of functions and revisions: structs of the wire."""

from __future__ import annotations

from typing import Literal

import msgspec

from timbr_wamp.contract.displayable import Displayable
from timbr_wamp.contract.structs import TrialRow

__all__ = ["RevisionDiff", "SlotChange", "SlotDiff", "TrialResult"]

#: Whether a slot got a function, lost it, or has another one.
SlotChange = Literal["set", "unset", "changed"]


class TrialResult(Displayable, msgspec.Struct, kw_only=True):
    """What a function or slot table on trial gave for messages, beside what the present one, or the record, has.

    ``tried == same + changed + new_errors + mended + other_errors + skipped``; ``rows`` has one for each, in order,
    unless some were left out to fit the payload.
    """

    #: What was tried beside what: ``f1 (clean) beside revision 4``.
    title: str
    #: The slot of the function on trial; None: a whole table was tried.
    slot: int | None = None
    #: The newest revision when the trial began.
    base_revision: int
    rows: list[TrialRow] = []
    tried: int = 0
    same: int = 0
    changed: int = 0
    #: Messages that fail on trial and did not before; that no longer fail; that fail with another error.
    new_errors: int = 0
    mended: int = 0
    other_errors: int = 0
    #: Messages without a value that the slot needs.
    skipped: int = 0
    #: Median and sum of the seconds of one message, before and on trial; None: that side was not run.
    before_p50_s: float | None = None
    after_p50_s: float | None = None
    before_total_s: float | None = None
    after_total_s: float | None = None
    #: Difference of the source texts, in the unified form.
    source_diff: str = ""
    #: What limits the trial's meaning, as sentences.
    notes: list[str] = []
    #: Rows that were left out to fit the payload.
    left_out: int = 0


class SlotDiff(msgspec.Struct, kw_only=True):
    """How one slot differs between two revisions."""

    slot: int
    change: SlotChange
    #: Names of the functions, None for an unset slot; the slot's names.
    before: str | None = None
    after: str | None = None
    #: Difference of the source texts, in the unified form; empty when they are the same, or not known.
    source_diff: str = ""
    #: What else differs: ``policy``, ``name``.
    also: list[str] = []


class RevisionDiff(Displayable, msgspec.Struct, kw_only=True):
    """Two revisions of the slot table, side by side."""

    a: int
    b: int
    #: Slots that differ; none: the tables are the same.
    slots: list[SlotDiff] = []
    #: Other differences, as sentences.
    notes: list[str] = []
    #: What both give for messages, ``a`` first, if that was asked for.
    trial: TrialResult | None = None
